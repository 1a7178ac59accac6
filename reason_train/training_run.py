"""One whole training: data set, split, model, run folder, fit, calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reason_runtime.errors import ConfigurationError, ReasonError, TrainingError
from reason_runtime.manifest import Threshold
from reason_train.calibrate import calibrate, calibration_images, read_threshold
from reason_train.checkpoint import StepReport, what_is_kept
from reason_train.config import Config
from reason_train.datasets import DataSet
from reason_train.device import multiplies_bf16
from reason_train.fit import fit
from reason_train.image_store import ImageStore, require_readable, unused_levels
from reason_train.model import ReasonModel
from reason_train.paper_protocol import EpochChoice
from reason_train.preparation import forget_unstarted, prepare
from reason_train.presets import Choices, resolve
from reason_train.ranks import ALONE, Ranks
from reason_train.region import counted_region
from reason_train.run import CHECKPOINT, LOG, Run, describe_images, library_versions, read_run, write_run
from reason_train.schedule import total_steps
from reason_train.teacher_weights import load_teacher, weights_sha256
from reason_train.timing import Timing, read_timing
from reason_train.trained import input_format, load_run

MOST_HELD_OUT = 1000
"""Images, or tiles: beyond so many images the bound on the false-reject rate gains less than training loses."""
DEFAULT_FALSE_REJECT_RATE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The good training images in two parts, as paths."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a training gave."""

    run: Run
    steps: int
    threshold: Threshold | None
    """None where nothing was held out, and in all of several processes but the first."""
    timing: Timing | None
    """None in all of several processes but the first."""
    tiles: int | None = None
    """Training tiles; None where whole pictures were trained on."""
    was_there: bool = False
    """Whether it was finished before."""


