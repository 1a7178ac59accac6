"""A bundle against anomalib's models in OpenVINO, in the order A B A B, every turn a fresh process.

    python benchmarks/peers/compare.py BUNDLE --peers PEERS/models --out benchmarks/results/peers.json

PEERS/models is what `export.py` wrote from the second environment. Both sides run in OpenVINO's latency mode on all
cores, from an array in memory; ours judges too, theirs runs its graph only. Their precision is fp32 and, where the
processor has it, bf16. Weights are random: speed only, accuracy is not measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from reason_runtime.atomic import write_text
from reason_runtime.bundle import open_bundle
from reason_runtime.entry import run_script
from reason_runtime.errors import ReasonError

PEER = """
import json, sys
import numpy as np, openvino
from reason_runtime.bench import LatencyPlan, time_calls
model, hint, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
core = openvino.Core()
graph = core.read_model(model)
graph.reshape([1, 3, 256, 256])
request = core.compile_model(graph, "CPU", settings).create_infer_request()
image = np.random.default_rng(20250101).random((1, 3, 256, 256), dtype=np.float32)
times = time_calls(lambda: request.infer({0: image}), plan=LatencyPlan(warm_up=3, minimum_count=5, minimum_s=seconds))
print(json.dumps({"p50_ms": times.p50_ms, "count": times.count}))
"""
HINTS = {"fp32": "f32", "bf16": "bf16"}


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    peers: Annotated[Path, typer.Option(metavar="DIR", help="What export.py wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Result file.")],
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="Of counted calls a turn.")] = 3.0,
) -> None:
    """Time all of them in turns."""
    if not out.parent.is_dir():
        raise ReasonError(f"{out}: cannot be written; expected a file in a folder that is there")
    import openvino

    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(peers.glob("*.json"))]
    if not facts:
        raise ReasonError(f"{peers}: holds no exported model; run benchmarks/peers/export.py in the second environment")
    images = {fact["name"]: core.read_model(peers / fact["file"]).inputs[0].partial_shape[0] for fact in facts}
    not_run = {
        name: f"anomalib's export is fixed to {count.get_length()} images a call"
        for name, count in images.items()
        if count.is_static and count.get_length() != 1
    }
    facts = [fact for fact in facts if fact["name"] not in not_run]
    precisions = ["fp32", *(["bf16"] if "BF16" in capabilities else [])]
    method = open_bundle(bundle).manifest.method
    ours = f"bundle {method.teacher}, students: {method.settings.get('students', 1)}"
    rows: dict[tuple[str, str], list[float]] = {}
    environment = None
    for _ in range(rounds):
        for precision in [*precisions, "int8"]:
            done = _latency(bundle, precision, seconds)
            rows.setdefault((ours, precision), []).append(done["p50_ms"])
            print(f"{ours} {precision}: {done['p50_ms']:.1f} ms", flush=True)
            environment = done["environment"]
        for fact in facts:
            for precision in precisions:
                found = _peer(peers / fact["file"], HINTS[precision], seconds)
                rows.setdefault((fact["name"], precision), []).append(found)
                print(f"{fact['name']} {precision}: {found:.1f} ms", flush=True)
    result = {
        "command": f"python benchmarks/peers/compare.py BUNDLE --peers DIR --rounds {rounds} --seconds {seconds:g} "
        f"--out benchmarks/results/{out.name}",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": rounds,
        "rows": [{"model": model, "precision": each, "p50_ms": values} for (model, each), values in rows.items()],
        "peers": facts,
        "not_run": not_run,
        "environment": environment,
    }
    write_text(out, json.dumps(result, indent=2) + "\n")


def _latency(bundle: Path, precision: str, seconds: float) -> dict:
    arguments = ["--backend", "openvino", "--precision", precision, "--minimum-seconds", str(seconds), "--json"]
    program = "from reason_runtime.bench_commands import main; main()"
    return json.loads(_run(["-c", program, "latency", str(bundle), "--minimum-count", "20", *arguments]))


def _peer(model: Path, hint: str, seconds: float) -> float:
    return json.loads(_run(["-c", PEER, str(model), hint, str(seconds)]))["p50_ms"]


def _run(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReasonError(f"a timing process failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    run_script(main, extra="openvino")
