from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reason_export.golden_checks import PaintedDefects, _now_passed, decisions_flipped, threshold_shift, unfounded
from reason_export.parity import TOLERANCES, Limits, compare
from reason_runtime.choices import Precision
from reason_runtime.golden import Golden
from reason_runtime.manifest import ScoreStatistics, Threshold
from tests.runtime.test_manifest import FULL

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


def golden(*, synthetic: list[bool]) -> Golden:
    shape = (len(synthetic), 4, 4)
    return Golden(
        images=np.zeros((*shape, 3), np.uint8),
        anomaly_map=np.ones(shape, np.float32),
        score=np.array([0.2, 0.3, 9.0], np.float32)[: len(synthetic)],
        synthetic=np.array(synthetic),
        painted=None,
    )


def limited(value: float) -> Threshold:
    return replace(next(iter(FULL.thresholds.values())), value=value)


SCORES = np.array([0.3, 0.4, 5.0], np.float32)


def test_the_shift_off_the_scores_that_drew_the_threshold_by_hand() -> None:
    manifest = replace(FULL, thresholds={"fp32": limited(0.75), "int8": limited(0.5)})
    given = golden(synthetic=[False, False, True])
    # held-out parts score 0.25 in float32 and 0.3 in int8, these 0.1 more than in float32
    assert threshold_shift(given, SCORES, manifest=manifest, precision="int8") == pytest.approx((0.1 - 0.05) / 0.2)
    assert threshold_shift(given, SCORES, manifest=manifest, precision="fp32") == pytest.approx(0.1 / 0.5)
    assert threshold_shift(given, -SCORES, manifest=manifest, precision="fp32") == pytest.approx(-0.6 / 0.5)
    # of other parts than those that drew float32's threshold: these scored 0.28 in float32
    assert manifest.quantisation is not None
    other = replace(manifest, quantisation=replace(manifest.quantisation, trained_mean=0.28))
    assert threshold_shift(given, SCORES, manifest=other, precision="int8") == pytest.approx((0.1 - 0.02) / 0.2)


def test_no_shift_where_the_bundle_does_not_know_how_good_parts_score() -> None:
    manifest = replace(FULL, thresholds={"int8": limited(0.5)})
    assert manifest.quantisation is not None
    assert manifest.quantisation.scores is not None
    photographs = golden(synthetic=[False, False, True])
    cases = [
        (photographs, replace(manifest, quantisation=None)),
        (photographs, replace(manifest, thresholds={})),
        (photographs, replace(manifest, thresholds={"int8": limited(0.3)})),  # where the good parts are
        (golden(synthetic=[True, True, True]), manifest),
    ]
    few = replace(manifest.quantisation, scores=replace(manifest.quantisation.scores, images=7))
    cases.append((photographs, replace(manifest, quantisation=few)))
    for given, known in cases:
        assert threshold_shift(given, SCORES, manifest=known, precision="int8") is None
    broken = np.array([np.nan, 0.4, 5.0], np.float32)
    assert threshold_shift(photographs, broken, manifest=manifest, precision="int8") is None


def drawn(*, value: float, rejected: int, images: int = 100) -> Threshold:
    return replace(limited(value), rejected=rejected, images=images)


def above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


