"""`reason-export quantize`: the int8 file of a bundle, its own threshold, and how it came about. No torch here."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_export.check import check_bundle
from reason_export.good_images import (
    LEAST_HELD_OUT,
    different_images,
    half_of,
    require_good,
    require_unseen,
    unseen,
    wanted_rate,
)
from reason_export.held_out_scores import drawn_from
from reason_export.quantisation import Quantised, quantise_model
from reason_export.runs import load_images, score_and_peak_each, score_each
from reason_runtime.atomic import require_writable
from reason_runtime.bundle import (
    GOLDEN,
    MODELS,
    THRESHOLD_FROM,
    UNSIGNED,
    Bundle,
    listed,
    update_bundle,
    write_bundle,
)
from reason_runtime.errors import DataError, ParityError
from reason_runtime.manifest import Quantisation
from reason_runtime.session import open_session
from reason_runtime.stratified import stratified
from reason_runtime.tiles import tile_px_of
from reason_train.calibration import described_images, most_held_out
from reason_train.highest_held_out import HighestHeldOut, highest_held_out

LEAST_CALIBRATION, MOST_CALIBRATION = 8, 32
"""Good images that the ranges are measured on. More change nothing: the ranges are of values, of which an image has
millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeChoices:
    """What the user asked for."""

    calibration: Path
    """Folder of good images for the ranges."""
    held_out: Path | None = None
    """Folder of good images for the threshold, never used for the ranges. None: those of `calibration` that were not
    trained on; half of those where it has too few that were, for the ranges."""
    false_reject_rate: float | None = None
    """Wanted, between 0 and 1; None: that of the bundle's own threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    """(N, H, W, C) good images; what sets the ranges never sets the threshold."""

    calibration: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    names: list[str]
    """Of the held-out ones."""
    held_out_sha256: frozenset[str]
    """Of their files."""
    source: str
    """What the held-out ones are, in words."""


def quantize(bundle: Bundle, *, choices: QuantizeChoices) -> tuple[Bundle, Quantised, HighestHeldOut]:
    """Add `model_int8.onnx`, `model_int8_unsigned.onnx` and the int8 threshold to a bundle.

    Returns:
        The bundle, what it got, and which images set the threshold.

    Raises:
        DataError: Too few good images, images that are not of good parts, or held-out ones that were trained on.
        ImageError: An image cannot be read.
        ConfigurationError: The false-reject rate is not between 0 and 1.
        BackendError: ONNX Runtime is missing.
        ParityError: Quantised, the map is too far off, on the calibration images or on the golden ones.
        ReasonError: The bundle could not be written; it is as it was.
    """
    wanted = wanted_rate(bundle, choices.false_reject_rate)
    require_writable(bundle.path)
    images = _read_images(bundle, choices)
    trained_mean = _check_scores(bundle, images, choices)
    found = quantise_model(bundle.model_path("fp32"), images.calibration)
    with tempfile.TemporaryDirectory() as folder:
        draft = _draft(bundle, found, folder=Path(folder))
        check = check_bundle(draft, precision="int8")
        if not check.passed:
            raise ParityError(f"{bundle.path}: left as it was, int8 fails its check: {'; '.join(check.broken)}")
        session = open_session(draft, backend="onnxruntime", precision="int8", device="cpu")
        int8_scores, peaks = score_and_peak_each(session, images.held_out)
        threshold, statistics = drawn_from(
            int8_scores,
            peaks,
            method=bundle.manifest.method,
            false_reject_rate=wanted,
            source=f"{images.source}, int8 in ONNX Runtime",
        )
    record = Quantisation(
        images=len(images.calibration),
        sqnr_db=found.sqnr_db,
        layers=found.layers,
        float_layers=found.kept,
        scores=statistics,
        trained_mean=trained_mean,
    )
    thresholds = {**bundle.manifest.thresholds, "int8": threshold}
    manifest = dataclasses.replace(bundle.manifest, thresholds=thresholds, quantisation=record)
    highest = highest_held_out(images.names, int8_scores, threshold=threshold.value)
    drew = listed(bundle.threshold_from() | images.held_out_sha256)
    files = {**_files(found), THRESHOLD_FROM: drew}
    return update_bundle(bundle, manifest=manifest, files=files), found, highest


def _read_images(bundle: Bundle, choices: QuantizeChoices) -> _Images:
    found = different_images(choices.calibration)
    kept_out = unseen(bundle, found if choices.held_out is None else different_images(choices.held_out))
    if choices.held_out is None and len(found) - len(kept_out) < LEAST_CALIBRATION:
        kept_out = half_of(kept_out)
    held_out = list(kept_out.values())
    calibration = [path for sha256, path in found.items() if sha256 not in kept_out]
    if len(calibration) < LEAST_CALIBRATION or len(held_out) < LEAST_HELD_OUT:
        raise DataError(
            f"{choices.calibration}: {len(calibration)} good images to calibrate and {len(held_out)} others, not "
            f"used by training, to draw the threshold from; at least {LEAST_CALIBRATION} and {LEAST_HELD_OUT} are "
            "needed, copies not counted"
        )
    form, tile_px = bundle.manifest.input, tile_px_of(bundle.manifest)
    chosen = [calibration[i] for i in stratified(len(calibration), most=MOST_CALIBRATION)]
    _, ranged = load_images(chosen, root=choices.calibration, input_format=form, tile_px=tile_px, most=MOST_CALIBRATION)
    root = choices.held_out or choices.calibration
    most = most_held_out(tile_px=tile_px)
    names, judged = load_images(held_out, root=root, input_format=form, tile_px=tile_px, most=most)
    return _Images(
        calibration=ranged,
        held_out=judged,
        names=names,
        held_out_sha256=frozenset(kept_out),
        source=described_images(
            len(judged), pictures=len(held_out), tile_px=tile_px, training_known=bundle.manifest.training.images_known
        ),
    )


def _check_scores(bundle: Bundle, images: _Images, choices: QuantizeChoices) -> float:
    """Refuse images that the float32 model itself says are not held-out good parts.

    Returns:
        The held-out ones' mean score.
    """
    session = open_session(bundle, backend="onnxruntime", precision="fp32", device="cpu")
    scores, where = score_each(session, images.held_out), choices.held_out or choices.calibration
    require_good(bundle, scores, where=where)
    require_unseen(bundle, scores, where=where)
    require_good(bundle, score_each(session, images.calibration), where=choices.calibration)
    return float(scores.mean(dtype=np.float64))


def _files(found: Quantised) -> dict[str, bytes]:
    return {MODELS["int8"]: found.graph, UNSIGNED: found.unsigned}


def _draft(bundle: Bundle, found: Quantised, *, folder: Path) -> Bundle:
    """The bundle with its int8 files, elsewhere: what is wrong with it shows before the bundle is touched."""
    files: dict[str, Path | bytes] = {
        **{name: bundle.content(name) for name in (MODELS["fp32"], GOLDEN)},
        **_files(found),
    }
    thresholds = dict(bundle.manifest.thresholds)
    thresholds.pop("int8", None)  # of an older file
    manifest = dataclasses.replace(bundle.manifest, thresholds=thresholds, quantisation=None)
    return write_bundle(folder / "bundle", manifest=manifest, files=files)
