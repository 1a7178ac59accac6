"""One made-up picture and what it becomes before the graph: a device's, or another language's, resize is held to it."""

from __future__ import annotations

import math

import numpy as np

from reason_runtime.golden import Preparation
from reason_runtime.image import InputFormat, input_of

HEIGHTS, WIDTHS = 1.7, 2.3
"""Of the picture, as multiples of what it is resized to: no whole numbers, and the aspect ratio is not kept."""
MOST_BLOCKS = 3
"""Of noise along a side, as multiples of the pixels that remain: a crop of many pixels must still pack well."""
SEED = 20253


def preparation(form: InputFormat) -> Preparation | None:
    """Noise, in which every weight of a filter and every channel counts; None where the graph resizes by itself."""
    if form.resize_filter == "in-graph":
        return None
    height, width = form.picture_px
    if form.crop_px is None:
        height, width = round(HEIGHTS * height), round(WIDTHS * width)
    block = math.ceil(max(height, width) / (MOST_BLOCKS * max(form.resize_height_px, form.resize_width_px)))
    blocks = (math.ceil(height / block), math.ceil(width / block), form.channels)
    noise = np.random.default_rng(SEED).integers(0, 256, blocks, dtype=np.uint8)
    picture = np.ascontiguousarray(noise.repeat(block, axis=0).repeat(block, axis=1)[:height, :width])
    prepared = input_of(picture, input_format=form)
    return Preparation(picture=picture, prepared=prepared)
