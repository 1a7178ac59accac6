"""One whole training: plan, run folder, model, fit, calibration."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reason_runtime.errors import TrainingError
from reason_runtime.manifest import Threshold
from reason_train.calibrate import calibrate, read_threshold
from reason_train.calibration import USUAL_RATE
from reason_train.checkpoint import StepReport, what_is_kept
from reason_train.config import Config
from reason_train.datasets import DataSet
from reason_train.datasets.masks import picture_size_of_all
from reason_train.device import multiplies_bf16
from reason_train.fit import fit
from reason_train.image_store import ImageStore, require_readable, unused_levels
from reason_train.model import ReasonModel
from reason_train.paper_protocol import EpochChoice
from reason_train.plan import Plan, make_plan
from reason_train.preparation import find_stage, forget_unstarted, prepared
from reason_train.presets import Choices
from reason_train.ranks import ALONE, Ranks
from reason_train.region import counted_region
from reason_train.run import CHECKPOINT, LOG, Run, read_run, write_run
from reason_train.schedule import total_steps
from reason_train.teacher_weights import load_teacher
from reason_train.timing import Timing, read_timing
from reason_train.trained import input_format, load_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a training gave."""

    run: Run
    steps: int
    threshold: Threshold | None
    """None where nothing was held out, and in all of several processes but the first."""
    timing: Timing | None
    """None where the log cannot be read, and in all of several processes but the first."""
    copies: int = 0
    """Held-out images that were left out, as each is a copy of another image."""
    tiles: int | None = None
    """Training tiles; None where whole pictures were trained on."""
    was_there: bool = False
    """Whether it was finished before."""


def train(
    dataset: DataSet,
    choices: Choices,
    *,
    out: Path,
    device: torch.device,
    teacher_weights: Path | None = None,
    ignore_mask: Path | None = None,
    resume: bool = False,
    keep_finished: bool = False,
    cache_mib: int = 4096,
    checkpoint_seconds: float = 60.0,
    announce: Callable[[Config, int], None] = lambda _config, _steps: None,
    say: Callable[[str], None] = lambda _: None,
    report: Callable[[StepReport], None] = lambda _: None,
    ranks: Ranks = ALONE,
) -> Finished:
    """Train on a data set's good images into the folder `out`, then calibrate on the held-out ones.

    Args:
        dataset: Its test images are never touched, but by `choices.paper_protocol`.
        choices: What the user asked for.
        out: New folder, or that of an unfinished run with `resume`.
        device: Where to train.
        teacher_weights: File in place of the published weights.
        ignore_mask: Image, white where defects do not count; needs `choices.ignore_mask_sha256`.
        resume: Continue what is in `out`.
        keep_finished: With `resume`, take a finished run as it is; it is refused otherwise.
        cache_mib: Bound on decoded training images kept in memory, MiB.
        checkpoint_seconds: Least time between two checkpoints.
        announce: Called once with the configuration and the number of steps.
        say: Called with what a user should know of the images before the first step.
        report: Called after every step.
        ranks: The processes that train together; the first alone writes.

    Raises:
        ConfigurationError: A setting is out of range, or another training writes to `out`.
        RunError: `out` holds another run, or is finished; or the teacher's weights cannot be read.
        TrainingError: The loss is not finite, a GPU's memory is full, or the processes do not see the same images and
            weights.
        ImageError: An image, to train on or held out, cannot be read.

    A training that fails before its first checkpoint leaves nothing in `out`.
    """
    plan = make_plan(
        dataset,
        choices,
        bf16_is_fast=multiplies_bf16(device),
        teacher_weights=teacher_weights,
        cache_mib=cache_mib,
    )
    run, config, store = plan.run, plan.config, plan.store
    ranks.require_equal(run.teacher_weights_sha256, what="teacher weights")
    ranks.require_equal(run, what="settings or images")
    choice = EpochChoice(dataset, config, device=device) if config.paper_protocol and ranks.is_first else None
    steps = total_steps(config.training, images=store.images)
    tiles = None if config.training.tile_px is None else store.images
    with contextlib.ExitStack() as held:
        stage = ranks.from_first(
            lambda: held.enter_context(prepared(out, run, resume=resume, keep_finished=keep_finished))
        )
        if stage == "train":
            try:
                announce(config, steps)
                if ranks.is_first:
                    require_readable(store, plan.held_out)
                    run = _noted_levels(out, store, plan.held_out)
                    hint = unused_levels(run.highest_16_bit, input_format=store.input_format)
                    if hint is not None:
                        say(hint)
                fit(
                    _new_model(plan, teacher_weights=teacher_weights, ignore_mask=ignore_mask),
                    config,
                    store=store,
                    run=out,
                    device=device,
                    resume=resume,
                    cache_mib=cache_mib,
                    checkpoint_seconds=checkpoint_seconds,
                    report=report,
                    choice=choice,
                    ranks=ranks,
                )
            except Exception as error:
                kept = what_is_kept(out / CHECKPOINT)
                if ranks.is_first:
                    forget_unstarted(out)
                if not isinstance(error, torch.OutOfMemoryError):
                    raise
                raise TrainingError(
                    f"{out}: the GPU's memory is full; {kept}, train again with a smaller --batch-size or --image-size"
                ) from error
        if not ranks.is_first:
            return Finished(run=run, steps=steps, threshold=None, timing=None, tiles=tiles)
        threshold = read_threshold(out) if stage == "finished" else _calibrate(out, run, plan.held_out, device=device)
        return Finished(
            run=run,
            steps=steps,
            threshold=threshold,
            timing=read_timing(out / LOG),
            copies=plan.copies,
            tiles=tiles,
            was_there=stage == "finished",
        )


