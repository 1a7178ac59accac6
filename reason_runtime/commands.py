"""`reason-run`: judge images with an exported bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason_runtime.entry import new_app, run
from reason_runtime.options import (
    BackendOption,
    BundleArgument,
    CudaGraphOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ProviderOption,
    ThreadsOption,
    ThresholdOption,
)

if TYPE_CHECKING:
    from reason_runtime.detector import Detector
    from reason_runtime.predict import Judgement

app = new_app("Inspect images with an exported bundle. Needs no PyTorch.")


@app.command()
def predict(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_DIR...", help="Images and folders of images.")],
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "fp32",
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    threshold: ThresholdOption = None,
    save_maps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every image with its heat map into this folder.")
    ] = None,
    map_scale: Annotated[
        float | None,
        typer.Option(help="Map value at the top of the colour scale.", show_default="twice the threshold"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge images: one line each, OK, NG or UNKNOWN. Exit 1 if any could not be judged."""
    from reason_runtime.detector import load
    from reason_runtime.predict import expand, judge
    from reason_runtime.progress import counted
    from reason_runtime.save_maps import MapWriter

    found = expand(images)
    detector = load(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
        threshold=threshold,
    )
    _hint(detector)
    writer = MapWriter(detector, folder=save_maps, sources=images, scale=map_scale) if save_maps else None
    failed = 0
    for item in counted(found, total=len(found), what="images"):
        judgement = judge(detector, item)
        if writer is not None:
            writer.write(judgement)
        failed += judgement.failure is not None
        print(json.dumps(judgement.line()) if as_json else _readable(judgement))
    _finish(failed, of=len(found))


@app.command()
def inspect(
    bundle: BundleArgument,
    source: Annotated[str, typer.Option(metavar="URI", help="Folder of images or video file.")],
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "fp32",
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    threshold: ThresholdOption = None,
) -> None:
    """Judge every frame of a source: JSON lines, then pace and latency on stderr."""
    from reason_runtime.detector import load
    from reason_runtime.inspect import PaceMeter
    from reason_runtime.inspect import inspect as inspect_source

    detector = load(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
        threshold=threshold,
    )
    _hint(detector)
    meter = PaceMeter()
    for number, judgement in enumerate(inspect_source(detector, source)):
        meter.add(judgement)
        print(json.dumps({"frame": number, **judgement.line()}), flush=True)
    pace = meter.pace()
    latency = "" if pace.p50_ms is None else f", latency p50 {pace.p50_ms:.1f} ms, p99 {pace.p99_ms:.1f} ms"
    print(f"{pace.frames} frames, {pace.fps:.1f} FPS with reading and decoding{latency}", file=sys.stderr)
    _finish(pace.failed, of=pace.frames)


@app.command()
def info(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Verify a bundle and say what is in it."""
    from reason_runtime.bundle import open_bundle
    from reason_runtime.info import describe
    from reason_runtime.manifest import to_json

    opened = open_bundle(bundle)
    print(to_json(opened.manifest) if as_json else describe(opened), end="")


def main() -> None:
    """Entry point of `reason-run`."""
    run(app)


def _readable(judgement: Judgement) -> str:
    result = judgement.result
    if result is None:
        return f"{judgement.decision:7}  {judgement.failure}"
    compared = "" if result.threshold is None else f" {'<' if result.decision == 'OK' else '>='} {result.threshold:.4g}"
    score = judgement.failure or f"score {result.score:.4g}{compared}"
    return f"{judgement.decision:7}  {score}  {result.latency_ms:.1f} ms  {judgement.path}"


def _hint(detector: Detector) -> None:
    if detector.limit.hint is not None:
        print(f"every decision is UNKNOWN: {detector.limit.hint}", file=sys.stderr)


def _finish(failed: int, *, of: int) -> None:
    if failed:
        print(f"error: {failed} of {of} images could not be judged; their lines say why", file=sys.stderr)
        raise typer.Exit(1)
