"""Figures computed by hand, by a slow and obvious implementation, and by the published reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from reason_runtime.errors import DataError
from reason_train.metrics import auroc, average_precision, best_f1
from reason_train.ranking import rank
from tests.golden_weights import GOLDEN, masks_and_maps

# few distinct values, so that ties are the rule
labelled = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


def arrays(pairs: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for value, _ in pairs], np.float32), np.array([label for _, label in pairs], np.bool_)


def pairwise_auroc(values: np.ndarray, anomalous: np.ndarray) -> float:
    wins = [(a > n) + 0.5 * (a == n) for a in values[anomalous] for n in values[~anomalous]]
    return float(np.mean(wins))


def test_auroc_counts_the_pairs_in_the_right_order() -> None:
    values = np.array([0.1, 0.4, 0.35, 0.8])
    assert auroc(rank(values, np.array([False, False, True, True]))) == 3 / 4
    assert auroc(rank(values, np.array([False, True, False, True]))) == 1
    assert auroc(rank(values, np.array([True, False, True, False]))) == 0


def test_ties_count_as_half_right() -> None:
    assert auroc(rank(np.array([1.0, 1.0]), np.array([False, True]))) == 0.5
    assert auroc(rank(np.array([0.0, 1.0, 1.0]), np.array([False, False, True]))) == 0.75


@given(labelled)
def test_auroc_is_the_share_of_pairs_won(pairs: list[tuple[int, bool]]) -> None:
    values, anomalous = arrays(pairs)
    assert auroc(rank(values, anomalous)) == pytest.approx(pairwise_auroc(values, anomalous), abs=1e-12)
    assert auroc(rank(values, anomalous)) == pytest.approx(sklearn_metrics.roc_auc_score(anomalous, values), abs=1e-12)


@given(labelled)
def test_average_precision_agrees_with_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    values, anomalous = arrays(pairs)
    expected = sklearn_metrics.average_precision_score(anomalous, values)
    assert average_precision(rank(values, anomalous)) == pytest.approx(expected, abs=1e-12)


@given(labelled)
def test_best_f1_is_the_best_over_every_threshold(pairs: list[tuple[int, bool]]) -> None:
    values, anomalous = arrays(pairs)
    by_threshold = {t: sklearn_metrics.f1_score(anomalous, values >= t) for t in np.unique(values)}
    best = best_f1(rank(values, anomalous))
    assert best.f1 == pytest.approx(max(by_threshold.values()), abs=1e-12)
    alarms = values >= best.threshold
    assert by_threshold[np.float32(best.threshold)] == pytest.approx(best.f1, abs=1e-12)
    assert best.accuracy == pytest.approx(np.mean(alarms == anomalous), abs=1e-12)
    assert best.precision == pytest.approx(anomalous[alarms].mean(), abs=1e-12)
    assert best.recall == pytest.approx(alarms[anomalous].mean(), abs=1e-12)


@given(labelled)
def test_figures_depend_on_the_order_only(pairs: list[tuple[int, bool]]) -> None:
    values, anomalous = arrays(pairs)
    stretched = np.exp(values.astype(np.float64) / 3) - 7
    assert auroc(rank(stretched, anomalous)) == auroc(rank(values, anomalous))
    assert average_precision(rank(stretched, anomalous)) == average_precision(rank(values, anomalous))
    assert best_f1(rank(stretched, anomalous)).f1 == best_f1(rank(values, anomalous)).f1


@given(labelled)
def test_turning_the_order_round_turns_auroc_round(pairs: list[tuple[int, bool]]) -> None:
    values, anomalous = arrays(pairs)
    assert auroc(rank(-values, anomalous)) == pytest.approx(1 - auroc(rank(values, anomalous)), abs=1e-12)


def test_best_f1_by_hand() -> None:
    # thresholds 4, 3, 1 find 1, 2, 3 of 3 with 0, 0, 1 false alarms: F1 = 2/4, 4/5, 6/7
    best = best_f1(rank(np.array([4.0, 3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, True, False])))
    assert best.f1 == pytest.approx(6 / 7)
    assert best.threshold == 1
    assert best.precision == 3 / 4
    assert best.recall == 1
    assert best.accuracy == 4 / 5


def test_of_equal_f1_the_highest_threshold_is_given() -> None:
    # at 4: F1 = 2/3; at 1: 2 found, 2 false alarms, F1 = 4/6
    best = best_f1(rank(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, False, True])))
    assert best.f1 == pytest.approx(2 / 3)
    assert best.threshold == 4


def test_average_precision_by_hand() -> None:
    # found at ranks 1 and 3: (1/1 + 2/3) / 2
    value = average_precision(rank(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])))
    assert value == pytest.approx((1 + 2 / 3) / 2)


def test_one_kind_only_is_refused() -> None:
    with pytest.raises(DataError, match="2 anomalous and 0 normal values; a comparison needs at least one of each"):
        rank(np.array([1.0, 2.0]), np.array([True, True]))
    with pytest.raises(DataError, match="0 anomalous and 2 normal values"):
        rank(np.array([1.0, 2.0]), np.array([False, False]))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(broken: float) -> None:
    with pytest.raises(DataError, match="1 of 3 anomaly values are not finite"):
        rank(np.array([1.0, broken, 2.0]), np.array([True, False, False]))


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values of shape \(3,\) and labels of shape \(2,\)"):
        rank(np.zeros(3), np.array([True, False]))


def test_the_reference_gives_the_same_aurocs() -> None:
    masks, maps = masks_and_maps(1)
    defective = masks.astype(np.bool_)
    with np.load(GOLDEN / "metrics_seed1.npz") as golden:
        assert auroc(rank(maps, defective)) == pytest.approx(float(golden["pixel_auroc"]), abs=1e-5)
        image = auroc(rank(maps.max(axis=(1, 2)), defective.any(axis=(1, 2))))
        assert image == pytest.approx(float(golden["image_auroc"]), abs=1e-5)
