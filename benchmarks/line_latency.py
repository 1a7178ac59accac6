"""From grab to published answer at 80 % load, against the model's own latency, and where the time goes.

    python -m benchmarks.line_latency                     # under 3 minutes; writes the result file and the page
    python -m benchmarks.line_latency --bundle BUNDLE --backend openvino --precision int8 --out int8.json

A simulated camera gives parts at 0.8 of the rate that the model can follow. *The model's own latency* is that of
`Detector.__call__` in a closed loop, one image after the other, in the same process and on the same machine, right
before and after the line ran; all its calls together give its p50 and p99. `ratio_p99` is the line's p99 from grab
to published answer over the model's own p99. `paced` is the model alone once more, resting before each call as it does
on the line at that load: processors that rested can be slower. Also checks the formula of docs/latency-budget.md: the
share of parts judged at a load of 1.5.

How quiet the machine was is part of the result: `waited_for_a_core_ms` is the time in which a thread of the line was
ready and another program, or another thread of the line, had the core (Linux' schedstat), per part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.result_file import require_place, write_result
from benchmarks.tables import main as write_tables
from reason_runtime import load
from reason_runtime.bench import pattern
from reason_runtime.bundle import open_bundle
from reason_runtime.choices import Backend, Precision
from reason_runtime.detector import Detector
from reason_runtime.entry import run_script
from reason_runtime.environment import fingerprint
from reason_runtime.errors import ReasonError
from reason_runtime.line.metrics import Histogram
from reason_runtime.line.run import LineRun, Summary
from reason_runtime.line.station import CameraPlan, ModelPlan, Station
from tests.pictures import good_parts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "line_latency.json"
LOAD, OVERLOAD = 0.8, 1.5
TARGET = 1.5
BUFFER_FRAMES = 64  # of the simulated camera; a stall of the machine must not lose lines in it


def make_bundle(folder: Path) -> Path:
    """An EfficientNet-Lite0 bundle at 256 x 256; how well it is trained does not matter to its speed."""
    data = good_parts(folder / "data", images=8)
    fit = ("fit", "--data", str(data), "--out", str(folder / "run"), "--steps", "2", "--views", "0")
    for module, command in (
        ("reason_train", fit),
        ("reason_export", ("onnx", str(folder / "run"), "--out", str(folder / "bundle"))),
    ):
        script = f"from {module}.commands import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script, *command], check=False, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        if done.returncode:
            raise ReasonError(f"a bundle could not be made: {module} ended with {done.returncode}, its words are above")
    return folder / "bundle"


def own_latency_ms(detector: Detector, *, seconds: float, rest_s: float = 0.0) -> list[float]:
    """Every call of a closed loop, or of one with a rest before each."""
    image, durations = pattern(detector), []
    for _ in range(10):
        detector(image)
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s or len(durations) < 100:
        if rest_s:
            time.sleep(rest_s)
        started_s = time.perf_counter()
        detector(image)
        durations.append(1000 * (time.perf_counter() - started_s))
    return durations


def run_line(model: ModelPlan, folder: Path, *, batch: int | None, period_s: float, seconds: float) -> Summary:
    """A line at one part per period for so long, with journal and result file."""
    images = open_bundle(model.bundle).golden().images  # (N, H, W, C): real parts, so that no camera looks blind
    rows = images.shape[1]
    np.save(folder / "parts.npy", images.reshape(-1, *images.shape[2:]))
    motion = f"block_lines={rows}&lines_per_s={rows / period_s:.6f}&buffer_blocks={BUFFER_FRAMES}"
    station = Station(
        cameras=(CameraPlan(name="top", source=f"linescan:{folder}/parts.npy?{motion}", model=model),),
        sinks=(f"jsonl:{folder}/results.jsonl",),
        journal=folder / "journal",
        queue_frames=4,
        batch=batch,
        deadline_ms=5000,
    )
    line = LineRun(station)
    threading.Timer(seconds, line.stop).start()
    return line.run()


def waited_for_a_core_s() -> float:
    """Seconds that threads of this process, ended ones excepted, were ready and did not run."""
    waited_ns = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            waited_ns += int((task / "schedstat").read_text().split()[1])
        except OSError:  # it ended meanwhile
            continue
    return waited_ns / 1e9


def mean_ms(histogram: Histogram) -> float:
    """Mean of a stage."""
    return 1000 * histogram.total / max(1, sum(histogram.counts))


def measure(model: ModelPlan, *, batch: int | None, seconds: float) -> dict[str, Any]:
    """Everything; the model alone takes a sixth of the time before and two after, the overload a sixth too."""
    detector = load(
        model.bundle, backend=model.backend, precision=model.precision, threads=model.threads, threshold=1.0
    )
    before = own_latency_ms(detector, seconds=seconds / 6)
    period_s = float(np.median(before)) / 1000 / LOAD
    waits: list[float] = []
    watch = threading.Timer(seconds / 2 - 0.5, lambda: waits.append(waited_for_a_core_s()))  # while its threads live
    with tempfile.TemporaryDirectory() as folder:
        started_s = waited_for_a_core_s()
        watch.start()
        calm = run_line(model, Path(folder), batch=batch, period_s=period_s, seconds=seconds / 2)
        watch.join()
    after = own_latency_ms(detector, seconds=seconds / 6)
    paced = own_latency_ms(detector, seconds=seconds / 6, rest_s=period_s * (1 - LOAD))
    with tempfile.TemporaryDirectory() as folder:
        rush = run_line(model, Path(folder), batch=batch, period_s=period_s * LOAD / OVERLOAD, seconds=seconds / 6)
    if not calm.metrics.latest_ms or not rush.metrics.frames:
        raise ReasonError(f"the line answered no part in {seconds:g} s; give it more of them")
    p50_ms, p99_ms = np.percentile(calm.metrics.latest_ms, (50, 99), method="inverted_cdf")
    own_p50_ms, own_p99_ms = np.percentile(before + after, (50, 99), method="inverted_cdf")
    paced_p50_ms, paced_p99_ms = np.percentile(paced, (50, 99), method="inverted_cdf")
    judged = rush.metrics.decisions.get(("top", "OK"), 0) + rush.metrics.decisions.get(("top", "NG"), 0)
    parts = sum(calm.metrics.frames.values())
    return {
        "parts": parts,
        "model_calls": len(before) + len(after),
        "model_p50_ms": float(own_p50_ms),
        "model_p99_ms": float(own_p99_ms),
        "model_p50_ms_before_and_after": [float(np.median(before)), float(np.median(after))],
        "paced_p50_ms": float(paced_p50_ms),
        "paced_p99_ms": float(paced_p99_ms),
        "grab_to_answer_p50_ms": float(p50_ms),
        "grab_to_answer_p99_ms": float(p99_ms),
        "ratio_p50": float(p50_ms / own_p50_ms),
        "ratio_p99": float(p99_ms / own_p99_ms),
        "target": TARGET,
        "stage_mean_ms": {name: mean_ms(item) for name, item in sorted(calm.metrics.stages.items())},
        "waited_for_a_core_ms": 1000 * (waits[0] - started_s) / max(1, parts),
        "load_average": os.getloadavg()[0],
        "unknown_at_80_percent": {cause: count for (_, cause), count in calm.metrics.causes.items()},
        "judged_share_at_150_percent": judged / sum(rush.metrics.frames.values()),
        "judged_share_predicted": 1 / OVERLOAD,
        "batch": batch,
        "backend": model.backend,
        "precision": model.precision,
        "environment": fingerprint(detector.session),
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(
    bundle: Annotated[Path | None, typer.Option(help="Trained one.", show_default="one is made")] = None,
    backend: Annotated[Backend, typer.Option(help="Inference library.")] = "openvino",
    precision: Annotated[Precision, typer.Option(help="Of the model.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the model.", show_default="chosen by library")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Frames through the model at once.", show_default="as `inspect`")
    ] = None,
    seconds: Annotated[float, typer.Option(min=2, help="Of measuring, about.")] = 120.0,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Result file; the default is what the page shows.")
    ] = RESULTS,
) -> None:
    """Measure, print, write."""
    require_place(out)
    with tempfile.TemporaryDirectory() as folder:
        model = ModelPlan(
            bundle=bundle or make_bundle(Path(folder)),
            backend=backend,
            precision=precision,
            threads=threads,
            threshold=1.0,
        )
        found = measure(model, batch=batch, seconds=seconds)
    write_result(out, found)
    if out.resolve() == RESULTS.resolve():
        write_tables(check=False)
    write_result(None, found)


if __name__ == "__main__":
    run_script(main)