def check(
    dataset: DataSet,
    choices: Choices,
    *,
    out: Path,
    device: torch.device,
    teacher_weights: Path | None = None,
    resume: bool = False,
    keep_finished: bool = False,
) -> None:
    """Refuse what `train` would refuse before its first step; every image is read, nothing is written.

    Raises:
        ReasonError: See `train`.
    """
    bf16 = multiplies_bf16(device)
    plan = make_plan(dataset, choices, bf16_is_fast=bf16, teacher_weights=teacher_weights, cache_mib=0)
    if plan.config.paper_protocol:
        EpochChoice(dataset, plan.config, device=device)
    if find_stage(out, plan.run, resume=resume, keep_finished=keep_finished) == "train":
        require_readable(plan.store, plan.held_out)


def _noted_levels(out: Path, *stores: ImageStore) -> Run:
    """The run in `out`, which now says whether its images, all of them read, have 16 bits."""
    highest = [store.highest_16_bit for store in stores if store.highest_16_bit is not None]
    run = dataclasses.replace(read_run(out), highest_16_bit=max(highest, default=None))
    write_run(out, run)
    return run


def _new_model(plan: Plan, *, teacher_weights: Path | None, ignore_mask: Path | None) -> ReasonModel:
    config = plan.config
    torch.manual_seed(config.training.seed)
    model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher, weights=teacher_weights))
    _set_region(model, ignore_mask, pictures=[*plan.store.paths, *plan.held_out.paths])
    return model


def _calibrate(out: Path, run: Run, held_out: ImageStore, *, device: torch.device) -> Threshold | None:
    """The threshold from the images that were held out; None where there are none."""
    if not held_out.paths:
        return None
    _, model = load_run(out)  # as on disk: in another memory layout convolutions round differently
    return calibrate(
        out,
        model,
        held_out,
        entries=run.held_out,
        device=device,
        false_reject_rate=USUAL_RATE,
    )


def _set_region(model: ReasonModel, ignore_mask: Path | None, *, pictures: Sequence[Path]) -> None:
    method = model.method
    picture_px = None
    if method.has_region and method.crop_px is not None:
        picture_px = picture_size_of_all(
            pictures, needed="with --crop, --roi and --ignore-mask need pictures of one size: they are of the whole"
        )
    region = counted_region(
        roi=method.roi, ignore_mask=ignore_mask, input_format=input_format(method), picture_px=picture_px
    )
    if region is not None:
        model.head.get_buffer("region").copy_(torch.from_numpy(region))
