"""AUPRO: how much of every defective region is found, whatever its size, before good pixels raise false alarms.

Two conventions with different values, under different names: `aupro` is the standard one, `aupro_per_image` that of
REASON's reference implementation. Regions are 8-connected in both.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reason_runtime.errors import DataError
from reason_train.ranking import Ranking, Rates, Values, area_under, of_counted, rank, roc_curve, trapezoid

FPR_LIMIT = 0.3  # Bergmann et al., IJCV 2021, section 5.1
GRID_STEPS = 200  # the reference's `num_th`
EIGHT_CONNECTED = np.ones((3, 3), np.int64)

Masks = NDArray[np.bool_]


def aupro(ranking: Ranking, masks: Masks, *, fpr_limit: float = FPR_LIMIT) -> float:
    """Area under the per-region overlap curve up to a false-positive rate, over that rate: 0..1.

    Over all images at once and all thresholds: x is the share of all good pixels at or above the threshold, y the mean
    over all regions of the share of the region at or above it. Interpolated linearly at the limit.

    Args:
        ranking: Of the anomaly maps of all test images, the good ones too, against these masks.
        masks: (N, H, W), True where defective.
        fpr_limit: Where the curve is cut off.

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021.
    """
    return area_under(*pro_curve(ranking, masks), limit=fpr_limit)


def pro_curve(ranking: Ranking, masks: Masks) -> tuple[Rates, Rates]:
    """Corners of the exact per-region overlap curve; arguments as of `aupro`.

    Returns:
        False-positive rate and mean overlap, rising from (0, 0) to (1, 1).
    """
    return roc_curve(ranking, weights=region_weights(masks))


def region_weights(masks: Masks) -> Rates:
    """1 / (pixels of its region) for every defective pixel, in the order of `masks[masks]`; each region sums to 1."""
    weights = [np.empty(0)]
    for mask in masks:
        if mask.any():
            regions, _ = ndimage.label(mask, structure=EIGHT_CONNECTED)
            inside = regions[mask]
            weights.append(1.0 / np.bincount(inside)[inside])
    return np.concatenate(weights)


def aupro_per_image(maps: Values, masks: Masks, *, counted: NDArray[np.bool_] | None = None) -> float:
    """Mean over defective images of each one's own AUPRO on the reference's grid of thresholds: 0..1.

    Not comparable with `aupro`: every image brings its own false-positive rate and its own thresholds.

    Args:
        maps: (N, H, W) anomaly maps.
        masks: (N, H, W), True where defective; images whose mask is empty or full are left out.
        counted: (H, W), True where defects count, which is wherever a mask is True; None: everywhere.

    Raises:
        ValueError: The shapes differ.
        DataError: See `aupro_on_grid`; or every mask is empty or full.

    Source: the reference implementation's evaluation.
    """
    _check_shapes(maps, masks)
    partial = np.flatnonzero(partly_defective(masks, counted=counted))
    if not partial.size:
        raise DataError("every mask is empty or full; the per-image AUPRO needs an image with both kinds of pixels")
    return float(np.mean([aupro_on_grid(maps[i : i + 1], masks[i : i + 1], counted=counted) for i in partial]))


def partly_defective(masks: Masks, *, counted: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """(N,) whether an image has defective pixels and good ones that count, so that it has an AUPRO of its own."""
    marked = of_counted(masks, counted)
    return np.logical_and(marked.any(axis=1), ~marked.all(axis=1))


def aupro_on_grid(maps: Values, masks: Masks, *, counted: NDArray[np.bool_] | None = None) -> float:
    """AUPRO on the reference's grid, over all the images given: 0..1.

    Thresholds np.arange(min, max, (max - min) / 200), prediction map > t, points with a false-positive rate below 0.3
    kept, that rate divided by the largest kept, area by trapezoids between the points (none is added at 0).

    Args:
        maps: (N, H, W) anomaly maps.
        masks: (N, H, W), True where defective.
        counted: See `aupro_per_image`.

    Raises:
        ValueError: The shapes differ.
        DataError: A value is not finite, or there is no defective or no good pixel.

    Source: the reference implementation's evaluation.

    Departure: Where the reference divides by zero, since no good pixel is above any kept threshold, this gives the
    largest overlap there; a constant map, or one that no grid point below 0.3 describes, gives 0.
    """
    _check_shapes(maps, masks)
    seen, marked = of_counted(maps, counted), of_counted(masks, counted)
    ranking = rank(seen, marked)
    lowest, highest = seen.min(), seen.max()
    with np.errstate(over="ignore"):
        step = (highest - lowest) / GRID_STEPS
    if np.isinf(step):  # half of each value has the same order, and a span that its type can hold
        return aupro_on_grid(maps / 2, masks, counted=counted)
    if not step > 0:
        return 0.0
    thresholds = np.arange(lowest, highest, step)
    negatives = np.sort(seen[~marked])
    false_rate = (negatives.size - np.searchsorted(negatives, thresholds, side="right")) / negatives.size
    found = np.append(0.0, ranking.found(region_weights(masks)))
    above = np.searchsorted(-ranking.thresholds, -thresholds, side="left")  # how many distinct values are > t
    overlap = found[above] / found[-1]
    kept = false_rate < FPR_LIMIT
    if not kept.any():
        return 0.0
    largest = false_rate[kept].max()
    if largest == 0:
        return float(overlap[kept].max())
    return trapezoid(false_rate[kept][::-1] / largest, overlap[kept][::-1])


def _check_shapes(maps: Values, masks: Masks) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps of shape {maps.shape} and masks of shape {masks.shape}; expected (N, H, W) for both")
