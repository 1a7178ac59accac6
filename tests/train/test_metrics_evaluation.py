"""What `evaluate` says about a test set: whole, per defect and per group."""

import json
from pathlib import Path

import numpy as np
import pytest

from reason_runtime.errors import DataError
from reason_train.aupro import aupro, aupro_per_image
from reason_train.datasets import Sample
from reason_train.evaluation import Evaluation, evaluate_scores
from reason_train.metrics import auroc, average_precision, best_f1, wrong_decisions
from reason_train.ranking import rank


def sample(defect: str, group: str | None = None) -> Sample:
    return Sample(path=Path(f"{defect}.png"), anomalous=defect != "good", defect=defect, group=group)


SAMPLES = [sample(defect) for defect in ("good", "good", "dent", "crack", "crack")]
SCORES = np.array([0.1, 0.5, 0.3, 0.6, 0.9], np.float32)


def maps_and_masks(n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    masks = np.zeros((n, 8, 8), np.bool_)
    for index in range(2, n):
        masks[index, index : index + 2, 3:6] = True
    maps = np.random.default_rng(4).random(masks.shape, np.float32) + np.float32(0.5) * masks
    return maps, masks


def test_without_masks_there_are_image_figures_only() -> None:
    evaluation = evaluate_scores(SAMPLES, SCORES, maps=None, masks=None)
    assert (evaluation.good, evaluation.defective, evaluation.pixel) == (2, 3, None)
    assert evaluation.image_auroc == pytest.approx(5 / 6)
    assert evaluation.per_defect["dent"].image_auroc == 0.5
    assert evaluation.per_defect["crack"].image_auroc == 1
    assert (evaluation.per_defect["crack"].good, evaluation.per_defect["crack"].defective) == (2, 2)
    assert evaluation.per_defect["crack"].aupro is None
    assert (evaluation.per_group, evaluation.group_mean) == ({}, None)


def test_with_masks_every_figure_is_that_of_its_function() -> None:
    maps, masks = maps_and_masks()
    labels = np.array([False, False, True, True, True])
    evaluation = evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks)
    assert evaluation.pixel is not None
    assert evaluation.pixel.auroc == auroc(rank(maps, masks))
    assert evaluation.pixel.aupro == aupro(rank(maps, masks), masks)
    assert evaluation.pixel.aupro_per_image == aupro_per_image(maps, masks)
    assert evaluation.pixel.best_f1 == best_f1(rank(maps, masks))
    assert evaluation.pixel.average_precision == average_precision(rank(maps, masks))
    assert evaluation.average_precision == average_precision(rank(SCORES, labels))
    assert evaluation.best_f1 == best_f1(rank(SCORES, labels))
    dent = [0, 1, 2]
    assert evaluation.per_defect["dent"].pixel_auroc == auroc(rank(maps[dent], masks[dent]))
    assert evaluation.per_defect["dent"].aupro == aupro(rank(maps[dent], masks[dent]), masks[dent])


def test_figures_of_pixels_are_of_those_that_count() -> None:
    """A region is a picture cut to it: whatever lies outside, 0 or not, defective or not, changes nothing."""
    maps, masks = maps_and_masks()
    counted = np.zeros((8, 8), np.bool_)
    counted[2:8, 2:5] = True
    cut = evaluate_scores(SAMPLES, SCORES, maps=maps[:, 2:8, 2:5], masks=masks[:, 2:8, 2:5])
    zeroed = evaluate_scores(SAMPLES, SCORES, maps=maps * counted, masks=masks, counted=counted)
    assert zeroed == cut
    assert evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks, counted=counted) == cut
    assert zeroed != evaluate_scores(SAMPLES, SCORES, maps=maps * counted, masks=masks)
    everywhere = evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks, counted=np.ones_like(counted))
    assert everywhere == evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks)


