"""`reason-bench`: measure a bundle on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    from reason_runtime.bench import Latency, LatencyPlan
    from reason_runtime.detection_bench import Detection
    from reason_runtime.detector import Detector
    from reason_runtime.pipeline_bench import Pipeline
    from reason_runtime.strict_json import Json
    from reason_runtime.throughput import Throughput

app = new_app("Measure a bundle on this machine.")
_LEAST_FOR_P99 = 300  # calls: three are slower
WarmUpOption = Annotated[int, typer.Option(min=0, help="Calls that are not counted.")]
CountOption = Annotated[int, typer.Option(min=1, help="Counted calls, at least.")]
SecondsOption = Annotated[float, typer.Option(min=0, help="Seconds of counted calls, at least.")]
PauseOption = Annotated[float, typer.Option(min=0, help="Rest before each call, as between two parts on a line.")]


@app.command()
def latency(
    bundle: BundleArgument,
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    warm_up: WarmUpOption = 10,
    minimum_count: CountOption = 100,
    minimum_seconds: SecondsOption = 5.0,
    pause_ms: PauseOption = 0.0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also cold start, peak memory and the roofline; takes a minute.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time from an image in memory to the decision: one stream, one image at a time, nothing resized."""
    from reason_runtime.bench import LatencyPlan, measure_latency
    from reason_runtime.choices import runner_device
    from reason_runtime.cold_start import measure_cold_start
    from reason_runtime.detector import load
    from reason_runtime.roofline import measure_roofline

    detector = load(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
    )
    _tell_remarks(detector)
    plan = LatencyPlan(warm_up=warm_up, minimum_count=minimum_count, minimum_s=minimum_seconds, pause_ms=pause_ms)
    about = _about(detector, plan)
    found = measure_latency(detector, plan=plan)
    opened, session = detector.bundle, detector.session
    facts: dict[str, Json] = {
        "model_size_bytes": opened.manifest.files[
            opened.model_path(session.precision, provider=session.provider).name
        ].size_bytes,
        "input_from": opened.manifest.input.resize_filter,
    }
    if whole:
        on_cpu = runner_device(session.backend, session.provider) == "cpu"
        cold = measure_cold_start(
            bundle,
            {
                "backend": session.backend,
                "precision": session.precision,
                "provider": session.provider,
                "threads": threads if on_cpu else None,
                "cuda_graph": cuda_graph,
            },
        )
        roofline = measure_roofline(opened, precision=session.precision, threads=threads) if on_cpu else None
        facts |= {
            "cold_start": dataclasses.asdict(cold),
            "roofline": None if roofline is None else dataclasses.asdict(roofline),
            "roofline_share": None if roofline is None else roofline.bound_ms / found.p50_ms,
        }
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), **facts, **about}))
        return
    height, width = found.input_px
    _print_times(found)
    print(f"{found.count} calls, {found.backend} {found.precision}, {height} x {width}, batch 1; {_session(found)}")
    print(f"{found.overhead_p50_ms:.3f} ms of it outside the backend; power {_power(found.power_w)}")
    for name, value in facts.items():
        print(f"{name.replace('_', ' ')}: {_in_words(value)}")
    share = facts.get("roofline_share")
    if isinstance(share, float) and share > 1:
        print("above 1: the library's product is slower there than its convolutions, and no limit for them")
    _print_machine(found)


@app.command()
def throughput(
    bundle: BundleArgument,
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size to try.", show_default="1 to 8, as an engine takes")
    ] = None,
    warm_up: WarmUpOption = 2,
    minimum_count: CountOption = 5,
    minimum_seconds: SecondsOption = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Images per second when all are at hand: batch sizes and, with OpenVINO, streams searched."""
    from reason_runtime.bench import LatencyPlan
    from reason_runtime.detector import load
    from reason_runtime.throughput import measure_throughput, usual_batches

    detector = load(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
    )
    _tell_remarks(detector)
    plan = LatencyPlan(warm_up=warm_up, minimum_count=minimum_count, minimum_s=minimum_seconds)
    about = _about(detector, plan)
    batches = batch or usual_batches(detector.session)
    found = measure_throughput(detector, threads=threads, cuda_graph=cuda_graph, batches=batches, plan=plan)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), **about}))
        return
    setting = f"batch {found.batch}, streams {found.streams or 'none'}"
    print(f"{found.fps:.1f} FPS with {found.backend} {found.precision}, {setting}")
    for tried in found.tried:
        print(f"  batch {tried['batch']}, streams {tried['streams'] or 'none'}: {tried['fps']:.1f} FPS")
    _print_machine(found)


@app.command()
def pipeline(
    bundle: BundleArgument,
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    frame_size: Annotated[tuple[int, int], typer.Option(metavar="H W", help="Of a made-up camera frame.")] = (
        2048,
        2448,
    ),
    mono: Annotated[bool, typer.Option("--mono", help="The made-up frame has one channel.")] = False,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read and decode this file for every frame instead.")
    ] = None,
    warm_up: WarmUpOption = 3,
    minimum_count: CountOption = 30,
    minimum_seconds: SecondsOption = 5.0,
    pause_ms: PauseOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Time from a camera frame to the decision, stage by stage: grab, resize, infer, decide."""
    from reason_runtime.bench import LatencyPlan
    from reason_runtime.detector import load
    from reason_runtime.pipeline_bench import measure_pipeline

    detector = load(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
    )
    _tell_remarks(detector)
    plan = LatencyPlan(warm_up=warm_up, minimum_count=minimum_count, minimum_s=minimum_seconds, pause_ms=pause_ms)
    about = _about(detector, plan)
    found = measure_pipeline(detector, frame_px=frame_size, mono=mono, image=image, plan=plan)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), **about}))
        return
    _print_times(found)
    for name, stage in found.stages.items():
        print(f"  {name:<8} p50 {stage['p50_ms']:.3f} ms  p99 {stage['p99_ms']:.3f} ms")
    height, width = found.frame_px
    kind = "mono" if found.frame_channels == 1 else "RGB"
    print(f"{found.count} {kind} frames of {height} x {width}, {found.backend} {found.precision}; {_session(found)}")
    _print_machine(found)


