"""`reason-export`: make the artefact for a device, and prove that it still detects the same."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason_runtime.choices import Backend, Builder, Precision, RunsOn, run_name
from reason_runtime.entry import new_app, run
from reason_runtime.options import (
    BundleArgument,
    CudaGraphOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ProviderOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from reason_export.accuracy import Accuracy
    from reason_export.check import Check
    from reason_export.golden_checks import Batched, PaintedDefects
    from reason_runtime.bundle import Bundle

FalseRejectOption = Annotated[
    float | None,
    typer.Option(
        help="Share of good parts that the threshold may reject, 0..1.",
        show_default="what the bundle was calibrated for",
    ),
]
app = new_app("Export a trained run to a bundle, and check what was exported. Only `onnx` needs PyTorch.")


@app.command()
def onnx(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `reason-train fit` wrote.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Bundle folder to make.")],
    channels: Annotated[int, typer.Option(min=1, max=3, help="Of the camera: 3, or 1 for mono.")] = 3,
    black_level: Annotated[
        int | None, typer.Option(help="16-bit value that becomes 0.", show_default="that of the run")
    ] = None,
    white_level: Annotated[
        int | None,
        typer.Option(help="16-bit value that becomes 255; 4095 for a 12-bit camera.", show_default="that of the run"),
    ] = None,
    input_size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="H W", help="Frames of one camera size, resized in the graph.", show_default="any, resized before"
        ),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write model_fp16.onnx, for GPUs.")] = False,
    golden: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images for the parity check.", show_default="held-out ones")
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Keep no photograph in the bundle.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the bundle of a finished run: ONNX graph, manifest, golden arrays, threshold."""
    from reason_export.export import ExportChoices, export_onnx
    from reason_runtime.errors import ConfigurationError

    if channels == 2:
        raise ConfigurationError("--channels 2: expected 3 (colour) or 1 (mono)")
    if golden is not None and no_images:
        raise ConfigurationError("--golden and --no-images are both given; choose one")
    choices = ExportChoices(
        channels=1 if channels == 1 else 3,
        black_level=black_level,
        white_level=white_level,
        fp16=fp16,
        frame_px=input_size,
        golden_folder=golden,
        no_images=no_images,
        overwrite=overwrite,
    )
    exported = export_onnx(run_folder, out, choices=choices)
    if not exported.bundle.manifest.thresholds:
        print(f"note: {run_folder} has no threshold, so that every decision will be UNKNOWN", file=sys.stderr)
    if exported.from_colour:
        print(
            f"note: {run_folder} was trained, and judged by evaluate, on colours that {out} does not see; measure it "
            "with reason-bench accuracy",
            file=sys.stderr,
        )
    size_mib = sum(entry.size_bytes for entry in exported.bundle.manifest.files.values()) / 2**20
    if as_json:
        checks = {result.precision: result.to_json() for result in exported.checks}
        print(json.dumps({"bundle": str(out), "size_mib": size_mib, "check": checks["fp32"], "checks": checks}))
    else:
        print(f"{out}: {size_mib:.1f} MiB")
        for result in exported.checks:
            _print_check(result, exported.bundle)


