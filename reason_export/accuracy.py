"""What an artefact loses on labelled images, against the fp32 graph in ONNX Runtime. No torch here."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reason_export.parity import Limits, NotFiniteError, Parity, Tolerance, compare
from reason_runtime.bundle import Bundle
from reason_runtime.errors import DataError
from reason_runtime.image import image_sha256, load_image, read_part
from reason_runtime.progress import counted
from reason_runtime.session import Outputs, Session, joined, open_session
from reason_runtime.tiles import run_tiled, tile_px_of
from reason_train.aupro import aupro
from reason_train.datasets import Sample, good_among, load_dataset, read_masks, read_masks_as_drawn, require_test
from reason_train.metrics import auroc, wrong_decisions
from reason_train.ranking import masks_that_count, of_counted, rank

MOST_OF_A_PAIR = 0.05
"""Of image AUROC, what one swapped pair of a good and a defective image may be worth to be allowed: 20 pairs."""
_ROUNDING = 1e-9  # two figures that are one pair apart differ by a pair and the last bits of both


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One detection figure, 0..1."""

    reference: float
    """Of the fp32 graph in ONNX Runtime."""
    found: float
    """Of the artefact."""
    lost: float
    """Reference less found; below zero where the artefact is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An artefact on a labelled test set."""

    data: str
    """Folder of the images."""
    good: int
    defective: int
    image_auroc: Figure
    image_auroc_step: float
    """What one swapped pair of a good and a defective image is worth: no smaller loss can be seen on these images."""
    pixel_auroc: Figure | None
    """None without masks, as the next one."""
    aupro: Figure | None
    parity: Parity
    """Against the same reference, on these images."""
    decisions_flipped: int | None
    """Images judged otherwise than by the reference, each by its own precision's threshold; None where one is missing.
    """
    good_rejected: int | None
    """Good images that the artefact rejects at its threshold."""
    defective_passed: int | None
    """Defective images that it lets pass."""
    threshold: float | None = None
    """That all these counts are of."""
    trained_good_rejected: int | None = None
    """Good images that the reference rejects at its own; None, as the next, where the artefact's is not the bundle's:
    drawn from other images, or for another rate, it may differ by as much as it was meant to."""
    trained_defective_passed: int | None = None
    """Defective images that the reference lets pass."""
    good_of_threshold: int = 0
    """Good images that drew the threshold: how few of these are rejected was chosen."""

    def broken(self, tolerance: Tolerance) -> list[str]:
        """Gates that do not hold, in words: the score's by image AUROC and decisions, the map's by AUPRO.

        A loss below one swapped pair cannot be seen, so that one pair is allowed where it is worth `MOST_OF_A_PAIR` or
        less; one wrong decision always is.
        """
        found = []
        allowed = max(tolerance.image_auroc_lost, min(self.image_auroc_step, MOST_OF_A_PAIR) + _ROUNDING)
        if not self.image_auroc.lost <= allowed:
            found.append(
                f"the score loses {self.image_auroc.lost:.4f} image AUROC on {self.data}, at most {allowed:.4f} is "
                "allowed"
            )
        if self.aupro is not None and not self.aupro.lost <= tolerance.aupro_lost:
            found.append(
                f"the map loses {self.aupro.lost:.4f} AUPRO on {self.data}, at most "
                f"{tolerance.aupro_lost:.4f} is allowed"
            )
        for count, of, by_trained, what in (
            (self.good_rejected, self.good, self.trained_good_rejected, "good images are rejected"),
            (self.defective_passed, self.defective, self.trained_defective_passed, "defective images pass"),
        ):
            if count is not None and by_trained is not None:
                more = max(1, math.floor(tolerance.wrong_decisions * of))
                if count > by_trained + more:
                    found.append(
                        f"{count} {what} on {self.data}, {by_trained} by fp32 in ONNX Runtime, at most {more} more are "
                        "allowed; draw this device's own threshold with --held-out"
                    )
        return found

    def at(self, threshold: float | None) -> Accuracy:
        """The same at a threshold: without the counts where they are of another one."""
        if threshold == self.threshold:
            return self
        return replace(
            self,
            decisions_flipped=None,
            good_rejected=None,
            defective_passed=None,
            threshold=None,
            trained_good_rejected=None,
            trained_defective_passed=None,
            good_of_threshold=0,
        )