def test_an_image_that_is_defective_wherever_it_counts_has_no_figures_of_its_own() -> None:
    maps, masks = maps_and_masks()
    counted = np.zeros((8, 8), np.bool_)
    counted[2:4, 3:6] = True  # all of the dent
    evaluation = evaluate_scores(SAMPLES[:3], SCORES[:3], maps=maps[:3], masks=masks[:3], counted=counted)
    assert evaluation.pixel is not None
    assert evaluation.pixel.aupro_per_image is None
    assert evaluation.pixel.auroc == auroc(rank(maps[:3, 2:4, 3:6], masks[:3, 2:4, 3:6]))


def test_where_no_defect_counts_or_nothing_else_there_are_image_figures_alone() -> None:
    maps, masks = maps_and_masks()
    without = evaluate_scores(SAMPLES, SCORES, maps=None, masks=None)
    nowhere = ~masks.any(axis=0)
    assert nowhere.any()
    assert evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks, counted=nowhere) == without
    everywhere = np.ones_like(masks)
    assert evaluate_scores(SAMPLES, SCORES, maps=maps, masks=everywhere, counted=masks.any(axis=0)) == without
    with pytest.raises(DataError, match="its mask and all others are empty at 8 x 8 pixels"):
        evaluate_scores(SAMPLES, SCORES, maps=maps, masks=np.zeros_like(masks), counted=nowhere)


def test_defective_images_without_a_defective_pixel_are_counted() -> None:
    maps, masks = maps_and_masks()
    masks[3] = False
    pixel = evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks).pixel
    assert pixel is not None
    assert pixel.unmarked == 1
    counted = np.ones((8, 8), np.bool_)
    counted[2:4] = False  # all of the dent
    evaluation = evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks, counted=counted)
    assert evaluation.to_json()["defective_unmarked"] == 2


def test_the_json_has_the_keys_that_readers_rely_on() -> None:
    maps, masks = maps_and_masks()
    keys = ("image_auroc", "pixel_auroc", "aupro", "aupro_per_image", "f1_max")
    for evaluation in (
        evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks),
        evaluate_scores(SAMPLES, SCORES, maps=maps, masks=None),
    ):
        result = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
        with_masks = evaluation.pixel is not None
        assert {key: result[key] is not None for key in keys} == {
            "image_auroc": True,
            "pixel_auroc": with_masks,
            "aupro": with_masks,
            "aupro_per_image": with_masks,
            "f1_max": True,
        }
        assert result["f1_max"] == evaluation.best_f1.f1
        assert result["per_defect"]["crack"]["defective"] == 2


def grouped() -> Evaluation:
    samples = [sample(defect, group) for group in ("same", "view") for defect in ("good", "good", "crack")]
    scores = np.array([0.1, 0.2, 0.6, 0.1, 0.5, 0.3], np.float32)
    return evaluate_scores(samples, scores, maps=None, masks=None)


def test_groups_are_judged_on_their_own_and_averaged() -> None:
    evaluation = grouped()
    assert evaluation.per_group["same"].image_auroc == 1
    assert evaluation.per_group["view"].image_auroc == 0.5
    assert evaluation.group_mean is not None
    assert evaluation.group_mean.image_auroc == 0.75
    assert (evaluation.group_mean.good, evaluation.group_mean.defective) == (4, 2)
    assert evaluation.group_mean.aupro is None
    assert evaluation.image_auroc == pytest.approx(7 / 8)  # the pooled figure is another one


def test_a_group_of_one_kind_has_no_auroc_and_leaves_no_mean() -> None:
    samples = [sample("good", "a"), sample("crack", "a"), sample("good", "b")]
    evaluation = evaluate_scores(samples, np.array([0.0, 1.0, 0.5]), maps=None, masks=None)
    assert evaluation.per_group["a"].image_auroc == 1
    assert evaluation.per_group["b"].image_auroc is None
    assert evaluation.group_mean is not None
    assert evaluation.group_mean.image_auroc is None