@app.command()
def quantize(
    bundle: BundleArgument,
    calibration: Annotated[Path, typer.Option(metavar="DIR", help="Good images, as the camera sees them.")],
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Good images for the threshold, not trained on.",
            show_default="those of --calibration that were not, or half of them",
        ),
    ] = None,
    false_reject_rate: FalseRejectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an int8 file (explicit Q/DQ) with its own threshold, and check it in every installed backend for CPUs."""
    from reason_export.check import check_bundle
    from reason_export.quantize import QuantizeChoices
    from reason_export.quantize import quantize as quantize_bundle
    from reason_runtime.bundle import open_bundle
    from reason_runtime.errors import BackendError
    from reason_runtime.tiles import tile_px_of
    from reason_train.threshold_text import print_highest, print_threshold

    choices = QuantizeChoices(calibration=calibration, held_out=held_out, false_reject_rate=false_reject_rate)
    changed, found, highest = quantize_bundle(open_bundle(bundle), choices=choices)
    checks = [check_bundle(changed, precision="int8")]
    if find_spec("openvino") is not None:
        try:
            checks.append(check_bundle(changed, backend="openvino", precision="int8"))
        except BackendError as error:
            print(f"note: not checked in OpenVINO: {error}", file=sys.stderr)
    if as_json:
        facts = {"sqnr_db": found.sqnr_db, "layers": found.layers, "float_layers": found.kept}
        results = [result.to_json() for result in checks]
        print(json.dumps({"bundle": str(bundle), **facts, "highest_held_out": highest, "checks": results}))
    else:
        print(f"{bundle}: {found.layers} layers in int8, map's SQNR {found.sqnr_db:.1f} dB")
        for name, alone_db in found.kept.items():
            print(f"  {name} stays in fp32: alone in int8 it leaves an SQNR of {alone_db:.1f} dB")
        for result in checks:
            _print_check(result, changed)
        print_threshold(
            changed.manifest.thresholds["int8"],
            tile_px=tile_px_of(changed.manifest),
            training_known=changed.manifest.training.images_known,
        )
        print_highest(highest)
    for result in checks:
        if not result.passed:  # ONNX Runtime's maps and scores passed, or there would be no file
            why = "; ".join(result.broken)
            print(f"note: {result.backend} int8 fails its check here, use another backend: {why}", file=sys.stderr)


@app.command()
def check(
    bundle: BundleArgument,
    every: Annotated[
        bool, typer.Option("--all", help="Every backend and precision that can run here, for --backend auto.")
    ] = False,
    backend: Annotated[Backend | None, typer.Option(help="Inference library.", show_default="onnxruntime")] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Of the layers before the map head; bf16 needs openvino.", show_default="fp32"),
    ] = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Labelled data set: what detection loses against fp32 in ONNX Runtime."),
    ] = None,
    category: Annotated[str | None, typer.Option(help="Category, where DIR holds several.")] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Good images: this backend's own threshold, for this device, from those not trained on."
        ),
    ] = None,
    false_reject_rate: FalseRejectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what a backend gives with what the trained model gave. Exit 1 beyond the tolerance."""
    from reason_export.check import check_bundle
    from reason_export.check_all import check_all
    from reason_export.good_images import HeldOutImages
    from reason_runtime.bundle import open_bundle
    from reason_runtime.errors import ConfigurationError, ParityError

    if false_reject_rate is not None and held_out is None:
        raise ConfigurationError("--false-reject-rate is of a threshold, which needs images: give --held-out")
    if category is not None and data is None:
        raise ConfigurationError("--category is one of a data set: give --data")
    if every and (backend or precision or provider or cuda_graph):
        raise ConfigurationError("--all is every backend, precision and provider; leave out the one that is named")
    opened = open_bundle(bundle)
    labelled = None
    if data is not None:
        from reason_export.accuracy import LabelledSet

        labelled = LabelledSet(opened, data, category=category)
    unseen = None if held_out is None else HeldOutImages(folder=held_out, false_reject_rate=false_reject_rate)

    def tell(result: Check) -> None:
        if not as_json:
            _print_check(result, opened)

    if every:
        checked = check_all(opened, device=device, threads=threads, labelled=labelled, held_out=unseen, done=tell)
        results = checked.checks
        facts: dict[str, object] = {"checks": [result.to_json() for result in results], "not_run": checked.not_run}
        if not as_json:
            _print_not_run(checked.not_run)
    else:
        result = check_bundle(
            opened,
            backend=backend or "onnxruntime",
            precision=precision or "fp32",
            device=device,
            threads=threads,
            provider=provider,
            cuda_graph=cuda_graph,
            labelled=labelled,
            held_out=unseen,
        )
        tell(result)
        results, facts = (result,), result.to_json()
    if as_json:
        print(json.dumps(facts))
    failed = [f"{_name(result)}: {'; '.join(result.broken)}" for result in results if not result.passed]
    if failed:
        raise ParityError(f"{bundle}: {'; '.join(failed)}")


@app.command()
def engine(
    bundle: BundleArgument,
    precision: PrecisionOption = "fp32",
    builder: Annotated[Builder, typer.Option(help="tensorrt on the device, tensorrt_rtx anywhere.")] = "tensorrt",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="tensorrt_rtx: GPU to build for, such as 8.6; may be repeated.", show_default="8.0 and later in one"
        ),
    ] = None,
    runs_on: Annotated[RunsOn, typer.Option(help="tensorrt: how far the engine travels.")] = "same_gpu",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: let later versions read the engine, slower.")
    ] = False,
    typical_batch: Annotated[int, typer.Option(min=1, help="Images in one run that kernels are chosen for.")] = 1,
    largest_batch: Annotated[int, typer.Option(min=1, help="Images in one run, at most.")] = 16,
    timing_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="tensorrt: kernel timings to reuse.", show_default="the user's cache"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a TensorRT engine beside the bundle's files, with a side-car that says where it may run."""
    import dataclasses

    from reason_export.engine import build_engine
    from reason_export.engine_choices import EngineChoices
    from reason_runtime.bundle import open_bundle

    choices = EngineChoices(
        precision=precision,
        builder=builder,
        compute_capabilities=tuple(compute_capability or ()),
        runs_on=runs_on,
        version_compatible=version_compatible,
        typical_batch=typical_batch,
        largest_batch=largest_batch,
        timing_cache=timing_cache,
    )
    built = build_engine(open_bundle(bundle), choices=choices)
    facts, path = built.file.facts, built.file.path
    if as_json:
        tensors = [dataclasses.asdict(tensor) for tensor in built.tensors]
        found = {"engine": str(path), "seconds": built.seconds, "tensors": tensors, **dataclasses.asdict(facts)}
        print(json.dumps(found))
        return
    target = ", ".join(facts.compute_capabilities) or "8.0 and later"
    print(f"{path}: {facts.engine_size_bytes / 2**20:.1f} MiB in {built.seconds:.1f} s")
    print(f"  {facts.builder} {facts.builder_version}, {facts.precision}, compute capability {target}", end="")
    print(f", {facts.gpu}" if facts.gpu else "", end="")
    print(f", batches up to {facts.largest_batch}")


