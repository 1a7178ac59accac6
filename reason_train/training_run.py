"""One whole training: data set, split, model, run folder, fit, calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, ReasonError, RunError
from reason_runtime.manifest import Threshold
from reason_train.calibrate import calibrate
from reason_train.checkpoint import StepReport
from reason_train.config import Config
from reason_train.datasets import DataSet
from reason_train.device import multiplies_bf16
from reason_train.fit import fit, total_steps
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.presets import Choices, resolve
from reason_train.region import counted_region
from reason_train.run import (
    CALIBRATION,
    CHECKPOINT,
    LOG,
    MODEL,
    RUN,
    THRESHOLD,
    Run,
    describe_images,
    library_versions,
    read_run,
    write_run,
)
from reason_train.teacher_weights import load_teacher
from reason_train.trained import input_format, load_run

MOST_HELD_OUT = 1000
"""Beyond so many images the bound on the false-reject rate gains less than training loses."""
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
    """None where nothing was held out."""


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
    cache_mib: int = 4096,
    checkpoint_seconds: float = 60.0,
    announce: Callable[[Config, int], None] = lambda _config, _steps: None,
    report: Callable[[StepReport], None] = lambda _: None,
) -> Finished:
    """Train on a data set's good images into the folder `out`, then calibrate on the held-out ones.

    Args:
        dataset: Its test images are never touched.
        choices: What the user asked for.
        out: New folder, or that of an unfinished run with `resume`.
        device: Where to train.
        teacher_weights: File in place of the published weights.
        ignore_mask: Image, white where defects do not count; needs `choices.ignore_mask_sha256`.
        resume: Continue what is in `out`.
        cache_mib: Bound on decoded training images kept in memory, MiB.
        checkpoint_seconds: Least time between two checkpoints.
        announce: Called once with the configuration and the number of steps.
        report: Called after every step.

    Raises:
        ConfigurationError: A setting is out of range.
        RunError: `out` holds another run, or is finished.
        TrainingError: The loss is not finite.
    """
    config = resolve(choices, dataset=dataset.category or dataset.layout, bf16_is_fast=multiplies_bf16(device))
    parts = split(dataset, held_out_share=config.training.held_out_share, seed=config.training.seed)
    config = _limited_batch(config, images=len(parts.train))
    run = Run(
        config=config,
        dataset=dataset.name,
        train=describe_images(parts.train, root=dataset.root),
        held_out=describe_images(parts.held_out, root=dataset.root),
        libraries=library_versions(),
    )
    _prepare(out, run, resume=resume)
    steps = total_steps(config.training, images=len(parts.train))
    announce(config, steps)
    if not (out / MODEL).exists():  # it does where a run was stopped between training and calibration
        torch.manual_seed(config.training.seed)
        model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher, weights=teacher_weights))
        _set_region(model, ignore_mask)
        store = ImageStore(
            parts.train,
            input_format=input_format(config.method),
            memory_mib=cache_mib,
            views=config.training.views,
            seed=config.training.seed,
        )
        fit(
            model,
            config,
            store=store,
            run=out,
            device=device,
            resume=resume,
            cache_mib=cache_mib,
            checkpoint_seconds=checkpoint_seconds,
            report=report,
        )
    threshold = None
    if parts.held_out:
        _, model = load_run(out)  # as on disk: in another memory layout convolutions round differently
        held_out = ImageStore(parts.held_out, input_format=input_format(config.method))
        threshold = calibrate(
            out,
            model,
            held_out,
            names=[entry.name for entry in run.held_out],
            device=device,
            false_reject_rate=DEFAULT_FALSE_REJECT_RATE,
        )
    return Finished(run=run, steps=steps, threshold=threshold)


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


def _prepare(out: Path, run: Run, *, resume: bool) -> None:
    """Make the run folder, or check that the one there is this run, unfinished."""
    if not (out / RUN).exists():
        if out.exists() and not (out.is_dir() and all(path.name.startswith(".") for path in out.iterdir())):
            raise RunError(f"{out}: exists and is not a run; choose another --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReasonError(f"{out}: cannot be made ({reason(error)}); choose another --out") from error
        write_run(out, run)
        return
    if not resume:
        raise RunError(f"{out}: a run is there already; continue it with --resume or choose another --out")
    if (out / MODEL).exists() and ((out / THRESHOLD).exists() or not run.held_out):
        raise RunError(f"{out}: training is finished; evaluate or export it, or choose another --out")
    _remove_unfinished(out)
    found = read_run(out)
    for name, ours, theirs in (
        ("settings", run.config, found.config),
        ("training images", run.train, found.train),
        ("held-out images", run.held_out, found.held_out),
    ):
        if ours != theirs:
            raise RunError(f"{out}: was started with other {name}; give the same options and images, or another --out")


def _remove_unfinished(out: Path) -> None:
    """Remove what a killed process was writing: hidden files beside the run's own, as `atomic.replacing` names them."""
    for name in (RUN, LOG, CHECKPOINT, MODEL, CALIBRATION, THRESHOLD):
        stem, suffix = name.split(".")
        for path in out.glob(f".{stem}.*.{suffix}"):
            path.unlink(missing_ok=True)
