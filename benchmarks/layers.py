"""Where OpenVINO spends its time in a bundle: its own counters by kind of layer, on one thread.

    python benchmarks/layers.py BUNDLE --out benchmarks/results/layers.json

Of every layer the least of many runs counts, so that a busy machine disturbs little; the sum is that of the leasts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import openvino
import typer
from result_file import require_place, write_result

from reason_runtime.backends.openvino import compile_model
from reason_runtime.bundle import Bundle, open_bundle
from reason_runtime.choices import Precision
from reason_runtime.entry import run_script
from reason_runtime.environment import fingerprint
from reason_runtime.session import open_session

SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": "1"}


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="With its int8 file.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Result file.")],
    runs: Annotated[int, typer.Option(min=1, help="Of each precision.")] = 30,
) -> None:
    """Print and write the time of every kind of layer."""
    require_place(out)
    opened = open_bundle(bundle)
    found = {
        "command": f"python benchmarks/layers.py BUNDLE --runs {runs} --out benchmarks/results/{out.name}",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": runs,
        "precisions": {each: _by_kind(opened, each, runs) for each in ("fp32", "int8")},
        "environment": fingerprint(open_session(opened, backend="openvino", threads=1)),
    }
    write_result(out, found)


def _by_kind(bundle: Bundle, precision: Precision, runs: int) -> dict[str, object]:
    form = bundle.manifest.input
    image = np.random.default_rng(0).integers(0, 256, (1, form.height_px, form.width_px, form.channels), dtype=np.uint8)
    core = openvino.Core()
    compiled = compile_model(core, bundle, precision=precision, settings=SETTINGS)
    request = compiled.create_infer_request()
    least: dict[str, float] = defaultdict(lambda: float("inf"))
    kinds: dict[str, tuple[str, str]] = {}
    for _ in range(runs):
        request.infer({0: image})
        for layer in request.profiling_info:
            least[layer.node_name] = min(least[layer.node_name], layer.real_time.total_seconds() * 1e3)
            kinds[layer.node_name] = (layer.node_type, layer.exec_type)
    table: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, duration_ms in least.items():
        table[kinds[name]].append(duration_ms)
    rows = [
        {"kind": kind, "kernel": kernel, "layers": len(values), "ms": round(sum(values), 4)}
        for (kind, kernel), values in sorted(table.items(), key=lambda item: -sum(item[1]))
        if sum(values) > 0
    ]
    total_ms = sum(least.values())
    print(f"{precision}: {total_ms:.2f} ms")
    for row in rows[:8]:
        print(f"  {row['ms']:8.3f} ms  {row['layers']:3}  {row['kind']} {row['kernel']}")
    return {"total_ms": total_ms, "rows": rows}


if __name__ == "__main__":
    run_script(main)