def accuracy_from_json(facts: dict[str, Any]) -> Accuracy:
    """What `dataclasses.asdict` made of one, and JSON of that.

    Raises:
        KeyError: A field is missing.
        TypeError: It is of another version.
    """
    figures = {
        name: None if facts[name] is None else Figure(**facts[name]) for name in ("image_auroc", "pixel_auroc", "aupro")
    }
    return Accuracy(**{**facts, **figures, "parity": Parity(**facts["parity"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFigures:
    """Of one set of outputs, 0..1; those of pixels are None without masks."""

    image_auroc: float
    pixel_auroc: float | None
    aupro: float | None


class LabelledSet:
    """A data set's test images, and what the fp32 graph in ONNX Runtime gives on them, computed once.

    Args:
        bundle: Of that graph.
        folder: See `reason_train.datasets.load_dataset`.
        category: In a root of several.
    """

    def __init__(self, bundle: Bundle, folder: Path, *, category: str | None = None) -> None:
        self.folder = folder
        self._category = category
        self._bundle = bundle
        self._tile_px = tile_px_of(bundle.manifest)

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The test images.

        Raises:
            DataError: Not a data set, its test images are all of one kind, or the bundle was trained on some, which
                makes figures too good.
        """
        samples = require_test(load_dataset(self.folder, category=self._category))
        trained = self._bundle.trained_on()
        seen = [sample.path for sample in samples if trained and image_sha256(sample.path) in trained]
        if seen:
            raise DataError(
                f"{self.folder}: the bundle was trained on {len(seen)} of its {len(samples)} test images ({seen[0]}, "
                "...); remove them"
            )
        return samples

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """Of all defects; None where the data set has none."""
        manifest = self._bundle.manifest
        if self._tile_px is not None:
            return read_masks_as_drawn(self.samples, crop_px=manifest.input.crop_px)
        return read_masks(
            self.samples,
            size_px=manifest.map_size_px,
            resize_px=manifest.method.crop_from_px,
            crop_px=manifest.input.crop_px,
        )

    @cached_property
    def counted(self) -> NDArray[np.bool_] | None:
        """(S, S), True where defects count, of which the figures of pixels are; None: everywhere.

        The map is 0 in every image where they do not, and nowhere else.
        """
        settings = self._bundle.manifest.method.settings
        if settings.get("roi") is None and settings.get("ignore_mask_sha256") is None:
            return None
        counted: NDArray[np.bool_] = (self.reference.anomaly_map != 0).any(axis=0)
        return counted

    @cached_property
    def anomalous(self) -> NDArray[np.bool_]:
        """(N,) which of them are defective."""
        return np.array([sample.anomalous for sample in self.samples])

    @cached_property
    def reference(self) -> Outputs:
        """What the fp32 graph gives; see `run`."""
        return self.run(open_session(self._bundle, backend="onnxruntime", precision="fp32", device="cpu"))

    @cached_property
    def reference_detection(self) -> DetectionFigures:
        """How well that finds the defects."""
        return self.detection(self.reference)

    def detection(self, outputs: Outputs) -> DetectionFigures:
        """How well outputs for all images find the defects."""
        image_auroc = auroc(rank(outputs.score, self.anomalous))
        masks = self.masks
        if masks is not None and self.counted is not None:
            masks = masks_that_count(masks, self.counted)
        if masks is None:
            return DetectionFigures(image_auroc=image_auroc, pixel_auroc=None, aupro=None)
        ranking = rank(of_counted(outputs.anomaly_map, self.counted), of_counted(masks, self.counted))
        return DetectionFigures(image_auroc=image_auroc, pixel_auroc=auroc(ranking), aupro=aupro(ranking, masks))

    def run(self, session: Session) -> Outputs:
        """Maps and scores of all images.

        Raises:
            NotFiniteError: An image gives a map or score that is not finite.
            DataError: The images of a bundle of tiles differ in size.
            ImageError: An image cannot be read.
            BackendError: The inference library is missing, or failed.
        """
        form = self._bundle.manifest.input
        outputs = []
        for sample in counted(self.samples, total=len(self.samples), what="images"):
            if self._tile_px is None:
                outputs.append(session.run(load_image(sample.path, input_format=form)[None]))
            else:
                picture = read_part(sample.path, input_format=form)
                outputs.append(run_tiled(session.run, picture, tile_px=self._tile_px))
        bad = [
            sample.path
            for sample, found in zip(self.samples, outputs, strict=True)
            if not (np.isfinite(found.anomaly_map).all() and np.isfinite(found.score).all())
        ]
        if bad:
            raise NotFiniteError(
                f"{self.folder}: {len(bad)} of {len(outputs)} images give values that are not finite, the first is "
                f"{bad[0]}"
            )
        if len({found.anomaly_map.shape for found in outputs}) > 1:
            raise DataError(f"{self.folder}: its test images differ in size; maps of tiles are compared at one size")
        return joined(outputs)


def measure_accuracy(labelled: LabelledSet, session: Session, *, limits: Limits, drew: Collection[str]) -> Accuracy:
    """Run a data set's test images through the artefact and compare with the reference.

    Args:
        labelled: The data set.
        session: The artefact.
        limits: Thresholds of the two.
        drew: SHA-256 of the image files that drew the artefact's.

    Raises:
        DataError: Not a data set, or its test images are all of one kind.
        NotFiniteError: An image gives a map or score that is not finite, by the artefact or by the reference.
        ImageError: An image cannot be read.
        BackendError: ONNX Runtime is missing, or a backend failed.
    """
    before, reference = labelled.reference_detection, labelled.reference
    found = labelled.run(session)
    after, anomalous = labelled.detection(found), labelled.anomalous
    rejected = None if limits.found is None else found.score >= limits.found
    rejected_before = None if limits.reference is None else reference.score >= limits.reference
    good_rejected, defective_passed = wrong_decisions(found.score, anomalous, limit=limits.found)
    comparable = limits.reference if limits.are_of_bundle else None
    trained_rejected, trained_passed = wrong_decisions(reference.score, anomalous, limit=comparable)
    defective = int(anomalous.sum())
    good = len(anomalous) - defective
    return Accuracy(
        data=str(labelled.folder),
        good=good,
        defective=defective,
        image_auroc=_figure(before.image_auroc, after.image_auroc),
        image_auroc_step=1 / (good * defective),
        pixel_auroc=_figure_or_none(before.pixel_auroc, after.pixel_auroc),
        aupro=_figure_or_none(before.aupro, after.aupro),
        parity=compare(
            golden_map=reference.anomaly_map,
            golden_score=reference.score,
            anomaly_map=found.anomaly_map,
            score=found.score,
        ),
        decisions_flipped=None
        if rejected is None or rejected_before is None
        else int((rejected != rejected_before).sum()),
        good_rejected=good_rejected,
        defective_passed=defective_passed,
        threshold=limits.found,
        trained_good_rejected=trained_rejected,
        trained_defective_passed=trained_passed,
        good_of_threshold=good_among(labelled.samples, drew),
    )


def _figure(before: float, after: float) -> Figure:
    return Figure(reference=before, found=after, lost=before - after)


def _figure_or_none(before: float | None, after: float | None) -> Figure | None:
    return None if before is None or after is None else _figure(before, after)
