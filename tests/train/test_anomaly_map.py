from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from reason_train.anomaly_map import MapHead, generalised_mean, head_distance, interpolation_matrix, map_matrix
from reason_train.losses import compare

RESNET_256, RESNET_224, LITE_256 = (64, 32, 16), (56, 28, 14), (32, 16)
SIDES = [(256, RESNET_256), (224, RESNET_224), (256, LITE_256), (64, (8, 4))]


def pair(
    sides: tuple[int, ...], *, seed: int = 0, batch: int = 3, channels: int = 8
) -> tuple[list[Tensor], list[Tensor]]:
    random = Generator().manual_seed(seed)
    shapes = [(batch, channels, side, side) for side in sides]
    teacher = [torch.randn(shape, generator=random) for shape in shapes]
    return teacher, [t + 0.7 * torch.randn(t.shape, generator=random) for t in teacher]


def reference_map(teacher: list[Tensor], student: list[Tensor], *, size_px: int, sigma: float = 4.0) -> np.ndarray:
    """As the reference does it: 1 - cos, resized with aligned corners, summed, blurred by scipy; in float64."""
    total = torch.zeros((len(teacher[0]), size_px, size_px), dtype=torch.float64)
    for t, g in zip(teacher, student, strict=True):
        distance = 1 - F.cosine_similarity(t.double(), g.double(), dim=1)
        resized = F.interpolate(distance[:, None], size=(size_px, size_px), mode="bilinear", align_corners=True)
        total += resized[:, 0]
    return np.stack([gaussian_filter(plane, sigma) for plane in total.numpy()])


@pytest.mark.parametrize(("size_px", "sides"), SIDES)
def test_the_head_is_scipys_blur_of_the_resized_sum(size_px: int, sides: tuple[int, ...]) -> None:
    teacher, student = pair(sides)
    anomaly_map, score = MapHead(size_px=size_px, sides=sides)(teacher, student)
    expected = reference_map(teacher, student, size_px=size_px)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(score.numpy(), expected.max((1, 2)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 4.0, 6.5])
def test_another_blur_is_scipys_too(sigma: float) -> None:
    teacher, student = pair((16, 8))
    anomaly_map, _ = MapHead(size_px=64, sides=(16, 8), sigma_px=sigma)(teacher, student)
    expected = reference_map(teacher, student, size_px=64, sigma=sigma)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size_px", "side"), [(256, 64), (256, 16), (224, 14), (64, 2), (64, 64)])
def test_the_float64_matrices_are_exact(size_px: int, side: int) -> None:
    distance = np.random.default_rng(side).random((side, side))
    resized = F.interpolate(
        torch.from_numpy(distance)[None, None], size=(size_px, size_px), mode="bilinear", align_corners=True
    )[0, 0].numpy()
    upsample, blurred = interpolation_matrix(size_px, side), map_matrix(size_px, side)
    np.testing.assert_allclose(upsample @ distance @ upsample.T, resized, atol=1e-12, rtol=0)
    np.testing.assert_allclose(blurred @ distance @ blurred.T, gaussian_filter(resized, 4.0), atol=1e-12, rtol=0)


def test_interpolation_by_hand() -> None:
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(interpolation_matrix(5, 3), expected, atol=1e-15)
    np.testing.assert_array_equal(interpolation_matrix(4, 1), np.ones((4, 1)))


@pytest.mark.parametrize("side", [1, 2, 14, 64])
def test_an_even_distance_stays_as_it_is(side: int) -> None:
    np.testing.assert_allclose(map_matrix(224, side) @ np.ones(side), np.ones(224), atol=1e-12)


def test_equal_features_give_a_zero_map() -> None:
    teacher, _ = pair(LITE_256)
    anomaly_map, score = MapHead(size_px=256, sides=LITE_256)(teacher, teacher)
    assert anomaly_map.abs().max() < 1e-6
    assert score.abs().max() < 1e-6


def test_opposite_features_give_2_at_each_scale() -> None:
    teacher, _ = pair(RESNET_256)
    anomaly_map, score = MapHead(size_px=256, sides=RESNET_256)(teacher, [-t for t in teacher])
    torch.testing.assert_close(anomaly_map, torch.full_like(anomaly_map, 6.0))
    torch.testing.assert_close(score, torch.full_like(score, 6.0))


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_map_ignores_how_long_features_are(factor: float) -> None:
    teacher, student = pair(LITE_256)
    head = MapHead(size_px=256, sides=LITE_256)
    plain, _ = head(teacher, student)
    scaled, _ = head([t * factor for t in teacher], [g / factor for g in student])
    torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=0)


def test_positions_where_teacher_and_student_see_nothing_are_finite() -> None:
    nothing = [torch.zeros(1, 4, 8, 8)]
    anomaly_map, _ = MapHead(size_px=64, sides=(8,))(nothing, nothing)
    assert torch.isfinite(anomaly_map).all()


