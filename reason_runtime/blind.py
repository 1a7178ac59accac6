"""Whether the camera can have seen the part at all: lamp off, lens cap, glare, heavy defocus, frozen picture.

A model trained on good parts can score a black picture OK. So five plain measures of the graph's input are compared
with limits learnt from good images and kept in the manifest; a picture outside is UNKNOWN, whatever its score.

| measure | limit, from the extremes over good images |
|---|---|
| mean grey value | half the darkest to half-way between the brightest and white |
| share of black pixels (grey <= 5) | the largest plus half of what is left to 1 |
| share of saturated pixels (a channel >= 250) | the larger of three times and 0.1 more than the largest |
| sharpness: variance of the Laplacian of the grey picture | a quarter of the smallest |
| same bytes twice | refused, unless two of the good images are the same |

The margins are wide on purpose: this is a check of the camera, not of the part. What a defocus costs below a quarter of
the sharpness of the softest good image goes unnoticed here, and a part without texture has no sharpness to lose.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import DataError

_BLACK = 5
_SATURATED = 250
FROZEN = "the camera gave the same bytes as before (frozen)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindLimits:
    """Limits of what a camera that sees gives.

    Attributes:
        mean_low: Smallest mean grey value, 0..255.
        mean_high: Largest mean grey value.
        black_share_high: Largest share of black pixels, 0..1.
        saturated_share_high: Largest share of saturated pixels, 0..1.
        sharpness_low: Smallest variance of the Laplacian, grey values squared.
        repeats: Good images held two with the same bytes, so that an identical frame proves nothing.
        images: How many good images the limits come from.
    """

    mean_low: float
    mean_high: float
    black_share_high: float
    saturated_share_high: float
    sharpness_low: float
    repeats: bool
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The measures of one picture; see the table above."""

    mean: float
    black_share: float
    saturated_share: float
    sharpness: float


def measure_sight(image: NDArray[np.uint8]) -> Sight:
    """The measures of one picture.

    Args:
        image: (H, W, C), as the graph takes it.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else np.ascontiguousarray(image[:, :, 0])
    pixels = grey.shape[0] * grey.shape[1]
    unsaturated = cv2.inRange(image, (0,) * image.shape[2], (_SATURATED - 1,) * image.shape[2])
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return Sight(
        mean=float(cv2.mean(grey)[0]),
        black_share=cv2.countNonZero(cv2.inRange(grey, 0, _BLACK)) / pixels,
        saturated_share=1 - cv2.countNonZero(unsaturated) / pixels,
        sharpness=float(deviation[0, 0]) ** 2,
    )


def shrunk(image: NDArray[np.uint8], *, size_px: int, crop_from_px: int | None = None) -> NDArray[np.uint8]:
    """A camera's frame about as the graph's own resize makes it, to be measured like the images of the limits.

    It is a little sharper than by the filter that those went through, so that a defocus is noticed a little later.

    Args:
        image: (H, W, C), as a graph of a camera's size takes it.
        size_px: Side of what is left.
        crop_from_px: Side before the centre is cropped; None without a crop.
    """
    side = crop_from_px or size_px
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).reshape(side, side, -1)
    edge = (side - size_px) // 2
    seen: NDArray[np.uint8] = small[edge : edge + size_px, edge : edge + size_px].astype(np.uint8, copy=False)
    return seen


def same_pixels(before: NDArray[np.uint8] | NDArray[np.uint16], now: NDArray[np.uint8] | NDArray[np.uint16]) -> bool:
    """Whether two pictures are the same byte for byte; told by their first rows where they are not."""
    if before.shape != now.shape or before.dtype != now.dtype:
        return False
    return all(np.array_equal(before[row : row + 64], now[row : row + 64]) for row in range(0, len(now), 64))


def limits_from(images: NDArray[np.uint8]) -> BlindLimits:
    """Limits learnt from held-out good images.

    Args:
        images: (N, H, W, C), as the graph takes them.

    Raises:
        DataError: There is no image.
    """
    if len(images) == 0:
        raise DataError("limits for a blind camera need at least one good image")
    seen = [measure_sight(image) for image in images]
    brightest = max(sight.mean for sight in seen)
    blackest = max(sight.black_share for sight in seen)
    glaring = max(sight.saturated_share for sight in seen)
    return BlindLimits(
        mean_low=min(sight.mean for sight in seen) / 2,
        mean_high=(brightest + 255) / 2,
        black_share_high=(blackest + 1) / 2,
        saturated_share_high=min(max(3 * glaring, glaring + 0.1), 1.0),
        sharpness_low=min(sight.sharpness for sight in seen) / 4,
        repeats=len({image.tobytes() for image in images}) < len(images),
        images=len(images),
    )


def blindness(images: NDArray[np.uint8], limits: BlindLimits) -> str | None:
    """Why the camera cannot have seen the part; None where it may have.

    Args:
        images: (K, H, W, C): the one input of a part, or all tiles of a frame, which must all be seen.
        limits: From `limits_from`.
    """
    for image in images:
        sight = measure_sight(image)
        found = _first_excess(sight, limits)
        if found is not None:
            return f"the camera does not see the part: {found}"
    return None


def _first_excess(sight: Sight, limits: BlindLimits) -> str | None:
    if sight.mean < limits.mean_low:
        return f"too dark (mean {sight.mean:.1f}, at least {limits.mean_low:.1f})"
    if sight.mean > limits.mean_high:
        return f"too bright (mean {sight.mean:.1f}, at most {limits.mean_high:.1f})"
    if sight.black_share > limits.black_share_high:
        return f"covered ({sight.black_share:.0%} black, at most {limits.black_share_high:.0%})"
    if sight.saturated_share > limits.saturated_share_high:
        return f"saturated ({sight.saturated_share:.0%}, at most {limits.saturated_share_high:.0%})"
    if sight.sharpness < limits.sharpness_low:
        return f"out of focus (sharpness {sight.sharpness:.3g}, at least {limits.sharpness_low:.3g})"
    return None
