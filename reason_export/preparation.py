"""One made-up picture and what it becomes before the graph: a device's, or another language's, resize is held to it."""

from __future__ import annotations

import math

import numpy as np

from reason_runtime.golden import Golden, Preparation
from reason_runtime.image import InputFormat, part_of, resize_image

MOST_LEVELS = 2
"""Grey levels by which a pixel may differ from Pillow's. A resize rounds twice, and some take the other axis first. The
first rounding moves a pixel by half a level at most, and weights that sum to 1 keep that: before the second the two lie
one level apart at most, of which that makes two where both are halves (1 of 250,000 pixels of noise, 80 x 80 to 64)."""
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
    prepared = resize_image(part_of(picture, input_format=form), input_format=form)
    return Preparation(picture=picture, prepared=prepared)


def levels_apart(golden: Golden, *, form: InputFormat) -> int | None:
    """Most grey levels between what the picture becomes here and what it became at export; None without a picture."""
    known = golden.preparation
    if known is None:
        return None
    here = resize_image(part_of(known.picture, input_format=form), input_format=form)
    return int(np.abs(here.astype(np.int16) - known.prepared).max())


def resized_otherwise(levels: int | None) -> list[str]:
    """The gate of `levels_apart`, in words where it does not hold."""
    if levels is None or levels <= MOST_LEVELS:
        return []
    return [
        f"a picture is resized otherwise here than at export: a pixel differs by {levels} grey levels, at most "
        f"{MOST_LEVELS} is rounding; install another version of Pillow"
    ]