@app.command()
def accuracy(
    bundle: BundleArgument,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder with good/ and a folder for each defect, none of them trained on."),
    ],
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    threshold: ThresholdOption = None,
    most_rejected: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Exit 1 where more good images are rejected.")
    ] = None,
    most_passed: Annotated[
        int | None, typer.Option(min=0, metavar="M", help="Exit 1 where more defective images pass.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What the model finds in labelled images; no time is measured."""
    from reason_runtime.detection_bench import measure_detection
    from reason_runtime.detector import load
    from reason_runtime.errors import ConfigurationError, ReasonError

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
    _tell_remarks(detector)
    if detector.limit.value is None and (most_rejected is not None or most_passed is not None):
        raise ConfigurationError(f"nothing can be rejected or passed: {detector.limit.hint}")
    found = measure_detection(detector, data)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), **_about(detector)}))
    else:
        _print_detection(found, detector)
    asked = [
        (found.good_rejected, most_rejected, "good images rejected"),
        (found.defective_passed, most_passed, "defective images passed"),
    ]
    missed = [
        f"{count} {what}, at most {most} allowed" for count, most, what in asked if most is not None and count > most
    ]
    if missed:
        raise ReasonError("; ".join(missed))


def _print_detection(found: Detection, detector: Detector) -> None:
    from reason_runtime.detection_bench import of_threshold_text

    print(f"image AUROC {found.image_auroc:.4f} on {found.good} good and {found.defective} defective images")
    if found.threshold is None:
        print(f"{found.backend} {found.precision}; every decision is UNKNOWN: {detector.limit.hint}")
        return
    print(f"{found.good_rejected} good images rejected, {found.defective_passed} defective ones passed")
    if found.good_of_threshold:
        print(of_threshold_text(found.good_of_threshold, of=found.good))
    print(f"{found.backend} {found.precision}, threshold {found.threshold:.6g} ({detector.limit.source})")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="What --json printed.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="What --json printed.")],
    as_json: JsonOption = False,
) -> None:
    """What differs between two results: figures with B over A, and the environment they come from."""
    from reason_runtime.bench_compare import compare_files

    rows = compare_files(first, second)
    if any(key == "bundle.content_sha256" for key, *_ in rows):
        print("note: the two are of different bundles", file=sys.stderr)
    if as_json:
        print(json.dumps([{"key": key, "a": a, "b": b, "ratio": ratio} for key, a, b, ratio in rows]))
        return
    for key, a, b, ratio in rows:
        print(f"{key:<40} {a!s:>24} {b!s:>24}" + ("" if ratio is None else f"  x {ratio:.3f}"))


def main() -> None:
    """Entry point of `reason-bench`."""
    run(app)


def _tell_remarks(detector: Detector) -> None:
    for remark in detector.remarks:
        print(remark, file=sys.stderr)


def _about(detector: Detector, plan: LatencyPlan | None = None) -> dict[str, Json]:
    """What was measured, when, for how long, and how busy the machine was before (`load_average` of a minute)."""
    bundle = detector.bundle
    facts: dict[str, Json] = {
        "bundle": {
            "path": str(bundle.path),
            "content_sha256": bundle.manifest.content_sha256,
            "teacher": bundle.manifest.method.teacher,
        },
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],
    }
    return facts if plan is None else {**facts, "plan": dataclasses.asdict(plan)}


def _print_times(found: Latency | Pipeline) -> None:
    pause = f"  after {found.pause_ms:g} ms of rest each" if found.pause_ms else f"  {found.fps:.1f} FPS"
    print(
        f"p50 {found.p50_ms:.2f} ms  p90 {found.p90_ms:.2f} ms  p99 {found.p99_ms:.2f} ms  max {found.max_ms:.2f} ms"
        f"{pause}"
    )
    print(f"p50 of a tenth of the run {found.p50_low_ms:.2f} to {found.p50_high_ms:.2f} ms", end="")
    print("" if found.count >= _LEAST_FOR_P99 else f"; p99 of {found.count} calls is about their slowest")


def _print_machine(found: Latency | Pipeline | Throughput) -> None:
    print(f"{found.environment['processor']}, {found.environment['cores']} cores, {found.environment['system']}")


def _session(found: Latency | Pipeline) -> str:
    session = found.environment["session"]
    return ", ".join(f"{name} {value}" for name, value in session.items()) if isinstance(session, dict) else ""


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_in_words(inner)}" for name, inner in value.items())
    return "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _power(watts: float | str) -> str:
    return watts if isinstance(watts, str) else f"{watts:.1f} W"
