from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reason_train.config import TrainingConfig
from reason_train.datasets import load_dataset
from reason_train.plan import make_plan
from reason_train.presets import Choices
from reason_train.schedule import set_learning_rates, total_steps
from tests.pictures import good_parts


def optimizer() -> torch.optim.Optimizer:
    """Of two groups with rates of their own, as `make_optimizer` makes it."""
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": rate, "initial_lr": rate} for rate in (0.01, 0.002)
    ]
    return torch.optim.Adam(groups)


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1, 1, 1]),
        ("constant", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
        # 0.5 (1 + cos(pi step / 6)): cosines of 0, 30, 60, 90, 120 and 150 degrees
        ("cosine", 0, [1, 0.5 + 0.75**0.5 / 2, 0.75, 0.5, 0.25, 0.5 - 0.75**0.5 / 2]),
        ("cosine", 2, [0.5, 0.5 + 0.75**0.5 / 2, 0.75, 0.5, 0.25, 0.5 - 0.75**0.5 / 2]),
    ],
)
def test_learning_rates_of_every_step_by_hand(schedule: str, warmup: int, factors: list[float]) -> None:
    training = TrainingConfig(steps=6, learning_rate=0.01, schedule=schedule, warmup_steps=warmup)  # type: ignore[arg-type]
    changed = optimizer()
    for step, factor in enumerate(factors):  # a rate is of its step alone, whatever the one before was
        told = set_learning_rates(changed, training, step=step, steps=6)
        assert told == pytest.approx(0.01 * factor)
        assert [group["lr"] for group in changed.param_groups] == pytest.approx([0.01 * factor, 0.002 * factor])


@pytest.mark.parametrize(("epochs", "images", "steps"), [(1, 40, 30), (10, 10, 30), (10, 40, 100), (10, 400, 500)])
def test_epochs_give_steps_between_the_least_and_the_most(epochs: int, images: int, steps: int) -> None:
    training = TrainingConfig(epochs=epochs, batch_size=4, least_steps=30, most_steps=500)
    assert total_steps(training, images=images) == steps


@pytest.mark.parametrize(("asked", "batch"), [(4, 4), (8, 8), (64, 8)])
def test_a_batch_is_no_larger_than_the_images_that_are_trained_on(asked: int, batch: int, tmp_path: Path) -> None:
    dataset = load_dataset(good_parts(tmp_path / "stripes", images=10))
    choices = Choices(teacher="efficientnet_lite0", batch_size=asked, held_out_share=0.2)
    plan = make_plan(dataset, choices, bf16_is_fast=False, teacher_weights=None, cache_mib=16)
    assert plan.config.training.batch_size == batch
    assert (len(plan.run.train), len(plan.run.held_out), plan.copies) == (8, 2, 0)
