from __future__ import annotations

import numpy as np
import pytest

from reason_export.golden_checks import decisions_flipped
from reason_export.labelled import Limits

GOLDEN = np.array([0.5, 0.9999, 1.0, 1.0001, 1.001, 2.0], np.float32)
"""Judged by 1: all but the first, the last and the last but one lie within a ten thousandth of the largest of it."""


@pytest.mark.parametrize(
    ("score", "found", "flipped"),
    [
        ([0.5, 0.9999, 1.0, 1.0001, 1.001, 2.0], 1.0, 0),
        ([0.5, 2.0, 0.5, 0.5, 1.001, 2.0], 1.0, 0),  # close ones alone
        ([1.0, 0.9999, 1.0, 1.0001, 0.99, 0.99], 1.0, 3),
        ([5.0, 9.999, 10.0, 10.0, 10.01, 20.0], 10.0, 0),  # each by its own threshold
        ([5.0, 9.999, 10.0, 10.0, 10.01, 9.999], 10.0, 1),
    ],
)
def test_flipped_decisions_by_hand(score: list[float], found: float, flipped: int) -> None:
    limits = Limits(reference=1.0, found=found)
    assert decisions_flipped(GOLDEN, np.array(score, np.float32), limits=limits) == flipped


@pytest.mark.parametrize("limits", [Limits(reference=None, found=1.0), Limits(reference=1.0, found=None)])
def test_without_both_thresholds_no_decision_can_flip(limits: Limits) -> None:
    assert decisions_flipped(GOLDEN, GOLDEN, limits=limits) is None
