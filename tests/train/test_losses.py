from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from reason_runtime.errors import ConfigurationError
from reason_train.config import Config, MethodConfig, SuppressionTarget, TrainingConfig
from reason_train.losses import Comparison, block_loss, compare, global_cosine_loss, mine_hard_positions, variety
from reason_train.model import ReasonModel, build_model
from reason_train.ranks import ALONE
from reason_train.step import TeacherView, training_losses, view_features, view_images
from tests.filled_model import filled_model
from tests.golden_weights import GOLDEN, features

TOLERANCE = 1e-5  # sums of up to 260,000 float32 values, in another order than the reference's


def golden_features() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    teacher, student, suppressed = ([torch.from_numpy(scale) for scale in scales] for scales in features(1))
    return teacher, student, suppressed


def compare_scales(targets: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> list[Comparison]:
    return [compare(target=t, rebuilt=g) for t, g in zip(targets, rebuilt, strict=True)]


def distances(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    return [scale.distance() for scale in compare_scales(teacher, student)]


def cosine_distance(*, teacher: Tensor, student: Tensor) -> Tensor:
    return compare(target=teacher, rebuilt=student).distance()


def global_loss(*, targets: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> Tensor:
    return global_cosine_loss(compare_scales(targets, rebuilt))


def slow_block_loss(scales: list[Tensor], *, share: float) -> float:
    """As METHOD describes it: cut, take each block's mean over pixels and batch, add, divide by the count."""
    means = []
    for distance in scales:
        _, height, width = distance.shape
        side = max(1, int(min(height, width) * share))
        for top, left in itertools.product(range(0, height, side), range(0, width, side)):
            means.append(distance[:, top : top + side, left : left + side].double().mean().item())
    return sum(means) / len(means)


def test_every_term_has_the_reference_value() -> None:
    teacher, student, suppressed = golden_features()
    maps = distances(teacher, student)
    ours = {
        "global_cosine": global_loss(targets=teacher, rebuilt=student),
        "block_0625": block_loss(maps),
        "block_125": block_loss(maps, block_share=0.125),
        "block_20": block_loss(maps, block_share=0.2),
        "suppression_to_student": global_loss(targets=student, rebuilt=suppressed),
        "suppression_to_teacher": global_loss(targets=teacher, rebuilt=suppressed),
    }
    golden = np.load(GOLDEN / "losses_seed1.npz")
    assert {name: pytest.approx(float(golden[name]), abs=TOLERANCE) for name in ours} == {
        name: float(value) for name, value in ours.items()
    }


@pytest.mark.parametrize("share", [0.0625, 0.125, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("sides", [(64, 32, 16), (56, 28, 14), (31, 17, 5)], ids=["256 px", "224 px", "odd"])
def test_block_loss_is_that_of_a_loop_over_blocks(sides: tuple[int, ...], share: float) -> None:
    random = torch.Generator().manual_seed(sides[0])
    scales = [torch.rand((3, side, side), generator=random) for side in sides]
    assert float(block_loss(scales, block_share=share)) == pytest.approx(slow_block_loss(scales, share=share), abs=1e-6)


def test_block_loss_of_maps_that_are_not_square_cuts_by_the_shorter_side() -> None:
    scales = [torch.rand((2, 12, 40), generator=torch.Generator().manual_seed(4))]
    assert float(block_loss(scales, block_share=0.25)) == pytest.approx(slow_block_loss(scales, share=0.25), abs=1e-6)


def test_block_loss_by_hand() -> None:
    coarse = torch.full((1, 2, 2), 0.5)  # side 1: four blocks of 0.5
    fine = torch.zeros((1, 4, 4))
    fine[0, :2, :2] = 1.0  # side 2: four blocks, one of them 1
    assert float(block_loss([fine, coarse], block_share=0.5)) == pytest.approx((1.0 + 4 * 0.5) / 8)


def test_equal_features_are_at_distance_0_opposite_ones_at_2_and_right_angles_at_1() -> None:
    teacher = torch.randn((2, 8, 3, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cosine_distance(teacher=teacher, student=teacher), torch.zeros(2, 3, 5))
    torch.testing.assert_close(cosine_distance(teacher=teacher, student=-teacher), torch.full((2, 3, 5), 2.0))
    turned = torch.cat([-teacher[:, 4:], teacher[:, :4]], dim=1)
    torch.testing.assert_close(cosine_distance(teacher=teacher, student=turned), torch.ones(2, 3, 5))


def test_distance_depends_on_directions_only() -> None:
    random = torch.Generator().manual_seed(1)
    teacher, student = (torch.randn((2, 8, 4, 4), generator=random) for _ in range(2))
    scaled = cosine_distance(teacher=teacher * 37.5, student=student * 0.003)
    torch.testing.assert_close(scaled, cosine_distance(teacher=teacher, student=student), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_distance_is_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    feature = torch.randn((1, 64, 2, 2), generator=torch.Generator().manual_seed(2)).to(dtype)
    found = cosine_distance(teacher=feature, student=feature)
    assert found.dtype == torch.float32
    assert found.abs().max() < 1e-6  # computed in bf16 itself it would be some 4e-3 off


def test_features_of_different_shapes_have_no_distance() -> None:
    with pytest.raises(ValueError, match=r"features of \(1, 8, 4, 4\) cannot be compared with those of \(1, 8, 2, 2\)"):
        cosine_distance(teacher=torch.ones(1, 8, 4, 4), student=torch.ones(1, 8, 2, 2))


def test_global_loss_is_a_sum_over_scales_of_batch_means_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 1, 1, 2)  # two samples of one scale
    turned = torch.tensor([[0.0, 5.0], [0.0, 1.0]]).view(2, 1, 1, 2)  # at a right angle, and in the same direction
    second = torch.tensor([[1.0], [1.0]]).view(2, 1, 1, 1)
    assert float(global_loss(targets=[first, second], rebuilt=[turned, -second])) == pytest.approx(0.5 + 2.0)


def hard_and_easy() -> tuple[Tensor, Tensor]:
    """Ten positions of one sample, half of it at right angles to the other: a variety of 1.

    The student is further off from left to right, by 0.1 to 1.45 rad.
    """
    teacher, student = torch.zeros(1, 2, 1, 10), torch.zeros(1, 2, 1, 10)
    teacher[0, 0, 0, :5] = teacher[0, 1, 0, 5:] = 1.0
    angle = 0.1 + 0.15 * torch.arange(10)
    student[0, 0, 0, :5], student[0, 1, 0, :5] = angle[:5].cos(), angle[:5].sin()
    student[0, 0, 0, 5:], student[0, 1, 0, 5:] = angle[5:].sin(), angle[5:].cos()
    return teacher, student.requires_grad_()


def mined_gradient(teacher: Tensor, student: Tensor, *, easy_share: float, easy_below: float | None) -> Tensor:
    """Of the sum of distances, with a tenth of it at easy positions."""
    limit = None if easy_below is None else easy_below * variety(teacher).mean()
    scale = compare(target=teacher, rebuilt=student)
    mined = mine_hard_positions(scale, easy_share=easy_share, easy_limit=limit, easy_gradient=0.1)
    return torch.autograd.grad(mined.distance().sum(), student)[0]


def plain_gradient(teacher: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(cosine_distance(teacher=teacher, student=student).sum(), student)[0]


def test_mining_keeps_every_value() -> None:
    random = torch.Generator().manual_seed(6)
    teacher = torch.randn((2, 16, 8, 8), generator=random)
    for dtype in (torch.float32, torch.bfloat16):
        scale = compare(target=teacher, rebuilt=torch.randn((2, 16, 8, 8), generator=random).to(dtype))
        mined = mine_hard_positions(scale, easy_share=0.9, easy_limit=None, easy_gradient=0.1)
        assert torch.equal(mined.distance(), scale.distance())
        assert torch.equal(mined.global_distance(), scale.global_distance())


@pytest.mark.parametrize(
    ("easy_below", "easy"),
    [(None, 7), (2.0, 7), (0.4, 6), (0.1, 3), (0.0, 0)],  # 1 - cos is 0.1 at 0.451 rad and 0.4 at 0.927 rad
)
def test_mining_scales_the_gradient_of_the_easy_share_that_is_below_the_limit(
    easy_below: float | None, easy: int
) -> None:
    teacher, student = hard_and_easy()
    gradient = mined_gradient(teacher, student, easy_share=0.7, easy_below=easy_below)
    factor = torch.tensor([0.1] * easy + [1.0] * (10 - easy))
    torch.testing.assert_close(gradient, plain_gradient(teacher, student) * factor, atol=1e-7, rtol=1e-5)


def test_mining_scales_the_gradient_of_whole_features_as_if_it_had_scaled_the_students() -> None:
    random = torch.Generator().manual_seed(9)
    teacher = torch.randn((2, 16, 8, 8), generator=random)
    student = torch.randn((2, 16, 8, 8), generator=random).requires_grad_()
    scale = compare(target=teacher, rebuilt=student)
    mined = mine_hard_positions(scale, easy_share=0.6, easy_limit=None, easy_gradient=0.1)
    found = torch.autograd.grad(mined.global_distance().sum(), student)[0]
    plain = torch.autograd.grad(global_loss(targets=[teacher], rebuilt=[student]) * 2, student)[0]  # a mean over two
    easy = scale.distance() < scale.distance().flatten().quantile(0.6)
    torch.testing.assert_close(found, plain * torch.where(easy, 0.1, 1.0).unsqueeze(1), atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("zero", ["target", "rebuilt", "both"])
def test_a_zero_feature_is_at_distance_1_and_has_no_gradient_that_is_not_finite(zero: str) -> None:
    target, rebuilt = torch.ones(1, 8, 2, 2), torch.ones(1, 8, 2, 2)
    if zero != "rebuilt":
        target[..., 0] = 0
    if zero != "target":
        rebuilt[..., 0] = 0
    rebuilt.requires_grad_()
    scale = compare(target=target, rebuilt=rebuilt)
    torch.testing.assert_close(scale.distance(), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    (scale.distance().sum() + scale.global_distance().sum()).backward()
    assert rebuilt.grad is not None
    assert torch.isfinite(rebuilt.grad).all()


def test_the_gradient_is_that_of_torchs_own_cosine_similarity() -> None:
    random = torch.Generator().manual_seed(10)
    target = torch.randn((2, 16, 6, 6), generator=random)
    rebuilt = torch.randn((2, 16, 6, 6), generator=random).requires_grad_()
    scale = compare(target=target, rebuilt=rebuilt)
    found = torch.autograd.grad(scale.distance().square().sum() + scale.global_distance().square().sum(), rebuilt)[0]
    apart = 1 - torch.cosine_similarity(target, rebuilt, dim=1)
    whole = 1 - torch.cosine_similarity(target.flatten(1), rebuilt.flatten(1), dim=1)
    wanted = torch.autograd.grad(apart.square().sum() + whole.square().sum(), rebuilt)[0]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_an_easy_share_of_none_changes_no_gradient() -> None:
    teacher, student = hard_and_easy()
    gradient = mined_gradient(teacher, student, easy_share=0.0, easy_below=None)
    torch.testing.assert_close(gradient, plain_gradient(teacher, student))


def test_no_position_is_easy_while_the_student_knows_the_mean_only() -> None:
    """In noise the hardest positions are no better to learn from than the others."""
    teacher = torch.randn((4, 256, 8, 8), generator=torch.Generator().manual_seed(7)) + 0.25
    student = teacher.mean((0, 2, 3), keepdim=True).expand_as(teacher).clone().requires_grad_()
    gradient = mined_gradient(teacher, student, easy_share=0.9, easy_below=0.5)
    torch.testing.assert_close(gradient, plain_gradient(teacher, student))


def test_variety_is_the_mean_distance_of_places_half_an_image_apart() -> None:
    features = torch.randn((2, 5, 4, 6), generator=torch.Generator().manual_seed(8))
    for image, found in zip(features, variety(features), strict=True):
        pairs = [
            1 - torch.cosine_similarity(image[:, y, x], image[:, (y + 2) % 4, (x + 3) % 6], dim=0)
            for y, x in itertools.product(range(4), range(6))
        ]
        assert float(found) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    assert float(variety(torch.ones(1, 5, 4, 6))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("lam", ["001", "02"])
def test_the_golden_total_is_the_sum_that_the_method_describes(lam: str) -> None:
    teacher, student, suppressed = golden_features()
    total = (
        global_loss(targets=teacher, rebuilt=student)
        + 0.2 * block_loss(distances(teacher, student))
        + {"001": 0.01, "02": 0.2}[lam] * global_loss(targets=student, rebuilt=suppressed)
    )
    golden = np.load(GOLDEN / "losses_seed1.npz")
    assert float(total) == pytest.approx(float(golden[f"total_lam_{lam}"]), abs=TOLERANCE)


@pytest.mark.parametrize("target", ["teacher", "student"])
@torch.no_grad()
def test_training_adds_up_the_terms_with_the_configured_weights_and_target(target: SuppressionTarget) -> None:
    method = MethodConfig(teacher="resnet18", image_size_px=64, suppression_target=target, suppression_weight=0.2)
    config = Config(preset="paper", method=method, training=TrainingConfig(epochs=1))
    model = filled_model(method)
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    view = view_images(model, images, config, noise=torch.Generator().manual_seed(2))
    suppressed = model.suppress(view.seen)
    student = model.rebuild(suppressed)
    distillation = global_loss(targets=view.clean, rebuilt=student)
    distillation = distillation + 0.2 * block_loss(distances(view.clean, student))
    wanted = view.clean if target == "teacher" else student
    suppression = global_loss(targets=wanted, rebuilt=suppressed)
    losses = training_losses(model, view, config, progress=0.5)
    torch.testing.assert_close(losses.distillation, distillation)
    torch.testing.assert_close(losses.suppression, suppression)
    torch.testing.assert_close(losses.total, distillation + 0.2 * suppression)


@pytest.mark.parametrize("target", ["teacher", "student"])
def test_only_the_student_as_target_is_pulled_towards_the_suppressed_features(target: SuppressionTarget) -> None:
    method = MethodConfig(
        teacher="resnet18", image_size_px=64, suppression_target=target, suppression_weight=1.0, block_weight=0.0
    )
    config = Config(preset="paper", method=method, training=TrainingConfig(epochs=1))
    model = filled_model(method)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    view = view_images(model, images, config, noise=torch.Generator().manual_seed(2))
    losses = training_losses(model, view, config, progress=0.5)
    last = model.student.get_submodule("layer3")[-1].bn2.weight  # after the suppression layers
    gradient = torch.autograd.grad(losses.suppression, last, allow_unused=True)[0]
    assert (gradient is None) == (target == "teacher")


@torch.no_grad()
def test_without_suppression_layers_the_loss_is_distillation_alone() -> None:
    method = MethodConfig(teacher="resnet18", image_size_px=64, method="rd4ad")
    config = Config(preset="paper", method=method, training=TrainingConfig(epochs=1))
    model = filled_model(method)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    noise, part = torch.Generator().manual_seed(2), ALONE.part(2)
    view = view_features(model.features(images), config, noise=noise, part=part)
    losses = training_losses(model, view, config, progress=0.5)
    assert all(seen is clean for seen, clean in zip(view.seen, view.clean, strict=True))
    assert float(losses.total) == float(losses.distillation)
    assert float(losses.suppression) == 0


def two_students(**changes: object) -> tuple[Config, ReasonModel]:
    method = MethodConfig(teacher="efficientnet_lite0", image_size_px=64, students=2, **changes)  # type: ignore[arg-type]
    torch.manual_seed(5)
    return Config(preset="edge", method=method, training=TrainingConfig(epochs=1)), build_model(method).eval()


def random_view(model: ReasonModel, config: Config) -> TeacherView:
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    noise, part = torch.Generator().manual_seed(2), ALONE.part(2)
    with torch.no_grad():
        return view_features(model.features(images), config, noise=noise, part=part)


@pytest.mark.parametrize("target", ["teacher", "student"])
@torch.no_grad()
def test_two_students_are_two_networks_whose_losses_are_averaged(target: SuppressionTarget) -> None:
    config, model = two_students(suppression_target=target, easy_share=0.5, easy_gradient=0.1)
    view = random_view(model, config)
    both = training_losses(model, view, config, progress=0.5)
    pairs = [(model.bottleneck, model.student), model.further[0]]
    alone = ReasonModel(dataclasses.replace(config.method, students=1), teacher=model.teacher).eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    parts = []
    for bottleneck, student in pairs:  # each in the place of the one student of an ordinary model
        alone.bottleneck.load_state_dict(bottleneck.state_dict())
        alone.student.load_state_dict(student.state_dict())
        parts.append(training_losses(alone, view, config, progress=0.5))
    assert float(parts[0].distillation) != float(parts[1].distillation)
    for name in ("total", "distillation", "suppression"):
        mean = (getattr(parts[0], name) + getattr(parts[1], name)) / 2
        torch.testing.assert_close(getattr(both, name), mean)


@torch.no_grad()
def test_what_two_students_rebuild_is_added_up() -> None:
    config, model = two_students()
    suppressed = model.suppress(random_view(model, config).seen)
    one, other = (
        student(bottleneck(suppressed)) for bottleneck, student in [(model.bottleneck, model.student), model.further[0]]
    )
    for total, first, second in zip(model.rebuild(suppressed), one, other, strict=True):
        assert not torch.equal(first, second)  # they start from other weights
        torch.testing.assert_close(total, first + second)


def test_a_students_gradient_does_not_depend_on_the_other() -> None:
    config, model = two_students(suppression_layers=False)
    view = random_view(model, config)
    name = model.student.get_submodule("fine_head").weight
    found = torch.autograd.grad(training_losses(model, view, config, progress=0.5).total, name)[0]
    for weight in model.further.parameters():
        weight.data.mul_(-0.5)
    again = torch.autograd.grad(training_losses(model, view, config, progress=0.5).total, name)[0]
    torch.testing.assert_close(again, found)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("students", [0, 9])
def test_the_number_of_students_has_bounds(students: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{students} students are not between 1 and 8"):
        MethodConfig(teacher="efficientnet_lite0", students=students)
