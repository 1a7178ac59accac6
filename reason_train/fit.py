"""Training: the frozen teacher's features are rebuilt by the student, on good images only.

Every random draw is a function of the seed and of the step or epoch it belongs to, so a resumed run needs no saved
generator: the step counter is enough to continue bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from reason_runtime.errors import TrainingError
from reason_train.checkpoint import Log, StepReport, load_checkpoint, save_checkpoint
from reason_train.config import Config, TrainingConfig
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.run import CHECKPOINT, LOG, MODEL, write_tensors
from reason_train.step import Losses, training_losses

SCALING_IMAGES = 256
"""At most so many training images, evenly spaced, decide the scale of the features."""


def total_steps(training: TrainingConfig, *, images: int) -> int:
    """Optimiser steps of a whole run."""
    return training.steps or (training.epochs or 0) * steps_per_epoch(training, images=images)


def steps_per_epoch(training: TrainingConfig, *, images: int) -> int:
    """Optimiser steps of one pass; the last batch may be smaller."""
    return math.ceil(images / training.batch_size)


def fit(
    model: ReasonModel,
    config: Config,
    *,
    store: ImageStore,
    run: Path,
    device: torch.device,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    report: Callable[[StepReport], None] = lambda _: None,
) -> None:
    """Train `model` and write checkpoints, the log and finally `model.safetensors` into `run`.

    Args:
        model: As built, with its teacher's weights; trained in place.
        config: What to do.
        store: The good training images.
        run: An existing run folder.
        device: Where to train.
        resume: Continue from the checkpoint there, if there is one.
        checkpoint_seconds: Least time between two checkpoints.
        report: Called after every step.

    Raises:
        TrainingError: The loss or a weight is not finite; the last good checkpoint is kept.
        RunError: The checkpoint does not fit.
        ImageError: A training image cannot be read.
    """
    model = model.to(device, memory_format=torch.channels_last).train()
    steps = total_steps(config.training, images=len(store))
    optimizer = _optimizer(model, config.training)
    done, noise_unit = 0, torch.ones(1, device=device)
    if resume and (run / CHECKPOINT).is_file():
        done = load_checkpoint(run / CHECKPOINT, model, optimizer)
    elif config.method.scale_features:
        _measure_scales(model, store, device)
    if config.method.noise_relative:
        noise_unit = _stem_deviation(model, store, device)
    log = Log(run / LOG, done=done)
    started, saved = time.monotonic(), time.monotonic()
    orders = (batch_order(config.training, step=step, images=len(store)) for step in range(done, steps))
    for step, batch in enumerate(store.batches(orders), start=done):
        rate = _set_learning_rates(optimizer, config.training, step=step, steps=steps)
        images = torch.from_numpy(batch).to(device, non_blocking=True)
        noise = seeded("noise", config.training.seed, step)
        losses = training_losses(model, images, config, noise=noise, noise_unit=noise_unit, progress=step / steps)
        _step(losses, optimizer, step=step, run=run)
        line = StepReport(
            step=step + 1,
            epoch=step // steps_per_epoch(config.training, images=len(store)) + 1,
            loss=losses.total.item(),
            distillation=losses.distillation.item(),
            suppression=losses.suppression.item(),
            learning_rate=rate,
            seconds=round(time.monotonic() - started, 3),
        )
        log.write(line)
        report(line)
        if time.monotonic() - saved >= checkpoint_seconds:
            save_checkpoint(run / CHECKPOINT, model, optimizer, step=step + 1)
            log.flush()
            saved = time.monotonic()
    log.close()
    _check_finite(model, run)
    write_tensors(run / MODEL, model.state_dict(), facts={"steps": str(steps)})
    (run / CHECKPOINT).unlink(missing_ok=True)
    model.eval()


def seeded(purpose: str, seed: int, number: int) -> Generator:
    """A CPU generator that depends on purpose, seed and step (or epoch) only."""
    words = np.random.SeedSequence([*purpose.encode(), seed, number]).generate_state(2)
    return Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def batch_order(training: TrainingConfig, *, step: int, images: int) -> Sequence[int]:
    """Which images the given step trains on: a new shuffle each epoch, every image once."""
    epoch, position = divmod(step, steps_per_epoch(training, images=images))
    order = torch.randperm(images, generator=seeded("order", training.seed, epoch)).tolist()
    return order[position * training.batch_size : (position + 1) * training.batch_size]


def _optimizer(model: ReasonModel, training: TrainingConfig) -> torch.optim.Optimizer:
    groups = [
        {"params": [*model.bottleneck.parameters(), *model.student.parameters()], "lr": training.learning_rate},
        {
            "params": list(model.suppression.parameters()) if model.suppression else [],
            "lr": training.suppression_learning_rate,
        },
    ]
    groups = [{**group, "initial_lr": group["lr"]} for group in groups if group["params"]]
    betas = (training.beta1, training.beta2)
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, betas=betas)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=0.0)


def _set_learning_rates(optimizer: torch.optim.Optimizer, training: TrainingConfig, *, step: int, steps: int) -> float:
    factor = 1.0 if training.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return training.learning_rate * factor


def _step(losses: Losses, optimizer: torch.optim.Optimizer, *, step: int, run: Path) -> None:
    if not math.isfinite(losses.total.item()):
        raise TrainingError(
            f"{run}: the loss is {losses.total.item()} at step {step + 1}; the last good checkpoint is kept, "
            "resume it with a lower --learning-rate in a new run, or check the images"
        )
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    optimizer.step()


def _check_finite(model: ReasonModel, run: Path) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor.float()).all():
            raise TrainingError(f"{run}: {name} is not finite after the last step; the last good checkpoint is kept")


@torch.no_grad()
def _measure_scales(model: ReasonModel, store: ImageStore, device: torch.device) -> None:
    """Set `scale_k` to 1 / standard deviation of each channel over positions and images; the mean is not removed."""
    moments: list[tuple[Tensor, Tensor]] = []
    for batch in _sample(store):
        features = model.stages(model.stem(torch.from_numpy(batch).to(device)))
        new = [(f.double().mean((0, 2, 3)), f.double().square().mean((0, 2, 3))) for f in features]
        weight = len(batch) / min(len(store), SCALING_IMAGES)
        new = [(weight * first, weight * second) for first, second in new]
        moments = [(a + c, b + d) for (a, b), (c, d) in zip(moments, new, strict=True)] if moments else new
    for k, (first, second) in enumerate(moments):
        deviation = (second - first.square()).clamp_min(1e-12).sqrt()
        model.get_buffer(f"scale_{k}").copy_((1 / deviation.clamp_min(1e-3)).view(1, -1, 1, 1))


@torch.no_grad()
def _stem_deviation(model: ReasonModel, store: ImageStore, device: torch.device) -> Tensor:
    """(1, C, 1, 1) standard deviation of the stem's channels on training images."""
    values = [model.stem(torch.from_numpy(batch).to(device)).transpose(0, 1).flatten(1) for batch in _sample(store, 32)]
    return torch.cat(values, dim=1).std(dim=1).view(1, -1, 1, 1)


def _sample(store: ImageStore, most: int = SCALING_IMAGES) -> Iterator[np.ndarray]:
    """At most `most` images, evenly spaced over the list, in batches."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(most, len(store))).astype(int)).tolist()
    return store.batches(chosen[i : i + 16] for i in range(0, len(chosen), 16))
