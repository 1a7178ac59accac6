"""Negatives against positives at every threshold, from one sort: what every ROC, PRO and precision-recall figure needs.

Between two neighbouring positive values only false alarms change, so the exact curve over *all* thresholds has its
corners at the distinct positive values. Ten million pixels with one per cent of defects need one sort of the good
pixels and as many look-ups as there are defective ones. Values that tie move both rates at once: a straight slope.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import DataError

Values = NDArray[np.floating]
Rates = NDArray[np.float64]
Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Counts at the K distinct positive values, the highest first.

    Attributes:
        thresholds: (K,) the distinct positive values.
        places: (P,) index into `thresholds` of every positive, in the order of `values[positive]`.
        false_above: (K,) negatives > threshold.
        false_at: (K,) negatives >= threshold.
        negatives: How many negatives there are.
    """

    thresholds: Values
    places: NDArray[np.intp]
    false_above: NDArray[np.int64]
    false_at: NDArray[np.int64]
    negatives: int

    def found(self, weights: Rates | None = None) -> Rates:
        """(K,) weight of the positives >= threshold; the last is the weight of all. None counts each as 1."""
        return np.cumsum(np.bincount(self.places, weights=weights), dtype=np.float64)


def rank(values: Values, positive: NDArray[np.bool_]) -> Ranking:
    """Compare positive with negative values at every threshold.

    Args:
        values: Scores or map values of any shape; more is more anomalous.
        positive: Same shape, True where anomalous.

    Raises:
        ValueError: The shapes differ.
        DataError: A value is not finite, or one of the two kinds is missing.
    """
    if values.shape != positive.shape:
        raise ValueError(f"values of shape {values.shape} and labels of shape {positive.shape}; expected equal shapes")
    if not np.isfinite(values).all():
        raise DataError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} anomaly values are not finite")
    positives = values[positive]
    negatives = values[~positive]
    if not positives.size or not negatives.size:
        raise DataError(
            f"{positives.size} anomalous and {negatives.size} normal values; a comparison needs at least one of each"
        )
    negatives.sort()
    ascending, inverse = np.unique(positives, return_inverse=True)
    thresholds = ascending[::-1]
    return Ranking(
        thresholds=thresholds,
        places=ascending.size - 1 - inverse,
        false_above=negatives.size - np.searchsorted(negatives, thresholds, side="right"),
        false_at=negatives.size - np.searchsorted(negatives, thresholds, side="left"),
        negatives=negatives.size,
    )


def of_counted(values: NDArray[Pixel], counted: NDArray[np.bool_] | None) -> NDArray[Pixel]:
    """(N, P): the pixels of (N, H, W) maps or masks that count, those of an image in a row.

    Args:
        values: Maps or masks.
        counted: (H, W), True where defects count; None: everywhere.
    """
    return values.reshape(len(values), -1) if counted is None else values[:, counted]


def masks_that_count(masks: NDArray[np.bool_], counted: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """(N, S, S) masks where defects count; None where pixels of one kind are left alone, which no figure can rank.

    Args:
        masks: (N, S, S), True where defective; some pixel is.
        counted: (S, S), True where defects count.
    """
    marked = masks[:, counted]
    return masks & counted if marked.any() and not marked.all() else None


def roc_curve(ranking: Ranking, *, weights: Rates | None = None) -> tuple[Rates, Rates]:
    """Corners of the exact curve from (0, 0) to (1, 1).

    Args:
        ranking: The counts.
        weights: (P,) weight of every positive, in the order of `values[positive]`; None counts each as 1.

    Returns:
        False-positive rate and share of the positives' weight found, (2K + 2,) each, neither ever falling.
    """
    false_rate = np.empty(2 * ranking.thresholds.size + 2)
    found_rate = np.empty_like(false_rate)
    found = ranking.found(weights)
    share = found / found[-1]
    false_rate[0], false_rate[1:-1:2], false_rate[2:-1:2] = 0, ranking.false_above, ranking.false_at
    false_rate[-1] = ranking.negatives
    found_rate[0], found_rate[1], found_rate[3:-1:2] = 0, 0, share[:-1]
    found_rate[2:-1:2], found_rate[-1] = share, 1
    return false_rate / ranking.negatives, found_rate


def area_under(false_rate: Rates, found_rate: Rates, *, limit: float = 1.0) -> float:
    """Area under the curve up to a false-positive rate, over that rate: 0..1.

    Raises:
        ValueError: The limit is not in (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit {limit}; expected a false-positive rate in (0, 1]")
    inside = int(np.searchsorted(false_rate, limit, side="right"))
    x = np.append(false_rate[:inside], limit)
    y = np.append(found_rate[:inside], np.interp(limit, false_rate, found_rate))
    return trapezoid(x, y) / limit


def trapezoid(x: Rates, y: Rates) -> float:
    """Area under straight lines between points in the order given (numpy's own has another name in version 1)."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
