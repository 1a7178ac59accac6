"""What an artefact loses on labelled images, against the fp32 graph in ONNX Runtime. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reason_export.labelled import LabelledImages, Limits
from reason_export.parity import NotFiniteError, Parity, Tolerance, compare
from reason_export.runs import joined
from reason_runtime.bundle import Bundle
from reason_runtime.errors import DataError
from reason_runtime.image import load_image, read_part
from reason_runtime.progress import counted
from reason_runtime.session import Outputs, Session, open_session
from reason_runtime.tiles import run_tiled, tile_px_of
from reason_train.aupro import aupro
from reason_train.datasets import Sample, good_among, load_dataset, read_masks, read_masks_as_drawn, require_test
from reason_train.metrics import auroc

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
    good_of_threshold: int = 0
    """Good images that drew the threshold: how few of these are rejected was chosen."""

    def broken(self, tolerance: Tolerance) -> list[str]:
        """Gates that do not hold, in words: the score's by image AUROC, the map's by AUPRO.

        A loss below one swapped pair cannot be seen, so that one pair is always allowed.
        """
        found = []
        allowed = max(tolerance.image_auroc_lost, self.image_auroc_step + _ROUNDING)
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
        return found


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


def measure_accuracy(
    bundle: Bundle, session: Session, *, labelled: LabelledImages, limits: Limits, drew: Collection[str]
) -> Accuracy:
    """Run a data set's test images through the reference and the artefact.

    Args:
        bundle: Of both.
        session: The artefact.
        labelled: The data set.
        limits: Thresholds of the two.
        drew: SHA-256 of the image files that drew the artefact's.

    Raises:
        DataError: Not a data set, or its test images are all of one kind.
        NotFiniteError: An image gives a map or score that is not finite, by the artefact or by the reference.
        ImageError: An image cannot be read.
        BackendError: ONNX Runtime is missing, or a backend failed.
    """
    form, tile_px = bundle.manifest.input, tile_px_of(bundle.manifest)
    samples = require_test(load_dataset(labelled.folder, category=labelled.category))
    masks = _masks(bundle, samples) if tile_px is None else read_masks_as_drawn(samples, crop_px=form.crop_px)
    reference_session = open_session(bundle, backend="onnxruntime", precision="fp32", device="cpu")
    pairs = []
    for sample in counted(samples, total=len(samples), what="images"):
        if tile_px is None:
            image = load_image(sample.path, input_format=form)[None]
            pairs.append((reference_session.run(image), session.run(image)))
        else:
            picture = read_part(sample.path, input_format=form)
            pairs.append(
                (
                    run_tiled(reference_session.run, picture, tile_px=tile_px),
                    run_tiled(session.run, picture, tile_px=tile_px),
                )
            )
    _require_finite(pairs, samples, folder=labelled.folder)
    if len({pair[0].anomaly_map.shape for pair in pairs}) > 1:
        raise DataError(f"{labelled.folder}: its test images differ in size; maps of tiles are compared at one size")
    reference, found = (joined(outputs) for outputs in zip(*pairs, strict=True))
    anomalous = np.array([sample.anomalous for sample in samples])
    return _judged(
        str(labelled.folder),
        anomalous,
        masks,
        reference=reference,
        found=found,
        limits=limits,
        good_of_threshold=good_among(samples, drew),
    )


def _require_finite(pairs: Sequence[tuple[Outputs, Outputs]], samples: Sequence[Sample], *, folder: Path) -> None:
    bad = [
        sample.path
        for sample, pair in zip(samples, pairs, strict=True)
        if not all(np.isfinite(out.anomaly_map).all() and np.isfinite(out.score).all() for out in pair)
    ]
    if bad:
        raise NotFiniteError(
            f"{folder}: {len(bad)} of {len(pairs)} images give values that are not finite, the first is {bad[0]}"
        )


def _masks(bundle: Bundle, samples: Sequence[Sample]) -> NDArray[np.bool_] | None:
    crop_from_px = bundle.manifest.method.settings.get("crop_from_px")
    return read_masks(
        samples,
        size_px=bundle.manifest.map_size_px,
        resize_px=crop_from_px if isinstance(crop_from_px, int) else None,
        crop_px=bundle.manifest.input.crop_px,
    )


def _judged(
    folder: str,
    anomalous: NDArray[np.bool_],
    masks: NDArray[np.bool_] | None,
    *,
    reference: Outputs,
    found: Outputs,
    limits: Limits,
    good_of_threshold: int,
) -> Accuracy:
    def figure(before: float, after: float) -> Figure:
        return Figure(reference=before, found=after, lost=before - after)

    pixel = None if masks is None else [auroc(outputs.anomaly_map, masks) for outputs in (reference, found)]
    region = None if masks is None else [aupro(outputs.anomaly_map, masks) for outputs in (reference, found)]
    rejected = None if limits.found is None else found.score >= limits.found
    before = None if limits.reference is None else reference.score >= limits.reference
    defective = int(anomalous.sum())
    good = len(anomalous) - defective
    return Accuracy(
        data=folder,
        good=good,
        defective=defective,
        image_auroc=figure(auroc(reference.score, anomalous), auroc(found.score, anomalous)),
        image_auroc_step=1 / (good * defective),
        pixel_auroc=None if pixel is None else figure(*pixel),
        aupro=None if region is None else figure(*region),
        parity=compare(
            golden_map=reference.anomaly_map,
            golden_score=reference.score,
            anomaly_map=found.anomaly_map,
            score=found.score,
        ),
        decisions_flipped=None if rejected is None or before is None else int((rejected != before).sum()),
        good_rejected=None if rejected is None else int((rejected & ~anomalous).sum()),
        defective_passed=None if rejected is None else int((~rejected & anomalous).sum()),
        good_of_threshold=good_of_threshold,
    )
