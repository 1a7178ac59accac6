"""Pillow's resize inside the graph, for cameras of one fixed size: two constant matrices and Pillow's own rounding."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reason_runtime.errors import ConfigurationError, ParityError
from reason_runtime.image import InputFormat, resize_image
from reason_runtime.self_test import MOST_LEVELS
from reason_train.model import ReasonModel

FRACTION_BITS = 16
"""Of the weights: with 8 of a pixel they fill the 24 of a float32, so that every sum is exact, in whatever order a
library adds. With Pillow's 22, a sum at one half was rounded up by one library and down by another."""
_SEED = 20252


def resize_matrix(before_px: int, after_px: int) -> NDArray[np.float32]:
    """(after, before) weights of Pillow's bilinear filter with antialiasing along one axis; rows sum to 1.

    Source: Pillow, Resample.c, `precompute_coeffs`.
    """
    scale = before_px / after_px
    reach = max(scale, 1.0)  # the triangle is widened where the image shrinks
    matrix = np.zeros((after_px, before_px))
    for i in range(after_px):
        centre = (i + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), before_px)
        position = (np.arange(first, last) - centre + 0.5) / reach
        weight = np.maximum(1.0 - np.abs(position), 0.0)
        matrix[i, first:last] = weight / weight.sum()
    fixed = np.floor(matrix * 2**FRACTION_BITS + 0.5)
    fixed[np.arange(after_px), fixed.argmax(1)] += 2**FRACTION_BITS - fixed.sum(1)  # what rounding took or gave
    weights: NDArray[np.float32] = (fixed / 2**FRACTION_BITS).astype(np.float32)
    return weights


class CameraModel(nn.Module):
    """A model that takes camera frames of one size: columns, then rows, each rounded to grey levels as Pillow does.

    The grey levels are Pillow's, but for 1 of 7,000 pixels of noise, which lie one off. Pillow 13 takes rows first at
    some sizes, where that is less work: a fifth of the pixels then differ by one level.

    Constants stand on the left of their products, as in the map head and for the same reason.

    Args:
        model: Takes images of its own size.
        frame: Height and width of the frames.
        resized: Height and width after the resize, before the centre crop.
        cropped: Height and width that the model takes.
    """

    def __init__(
        self, model: ReasonModel, *, frame: tuple[int, int], resized: tuple[int, int], cropped: tuple[int, int]
    ) -> None:
        super().__init__()
        self.model = model
        for name, before, after, kept in zip(("rows", "columns"), frame, resized, cropped, strict=True):
            first = round((after - kept) / 2)  # as `resize_image` crops
            matrix = resize_matrix(before, after)[first : first + kept]
            self.register_buffer(name, torch.from_numpy(matrix))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) frames to map and score."""
        anomaly_map, score = self.model(self.resized(images))
        return anomaly_map, score

    def resized(self, images: Tensor) -> Tensor:
        """What the model takes of uint8 (N, H, W, C) frames: (N, h, w, C) whole numbers."""
        turned = images.float().permute(0, 3, 2, 1)  # (N, C, W, H)
        narrow = _grey_levels(self.get_buffer("columns") @ turned)  # (N, C, w, H)
        small = _grey_levels(self.get_buffer("rows") @ narrow.transpose(2, 3))  # (N, C, h, w)
        return small.permute(0, 2, 3, 1)


def _grey_levels(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)  # halves up, as Pillow's fixed point


def camera_model(model: ReasonModel, *, own: InputFormat, camera: InputFormat) -> CameraModel:
    """A model for frames of `camera` from one for images of `own`.

    Raises:
        ConfigurationError: The frame is smaller than what it is resized to.
    """
    if camera.height_px < own.resize_height_px or camera.width_px < own.resize_width_px:
        raise ConfigurationError(
            f"--input-size {camera.height_px} {camera.width_px} is smaller than the {own.resize_height_px} x "
            f"{own.resize_width_px} pixels that the model looks at; leave --input-size out"
        )
    return CameraModel(
        model,
        frame=(camera.height_px, camera.width_px),
        resized=(own.resize_height_px, own.resize_width_px),
        cropped=(own.height_px, own.width_px),
    ).eval()


@torch.no_grad()
def require_same_resize(model: CameraModel, frames: NDArray[np.uint8], *, own: InputFormat) -> None:
    """Refuse a model that resizes otherwise than the runtime does where its graph does not.

    Pixels are compared, not maps, which cannot tell: rounding moved those of photographs by up to 3e-2 of their largest
    value (screw, 300 x 1200), a resize by the nearest pixel those of patterns by 2e-2 (480 x 640).

    Args:
        model: With the resize.
        frames: (N, H, W, C) golden ones. One of noise is added, in which every weight counts.
        own: What the model without its resize takes.

    Raises:
        ParityError: A pixel differs by more than rounding to grey levels explains.
    """
    noise = np.random.default_rng(_SEED).integers(0, 256, (1, *frames.shape[1:]), dtype=np.uint8)
    for frame in (*noise, *frames):
        expected = resize_image(frame, input_format=own).astype(np.float32)
        levels = np.abs(model.resized(torch.from_numpy(frame[None])).numpy()[0] - expected).max()
        if not levels <= MOST_LEVELS:
            raise ParityError(
                f"the graph resizes {frame.shape[0]} x {frame.shape[1]} frames otherwise than the runtime: a pixel "
                f"differs by {levels:.0f} grey levels, at most {MOST_LEVELS} is rounding; leave --input-size out"
            )
