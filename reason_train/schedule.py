"""What each step trains on and with: how many steps there are, their images, their random draws, their learning rate.

All of it is a function of the settings, the seed and the step, so that a resumed run needs no saved generator, and
processes that train together draw alike without asking each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator

from reason_train.config import TrainingConfig
from reason_train.model import ReasonModel

ROUNDS_A_VIEW = 2
"""Rounds that a view is shown in before it makes way for a new one: half of the teacher's work is then saved."""


def total_steps(training: TrainingConfig, *, images: int) -> int:
    """Optimiser steps of a whole run.

    Args:
        training: With `steps`, or with `epochs` and perhaps a least and a most number of steps.
        images: Training images, without their views.
    """
    if training.steps is not None:
        return training.steps
    steps = (training.epochs or 0) * steps_per_epoch(training, images=images)
    return min(max(steps, training.least_steps or 0), training.most_steps or steps)


def steps_per_epoch(training: TrainingConfig, *, images: int) -> int:
    """Optimiser steps of one pass; the last batch may be smaller."""
    return math.ceil(images / training.batch_size)


def seeded(purpose: str, seed: int, number: int) -> Generator:
    """A CPU generator that depends on purpose, seed and step (or epoch) only."""
    words = np.random.SeedSequence([*purpose.encode(), seed, number]).generate_state(2)
    return Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def steps_per_round(training: TrainingConfig, *, images: int) -> int:
    """Optimiser steps in which every image and `views` views of it are shown once."""
    return math.ceil(images * (1 + training.views) / training.batch_size)


def first_step_with_views(training: TrainingConfig, *, step: int, images: int) -> int:
    """The first step of the rounds that show the views which are shown at the given step."""
    kept_for = ROUNDS_A_VIEW * steps_per_round(training, images=images)
    return step // kept_for * kept_for


def shows_new_views(training: TrainingConfig, *, step: int, images: int) -> bool:
    """Whether the views of a step are shown for the first time."""
    return step // steps_per_round(training, images=images) % ROUNDS_A_VIEW == 0


def batch_order(training: TrainingConfig, *, step: int, images: int) -> Sequence[int]:
    """What the given step trains on, as positions in an `ImageStore`.

    A round is every image and `views` views of it, each once in a new shuffle; every other round takes new views.

    Args:
        training: Batch size, number of views, seed.
        step: From 0.
        images: Training images, without their views.
    """
    number, position = divmod(step, steps_per_round(training, images=images))
    new = number // ROUNDS_A_VIEW
    views = [0, *range(1 + new * training.views, 1 + (new + 1) * training.views)]
    order = torch.randperm(images * len(views), generator=seeded("order", training.seed, number)).tolist()
    chosen = order[position * training.batch_size : (position + 1) * training.batch_size]
    return [views[index // images] * images + index % images for index in chosen]


def make_optimizer(model: ReasonModel, training: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over bottlenecks and students, and over the suppression layers with their own learning rate."""
    groups: list[dict[str, object]] = [
        {"params": [p for part in model.rebuilding_parts() for p in part.parameters()], "lr": training.learning_rate},
        {
            "params": list(model.suppression.parameters()) if model.suppression else [],
            "lr": training.suppression_learning_rate,
        },
    ]
    groups = [{**group, "initial_lr": group["lr"]} for group in groups if group["params"]]
    betas = (training.beta1, training.beta2)
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, betas=betas, fused=True)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=0.0, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, training: TrainingConfig, *, step: int, steps: int) -> float:
    """Set the rates of a step; returns that of bottleneck and student."""
    factor = 1.0 if training.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
    factor *= min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return training.learning_rate * factor
