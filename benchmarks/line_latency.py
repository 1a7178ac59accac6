"""From grab to published answer at 80 % load, against the model's own latency, and where the time goes.

    python benchmarks/line_latency.py BUNDLE --backend openvino --seconds 60 --out benchmarks/results/line_latency.json

A simulated camera gives parts at 0.8 of the rate that the model can follow. The model's own latency is taken in the
same process, closed loop, before and after. Also checks the formula of docs/latency-budget.md: the share of parts
judged at a load of 1.5.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from reason_runtime.bench import LatencyPlan, measure_latency
from reason_runtime.bundle import open_bundle
from reason_runtime.environment import fingerprint
from reason_runtime.line.metrics import BUCKETS_S, Histogram
from reason_runtime.line.run import LineRun, Summary
from reason_runtime.line.station import CameraPlan, ModelPlan, Station


def run_line(model: ModelPlan, folder: Path, *, period_s: float, seconds: float, queue_frames: int = 4) -> Summary:
    """A line at one part per period for so long."""
    images = open_bundle(model.bundle).golden().images  # (N, H, W, C): real parts, so that no camera looks blind
    rows = images.shape[1]
    np.save(folder / "parts.npy", images.reshape(-1, *images.shape[2:]))
    source = f"linescan:{folder}/parts.npy?block_lines={rows}&lines_per_s={rows / period_s:.6f}"
    station = Station(
        model=model,
        cameras=(CameraPlan(name="top", source=source),),
        sinks=(f"jsonl:{folder}/results.jsonl",),
        journal=folder / "journal",
        queue_frames=queue_frames,
        deadline_ms=5000,
    )
    line = LineRun(station)
    threading.Timer(seconds, line.stop).start()
    return line.run()


def mean_ms(histogram: Histogram) -> float:
    """Mean of a stage."""
    return 1000 * histogram.total_s / max(1, sum(histogram.counts))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = ModelPlan(
        bundle=arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
        threshold=1.0,
    )
    from reason_runtime import load

    detector = load(
        model.bundle, backend=model.backend, precision=model.precision, threads=model.threads, threshold=1.0
    )
    plan = LatencyPlan(minimum_s=arguments.seconds / 3)
    before = measure_latency(detector, plan=plan)
    with tempfile.TemporaryDirectory() as folder:
        period_s = before.p50_ms / 1000 / 0.8
        calm = run_line(model, Path(folder), period_s=period_s, seconds=arguments.seconds)
    after = measure_latency(detector, plan=plan)
    with tempfile.TemporaryDirectory() as folder:
        rush = run_line(model, Path(folder), period_s=before.p50_ms / 1000 / 1.5, seconds=arguments.seconds / 2)
    p50_ms, p99_ms = np.percentile(calm.metrics.latest_ms, (50, 99))
    own_p99_ms = max(before.p99_ms, after.p99_ms)
    judged = rush.metrics.decisions.get(("top", "OK"), 0) + rush.metrics.decisions.get(("top", "NG"), 0)
    taken = sum(rush.metrics.frames.values())
    found = {
        "parts": sum(calm.metrics.frames.values()),
        "model_p50_ms": [before.p50_ms, after.p50_ms],
        "model_p99_ms": [before.p99_ms, after.p99_ms],
        "grab_to_answer_p50_ms": float(p50_ms),
        "grab_to_answer_p99_ms": float(p99_ms),
        "ratio_p50": float(p50_ms / before.p50_ms),
        "ratio_p99": float(p99_ms / own_p99_ms),
        "stage_mean_ms": {name: mean_ms(item) for name, item in calm.metrics.stages.items()},
        "unknown_at_80_percent": {cause: count for (_, cause), count in calm.metrics.causes.items()},
        "judged_share_at_150_percent": judged / taken,
        "judged_share_predicted": 1 / 1.5,
        "backend": arguments.backend,
        "precision": arguments.precision,
        "histogram_bounds_s": list(BUCKETS_S),
        "environment": fingerprint(detector.session),
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    text = json.dumps(found, indent=2) + "\n"
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
