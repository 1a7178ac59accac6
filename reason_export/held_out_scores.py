"""What held-out good images say of a session: its own threshold, and how good parts score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import DataError
from reason_runtime.manifest import MethodSettings, ScoreStatistics, Threshold
from reason_train.calibration import pixel_threshold, threshold_for


def drawn_from(
    scores: NDArray[np.float32],
    peaks: NDArray[np.float32],
    *,
    method: MethodSettings,
    false_reject_rate: float,
    source: str,
) -> tuple[Threshold, ScoreStatistics]:
    """Threshold and statistics from one session's scores of held-out good images.

    Args:
        scores: (N,) raw.
        peaks: (N,) maxima of their maps.
        method: Of the bundle.
        false_reject_rate: Wanted, 0..1.
        source: What the images are, in words.

    Raises:
        DataError: A score or a map is not finite, or there are too few.
    """
    if not np.isfinite(peaks).all():
        raise DataError(f"{source}: the maps of {int((~np.isfinite(peaks)).sum())} of them are not finite")
    threshold = threshold_for(scores, false_reject_rate=false_reject_rate, source=source)
    pixel = None if method.score_exponent is None else pixel_threshold(scores, peaks, threshold=threshold.value)
    return threshold, ScoreStatistics(
        images=len(scores),
        mean=float(scores.mean()),
        std=float(scores.std()),
        minimum=float(scores.min()),
        maximum=float(scores.max()),
        pixel_threshold=pixel,
    )
