from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from reason_export.parity import TOLERANCES, Parity, blind, broken, compare, contradicting, score_of
from reason_runtime.choices import PRECISIONS, Precision
from reason_train.anomaly_map import generalised_mean


def compared(found: np.ndarray, *, score: np.ndarray | None = None) -> Parity:
    """Against a golden map of 4s in two images whose scores are 4 and 2."""
    golden = np.stack([np.full((2, 2), 4.0), np.full((2, 2), 2.0)]).astype(np.float32)
    golden_score = np.array([4.0, 2.0], np.float32)
    scores = golden_score if score is None else score.astype(np.float32)
    return compare(golden_map=golden, golden_score=golden_score, anomaly_map=found.astype(np.float32), score=scores)


GOLDEN = np.stack([np.full((2, 2), 4.0), np.full((2, 2), 2.0)])


def test_equal_outputs_have_no_difference_in_any_precision() -> None:
    parity = compared(GOLDEN)
    assert (parity.images, parity.map_difference_max, parity.score_difference_max) == (2, 0, 0)
    assert (parity.sqnr_db, parity.rank_correlation) == (None, None)
    assert all(broken(parity, TOLERANCES[precision]) == [] for precision in PRECISIONS)


def test_differences_are_relative_to_the_largest_golden_value_by_hand() -> None:
    found = GOLDEN.copy()
    found[1, 0, 0] += 0.4  # a tenth of the largest value, in one of eight pixels
    parity = compared(found, score=np.array([4.0, 2.2]))
    assert parity.map_difference_max == pytest.approx(0.1, rel=1e-6)
    assert parity.map_difference_mean == pytest.approx(0.1 / 8, rel=1e-6)
    assert parity.score_difference_max == pytest.approx(0.05, rel=1e-6)
    assert parity.score_difference_mean == pytest.approx(0.025, rel=1e-6)
    assert parity.sqnr_db == pytest.approx(10 * np.log10((4 * 16 + 4 * 4) / 0.4**2), rel=1e-5)


@pytest.mark.parametrize("exponent", [None, 1.0, 14.0, 100.0])
@pytest.mark.parametrize("size_px", [8, 30])
def test_the_score_of_a_map_is_the_trained_models(exponent: float | None, size_px: int) -> None:
    maps = np.random.default_rng(0).normal(0.5, 0.3, (5, size_px, size_px)).astype(np.float32)
    maps[4] = 0
    given = torch.from_numpy(maps)
    trained = given.amax((1, 2)) if exponent is None else generalised_mean(given, exponent=exponent)
    found = score_of(maps, score_exponent=exponent)
    np.testing.assert_allclose(found, trained.numpy(), rtol=1e-6, atol=1e-7)


def test_a_score_that_is_not_its_maps_is_told() -> None:
    maps = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 1.0)]).astype(np.float32)

    def told(score: list[float]) -> list[str]:
        return contradicting(anomaly_map=maps, score=np.array(score, np.float32), score_exponent=14.0)

    assert told([2.0, 1.0]) == told([2.0, 1.00019]) == []
    assert told([2.0, 1.00021]) == [
        "the score differs by 1.05e-04 of the largest from what the map beside it gives, at most 1e-04 is allowed"
    ]
    assert len(told([2.0, float("nan")])) == 1


def test_rank_correlation_by_hand() -> None:
    golden = np.arange(3, dtype=np.float32)[:, None, None]
    scores = golden[:, 0, 0]
    for order, expected in (([0, 1, 2], 1.0), ([2, 1, 0], -1.0), ([0, 2, 1], 0.5)):
        parity = compare(golden_map=golden, golden_score=scores, anomaly_map=golden[order], score=scores[order])
        assert parity.rank_correlation == pytest.approx(expected)
    alike = np.ones(3, np.float32)
    for golden_score, score in ((alike, scores), (scores, alike)):
        parity = compare(golden_map=golden, golden_score=golden_score, anomaly_map=golden, score=score)
        assert parity.rank_correlation is None


@pytest.mark.parametrize(("relative", "holds"), [(0.9e-4, True), (1.1e-4, False)])
def test_fp32_holds_to_a_ten_thousandth(relative: float, holds: bool) -> None:
    moved = GOLDEN.copy()
    moved[0, 1, 1] += 4 * relative
    assert (broken(compared(moved), TOLERANCES["fp32"]) == []) == holds
    score = np.array([4 * (1 + relative), 2])
    assert (broken(compared(GOLDEN, score=score), TOLERANCES["fp32"]) == []) == holds


def test_a_broken_gate_says_by_how_much() -> None:
    moved = GOLDEN.copy()
    moved[0, 1, 1] += 0.4
    assert broken(compared(moved), TOLERANCES["fp32"]) == [
        "map differs by 1.00e-01 of its largest value, at most 1e-04 is allowed"
    ]
    noisy = GOLDEN * 0.7
    assert "the map's SQNR is 10.5 dB, at least 40 dB is needed" in broken(compared(noisy), TOLERANCES["fp16"])


