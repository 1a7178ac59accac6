"""A finished run becomes a verified bundle."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from reason_export.check import Check, check_bundle
from reason_export.golden import MOST_IMAGES, golden_bytes, make_golden, synthetic_images
from reason_export.half import half_graph, require_room
from reason_export.held_out_scores import drawn_from
from reason_export.onnx_graph import export_graph
from reason_export.preparation import preparation
from reason_export.resize_graph import CameraModel, camera_model, require_same_resize
from reason_export.runs import load_images, score_and_peak_each
from reason_runtime.backends.onnxruntime import open_session
from reason_runtime.blind import limits_from
from reason_runtime.bundle import (
    CHOSEN_BY,
    GOLDEN,
    MODELS,
    THRESHOLD_FROM,
    TRAINED_ON,
    Bundle,
    check_target,
    listed,
    write_bundle,
)
from reason_runtime.choices import Precision
from reason_runtime.errors import ConfigurationError, DataError, ParityError
from reason_runtime.golden import Golden
from reason_runtime.image import InputFormat, crop_text, list_images
from reason_runtime.manifest import Manifest, MethodSettings, ScoreStatistics, Threshold, TrainingProvenance
from reason_runtime.strict_json import Json
from reason_train.calibrate import HeldOut, read_calibration
from reason_train.model import ReasonModel
from reason_train.paper_protocol import described_protocol
from reason_train.run import Run
from reason_train.trained import input_format, load_run


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportChoices:
    """What the user asked for."""

    channels: Literal[1, 3] = 3
    """Of the camera: 1 for mono."""
    black_level: int | None = None
    white_level: int | None = None
    """16-bit values that become 0 and 255; none: those that the run was trained with."""
    golden_folder: Path | None = None
    """Images to keep as golden ones; none: held-out good images of the run."""
    no_images: bool = False
    """Keep synthetic patterns, no photograph, in the bundle."""
    fp16: bool = False
    """Also write the half-precision file, with its own threshold."""
    frame_px: tuple[int, int] | None = None
    """Height and width of camera frames that the graph itself resizes; None: images are resized before."""
    overwrite: bool = False

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that get a file of their own."""
        return ("fp32", "fp16") if self.fp16 else ("fp32",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle whose every file passed its parity check."""

    bundle: Bundle
    checks: tuple[Check, ...]
    """One a precision, fp32 first."""
    from_colour: bool
    """Whether it takes mono images and the run's held-out ones have colours, as then `evaluate` judged."""


def export_onnx(run_folder: Path, out: Path, *, choices: ExportChoices) -> Exported:
    """Write the bundle of a finished run, after its files gave what the trained model gave.

    Each threshold comes from the exported graph's own scores of the run's held-out images.

    Raises:
        RunError: The run is not finished, is damaged or does not fit this version.
        BundleError: There is something at `out`.
        DataError: The golden folder holds no image.
        ParityError: The exporter gave a graph of another form or with another resize than the runtime's, a weight does
            not fit in half precision, or a file does not give what the trained model gives; `out` is as it was.
        ConfigurationError: Frames are smaller than what they are resized to, not as large as what is looked at, or were
            trained on in tiles; or the levels are not those that the run's 16-bit images were read with.
    """
    check_target(out, overwrite=choices.overwrite)
    run, network = load_run(run_folder)
    if run.config.training.tile_px is not None and choices.frame_px is not None:
        raise ConfigurationError(
            f"{run_folder}: was trained on tiles at native resolution, which are never resized; leave --input-size out"
        )
    held_out, wanted = read_calibration(run_folder, model=network, device=torch.device("cpu"))
    own = _own_format(run, held_out, choices, where=run_folder)
    form = own if choices.frame_px is None else _camera_format(own, choices.frame_px, where=run_folder)
    model = network if form is own else camera_model(network, own=own, camera=form)
    golden = _golden(model, form, held_out, choices, tile_px=run.config.training.tile_px)
    if isinstance(model, CameraModel):
        require_same_resize(model, golden.images, own=own)
    files = _files(model, form, golden, choices)
    manifest = _manifest(run, network, form, name=out.name, protocol=described_protocol(run_folder, run.config))
    if held_out is not None and wanted is not None:
        images = held_out.images if form.channels == 3 else _to_mono(held_out.images)
        manifest = dataclasses.replace(manifest, blind_limits=limits_from(images))
        if form is own:
            manifest = _calibrated(manifest, files, images, wanted, choices)
        else:  # held-out images are kept resized: the network without its resize scores them
            plain = _files(network, own, make_golden(network, synthetic_images(own), synthetic=True), choices)
            before = dataclasses.replace(wanted, source=f"{wanted.source}, resized before the graph")
            calibrated = _calibrated(dataclasses.replace(manifest, input=own), plain, images, before, choices)
            manifest = dataclasses.replace(calibrated, input=form)
    for name, images_of_run in ((TRAINED_ON, run.train), (CHOSEN_BY, run.chosen_by)):
        if images_of_run:
            files[name] = listed(entry.sha256 for entry in images_of_run)
    if held_out is not None and wanted is not None:
        files[THRESHOLD_FROM] = listed(held_out.sha256)
    checks: list[Check] = []

    def accept(bundle: Bundle) -> None:
        checks.extend(check_bundle(bundle, precision=precision) for precision in choices.precisions)
        for check in checks:
            if not check.passed:
                raise ParityError(f"{out}: not written, {check.precision} fails its check: {'; '.join(check.broken)}")

    bundle = write_bundle(out, manifest=manifest, files=files, overwrite=choices.overwrite, accept=accept)
    return Exported(
        bundle=bundle,
        checks=tuple(checks),
        from_colour=form.channels == 1 and held_out is not None and _has_colours(held_out.images),
    )


def _own_format(run: Run, held_out: HeldOut | None, choices: ExportChoices, *, where: Path) -> InputFormat:
    """How the line reads images: with the run's levels, or, after images of 8 bits alone, with others."""
    trained = input_format(run.config.method)
    black = trained.black_level if choices.black_level is None else choices.black_level
    white = trained.white_level if choices.white_level is None else choices.white_level
    own = dataclasses.replace(trained, channels=choices.channels, black_level=black, white_level=white)
    sixteen_bit = run.highest_16_bit is not None or (held_out is not None and held_out.sixteen_bit)
    if sixteen_bit and (black, white) != (trained.black_level, trained.white_level):
        raise ConfigurationError(
            f"{where}: was trained or calibrated on 16-bit images with black level {trained.black_level} and white "
            f"level {trained.white_level}, not {black} and {white}; leave the levels out, or train again with them"
        )
    return own


def _camera_format(own: InputFormat, frame_px: tuple[int, int], *, where: Path) -> InputFormat:
    height, width = frame_px
    if own.crop_px is not None and own.crop_px[2:] != (width, height):
        raise ConfigurationError(
            f"{where}: looks at the part --crop {crop_text(own.crop_px)} of every picture, which is what its graph "
            f"takes; give --input-size {own.crop_px[3]} {own.crop_px[2]}"
        )
    return dataclasses.replace(
        own,
        height_px=height,
        width_px=width,
        resize_height_px=height,
        resize_width_px=width,
        resize_filter="in-graph",
    )


def _files(
    model: ReasonModel | CameraModel, form: InputFormat, golden: Golden, choices: ExportChoices
) -> dict[str, bytes]:
    graph = export_graph(model, input_format=form)
    files = {MODELS["fp32"]: graph, GOLDEN: golden_bytes(golden)}
    if choices.fp16:
        source = onnx.load_from_string(graph)
        painted = () if golden.painted is None else (golden.painted.images,)
        require_room(source, np.concatenate([golden.images, *painted]))
        files[MODELS["fp16"]] = bytes(half_graph(source).SerializeToString())
    return files


def _calibrated(
    manifest: Manifest,
    files: dict[str, bytes],
    images: NDArray[np.uint8],
    wanted: Threshold,
    choices: ExportChoices,
) -> Manifest:
    """The manifest with a threshold for each file, from its own scores by the runtime that will run it."""
    thresholds: dict[Precision, Threshold] = {}
    statistics: dict[Precision, ScoreStatistics] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle", manifest=manifest, files=files)
        for precision in choices.precisions:
            session = open_session(bundle, precision=precision, device="cpu", threads=None)
            thresholds[precision], statistics[precision] = drawn_from(
                *score_and_peak_each(session, images),
                method=manifest.method,
                false_reject_rate=wanted.target_false_reject_rate,
                source=wanted.source,
            )
    return dataclasses.replace(manifest, score_statistics=statistics["fp32"], thresholds=thresholds)


def _golden(
    model: ReasonModel | CameraModel,
    form: InputFormat,
    held_out: HeldOut | None,
    choices: ExportChoices,
    *,
    tile_px: int | None,
) -> Golden:
    before = preparation(form) if tile_px is None else None
    if choices.golden_folder is not None:
        paths = list_images(choices.golden_folder)[:MOST_IMAGES]
        if not paths:
            raise DataError(f"{choices.golden_folder}: no image found; expected pictures of parts for the parity check")
        _, images = load_images(paths, root=choices.golden_folder, input_format=form, tile_px=tile_px, most=MOST_IMAGES)
        return make_golden(model, images, synthetic=False, preparation=before)
    if choices.no_images or held_out is None or form.resize_filter == "in-graph":
        return make_golden(model, synthetic_images(form), synthetic=True, preparation=before)
    images = held_out.images[:MOST_IMAGES]
    return make_golden(model, images if form.channels == 3 else _to_mono(images), synthetic=False, preparation=before)


def _has_colours(images: NDArray[np.uint8]) -> bool:
    return bool((images != images[:, :, :, :1]).any())


def _to_mono(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB images to (N, H, W, 1) by the luma that a colour file gets for a mono graph."""
    from reason_runtime.image import as_image, square_format

    form = square_format(images.shape[1], channels=1)
    return np.stack([as_image(image, input_format=form) for image in images])


def _manifest(run: Run, model: ReasonModel, form: InputFormat, *, name: str, protocol: str | None) -> Manifest:
    configuration = _json(dataclasses.asdict(run.config.training) | model.measured())
    configuration["preset"] = run.config.preset
    configuration["departures"] = list(run.config.departures)
    configuration["dataset"] = run.dataset
    if protocol is not None:
        configuration["paper_protocol"] = protocol
    if run.teacher_weights_sha256 is not None:
        configuration["teacher_weights_sha256"] = run.teacher_weights_sha256
    if run.imported_from is not None:
        configuration["imported_from"] = run.imported_from
    settings = _json(dataclasses.asdict(run.config.method))
    return Manifest(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        input=form,
        map_size_px=run.config.method.image_size_px,
        method=MethodSettings(teacher=run.config.method.teacher, settings=settings),
        training=TrainingProvenance(
            images_sha256=run.images_sha256,
            images=len(run.train),
            seed=None if run.imported_from else run.config.training.seed,
            libraries=run.libraries,
            configuration=configuration,
        ),
    )


def _json(values: dict[str, object]) -> dict[str, Json]:
    """Configuration values as JSON has them: tuples become lists."""
    text = json.dumps(values, allow_nan=False)
    return cast("dict[str, Json]", json.loads(text))
