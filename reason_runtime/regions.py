"""Where an anomaly map is high: connected regions and their boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from reason_runtime.image import InputFormat, covered

if TYPE_CHECKING:
    from cv2.typing import MatLike

MOST_REGIONS = 100  # of one picture; one that is bad everywhere needs no longer list


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One region, connected over edges and corners, whose pixels reach the pixel threshold.

    Attributes:
        x_px: Left edge of its box.
        y_px: Upper edge.
        width_px: Of its box.
        height_px: Of its box.
        peak: Highest map value, raw units.
    """

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    peak: float


def find_regions(anomaly_map: NDArray[np.float32], *, pixel_threshold: float) -> tuple[Region, ...]:
    """The regions of a map in its own pixels, from top to bottom; at most 100.

    Args:
        anomaly_map: (H, W), raw units, finite.
        pixel_threshold: A pixel at or above it belongs to a region.
    """
    return tuple(region for region, _ in regions_and_pixels(anomaly_map, pixel_threshold=pixel_threshold))


def regions_and_pixels(
    anomaly_map: NDArray[np.float32], *, pixel_threshold: float
) -> tuple[tuple[Region, NDArray[np.bool_]], ...]:
    """The same, each with its own pixels of its box, of which other regions may have some too."""
    above = (anomaly_map >= pixel_threshold).astype(np.uint8)
    # components with statistics would be one call, and five times as long as all of this
    contours, tree = cv2.findContours(above, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes: dict[int, list[MatLike]] = {i: [] for i in range(len(contours)) if tree[0, i, 3] < 0}
    for contour, (_, _, _, outer) in zip(contours, tree[0] if contours else (), strict=True):
        if outer >= 0:
            holes[outer].append(contour)
    found = []
    for i in sorted(holes, key=lambda i: _first_pixel(contours[i]))[:MOST_REGIONS]:
        left, top, width, height = cv2.boundingRect(contours[i])
        own = np.zeros((height, width), np.uint8)
        cv2.drawContours(own, [contours[i], *holes[i]], -1, 1, cv2.FILLED, offset=(-left, -top))
        part = anomaly_map[top : top + height, left : left + width]
        peak = cv2.minMaxLoc(part, own)[1]
        found.append((Region(x_px=left, y_px=top, width_px=width, height_px=height, peak=peak), own.astype(bool)))
    return tuple(found)


def _first_pixel(contour: MatLike) -> tuple[int, int]:
    """Row and column of the uppermost pixel, of several the leftmost, which is always a corner."""
    column, row = min(contour[:, 0].tolist(), key=lambda point: (point[1], point[0]))
    return row, column


def regions_of_picture(
    anomaly_map: NDArray[np.float32], *, pixel_threshold: float, input_format: InputFormat, shape: tuple[int, int]
) -> tuple[Region, ...]:
    """The same in pixels of the picture that the map was made from; a box covers all that its map pixels cover.

    Args:
        anomaly_map: (S, S), raw units, finite; (H, W) of the picture where it was judged in tiles.
        pixel_threshold: See `find_regions`.
        input_format: Says which part of the picture the map covers.
        shape: Rows and columns of the picture.
    """
    rows, columns = covered(shape, input_format=input_format)
    height, width = anomaly_map.shape
    found = []
    for region in find_regions(anomaly_map, pixel_threshold=pixel_threshold):
        left, right = _scaled(region.x_px, region.width_px, of=width, to=columns.stop - columns.start)
        top, bottom = _scaled(region.y_px, region.height_px, of=height, to=rows.stop - rows.start)
        found.append(
            Region(
                x_px=columns.start + left,
                y_px=rows.start + top,
                width_px=right - left,
                height_px=bottom - top,
                peak=region.peak,
            )
        )
    return tuple(found)


def _scaled(start: int, length: int, *, of: int, to: int) -> tuple[int, int]:
    """First pixel and the one behind the last that so many map pixels cover; in whole numbers, which do not round."""
    return start * to // of, -(-(start + length) * to // of)
