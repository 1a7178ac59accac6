"""A finished run judged on a data set's test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reason_runtime.detection_bench import of_threshold_text
from reason_runtime.errors import DataError
from reason_runtime.manifest import Threshold
from reason_train.calibrate import HeldOut, read_calibration, told_apart
from reason_train.calibration import pixel_threshold
from reason_train.datasets import DataSet, Sample, good_among, read_masks, read_masks_as_drawn, require_test
from reason_train.evaluation import Evaluation, evaluate_scores
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.paper_protocol import described_protocol
from reason_train.run import Run, read_run
from reason_train.trained import (
    Judgement,
    input_format,
    judge,
    judge_tiled,
    load_run,
    require_finished,
    score_and_peak_each,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Figures, and what they were computed from."""

    run: Run
    measured: dict[str, float]
    """Settings that training measured, by name."""
    evaluation: Evaluation
    samples: tuple[Sample, ...]
    judgement: Judgement
    masks: NDArray[np.bool_] | None
    counted: NDArray[np.bool_] | None
    """(S, S) where defects count; None: everywhere."""
    threshold: Threshold | None
    """Of the run; None where it was never calibrated."""
    pixel_threshold: float | None
    """Where a pixel of the maps counts as defective, as a bundle has it; None unless maps were to be kept."""
    good_of_threshold: int
    """Good test images that drew the run's threshold: how few of these it rejects was chosen."""
    protocol: str | None
    """Where the epoch was chosen by the test set: which, and that it was; None for every other run."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before the figures."""
        drew = None
        if self.good_of_threshold:
            drew = of_threshold_text(self.good_of_threshold, of=self.evaluation.good)
        where = unmarked = unknown = none_counts = None
        if not self.run.training_known:
            unknown = "what the checkpoint was trained on is not known: these images may be among it"
        if self.masks is not None and self.evaluation.pixel is None:
            none_counts = "no defect is marked where defects count: there are no figures of pixels"
        elif self.counted is not None and self.masks is not None:
            where = f"figures of pixels are of the {self.counted.mean():.0%} of the map where defects count"
        if self.masks is not None and (pixel := self.evaluation.pixel) is not None and pixel.unmarked:
            unmarked = (
                f"{pixel.unmarked} of {self.evaluation.defective} defective images have no defective pixel at "
                f"{self.masks.shape[2]} x {self.masks.shape[1]} pixels: figures of pixels do not know of them"
            )
        return tuple(note for note in (self.protocol, unknown, drew, none_counts, where, unmarked) if note is not None)


def evaluate(
    folder: Path,
    dataset: DataSet,
    *,
    device: torch.device,
    keep_maps: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluated:
    """Score all test images and compute every figure that the data set allows.

    Args:
        folder: A finished run.
        dataset: With good and defective test images.
        device: Where to run.
        keep_maps: Keep the maps even where there are no masks to compare them with (a report shows them).
        progress: Called with the number of images after each batch.

    Raises:
        RunError: No finished run there.
        DataError: The test images are all of one kind, some of them were trained on, or masks are missing or wrong.
        ImageError: An image cannot be read.
    """
    samples = check(folder, dataset)
    run, model = load_run(folder)
    method, tile_px = run.config.method, run.config.training.tile_px
    paths = [sample.path for sample in samples]
    threshold, drew, limit = _calibration(folder, model, device=device, with_pixels=keep_maps)
    counted = model.head.counts
    if tile_px is None:
        masks = read_masks(samples, size_px=method.image_size_px, resize_px=method.crop_from_px, crop_px=method.crop_px)
        store = ImageStore(paths, input_format=input_format(method), memory_mib=0)
        judgement = judge(model, store, device=device, keep_maps=keep_maps or masks is not None, progress=progress)
    else:
        masks = read_masks_as_drawn(samples, crop_px=method.crop_px)
        keep_maps = keep_maps or masks is not None
        judgement = judge_tiled(model, paths, tile_px=tile_px, device=device, keep_maps=keep_maps, progress=progress)
    evaluation = evaluate_scores(
        samples,
        judgement.scores,
        maps=judgement.maps if masks is not None else None,
        masks=masks,
        counted=counted,
    )
    return Evaluated(
        run=run,
        measured=model.measured(),
        evaluation=evaluation,
        samples=samples,
        judgement=judgement,
        masks=masks,
        counted=counted,
        threshold=threshold,
        pixel_threshold=limit,
        good_of_threshold=good_among(samples, drew),
        protocol=described_protocol(folder, run.config),
    )


def check(folder: Path, dataset: DataSet) -> tuple[Sample, ...]:
    """The test samples, after all that can be known before one is judged.

    Raises:
        RunError: No finished run there.
        DataError: The test images are all of one kind, or some of them were trained on, which makes figures too good
            (and is not asked of a run whose epoch the test set chose).
        ImageError: An image cannot be read.
    """
    samples = require_test(dataset)
    run = read_run(folder)
    require_finished(folder)
    if run.train and not run.config.paper_protocol:
        _require_unseen(run, dataset, where=folder)
    return samples


def _require_unseen(run: Run, dataset: DataSet, *, where: Path) -> None:
    seen = told_apart([sample.path for sample in dataset.test], root=dataset.root, trained=run.train).trained_on
    if seen:
        raise DataError(
            f"{dataset.root}: {where} was trained on {len(seen)} of the {len(dataset.test)} test images "
            f"({seen[0].name}, ...); remove them from the test images, or train again without them"
        )


def _calibration(
    folder: Path, model: ReasonModel, *, device: torch.device, with_pixels: bool
) -> tuple[Threshold | None, frozenset[str], float | None]:
    """The threshold, the SHA-256 of what drew it and, where wanted, that of pixels; the held-out images are let go."""
    held_out, threshold = read_calibration(folder, model=model, device=device)
    if held_out is None or threshold is None:
        return threshold, frozenset(), None
    limit = _pixel_threshold(held_out, threshold, model, device=device) if with_pixels else None
    return threshold, held_out.sha256, limit


def _pixel_threshold(held_out: HeldOut, threshold: Threshold, model: ReasonModel, *, device: torch.device) -> float:
    if model.method.score_exponent is None:  # the score is the map's maximum
        return threshold.value
    _, peaks = score_and_peak_each(model, held_out.images, device=device)
    return pixel_threshold(held_out.scores, peaks, threshold=threshold.value)


def report_settings(result: Evaluated) -> dict[str, str]:
    """What a report says of the run: its settings, images and library versions."""
    run = result.run
    method, training = run.config.method, run.config.training
    fields = {**dataclasses.asdict(method), **result.measured, **dataclasses.asdict(training)}
    return {
        "preset": run.config.preset,
        **({"protocol": note} if (note := run.config.protocol_note) else {}),
        "training images": str(len(run.train)),
        "held-out images": str(len(run.held_out)),
        **{name: str(value) for name, value in fields.items() if value is not None},
        **{f"{name} version": version for name, version in run.libraries.items()},
    }
