"""Detection figures from scores: they depend on the order of the values only, and count ties as half right.

Each takes a `reason_train.ranking.rank` of image scores (N,) with image labels (N,), or of anomaly maps (N, H, W) with
masks (N, H, W): "image AUROC" and "pixel AUROC" are one function. All are exact over all thresholds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reason_train.ranking import Ranking, Values, area_under, roc_curve


@dataclass(frozen=True, slots=True, kw_only=True)
class BestF1:
    """The best balance of precision and recall over all thresholds, `value >= threshold` being anomalous.

    Attributes:
        f1: 2 * precision * recall / (precision + recall), 0..1.
        threshold: Where it is reached, in the unit of the values; the highest such if there are several.
        precision: Share of the alarms that are right, at this threshold.
        recall: Share of the anomalous that are found, at this threshold.
        accuracy: Share of all that are judged right, at this threshold.
    """

    f1: float
    threshold: float
    precision: float
    recall: float
    accuracy: float


def auroc(ranking: Ranking) -> float:
    """Chance that an anomalous value is higher than a normal one, ties counted as half: 0..1."""
    return area_under(*roc_curve(ranking))


def average_precision(ranking: Ranking) -> float:
    """Mean precision over the anomalous values, each at its own threshold: 0..1.

    The step-wise sum of (R_k - R_(k-1)) * P_k over distinct thresholds, without interpolation.
    """
    found = ranking.found()
    precision = found / (found + ranking.false_at)
    return float(np.sum(np.diff(found, prepend=0) * precision) / found[-1])


def best_f1(ranking: Ranking) -> BestF1:
    """The highest F1 and the threshold that gives it.

    The threshold is chosen on the values that it is judged on: a figure for comparison, not a threshold for a line.
    """
    found = ranking.found()
    positives = found[-1]
    alarms = found + ranking.false_at
    f1 = 2 * found / (alarms + positives)
    best = int(np.argmax(f1))  # the first, so the highest threshold
    right = found[best] + ranking.negatives - ranking.false_at[best]
    return BestF1(
        f1=float(f1[best]),
        threshold=float(ranking.thresholds[best]),
        precision=float(found[best] / alarms[best]),
        recall=float(found[best] / positives),
        accuracy=float(right / (positives + ranking.negatives)),
    )


def wrong_decisions(
    scores: Values, anomalous: NDArray[np.bool_], *, limit: float | None
) -> tuple[int | None, int | None]:
    """How many good images a threshold rejects and how many defective ones it passes; None without one."""
    if limit is None:
        return None, None
    rejected = scores >= limit
    return int(np.sum(rejected & ~anomalous)), int(np.sum(~rejected & anomalous))
