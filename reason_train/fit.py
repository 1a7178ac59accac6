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
from torch import Generator

from reason_runtime.errors import TrainingError
from reason_train.checkpoint import Log, StepReport, load_checkpoint, save_checkpoint
from reason_train.config import Config, TrainingConfig
from reason_train.feature_cache import FeatureCache
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.run import CHECKPOINT, LOG, MODEL, write_tensors
from reason_train.step import Losses, TeacherView, training_losses, view_features, view_images
from reason_train.whitening import measure_features, measure_maps


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


def fit(
    model: ReasonModel,
    config: Config,
    *,
    store: ImageStore,
    run: Path,
    device: torch.device,
    resume: bool = False,
    cache_mib: int = 4096,
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
        cache_mib: Bound on teacher features kept in memory, MiB.
        checkpoint_seconds: Least time between two checkpoints.
        report: Called after every step.

    Raises:
        TrainingError: The loss or a weight is not finite; the last good checkpoint is kept.
        RunError: The checkpoint does not fit.
        ImageError: A training image cannot be read.
    """
    _to_device(model, device)
    steps = total_steps(config.training, images=len(store.paths))
    optimizer = _optimizer(model, config.training)
    done = 0
    if resume and (run / CHECKPOINT).is_file():
        done = load_checkpoint(run / CHECKPOINT, model, optimizer)
    else:
        measure_features(model.eval(), store, device=device)
    model.train()
    log = Log(run / LOG, done=done)
    started = saved = time.monotonic()
    views = _views(model, config, store, device=device, steps=range(done, steps), cache_mib=cache_mib)
    for step, view in zip(range(done, steps), views, strict=True):
        rate = _set_learning_rates(optimizer, config.training, step=step, steps=steps)
        losses = training_losses(model, view, config, progress=step / steps)
        _step(losses, optimizer, step=step, run=run)
        line = StepReport(
            step=step + 1,
            epoch=step // steps_per_epoch(config.training, images=len(store.paths)) + 1,
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
    measure_maps(model.eval(), store, device=device)
    _check_finite(model, run)
    write_tensors(run / MODEL, model.state_dict(), facts={"steps": str(steps)})
    (run / CHECKPOINT).unlink(missing_ok=True)


def _views(
    model: ReasonModel, config: Config, store: ImageStore, *, device: torch.device, steps: range, cache_mib: int
) -> Iterator[TeacherView]:
    """What each step trains on. Clean teacher features are computed once where nothing changes them and they fit."""
    orders = (batch_order(config.training, step=step, images=len(store)) for step in steps)
    noises = (seeded("noise", config.training.seed, step) for step in steps)
    fixed = config.method.noise_at == "features" or config.method.method == "rd4ad"
    if fixed and FeatureCache.mib(model, store, config) <= cache_mib:
        cache = FeatureCache(model, store, config, device=device)
        for order, noise in zip(orders, noises, strict=True):
            yield view_features(cache[order], config, noise=noise)
        return
    for batch, noise in zip(store.batches(orders), noises, strict=True):
        images = torch.from_numpy(batch).to(device, non_blocking=True)
        yield view_images(model, images, config, noise=noise)


def seeded(purpose: str, seed: int, number: int) -> Generator:
    """A CPU generator that depends on purpose, seed and step (or epoch) only."""
    words = np.random.SeedSequence([*purpose.encode(), seed, number]).generate_state(2)
    return Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def batch_order(training: TrainingConfig, *, step: int, images: int) -> Sequence[int]:
    """What the given step trains on: a new shuffle of images and views each round, each of them once."""
    epoch, position = divmod(step, steps_per_epoch(training, images=images))
    order = torch.randperm(images, generator=seeded("order", training.seed, epoch)).tolist()
    return order[position * training.batch_size : (position + 1) * training.batch_size]


def _optimizer(model: ReasonModel, training: TrainingConfig) -> torch.optim.Optimizer:
    groups: list[dict[str, object]] = [
        {"params": [*model.bottleneck.parameters(), *model.student.parameters()], "lr": training.learning_rate},
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


def _set_learning_rates(optimizer: torch.optim.Optimizer, training: TrainingConfig, *, step: int, steps: int) -> float:
    factor = 1.0 if training.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
    factor *= min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
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
    torch.autograd.backward(losses.total)
    optimizer.step()


def _check_finite(model: ReasonModel, run: Path) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor.float()).all():
            raise TrainingError(f"{run}: {name} is not finite after the last step; the last good checkpoint is kept")


def _to_device(model: ReasonModel, device: torch.device) -> None:
    """Move the model; convolution weights channels last, which CPUs and GPUs multiply faster."""
    model.to(device)
    model.to(memory_format=torch.channels_last)
