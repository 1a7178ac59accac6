from __future__ import annotations

import numpy as np
import pytest

from reason_export.held_out_scores import drawn_from
from reason_runtime.errors import DataError
from reason_runtime.manifest import MethodSettings

SOURCE = "40 held-out good images, int8 in ONNX Runtime"
METHOD = MethodSettings(teacher="efficientnet_lite0", settings={})  # the score is the map's maximum
SCORES = np.arange(1, 41, dtype=np.float32)


def test_threshold_and_statistics_are_those_of_the_scores() -> None:
    threshold, statistics = drawn_from(SCORES, 2 * SCORES, method=METHOD, false_reject_rate=0.1, source=SOURCE)
    assert (threshold.images, threshold.source) == (40, SOURCE)
    assert (SCORES >= threshold.value).sum() <= 4
    assert (statistics.images, statistics.minimum, statistics.maximum) == (40, 1, 40)
    assert statistics.mean == 20.5
    assert statistics.std == pytest.approx(np.sqrt((40**2 - 1) / 12))  # of a discrete uniform distribution
    assert statistics.pixel_threshold is None  # the threshold serves


def test_a_map_that_is_not_finite_draws_no_threshold() -> None:
    peaks = SCORES.copy()
    peaks[[3, 7]] = np.nan, np.inf
    with pytest.raises(DataError, match=f"{SOURCE}: the maps of 2 of them are not finite"):
        drawn_from(SCORES, peaks, method=METHOD, false_reject_rate=0.1, source=SOURCE)
    scores = SCORES.copy()
    scores[5] = np.nan
    with pytest.raises(DataError, match="finite"):
        drawn_from(scores, SCORES, method=METHOD, false_reject_rate=0.1, source=SOURCE)
