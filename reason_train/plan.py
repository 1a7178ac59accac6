"""What a training will do: its settings, its images in two parts, and the run that says so. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reason_runtime.errors import ConfigurationError
from reason_train.calibrate import calibration_images, told_apart
from reason_train.config import Config
from reason_train.datasets import DataSet
from reason_train.image_store import ImageStore
from reason_train.presets import Choices, resolve, with_batch_size
from reason_train.run import Run, describe_images, library_versions
from reason_train.teacher_weights import weights_sha256
from reason_train.trained import input_format

MOST_HELD_OUT = 1000
"""Images, or tiles: beyond so many images the bound on the false-reject rate gains less than training loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The good training images in two parts, as paths."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training before its first step."""

    run: Run
    store: ImageStore
    """To train on."""
    held_out: ImageStore
    copies: int
    """Held-out images that are left out, as each is a copy of another image."""

    @property
    def config(self) -> Config:
        """The settings."""
        return self.run.config


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


def make_plan(
    dataset: DataSet, choices: Choices, *, bf16_is_fast: bool, teacher_weights: Path | None, cache_mib: int
) -> Plan:
    """What `reason_train.training_run.train` will do; files are listed and hashed, no pixel is decoded.

    Args:
        dataset: Its good training images are taken.
        choices: What the user asked for.
        bf16_is_fast: Whether the device multiplies in bf16 by itself.
        teacher_weights: File in place of the published weights.
        cache_mib: Bound on decoded images kept in memory, MiB, of those to train on and of those held out each.

    Raises:
        ConfigurationError: A setting is out of range, or there are too few images.
        RunError: The teacher's weights cannot be read.
        ImageError: An image cannot be read, or is smaller than a tile.
    """
    own_weights = None if teacher_weights is None else weights_sha256(teacher_weights)
    published = _published_name(dataset)
    config = resolve(choices, dataset=published, bf16_is_fast=bf16_is_fast)
    parts = split(dataset, held_out_share=config.training.held_out_share, seed=config.training.seed)
    store = ImageStore(
        parts.train,
        input_format=input_format(config.method),
        memory_mib=cache_mib,
        seed=config.training.seed,
        tile_px=config.training.tile_px,
    )
    train = describe_images(parts.train, root=dataset.root)
    judged = [sample.path for sample in dataset.test] if config.paper_protocol else []
    chosen_by = describe_images(judged, root=dataset.root)
    held_out = told_apart(parts.held_out, root=dataset.root, trained=(*train, *chosen_by))
    if store.images < 2:
        raise ConfigurationError(f"{store.images} good training image; expected at least 2")
    batch_size = min(config.training.batch_size, store.images)
    run = Run(
        config=with_batch_size(config, batch_size, choices=choices, dataset=published),
        dataset=dataset.name,
        train=train,
        held_out=held_out.entries,
        libraries=library_versions(),
        teacher_weights_sha256=own_weights,
        chosen_by=chosen_by,
    )
    return Plan(
        run=run,
        store=store,
        held_out=calibration_images(run, held_out.paths, memory_mib=cache_mib),
        copies=len(held_out.trained_on) + held_out.copies,
    )


def _published_name(dataset: DataSet) -> str:
    """What the paper's epochs and lambda depend on: the category, or the layout where there is none."""
    return dataset.name if dataset.layout == "mvtec" else dataset.category or dataset.layout
