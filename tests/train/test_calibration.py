"""The threshold and its bound: hand-computed values, ties, and how often the bound holds."""

import numpy as np
import pytest
from scipy import stats

from reason_runtime.errors import ConfigurationError, DataError
from reason_train.calibration import (
    FAR_MADS,
    false_reject_upper_bound,
    images_needed,
    mads_above_median,
    pixel_threshold,
    threshold_for,
)


def scores(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)


@pytest.mark.parametrize(
    ("rate", "images"), [(0.01, 299), (0.05, 59), (0.1, 29), (0.5, 5), (0.001, 2995), (0.95, 1), (0.99, 1)]
)
def test_images_needed_is_the_first_number_whose_bound_is_low_enough(rate: float, images: int) -> None:
    assert images_needed(rate) == images
    assert false_reject_upper_bound(images=images, rejected=0) <= rate
    assert images == 1 or false_reject_upper_bound(images=images - 1, rejected=0) > rate


def test_the_bound_without_rejects_has_a_closed_form() -> None:
    for n in (1, 10, 59, 299):
        assert false_reject_upper_bound(images=n, rejected=0) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)


@pytest.mark.parametrize(("n", "k"), [(20, 1), (100, 5), (473, 1), (50, 49)])
def test_at_the_bound_so_few_rejects_have_a_chance_of_5_percent(n: int, k: int) -> None:
    bound = false_reject_upper_bound(images=n, rejected=k)
    assert stats.binom.cdf(k, n, bound) == pytest.approx(0.05, abs=1e-9)


def test_known_bounds() -> None:
    assert false_reject_upper_bound(images=10, rejected=10) == 1
    assert false_reject_upper_bound(images=10, rejected=0) == pytest.approx(0.2589, abs=5e-5)  # Clopper-Pearson tables
    assert false_reject_upper_bound(images=10, rejected=1) == pytest.approx(0.3942, abs=5e-5)


def test_impossible_counts_are_refused() -> None:
    for n, k in ((0, 0), (5, 6), (5, -1)):
        with pytest.raises(ValueError, match="expected 0 <= rejected <= images and images > 0"):
            false_reject_upper_bound(images=n, rejected=k)


def test_299_images_carry_one_percent_without_a_reject() -> None:
    threshold = threshold_for(scores(299), false_reject_rate=0.01, source="held-out good images")
    assert threshold.value == float(np.nextafter(np.float32(298), np.float32(np.inf)))
    assert (threshold.images, threshold.rejected) == (299, 0)
    assert threshold.false_reject_upper_bound <= 0.01
    assert (threshold.target_false_reject_rate, threshold.source) == (0.01, "held-out good images")


def test_473_images_may_reject_one() -> None:
    # 472 is the last number whose bound with one reject misses 1 %
    assert threshold_for(scores(472), false_reject_rate=0.01, source="").rejected == 0
    threshold = threshold_for(scores(473), false_reject_rate=0.01, source="")
    assert threshold.rejected == 1
    assert threshold.value == float(np.nextafter(np.float32(471), np.float32(np.inf)))
    assert 0.0099 < threshold.false_reject_upper_bound <= 0.01


def test_too_few_images_give_a_threshold_above_all_and_the_bound_that_they_carry() -> None:
    threshold = threshold_for(scores(46), false_reject_rate=0.01, source="")
    assert threshold.value > 45
    assert threshold.rejected == 0
    assert threshold.false_reject_upper_bound == pytest.approx(1 - 0.05 ** (1 / 46))
    assert threshold.false_reject_upper_bound > threshold.target_false_reject_rate


def test_one_image_is_enough_for_a_threshold_and_says_nothing() -> None:
    threshold = threshold_for(scores(1), false_reject_rate=0.01, source="")
    assert (threshold.images, threshold.rejected) == (1, 0)
    assert threshold.false_reject_upper_bound == pytest.approx(0.95)


def test_the_threshold_is_the_lowest_that_rejects_no_more() -> None:
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    threshold = threshold_for(values, false_reject_rate=0.02, source="")
    k = threshold.rejected
    assert np.count_nonzero(values >= np.float32(threshold.value)) == k
    below = np.nextafter(np.float32(threshold.value), np.float32(-np.inf))
    assert np.count_nonzero(values >= below) == k + 1
    assert false_reject_upper_bound(images=1000, rejected=k) <= 0.02
    assert false_reject_upper_bound(images=1000, rejected=k + 1) > 0.02


def test_the_order_of_the_scores_does_not_matter() -> None:
    values = np.random.default_rng(2).normal(size=500).astype(np.float32)
    assert threshold_for(values, false_reject_rate=0.05, source="") == threshold_for(
        np.sort(values), false_reject_rate=0.05, source=""
    )


def test_ties_at_the_limit_reject_fewer_at_the_bound_of_those_allowed() -> None:
    values = scores(1000)
    values[-10:] = 999  # k would be 4 of 1000 at 1 %; the ten highest cannot be told apart
    threshold = threshold_for(values, false_reject_rate=0.01, source="")
    assert threshold.rejected == 0
    assert threshold.value > 999
    assert threshold.false_reject_upper_bound == false_reject_upper_bound(images=1000, rejected=4)