@pytest.mark.parametrize(("precision", "least_db"), [("fp16", 40), ("bf16", 20), ("int8", 15)])
def test_noise_is_allowed_up_to_the_least_sqnr_and_no_further(precision: Precision, least_db: float) -> None:
    for beside_db, holds in ((0.1, True), (-0.1, False)):
        found = GOLDEN * (1 + 10 ** (-(least_db + beside_db) / 20))
        assert compared(found).sqnr_db == pytest.approx(least_db + beside_db, abs=1e-3)
        assert (broken(compared(found), TOLERANCES[precision]) == []) == holds


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_breaks_every_gate(precision: Precision, value: float) -> None:
    found = GOLDEN.copy()
    found[0, 0, 0] = value
    assert "the map holds values that are not finite" in broken(compared(found), TOLERANCES[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_score_that_is_not_finite_breaks_every_gate(precision: Precision) -> None:
    assert broken(compared(GOLDEN, score=np.array([4.0, np.nan])), TOLERANCES[precision]) != []


def told_blind(golden: np.ndarray, found: np.ndarray, *, score: np.ndarray | None = None) -> list[str]:
    golden_score = golden.max(axis=(1, 2)).astype(np.float32)
    return blind(
        golden_map=golden.astype(np.float32),
        golden_score=golden_score,
        anomaly_map=found.astype(np.float32),
        score=golden_score if score is None else score.astype(np.float32),
    )


def test_one_map_for_all_images_is_noticed_whatever_its_sqnr() -> None:
    rng = np.random.default_rng(1)
    golden = 1 + 0.05 * rng.normal(size=(4, 64, 64))  # as maps of a surface are
    fixed = np.broadcast_to(golden.mean(axis=0), golden.shape)
    scores = golden.max(axis=(1, 2))
    parity = compare(
        golden_map=golden.astype(np.float32),
        golden_score=scores.astype(np.float32),
        anomaly_map=fixed.astype(np.float32),
        score=scores.astype(np.float32),
    )
    assert broken(parity, TOLERANCES["int8"]) == broken(parity, TOLERANCES["bf16"]) == []  # 27 dB
    for unseeing in (fixed, np.ones_like(golden), golden[::-1], 2 - golden):
        for unit in (1.0, 1e-6, 1e6):
            told = told_blind(unit * golden, unit * unseeing)
            assert [line for line in told if "are those of other images" not in line] == [told[0]]
            assert "the map does not follow the image" in told[0]
            assert told_blind(unit * golden, unit * golden) == []
    assert told_blind(golden, golden + 0.1 * rng.normal(size=golden.shape)) == []  # noisier than images differ


def test_what_all_maps_have_in_common_hides_nothing_of_what_is_their_own() -> None:
    rng = np.random.default_rng(1)
    common = 100 + 10 * rng.normal(size=(64, 64))
    golden = common + rng.normal(size=(4, 64, 64))
    assert told_blind(golden, golden + 0.1 * rng.normal(size=golden.shape)) == []


def test_maps_of_other_images_are_noticed_and_noise_and_likeness_are_not() -> None:
    golden = maps_as_of_parts((8, 64, 64))
    rng = np.random.default_rng(2)
    own = np.std(golden - golden.mean(axis=0))
    exchanged_pair = golden[[1, 0, *range(2, 8)]]
    for noise in (0.0, 0.5 * own):
        found = exchanged_pair + noise * rng.normal(size=golden.shape)
        assert told_blind(golden, found) == ["2 of 8 maps are those of other images"]
    for noise in (0.0, 0.5 * own, 3 * own):
        assert told_blind(golden, golden + noise * rng.normal(size=golden.shape)) == []
    alike = golden.copy()
    alike[1] = alike[0] + 0.1 * (alike[1] - alike[0])  # which of these two it was cannot be told
    assert told_blind(alike, alike[[1, 0, *range(2, 8)]]) == []
    assert told_blind(golden[[0, 0, 1]], golden[[0, 0, 1]]) == []


def test_a_map_that_is_not_finite_is_not_said_to_be_blind() -> None:
    for value in (np.nan, np.inf):
        found = GOLDEN.copy()
        found[0, 0, 0] = value
        assert told_blind(GOLDEN, found) == []  # the gates say what is wrong with it


def maps_as_of_parts(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth bright spots on a level ground, as anomaly maps are."""
    rng = np.random.default_rng(2)
    return 0.3 + 0.1 * ndimage.gaussian_filter(rng.normal(size=shape), sigma=(0, 4, 4)) / 0.07


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 61, 90)])
@pytest.mark.parametrize("offset", [(0, 1), (-1, 0), (3, -2), (-20, 25)])
def test_a_map_in_another_place_is_noticed_below_the_noise_that_int8_may_have(
    shape: tuple[int, int, int], offset: tuple[int, int]
) -> None:
    golden = maps_as_of_parts(shape)
    noisy = golden + 0.04 * np.random.default_rng(3).normal(size=shape)
    scores = golden.max(axis=(1, 2)).astype(np.float32)

    def gates(found: np.ndarray) -> tuple[tuple[int, int] | None, list[str]]:
        parity = compare(
            golden_map=golden.astype(np.float32),
            golden_score=scores,
            anomaly_map=found.astype(np.float32),
            score=scores,
        )
        return parity.map_offset_px, broken(parity, TOLERANCES["int8"])

    assert gates(noisy) == ((0, 0), [])
    found, told = gates(np.roll(noisy, offset, axis=(1, 2)))
    assert found == offset
    down, right = offset
    assert told[-1] == f"the map lies {down:+d} px down and {right:+d} px to the right of where it should"
    assert len(told) == 1 or max(map(abs, offset)) > 1  # a step of one pixel drowns in the noise


def test_noise_alone_moves_no_map() -> None:
    golden, scores = maps_as_of_parts((4, 64, 64)), np.ones(4, np.float32)
    places = []
    for share in (0.3, 0.45, 1.0, 3.0):
        for seed in range(100, 120):
            noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=golden.shape), sigma=(0, 4, 4))
            found = golden + share * 0.1 / 0.07 * noise  # as smooth as the maps are
            parity = compare(
                golden_map=golden.astype(np.float32),
                golden_score=scores,
                anomaly_map=found.astype(np.float32),
                score=scores,
            )
            places.append(parity.map_offset_px)
    assert set(places[:20]) == {(0, 0)}
    assert set(places[20:40]) == {(0, 0), None}  # a correlation of 0.91 on average
    assert set(places[40:]) == {None}


def test_flat_maps_and_maps_that_are_not_finite_have_no_place() -> None:
    golden = maps_as_of_parts((2, 16, 16))
    level, scores = np.full_like(golden, 0.1), np.ones(2, np.float32)
    for expected, found in ((golden, level), (level, golden), (level, level), (golden, golden * [[[np.nan]]])):
        parity = compare(
            golden_map=expected.astype(np.float32),
            golden_score=scores,
            anomaly_map=found.astype(np.float32),
            score=scores,
        )
        assert parity.map_offset_px is None
    last_bits = np.random.default_rng(4).integers(0, 2, golden.shape).astype(np.float32)
    level = np.float32(0.1) * (1 + last_bits * np.finfo(np.float32).eps)
    rolled = np.roll(level, 1, axis=2)
    parity = compare(golden_map=level, golden_score=scores, anomaly_map=rolled, score=scores)
    assert parity.map_offset_px is None  # rounding lies in no place
    golden[1] = 0.1  # one flat map of two hides the other's place in nothing
    moved = np.roll(golden, 2, axis=1).astype(np.float32)
    parity = compare(golden_map=golden.astype(np.float32), golden_score=scores, anomaly_map=moved, score=scores)
    assert parity.map_offset_px == (2, 0)


def test_images_that_do_not_differ_cannot_tell() -> None:
    assert told_blind(np.ones((3, 4, 4)) * 0.1, np.ones((3, 4, 4))) == []
    assert told_blind(GOLDEN[:1], GOLDEN[:1] * 1.1) == []


@pytest.mark.parametrize("value", [0.5, np.inf])
def test_one_score_for_all_images_is_noticed(value: float) -> None:
    assert told_blind(GOLDEN, GOLDEN, score=np.full(2, value)) == ["the score is the same for all images"]
    assert told_blind(GOLDEN, GOLDEN) == []


def test_an_int8_score_is_held_to_what_its_noise_can_move() -> None:
    assert broken(compared(GOLDEN, score=np.array([4.8, 2.4])), TOLERANCES["int8"]) == []
    assert broken(compared(GOLDEN, score=np.array([6.0, 3.0])), TOLERANCES["int8"]) == [
        "score differs by 5.00e-01 of its largest value, at most 3e-01 is allowed"
    ]


def test_what_may_be_lost_is_what_is_promised() -> None:
    lost = {name: (limits.image_auroc_lost, limits.aupro_lost) for name, limits in TOLERANCES.items()}
    assert lost == {"fp32": (1e-4, 1e-4), "fp16": (0.001, 0.002), "bf16": (0.001, 0.002), "int8": (0.005, 0.01)}
    differs = {name: (limits.map_difference, limits.score_difference) for name, limits in TOLERANCES.items()}
    assert differs == {"fp32": (1e-4, 1e-4), "fp16": (0.02, 0.02), "bf16": (None, 0.1), "int8": (None, 0.3)}
    assert [limits.sqnr_db for limits in TOLERANCES.values()] == [None, 40, 20, 15]
    passes = {name: (limits.wrong_decisions, limits.painted_lost) for name, limits in TOLERANCES.items()}
    assert passes == {"fp32": (0, 0), "fp16": (0.01, 1), "bf16": (0.01, 1), "int8": (0.05, 1)}


def test_every_precision_has_a_tolerance_with_a_reason() -> None:
    assert set(TOLERANCES) == set(PRECISIONS)
    assert all(len(tolerance.reason) > 20 for tolerance in TOLERANCES.values())
