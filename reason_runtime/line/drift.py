"""Whether the scores of late are those of held-out good images: a camera's last N against limits around their mean.

It is the median that is compared, which a few defects do not move. A median of good scores lies off the held-out mean

- as far as the scores are skewed: `_SKEW` standard deviations, which a Gumbel's 0.16 keep within;
- by what n held-out images leave unsure of their mean, 1/n, and N scores of their median, pi/2 /N (of a normal one), in
  variances of a score. The line looks at a median a part for months and the mean of n stays as it was drawn, so that
  the factor is `_FACTOR`; it grows as n falls, since so few know their standard deviation badly, too.

`python -m benchmarks.drift` says how often a process that is stable is called a drift, and what is found.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

from reason_runtime.line.health import Health
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.manifest import ScoreStatistics

LEAST_PARTS = 100  # a median of fewer wanders too far for such limits
LEAST_IMAGES = 8
_SKEW = 0.2
_FACTOR = 4.5
_FEW = 8  # images, with which the factor is twice as large
_BACK = 0.6  # of the way to the limit: a median at the limit must not come and go with every part


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLimits:
    """Where the median of good scores lies: `centre` +- `reach`, raw units."""

    centre: float
    reach: float


def drift_limits(known: ScoreStatistics | None, *, parts: int) -> DriftLimits | None:
    """What held-out good images allow the median of so many scores; None where they are too few, or all score the same.

    Args:
        known: Of the bundle.
        parts: Scores that the median is taken of.
    """
    if known is None or known.images < LEAST_IMAGES or not known.std > 0:
        return None
    images = known.images
    std = known.std * math.sqrt(images / (images - 1))
    factor = _FACTOR * (1 + _FEW / images)
    return DriftLimits(centre=known.mean, reach=std * (_SKEW + factor * math.sqrt(1 / images + math.pi / 2 / parts)))


def why_unchecked(model: LineModel) -> str | None:
    """Why the scores of a model are not compared with held-out ones; None where they are."""
    if model.tile_px is not None:
        return "a frame of tiles scores as the highest of them, a held-out tile as itself"
    if drift_limits(model.detector.limit.scores, parts=LEAST_PARTS) is None:
        return f"the bundle has no scores of {LEAST_IMAGES} held-out good images or more that differ"
    return None


class DriftCheck:
    """One camera's; used by one thread.

    Args:
        camera: Its name.
        parts: Scores that the median is taken of.
        health: Told of a drift, which stops no heartbeat.
        metrics: Told where the median lies.
    """

    def __init__(self, camera: str, *, parts: int, health: Health, metrics: Metrics) -> None:
        self._camera = camera
        self._parts = parts
        self._health = health
        self._metrics = metrics
        self._judged_by: tuple[str, ScoreStatistics | None] | None = None
        self._limits: DriftLimits | None = None
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self._drifts = False

    def add(self, score: float, model: LineModel) -> None:
        """Take in the next score; those of another bundle, or compared with others, begin anew."""
        if (model.content, model.detector.limit.scores) != self._judged_by:
            self._begin(model)
        if self._limits is None:
            return
        if len(self._latest) == self._parts:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(score)
        insort(self._sorted, score)
        if len(self._latest) == self._parts:
            self._compare(self._limits)

    def _begin(self, model: LineModel) -> None:
        known = model.detector.limit.scores
        self._judged_by = (model.content, known)
        self._limits = None if why_unchecked(model) else drift_limits(known, parts=self._parts)
        self._latest.clear()
        self._sorted.clear()
        self._drifts = False
        self._metrics.drift(self._camera, None)
        self._health.clear(f"drift {self._camera}")

    def _compare(self, limits: DriftLimits) -> None:
        centre, reach = limits.centre, limits.reach
        median = (self._sorted[(self._parts - 1) // 2] + self._sorted[self._parts // 2]) / 2
        drift = (median - centre) / reach
        self._metrics.drift(self._camera, drift)
        self._drifts = abs(drift) > (_BACK if self._drifts else 1)
        if not self._drifts:
            self._health.clear(f"drift {self._camera}")
            return
        side, allowed = "above" if drift > 0 else "below", f"{centre - reach:.4g} to {centre + reach:.4g}"
        where = (
            f"lies {side} what held-out good images allow, {allowed}"
            if abs(drift) > 1
            else f"is back within what held-out good images allow, {allowed}, but still {side} "
            f"{centre + math.copysign(_BACK * reach, drift):.4g}"
        )
        self._health.fault(
            f"drift {self._camera}",
            f"the median of the last {self._parts} scores, {median:.4g}, {where}; look at light, focus and parts",
            stops_heartbeat=False,
        )