def test_the_distance_by_hand() -> None:
    teacher = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    student = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    torch.testing.assert_close(head_distance(teacher, student), torch.full((1, 2, 2), 1 - 0.6))
    torch.testing.assert_close(head_distance(teacher * 0, student), torch.ones(1, 2, 2))


def test_the_map_shows_the_distance_that_is_trained() -> None:
    for t, g in zip(*pair(LITE_256), strict=True):
        torch.testing.assert_close(head_distance(t, g), compare(target=t, rebuilt=g).distance(), atol=1e-6, rtol=0)


def test_how_long_the_students_features_are_does_not_matter() -> None:
    teacher, student = pair(LITE_256)
    head = MapHead(size_px=256, sides=LITE_256)
    plain, _ = head(teacher, student)
    scaled, _ = head(teacher, [g * 1e3 for g in student])
    torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=0)


def test_weights_scale_each_scale() -> None:
    teacher, student = pair((16, 8))
    head = MapHead(size_px=64, sides=(16, 8))
    both, _ = head(teacher, student)
    head.get_buffer("weight_0").fill_(0.0)
    coarse, _ = head(teacher, student)
    head.get_buffer("weight_0").fill_(3.0)
    weighted, _ = head(teacher, student)
    torch.testing.assert_close(weighted, coarse + 3 * (both - coarse), atol=1e-5, rtol=0)


def test_a_batch_is_its_images_one_by_one() -> None:
    teacher, student = pair(RESNET_224, batch=4)
    head = MapHead(size_px=224, sides=RESNET_224)
    maps, scores = head(teacher, student)
    for i in range(4):
        one, score = head([t[i : i + 1] for t in teacher], [g[i : i + 1] for g in student])
        torch.testing.assert_close(one[0], maps[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(score[0], scores[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_map_is_float32_whatever_the_features_are(dtype: torch.dtype) -> None:
    teacher, student = ([feature.to(dtype) for feature in features] for features in pair((8, 4)))
    anomaly_map, score = MapHead(size_px=64, sides=(8, 4))(teacher, student)
    assert (anomaly_map.dtype, score.dtype) == (torch.float32, torch.float32)
    expected = reference_map(teacher, student, size_px=64)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, atol=1e-5, rtol=0)


def test_the_score_is_the_maximum_of_the_map() -> None:
    teacher, student = pair((8, 4), batch=5)
    anomaly_map, score = MapHead(size_px=64, sides=(8, 4))(teacher, student)
    assert torch.equal(score, anomaly_map.flatten(1).max(1).values)


def test_the_generalised_mean_by_hand() -> None:
    cells = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    anomaly_map = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)[None]  # each value fills one 4 x 4 cell
    torch.testing.assert_close(generalised_mean(anomaly_map, exponent=2.0), torch.tensor([2.5]))  # sqrt(25 / 4)
    torch.testing.assert_close(generalised_mean(anomaly_map, exponent=1.0), torch.tensor([1.75]))


@pytest.mark.parametrize("exponent", [1.0, 2.0, 14.0, 100.0])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_generalised_mean_is_the_formula_in_any_unit(exponent: float, unit: float) -> None:
    anomaly_map = unit * torch.rand((3, 64, 64), generator=Generator().manual_seed(int(exponent)))
    cells = anomaly_map.double().view(3, 16, 4, 16, 4).mean((2, 4)).flatten(1)
    expected = (cells / unit).pow(exponent).mean(1).pow(1 / exponent) * unit
    torch.testing.assert_close(generalised_mean(anomaly_map, exponent=exponent).double(), expected, rtol=1e-5, atol=0)


def test_the_generalised_mean_is_between_mean_and_maximum_and_grows_with_its_exponent() -> None:
    anomaly_map = torch.rand((5, 64, 64), generator=Generator().manual_seed(1))
    scores = torch.stack([generalised_mean(anomaly_map, exponent=p) for p in (1.0, 4.0, 14.0, 50.0)])
    assert (scores.diff(dim=0) > 0).all()
    torch.testing.assert_close(scores[0], anomaly_map.mean((1, 2)))
    assert (scores[-1] < anomaly_map.amax((1, 2))).all()


def test_a_flat_map_has_its_own_value_as_score_and_an_empty_one_none() -> None:
    torch.testing.assert_close(generalised_mean(torch.full((1, 64, 64), 0.37), exponent=14.0), torch.tensor([0.37]))
    assert generalised_mean(torch.zeros((1, 64, 64)), exponent=14.0) == 0
    assert generalised_mean(torch.full((1, 64, 64), -1e-7), exponent=14.0) == 0  # rounding