def test_a_score_that_equals_the_threshold_is_counted_as_rejected() -> None:
    values = scores(473)
    values[472] = np.nextafter(np.float32(471), np.float32(np.inf))
    threshold = threshold_for(values, false_reject_rate=0.01, source="")
    assert threshold.value == values[472]
    assert threshold.rejected == 1


def test_equal_scores_are_all_accepted() -> None:
    threshold = threshold_for(np.full(100, 0.5), false_reject_rate=0.05, source="")
    assert threshold.rejected == 0
    assert threshold.value > 0.5


def test_the_threshold_is_a_float32_above_the_score_that_the_graph_gives() -> None:
    value = 0.1  # not a float32
    threshold = threshold_for(np.array([value]), false_reject_rate=0.01, source="").value
    assert threshold == np.float32(threshold)
    assert np.float32(value) < threshold
    assert np.float32(value) == np.nextafter(np.float32(threshold), np.float32(0))


def test_the_bound_holds_in_95_of_100_calibrations() -> None:
    """True false-reject rates of uniform scores: the share above the threshold is 1 - threshold."""
    rng = np.random.default_rng(20)
    runs = 4000
    for n, rate in ((100, 0.05), (299, 0.01), (30, 0.01)):
        held = sum(
            1 - threshold.value <= threshold.false_reject_upper_bound
            for threshold in (threshold_for(rng.random(n), false_reject_rate=rate, source="") for _ in range(runs))
        )
        # exact, so neither less nor much more: four standard deviations of the binomial
        assert held / runs == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / runs))


def test_the_bound_holds_where_scores_tie() -> None:
    """Scores on a coarse grid: the true rate is the mass of the grid values above the threshold."""
    rng = np.random.default_rng(21)
    runs = 2000
    for levels in (3, 10, 50):
        held = 0
        for _ in range(runs):
            values = rng.integers(0, levels, 120) / levels
            threshold = threshold_for(values, false_reject_rate=0.1, source="")
            true_rate = np.mean((np.arange(levels) / levels).astype(np.float32) >= np.float32(threshold.value))
            held += true_rate <= threshold.false_reject_upper_bound
        assert held / runs >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / runs), levels


def test_the_bound_holds_where_ties_choose_how_many_are_rejected() -> None:
    """Three score values, with masses for which a bound of the rejected alone holds in 90 of 100 calibrations."""
    rng = np.random.default_rng(22)
    n, runs = 200, 2000
    above = [1.0001 * false_reject_upper_bound(images=n, rejected=k) for k in (0, 12)]  # 12 may be rejected at 10 %
    held = 0
    for _ in range(runs):
        values = np.repeat([3.0, 2.0, 1.0], rng.multinomial(n, [above[0], above[1] - above[0], 1 - above[1]]))
        threshold = threshold_for(values, false_reject_rate=0.1, source="")
        true_rate = {3: 0.0, 2: above[0], 1: above[1]}[int(threshold.value)]
        held += true_rate <= threshold.false_reject_upper_bound
    assert held / runs >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan"), 1e-310])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="expected between 0.000001 and 1, such as 0.01"):
        threshold_for(scores(10), false_reject_rate=rate, source="")
    with pytest.raises(ConfigurationError, match="expected between 0.000001 and 1, such as 0.01"):
        images_needed(rate)


def test_the_highest_score_in_median_absolute_deviations_by_hand() -> None:
    scores = np.array([1, 2, 3, 4, 5, 6, 7, 8, 25], np.float32)  # median 5, deviations 0 1 1 2 2 3 3 4 20
    assert mads_above_median(scores) == 10
    assert mads_above_median(scores[:8]) == 1.75  # median 4.5, deviations 0.5 0.5 1.5 1.5 2.5 2.5 3.5 3.5
    assert mads_above_median(scores[:7]) is None
    assert mads_above_median(np.ones(20)) is None


@pytest.mark.parametrize("images", [16, 64])
def test_the_highest_good_score_is_hardly_ever_far_above_the_rest(images: int) -> None:
    random = np.random.default_rng(4)
    normal, maxima = random.normal(size=(5000, images)), random.gumbel(size=(5000, images))
    far = [np.mean([(mads_above_median(row) or 0) > FAR_MADS for row in law]) for law in (normal, maxima)]
    assert far[0] < 0.002
    assert far[1] < 0.04


def test_no_scores_and_broken_scores_are_refused() -> None:
    with pytest.raises(DataError, match="no held-out good image to calibrate on; a threshold needs at least one"):
        threshold_for(scores(0), false_reject_rate=0.01, source="")
    with pytest.raises(DataError, match="2 of 3 scores of good images are not finite"):
        threshold_for(np.array([1.0, np.nan, np.inf]), false_reject_rate=0.01, source="")
    with pytest.raises(ValueError, match=r"scores of shape \(2, 2\); expected \(n,\)"):
        threshold_for(np.zeros((2, 2)), false_reject_rate=0.01, source="")


def test_the_pixel_threshold_is_that_of_accepted_images_and_one_at_the_threshold_is_none() -> None:
    scores, peaks = np.array([0.1, 0.5, 0.7]), np.array([0.25, 0.75, 0.875])
    assert pixel_threshold(scores, peaks, threshold=0.5) == np.nextafter(np.float32(0.25), np.float32(1))
    assert pixel_threshold(scores, peaks, threshold=0.6) == np.nextafter(np.float32(0.75), np.float32(1))
