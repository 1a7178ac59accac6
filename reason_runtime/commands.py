"""`reason-run`: judge images with an exported bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason_runtime.choices import MOST_IN_A_RUN, BackPressure
from reason_runtime.entry import new_app, run
from reason_runtime.options import (
    AnyBackendOption,
    AnyPrecisionOption,
    BundleArgument,
    CudaGraphOption,
    DeviceOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    ThresholdOption,
)

if TYPE_CHECKING:
    from reason_runtime.predict import Judgement

app = new_app("Inspect images with an exported bundle. Needs no PyTorch.")


@app.command()
def predict(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_DIR...", help="Images and folders of images.")],
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
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
        typer.Option(
            help="Map value at the top of the colour scale.",
            show_default="twice the pixel threshold, from which on lines are drawn",
        ),
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
    for remark in detector.remarks:
        print(remark, file=sys.stderr)
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
    ctx: typer.Context,
    bundle: Annotated[Path | None, typer.Argument(help="Folder that `reason-export onnx` wrote.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI", help="Folder, video, opencv:0, rtsp://..., aravis:, linescan:IMAGE, post://; repeatable."
        ),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI",
            help="jsonl:FILE, pictures:DIR, frames:DIR, mqtt://, opcua://, modbus://, prometheus://; repeatable.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Station file (TOML) instead of options.")] = None,
    dashboard: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Show a web page there.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="After the grab a part is UNKNOWN.", show_default="1000; none for files")
    ] = None,
    queue_frames: Annotated[int, typer.Option(min=1, help="Frames of a camera that may wait.")] = 4,
    back_pressure: Annotated[
        BackPressure | None, typer.Option(help="Of a full queue.", show_default="drop-oldest; block for files")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_IN_A_RUN,
            help="Frames through the model at once, at most.",
            show_default="2 with OpenVINO, else 1",
        ),
    ] = None,
    batch_wait_ms: Annotated[float, typer.Option(min=0, help="The first of a batch waits so long for others.")] = 0,
    journal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers for the parts in flight after a kill.")
    ] = None,
    drift_parts: Annotated[
        int, typer.Option(min=0, help="Compare the last so many scores with held-out good images'; 0 for not.")
    ] = 200,
    tile_overlap_px: Annotated[
        int | None, typer.Option(min=0, help="Judge tiles of a web, sharing so much.", show_default="whole parts")
    ] = None,
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    threshold: ThresholdOption = None,
) -> None:
    """Judge what cameras see, until files end or SIGTERM. Anything late or broken is UNKNOWN, which is a reject."""
    from reason_runtime.line.main import inspect_station
    from reason_runtime.line.station import CameraPlan, ModelPlan, Station
    from reason_runtime.line.station_file import read_station
    from reason_runtime.line.web.judge import WebSettings

    if config is not None:
        _refuse_beside_config(ctx)
        inspect_station(read_station(config))
        return
    if bundle is None or not source:
        raise typer.BadParameter("expected BUNDLE and --source, or --config")
    names = ["camera"] if len(source) == 1 else [f"camera{number}" for number in range(len(source))]
    model = ModelPlan(
        bundle=bundle,
        backend=backend,
        precision=precision,
        device=device,
        provider=provider,
        threads=threads,
        cuda_graph=cuda_graph,
        threshold=threshold,
    )
    inspect_station(
        Station(
            cameras=tuple(
                CameraPlan(name=name, source=uri, model=model) for name, uri in zip(names, source, strict=True)
            ),
            sinks=tuple(sink or ()),
            deadline_ms=deadline_ms,
            queue_frames=queue_frames,
            back_pressure=back_pressure,
            batch=batch,
            batch_wait_ms=batch_wait_ms,
            journal=journal,
            dashboard=dashboard,
            drift_parts=drift_parts,
            web=None if tile_overlap_px is None else WebSettings(overlap_px=tile_overlap_px),
        )
    )


@app.command()
def record(
    source: Annotated[str, typer.Option(metavar="URI", help="A camera, video or folder, as for `inspect`.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the pictures, lossless PNG; goes on where it is.")
    ],
    count: Annotated[int | None, typer.Option(min=1, help="Pictures to take.", show_default="no limit")] = None,
    every: Annotated[int, typer.Option(min=1, help="Keep one of so many frames.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="End after so long.", show_default="no limit")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take pictures for training with a camera of the line, until SIGTERM or Ctrl-C. Needs no bundle."""
    from reason_runtime.line.record import record_source
    from reason_runtime.line.recorder import RecordSettings

    settings = RecordSettings(every=every, count=count, seconds=seconds)
    record_source(source, folder=out, settings=settings, as_json=as_json)


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


def _refuse_beside_config(ctx: typer.Context) -> None:
    given = []
    for parameter in ctx.command.params:
        origin = ctx.get_parameter_source(parameter.name or "")
        if parameter.name != "config" and origin is not None and origin.name == "COMMANDLINE":
            given.append("BUNDLE" if parameter.name == "bundle" else parameter.opts[0])
    if given:
        raise typer.BadParameter(
            f"--config holds bundle, sources and sinks, and all other settings; write {', '.join(given)} there"
        )


def _readable(judgement: Judgement) -> str:
    result = judgement.result
    if result is None:
        return f"{judgement.decision:7}  {judgement.failure}"
    shown, limit = f"{result.score:.4g}", "" if result.threshold is None else f"{result.threshold:.4g}"
    if shown == limit:  # both, to the last bit of a score
        shown, limit = f"{result.score:.9g}", f"{result.threshold:.9g}"
    compared = limit and f" {'<' if result.decision == 'OK' else '>='} {limit}"
    score = judgement.failure or f"score {shown}{compared}"
    return f"{judgement.decision:7}  {score}  {result.latency_ms:.1f} ms  {judgement.path}"


def _finish(failed: int, *, of: int) -> None:
    if failed:
        print(f"error: {failed} of {of} images could not be judged; their lines say why", file=sys.stderr)
        raise typer.Exit(1)
