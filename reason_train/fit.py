"""Training: the frozen teacher's features are rebuilt by the student, on good images only.

Every random draw is a function of the seed and of the step or epoch it belongs to, so a resumed run needs no saved
generator: the step counter is enough to continue bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.optim import Optimizer

from reason_runtime.errors import TrainingError
from reason_train.checkpoint import (
    Log,
    State,
    StepReport,
    current_state,
    read_checkpoint,
    restore,
    save_checkpoint,
    what_is_kept,
)
from reason_train.config import Config
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.paper_protocol import EpochChoice
from reason_train.ranks import ALONE, Ranks
from reason_train.run import CHECKPOINT, LOG, write_model
from reason_train.schedule import make_optimizer, set_learning_rates, steps_per_epoch, total_steps
from reason_train.step import Losses, training_losses
from reason_train.teacher_views import teacher_views
from reason_train.timing import PhaseClock
from reason_train.whitening import measure_features, measure_maps


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
    choice: EpochChoice | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train `model` and write checkpoints, the log and finally `model.safetensors` into `run`.

    Args:
        model: As built, with its teacher's weights; trained in place.
        config: What to do.
        store: The good training images.
        run: An existing run folder; of several processes the first alone reads and writes it.
        device: Where to train.
        resume: Continue from the checkpoint there, if there is one.
        cache_mib: Bound on teacher features kept in memory, MiB.
        checkpoint_seconds: Least time between two checkpoints.
        report: Called after every step.
        choice: Chooses the epoch by the test set; without it the last step is the model.
        ranks: The processes that train it together.

    Raises:
        TrainingError: The loss or a weight is not finite; the last good checkpoint is kept.
        RunError: The checkpoint does not fit.
        ImageError: A training image cannot be read.
    """
    model.to(device)
    model.to(memory_format=torch.channels_last)  # which CPUs and GPUs multiply faster
    optimizer = make_optimizer(model, config.training)

    def start() -> State:
        if resume and (run / CHECKPOINT).is_file():
            return read_checkpoint(run / CHECKPOINT)
        measure_features(model.eval(), store, device=device)
        return current_state(model, optimizer, step=0)

    state = ranks.from_first(start)
    done = restore(state, model, optimizer, path=run / CHECKPOINT)
    lines = _train(
        model, config, optimizer, store=store, run=run, device=device, done=done, cache_mib=cache_mib, ranks=ranks
    )
    if not ranks.is_first:
        for _ in lines:
            pass
        return
    log, saved = Log(run / LOG, done=done), time.monotonic()
    if choice is not None:
        choice.restore(state)
    for line in lines:
        log.write(line)
        report(line)
        if choice is not None and choice.is_due(line.step, steps_per_epoch(config.training, images=store.images)):
            choice.judge(model, epoch=line.epoch)
        if time.monotonic() - saved >= checkpoint_seconds:
            more = choice.state() if choice is not None else State()
            save_checkpoint(run / CHECKPOINT, model, optimizer, step=line.step, more=more)
            log.flush()
            saved = time.monotonic()
    log.flush()
    if choice is not None:
        choice.finish(model, run)
    measure_maps(model.eval(), store, device=device)
    _check_finite(model, run)
    steps = total_steps(config.training, images=store.images)
    write_model(run, model.state_dict(), facts={"steps": str(steps)})
    (run / CHECKPOINT).unlink(missing_ok=True)


def _train(
    model: ReasonModel,
    config: Config,
    optimizer: Optimizer,
    *,
    store: ImageStore,
    run: Path,
    device: torch.device,
    done: int,
    cache_mib: int,
    ranks: Ranks,
) -> Iterator[StepReport]:
    """Do one step after the other, from the first that is not done; what is known after it."""
    training, images = config.training, store.images
    steps, per_epoch = total_steps(training, images=images), steps_per_epoch(training, images=images)
    reconstruct = ranks.reconstruct(model.train())
    clock = PhaseClock(wait=torch.cuda.synchronize) if device.type == "cuda" else PhaseClock()
    started, to_do = time.monotonic(), range(done, steps)
    views = teacher_views(
        model, config, store, device=device, steps=to_do, cache_mib=cache_mib, ranks=ranks, clock=clock
    )
    for step, view in zip(to_do, views, strict=True):
        with clock.during("student"):
            rate = set_learning_rates(optimizer, training, step=step, steps=steps)
            losses = training_losses(model, view, config, progress=step / steps, reconstruct=reconstruct)
            total, distillation, suppression = view.part.means([losses.total, losses.distillation, losses.suppression])
            _require_finite(total, step=step, run=run)
            _step(losses, optimizer, weight=view.part.weight)
        seconds = clock.take()
        yield StepReport(
            step=step + 1,
            epoch=step // per_epoch + 1,
            loss=total,
            distillation=distillation,
            suppression=suppression,
            learning_rate=rate,
            seconds=round(time.monotonic() - started, 3),
            reading_s=seconds["reading"],
            teacher_s=seconds["teacher"],
            student_s=seconds["student"],
        )


def _require_finite(loss: float, *, step: int, run: Path) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{run}: the loss is {loss} at step {step + 1}; {what_is_kept(run / CHECKPOINT)}, "
            "train again with a lower --learning-rate, or check the images"
        )


def _step(losses: Losses, optimizer: Optimizer, *, weight: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(losses.total * weight)
    optimizer.step()


def _check_finite(model: ReasonModel, run: Path) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor.float()).all():
            kept = what_is_kept(run / CHECKPOINT)
            raise TrainingError(
                f"{run}: {name} is not finite after the last step; {kept}, train again with a lower --learning-rate"
            )
