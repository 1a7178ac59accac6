"""`reason-bench`: measure a bundle on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

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
)

app = new_app("Measure a bundle on this machine.")


@app.command()
def latency(
    bundle: BundleArgument,
    backend: AnyBackendOption = "onnxruntime",
    precision: AnyPrecisionOption = None,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    cuda_graph: CudaGraphOption = False,
    warm_up: Annotated[int, typer.Option(min=0, help="Calls that are not counted.")] = 10,
    minimum_count: Annotated[int, typer.Option(min=1, help="Counted calls, at least.")] = 100,
    minimum_seconds: Annotated[float, typer.Option(min=0, help="Seconds of counted calls, at least.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Time from an image in memory to the decision: one stream, one image at a time, nothing resized."""
    from reason_runtime.bench import LatencyPlan, measure_latency
    from reason_runtime.detector import load

    detector = load(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
    )
    plan = LatencyPlan(warm_up=warm_up, minimum_count=minimum_count, minimum_s=minimum_seconds)
    found = measure_latency(detector, plan=plan)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    height, width = found.input_px
    session = ", ".join(f"{name} {value}" for name, value in detector.session.libraries.items())
    print(
        f"p50 {found.p50_ms:.2f} ms  p90 {found.p90_ms:.2f} ms  p99 {found.p99_ms:.2f} ms  max {found.max_ms:.2f} ms  "
        f"{found.fps:.1f} FPS\n"
        f"{found.count} calls, {found.backend} {found.precision}, {height} x {width}, batch 1; {session}\n"
        f"{found.environment['processor']}, {found.environment['cores']} cores, {found.environment['system']}"
    )


def main() -> None:
    """Entry point of `reason-bench`."""
    run(app)