def split(dataset: DataSet, *, held_out_share: float, seed: int) -> Split:
    """Hold out a random share of the good training images, the same for the same seed and list.

    At least one image is held out where there are five or more and the share is not 0; at most 1000 are.
    """
    paths = [sample.path for sample in dataset.train]
    wanted = round(held_out_share * len(paths))
    if held_out_share > 0 and len(paths) >= 5:
        wanted = max(1, wanted)
    wanted = min(wanted, MOST_HELD_OUT, len(paths) - 1)
    order = np.random.default_rng(seed).permutation(len(paths))
    held_out = set(order[:wanted].tolist())
    return Split(
        train=tuple(path for i, path in enumerate(paths) if i not in held_out),
        held_out=tuple(path for i, path in enumerate(paths) if i in held_out),
    )


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
        ConfigurationError: A setting is out of range.
        RunError: `out` holds another run, or is finished; or the teacher's weights cannot be read.
        TrainingError: The loss is not finite, a GPU's memory is full, or the processes do not see the same images and
            weights.
        ImageError: An image, to train on or held out, cannot be read.

    A training that fails before its first checkpoint leaves nothing in `out`.
    """
    own_weights = None if teacher_weights is None else weights_sha256(teacher_weights)
    ranks.require_equal(own_weights, what="teacher weights")
    config = resolve(choices, dataset=dataset.category or dataset.layout, bf16_is_fast=multiplies_bf16(device))
    parts = split(dataset, held_out_share=config.training.held_out_share, seed=config.training.seed)
    store = _training_images(config, parts, cache_mib=cache_mib)
    config = _limited_batch(config, images=store.images)
    run, parts = _describe(config, dataset, parts, teacher_weights_sha256=own_weights)
    ranks.require_equal(run, what="settings or images")
    choice = EpochChoice(dataset, config, device=device) if config.paper_protocol and ranks.is_first else None
    stage = ranks.from_first(lambda: prepare(out, run, resume=resume, keep_finished=keep_finished))
    steps = total_steps(config.training, images=store.images)
    tiles = None if config.training.tile_px is None else store.images
    held_out = calibration_images(run, parts.held_out, memory_mib=cache_mib)
    if stage == "train":
        announce(config, steps)
        try:
            if ranks.is_first:
                require_readable(store, held_out)
                run = _noted_levels(out, store, held_out)
                hint = unused_levels(run.highest_16_bit, input_format=store.input_format)
                if hint is not None:
                    say(hint)
            fit(
                _new_model(config, teacher_weights=teacher_weights, ignore_mask=ignore_mask),
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
        except (ReasonError, torch.OutOfMemoryError) as error:
            kept = what_is_kept(out / CHECKPOINT)
            if ranks.is_first:
                forget_unstarted(out)
            if isinstance(error, ReasonError):
                raise
            raise TrainingError(
                f"{out}: the GPU's memory is full; {kept}, train again with a smaller --batch-size or --image-size"
            ) from error
    if not ranks.is_first:
        return Finished(run=run, steps=steps, threshold=None, timing=None, tiles=tiles)
    threshold = read_threshold(out) if stage == "finished" else _calibrate(out, run, held_out, device=device)
    timing = read_timing(out / LOG)
    return Finished(
        run=run, steps=steps, threshold=threshold, timing=timing, tiles=tiles, was_there=stage == "finished"
    )


def _describe(
    config: Config, dataset: DataSet, parts: Split, *, teacher_weights_sha256: str | None
) -> tuple[Run, Split]:
    """The run, and its images without held-out ones that are copies of training images: the bound would not hold."""
    train = describe_images(parts.train, root=dataset.root)
    trained = {entry.sha256 for entry in train}
    held_out = zip(parts.held_out, describe_images(parts.held_out, root=dataset.root), strict=True)
    unseen = [(path, entry) for path, entry in held_out if entry.sha256 not in trained]
    run = Run(
        config=config,
        dataset=dataset.name,
        train=train,
        held_out=tuple(entry for _, entry in unseen),
        libraries=library_versions(),
        teacher_weights_sha256=teacher_weights_sha256,
    )
    return run, Split(train=parts.train, held_out=tuple(path for path, _ in unseen))


def _noted_levels(out: Path, *stores: ImageStore) -> Run:
    """The run in `out`, which now says whether its images, all of them read, have 16 bits."""
    highest = [store.highest_16_bit for store in stores if store.highest_16_bit is not None]
    run = dataclasses.replace(read_run(out), highest_16_bit=max(highest, default=None))
    write_run(out, run)
    return run


def _new_model(config: Config, *, teacher_weights: Path | None, ignore_mask: Path | None) -> ReasonModel:
    torch.manual_seed(config.training.seed)
    model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher, weights=teacher_weights))
    _set_region(model, ignore_mask)
    return model


def _training_images(config: Config, parts: Split, *, cache_mib: int) -> ImageStore:
    return ImageStore(
        parts.train,
        input_format=input_format(config.method),
        memory_mib=cache_mib,
        seed=config.training.seed,
        tile_px=config.training.tile_px,
    )


def _calibrate(out: Path, run: Run, held_out: ImageStore, *, device: torch.device) -> Threshold | None:
    """The threshold from the images that were held out; None where there are none."""
    if not held_out.paths:
        return None
    _, model = load_run(out)  # as on disk: in another memory layout convolutions round differently
    return calibrate(
        out,
        model,
        held_out,
        names=[entry.name for entry in run.held_out],
        device=device,
        false_reject_rate=DEFAULT_FALSE_REJECT_RATE,
    )


def _set_region(model: ReasonModel, ignore_mask: Path | None) -> None:
    method = model.method
    region = counted_region(roi=method.roi, ignore_mask=ignore_mask, input_format=input_format(method))
    if region is not None:
        model.head.get_buffer("region").copy_(torch.from_numpy(region))


def _limited_batch(config: Config, *, images: int) -> Config:
    if images < 2:
        raise ConfigurationError(f"{images} good training image; expected at least 2")
    size = min(config.training.batch_size, images)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=size))
