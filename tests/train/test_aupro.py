"""AUPRO by hand, by a slow direct implementation over every threshold, and by the published reference."""

import time

import numpy as np
import pytest
from scipy import ndimage

from reason_runtime.errors import DataError
from reason_train.aupro import aupro, aupro_on_grid, aupro_per_image, pro_curve, region_weights
from reason_train.ranking import rank
from tests.golden_weights import GOLDEN, masks_and_maps


def slow_curve(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, word by word: at each distinct value the false-positive rate and the mean overlap of regions."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labels == number) for number in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        alarms = maps >= threshold
        overlaps = [alarms[index][region].mean() for index, region in regions]
        points.append((alarms[~masks].mean(), float(np.mean(overlaps))))
    x, y = np.array(points).T
    return x, y


def slow_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    x, y = slow_curve(maps, masks)
    area = 0.0
    for i in range(1, x.size):
        x0, x1, y0, y1 = x[i - 1], x[i], y[i - 1], y[i]
        if x1 > limit:
            if x0 < limit:
                at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + at_limit) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def row(values: list[float], defective: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([[values]], np.float32), np.array([[defective]], np.bool_)


def test_a_perfect_map_scores_one() -> None:
    maps, masks = row([0, 0, 5, 5, 0], [0, 0, 1, 1, 0])
    assert aupro(rank(maps, masks), masks) == pytest.approx(1)


def test_a_reversed_map_scores_zero() -> None:
    maps, masks = row([5, 4, 0, 0, 6], [0, 0, 1, 1, 0])
    assert aupro(rank(maps, masks), masks) == 0


def test_small_and_large_regions_count_alike() -> None:
    # Regions of 1 and 3 pixels; 10 good pixels. In falling order: the small region (overlap 1/2), one good pixel
    # (false-positive rate 0.1), the large region (overlap 1), the other good pixels.
    values = [9, 0, 7, 7, 7, 8, 1, 1, 1, 1, 1, 1, 1, 1]
    defective = [1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    maps, masks = row(values, defective)
    assert aupro(rank(maps, masks), masks) == pytest.approx((0.1 * 0.5 + 0.2 * 1) / 0.3)


def test_the_curve_is_interpolated_at_the_limit() -> None:
    # one tie of the defect with 6 of 10 good pixels: a straight line from (0, 0) to (0.6, 1), at 0.3 it is 0.5
    maps, masks = row([5] * 7 + [1] * 4, [1] + [0] * 10)
    assert aupro(rank(maps, masks), masks) == pytest.approx(0.25)
    assert aupro(rank(maps, masks), masks, fpr_limit=0.6) == pytest.approx(0.5)
    assert aupro(rank(maps, masks), masks, fpr_limit=1.0) == pytest.approx((0.6 * 0.5 + 0.4) / 1)


def test_a_constant_map_is_the_diagonal() -> None:
    maps, masks = row([3, 3, 3, 3], [1, 0, 0, 0])
    assert aupro(rank(maps, masks), masks) == pytest.approx(0.15)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    masks = np.zeros((1, 4, 4), np.bool_)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = True
    assert sorted(region_weights(masks)) == [0.5, 0.5, 1]


def test_regions_of_neighbouring_images_stay_apart() -> None:
    masks = np.zeros((3, 2, 2), np.bool_)
    masks[0, 1] = masks[2, 0, 0] = True
    assert list(region_weights(masks)) == [0.5, 0.5, 1]


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [3, 20, 100_000], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_the_definition_at_every_threshold(seed: int, levels: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_dilation(rng.random((4, 12, 12)) > 0.97, structure=np.ones((1, 3, 2)))
    masks[0] = False
    maps = (np.round((rng.random(masks.shape) + 0.4 * masks) * levels) / levels).astype(np.float32)
    assert aupro(rank(maps, masks), masks, fpr_limit=limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-12)


def test_the_corners_lie_on_the_curve_of_the_definition() -> None:
    masks, maps = masks_and_maps(2, n=3, size=64)
    defective = masks.astype(np.bool_)
    x, y = pro_curve(rank(maps, defective), defective)
    slow_x, slow_y = slow_curve(maps, defective)
    assert (x[0], y[0], x[-1], y[-1]) == pytest.approx((0, 0, 1, 1))
    assert np.all(np.diff(x) >= 0)
    assert np.all(np.diff(y) >= -1e-15)
    inner = np.unique(slow_x)[1:-1]
    # a vertical step has two heights: compare where the definition has one point per rate
    once = [value for value in inner if np.count_nonzero(slow_x == value) == 1]
    assert len(once) > 10
    expected = [slow_y[slow_x == value][0] for value in once]
    assert np.interp(once, x, y) == pytest.approx(expected, abs=1e-12)


def test_the_reference_gives_the_same_on_its_grid() -> None:
    masks, maps = masks_and_maps(1)
    defective = masks.astype(np.bool_)
    with np.load(GOLDEN / "metrics_seed1.npz") as golden:
        assert aupro_per_image(maps, defective) == pytest.approx(float(golden["aupro_per_image"]), abs=1e-5)
        assert aupro_on_grid(maps, defective) == pytest.approx(float(golden["aupro_reference_dataset"]), abs=1e-5)


def test_the_grid_by_hand() -> None:
    # Step 1, thresholds 0..199 of a map from 0 to 200; 4 good pixels 0, 0, 0, 150 and a region 100, 200. Below 0.3 is
    # the rate 1/4 (thresholds up to 149), then 0: overlap 1 up to 99, 1/2 from 100 on. Divided by 1/4, the area runs
    # from (0, 1/2) to (1, 1/2) over one step: the mean height is 1/2.
    maps, masks = row([0, 0, 0, 150, 100, 200], [0, 0, 0, 0, 1, 1])
    assert aupro_on_grid(maps, masks) == pytest.approx(0.5)


@pytest.mark.parametrize(("defect", "expected"), [((120, 160), 0.25), ((120, 130), 0.0)])
def test_the_grid_leaves_out_a_rate_of_exactly_its_limit_by_hand(defect: tuple[int, int], expected: float) -> None:
    """Steps of 1. Of ten good pixels three are above t < 100, a rate of 0.3; two above t < 150, one above t < 200.

    Kept are rates of 0.2 and 0.1, as shares of the largest 1 and 0.5: between them the overlap is that at t = 150.
    """
    values = np.array([[[*defect, 0, 0, 0, 0, 0, 0, 0, 100, 150, 200]]], np.float64)
    masks = np.zeros(values.shape, np.bool_)
    masks[..., :2] = True
    assert aupro_on_grid(values, masks) == pytest.approx(expected, abs=1e-12)


def test_the_grid_where_the_reference_divides_by_zero() -> None:
    perfect = row([0, 0, 0, 5, 5], [0, 0, 0, 1, 1])
    assert aupro_on_grid(*perfect) == 1
    constant = row([2, 2, 2], [0, 0, 1])
    assert aupro_on_grid(*constant) == 0
    everywhere = row([9, 9, 0, 9], [0, 0, 1, 1])
    assert aupro_on_grid(*everywhere) == 0


def test_the_mean_per_image_leaves_good_images_out() -> None:
    masks, maps = masks_and_maps(1)
    defective = masks.astype(np.bool_)
    alone = [aupro_on_grid(maps[i : i + 1], defective[i : i + 1]) for i in range(1, 6)]
    assert aupro_per_image(maps, defective) == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("seed", range(5))
def test_maps_whose_span_their_type_cannot_hold_have_the_aupro_of_smaller_ones(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps = random.uniform(-1.75, 1.75, (2, 16, 16)).astype(np.float32)
    maps.flat[:2] = -1.75, 1.75
    masks = np.zeros(maps.shape, bool)
    masks[:, 4:9, 3:12] = True
    large = maps * np.float32(2.0**127)  # to +-3e38, the same bits but for the exponent
    assert aupro_on_grid(large, masks) == aupro_on_grid(maps, masks)
    assert aupro_per_image(large, masks) == aupro_per_image(maps, masks)


def test_what_is_not_defined_is_refused() -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    empty = np.zeros(maps.shape, np.bool_)
    with pytest.raises(DataError, match="0 anomalous and 32 normal values"):
        rank(maps, empty)
    with pytest.raises(DataError, match="every mask is empty"):
        aupro_per_image(maps, empty)
    with pytest.raises(ValueError, match="limit 0; expected a false-positive rate"):
        aupro(rank(*row([1, 2], [0, 1])), row([1, 2], [0, 1])[1], fpr_limit=0)
    for figure in (aupro_per_image, aupro_on_grid):
        with pytest.raises(ValueError, match=r"expected \(N, H, W\) for both"):
            figure(maps, empty[0])
    broken = maps.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 of 32 anomaly values are not finite"):
        rank(broken, np.ones(maps.shape, np.bool_))


def test_160_maps_of_256_pixels_take_less_than_5_seconds() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((160, 256, 256), np.bool_)
    for mask in masks[41:]:
        for top, left in rng.integers(0, 220, (3, 2)):
            mask[top : top + 30, left : left + 25] = True
    maps = rng.random(masks.shape, np.float32) + np.float32(0.5) * masks
    start = time.process_time()
    aupro(rank(maps, masks), masks)
    assert time.process_time() - start < 5