def _name(result: Check) -> str:
    return run_name(result.backend, result.provider, result.precision)


def _print_not_run(not_run: dict[str, str]) -> None:
    """Each reason once, on stderr."""
    for why in dict.fromkeys(not_run.values()):
        names = ", ".join(name for name, told in not_run.items() if told == why)
        print(f"not run: {names}: {why}", file=sys.stderr)


def _print_check(result: Check, bundle: Bundle) -> None:
    parity = result.parity
    kind = "synthetic patterns" if result.synthetic_images else "photographs"
    verdict = "passed" if result.passed else "FAILED"
    print(f"parity {_name(result)} on {parity.images} {kind}: {verdict}")
    print(f"  map   differs by at most {parity.map_difference_max:.1e} of its largest value", end="")
    print("" if parity.sqnr_db is None else f", SQNR {parity.sqnr_db:.0f} dB")
    print(f"  score differs by at most {parity.score_difference_max:.1e} of the largest score", end="")
    print("" if result.decisions_flipped is None else f", {result.decisions_flipped} decisions flipped")
    if result.threshold_shift is not None:
        print(f"  good parts' scores moved by {result.threshold_shift:+.2f} of the way to the threshold")
    if result.resize_levels is not None:
        print(f"  a picture's resize differs by {result.resize_levels} grey levels from the export's")
    if result.batched is not None:
        _print_batched(result.batched)
    if result.painted is not None:
        _print_painted(result.painted)
    if result.accuracy is not None:
        _print_accuracy(result.accuracy, precision=result.precision)
    if result.lost_threshold is not None:
        value = result.lost_threshold.value
        print(f"  this device's own threshold {value:.6g} was of another version, processor or file", end="")
        print(" and is gone; draw it again with --held-out")
    if result.threshold is not None:
        from reason_runtime.tiles import tile_px_of
        from reason_train.threshold_text import print_highest, print_threshold

        print_threshold(
            result.threshold, tile_px=tile_px_of(bundle.manifest), training_known=bundle.manifest.training.images_known
        )
        print_highest(result.highest_held_out)


def _print_batched(batched: Batched) -> None:
    parity = batched.parity
    print(f"  {batched.text} in a run: map differs by at most {parity.map_difference_max:.1e}", end="")
    print(f", score by {parity.score_difference_max:.1e}")


def _print_painted(painted: PaintedDefects) -> None:
    parity = painted.parity
    print(f"  {parity.images} painted defects: score differs by at most {parity.score_difference_max:.1e}", end="")
    print("" if painted.found is None else f", {painted.found} found", end="")
    print("" if painted.found_by_trained is None else f", {painted.found_by_trained} by the trained model")


def _print_accuracy(accuracy: Accuracy, *, precision: Precision) -> None:
    from reason_export.parity import TOLERANCES

    print(f"  on {accuracy.data}: {accuracy.good} good, {accuracy.defective} defective images")
    for name, figure in (
        ("image AUROC", accuracy.image_auroc),
        ("pixel AUROC", accuracy.pixel_auroc),
        ("AUPRO", accuracy.aupro),
    ):
        if figure is not None:
            print(f"    {name:<12}{figure.found:.4f}, loses {figure.lost:+.4f} of {figure.reference:.4f}")
    allowed = TOLERANCES[precision].image_auroc_lost
    if accuracy.image_auroc_step > allowed:
        print(
            f"    too few images to see {allowed:g} image AUROC lost: one pair in the wrong order is "
            f"{accuracy.image_auroc_step:.4f}, and allowed"
        )
    if accuracy.decisions_flipped is not None:
        print(
            f"    {accuracy.decisions_flipped} decisions flipped; {accuracy.good_rejected} good images rejected, "
            f"{accuracy.defective_passed} defective ones passed",
            end="",
        )
        trained = accuracy.trained_good_rejected, accuracy.trained_defective_passed
        print("" if None in trained else f"; by fp32 in ONNX Runtime {trained[0]} and {trained[1]}")
    if accuracy.good_of_threshold:
        from reason_runtime.detection_bench import of_threshold_text

        print(f"    {of_threshold_text(accuracy.good_of_threshold, of=accuracy.good)}")


def main() -> None:
    """Entry point."""
    run(app, extra="export")