def test_a_defect_whose_masks_vanish_at_map_size_has_no_pixel_figures() -> None:
    maps, masks = maps_and_masks()
    masks[2] = False
    evaluation = evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks)
    assert evaluation.per_defect["dent"].aupro is None
    assert evaluation.per_defect["dent"].image_auroc == 0.5
    assert evaluation.pixel is not None


def test_a_mask_of_a_whole_image_is_left_out_of_the_mean_per_image_alone() -> None:
    maps, masks = maps_and_masks()
    masks[3] = True
    pixel = evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks).pixel
    assert pixel is not None
    assert pixel.aupro_per_image == aupro_per_image(maps[[2, 4]], masks[[2, 4]])
    assert (pixel.aupro, pixel.auroc) == (aupro(rank(maps, masks), masks), auroc(rank(maps, masks)))


def test_where_every_defective_image_is_defective_all_over_the_other_figures_are_given() -> None:
    maps, masks = maps_and_masks()
    masks[2:] = True
    samples = [sample(defect, "view" if defect == "dent" else "same") for defect in (one.defect for one in SAMPLES)]
    evaluation = evaluate_scores(samples, SCORES, maps=maps, masks=masks)
    assert evaluation.pixel is not None
    assert evaluation.pixel.aupro_per_image is None
    assert evaluation.pixel.auroc == auroc(rank(maps, masks))
    assert evaluation.per_group["view"].pixel_auroc is None  # all of its pixels are defective
    assert evaluation.per_group["same"].pixel_auroc is not None
    assert evaluation.to_json()["aupro_per_image"] is None


def test_one_kind_only_cannot_be_evaluated() -> None:
    with pytest.raises(DataError, match="the test images are 2 good and 0 defective; an evaluation needs both"):
        evaluate_scores(SAMPLES[:2], SCORES[:2], maps=None, masks=None)
    with pytest.raises(DataError, match="the test images are 0 good and 3 defective"):
        evaluate_scores(SAMPLES[2:], SCORES[2:], maps=None, masks=None)


def test_the_image_whose_score_or_map_is_broken_is_named() -> None:
    maps, masks = maps_and_masks()
    maps[2, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"dent\.png: its anomaly map is not finite"):
        evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks)
    broken = SCORES.copy()
    broken[3] = np.inf
    with pytest.raises(DataError, match=r"crack\.png: its score is not finite"):
        evaluate_scores(SAMPLES, broken, maps=None, masks=None)


def test_masks_that_are_all_empty_are_refused() -> None:
    first = next(sample for sample in SAMPLES if sample.anomalous)
    maps, masks = maps_and_masks()
    with pytest.raises(DataError, match=f"{first.path}: its mask and all others are empty at 8 x 8 pixels"):
        evaluate_scores(SAMPLES, SCORES, maps=maps, masks=np.zeros_like(masks))


def test_unequal_lengths_are_refused() -> None:
    maps, masks = maps_and_masks()
    with pytest.raises(ValueError, match=r"scores of shape \(4,\) for 5 samples"):
        evaluate_scores(SAMPLES, SCORES[:4], maps=None, masks=None)
    with pytest.raises(ValueError, match="4 anomaly maps for 5 samples"):
        evaluate_scores(SAMPLES, SCORES, maps=maps[:4], masks=masks)
    with pytest.raises(ValueError, match="expected equal shapes"):
        evaluate_scores(SAMPLES, SCORES, maps=maps, masks=masks[:, :4])


def test_wrong_decisions_by_hand() -> None:
    scores, anomalous = np.array([0.1, 0.5, 0.6, 0.4, 0.5, 0.9]), np.array([False] * 3 + [True] * 3)
    assert wrong_decisions(scores, anomalous, limit=0.5) == (2, 1)  # what equals the threshold is rejected
    assert wrong_decisions(scores, anomalous, limit=None) == (None, None)