@pytest.mark.parametrize(
    ("precision", "value", "rejected", "holds"),
    [
        ("fp32", above(0.5), 0, True),
        ("fp32", 0.5, 0, False),
        ("fp32", 50.0, 0, False),
        ("fp32", 0.4, 3, True),
        ("fp32", 0.5, 1, True),
        ("fp32", above(0.5), 1, False),
        ("fp32", 0.1, 3, False),  # the lowest score: that one is rejected too
        ("int8", above(0.6), 0, True),
        ("int8", above(0.5), 0, False),
        ("fp16", 0.51, 0, True),  # half precision allows 2 % of the highest score
        ("fp16", 0.48, 0, False),
    ],
)
def test_a_threshold_follows_from_the_scores_that_drew_it(
    precision: Precision, value: float, rejected: int, holds: bool
) -> None:
    known = ScoreStatistics(images=100, mean=0.3, std=0.1, minimum=0.1, maximum=0.5)
    assert FULL.quantisation is not None
    manifest = replace(
        FULL,
        score_statistics=known,
        quantisation=replace(FULL.quantisation, scores=replace(known, maximum=0.6)),
        thresholds={"fp32": drawn(value=above(0.5), rejected=0), precision: drawn(value=value, rejected=rejected)},
    )
    told = unfounded(golden(synthetic=[True]), manifest=manifest, precision=precision)
    assert (told == []) == holds, told
    other = {name: replace(limit, images=50) for name, limit in manifest.thresholds.items()}
    assert unfounded(golden(synthetic=[True]), manifest=replace(manifest, thresholds=other), precision="fp32") == []


@pytest.mark.parametrize(("middle", "holds"), [(0.05, False), (0.1, True), (0.5, True), (0.51, False)])
def test_golden_photographs_score_where_the_good_images_of_the_threshold_do(middle: float, holds: bool) -> None:
    known = ScoreStatistics(images=100, mean=0.3, std=0.1, minimum=0.1, maximum=0.5)
    manifest = replace(FULL, score_statistics=known, thresholds={"fp32": drawn(value=above(0.5), rejected=0)})
    score = np.array([*[0.0] * 4, *[middle] * 3, *[9.0] * 4], np.float32)
    given = replace(golden(synthetic=[False]), score=score, synthetic=np.zeros(11, np.bool_))
    assert (unfounded(given, manifest=manifest, precision="fp32") == []) == holds
    made_up = replace(given, synthetic=np.ones(11, np.bool_))
    assert unfounded(made_up, manifest=manifest, precision="fp32") == []
    uncertain = replace(manifest, score_statistics=replace(known, images=7))
    assert unfounded(given, manifest=uncertain, precision="fp32") == []
    few = replace(given, score=score[:7], synthetic=np.zeros(7, np.bool_))
    assert unfounded(few, manifest=manifest, precision="fp32") == []


@pytest.mark.parametrize(("precision", "lost"), [("fp32", 0), ("fp16", 1), ("bf16", 1), ("int8", 1)])
def test_painted_defects_that_the_trained_model_finds_must_be_found(precision: str, lost: int) -> None:
    ones = np.ones((3, 4, 4), np.float32)
    same = compare(golden_map=ones, golden_score=ones[:, 0, 0], anomaly_map=ones, score=ones[:, 0, 0])
    for count, told in (
        (lost, []),
        (lost + 1, [f"{lost + 1} of the 9 that the trained model finds pass, at most {lost}"]),
    ):
        found = PaintedDefects(parity=same, found=9 - count, found_by_trained=9, lost=count)
        assert found.broken(TOLERANCES[precision]) == [f"on painted defects: {line} may" for line in told]  # type: ignore[index]


@pytest.mark.parametrize(
    ("score", "close", "lost"),
    [
        ([0.9, 0.9, 0.9, 0.9], 0.0, 3),  # the first is no reject of the trained model's
        ([0.9, 0.9, 0.9, 0.9], 0.25, 2),  # the second lies closer to the threshold than that
        ([0.9, 0.9, 1.0, 5.0], 0.0, 1),  # at the threshold is a reject
        ([2.0, 0.9, 0.9, 1.1], 0.6, 0),
    ],
)
def test_painted_defects_that_are_lost_by_hand(score: list[float], close: float, lost: int) -> None:
    trained, found = np.array([0.9, 1.2, 1.5, 2.0], np.float32), np.array(score, np.float32)
    limits = Limits(reference=1.0, found=1.0)
    assert _now_passed(trained, found, limits=limits, close=close) == lost
    assert _now_passed(trained, found, limits=replace(limits, are_of_bundle=False), close=close) is None
    assert _now_passed(trained, found, limits=replace(limits, found=None), close=close) is None
