"""The resize before the graph (Pillow) against the resize in the graph, on one camera frame, RGB and mono, in turns.

reason-export onnx RUN --out PLAIN
reason-export onnx RUN --out CAMERA --input-size 2048 2448
python benchmarks/camera_size.py PLAIN CAMERA --out benchmarks/results/camera_size.json
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from result_file import require_place, write_result

from reason_runtime import load
from reason_runtime.choices import Backend
from reason_runtime.entry import run_script
from reason_runtime.environment import fingerprint

BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


def main(
    plain: Annotated[Path, typer.Argument(metavar="PLAIN", help="Bundle of the graph's own size.")],
    camera: Annotated[Path, typer.Argument(metavar="CAMERA", help="The same, exported with --input-size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Result file.")],
    turns: Annotated[int, typer.Option(min=1, help="Calls of each.")] = 20,
) -> None:
    """Time a frame of the camera's size to its decision both ways."""
    require_place(out)
    detectors = {
        (backend, where): load(bundle, backend=backend, threshold=1.0)
        for backend in BACKENDS
        for where, bundle in (("before the graph", plain), ("in the graph", camera))
    }
    form = detectors["openvino", "in the graph"].bundle.manifest.input
    mono = np.random.default_rng(20250101).integers(0, 256, (form.height_px, form.width_px), dtype=np.uint8)
    frames = {"RGB": np.stack([mono, mono.T.reshape(mono.shape), mono[::-1]], axis=2), "mono": mono}
    times: dict[tuple[str, str, str], list[float]] = {(*key, kind): [] for key in detectors for kind in frames}
    for turn in range(turns + 1):
        for key in times:
            detector, frame = detectors[key[:2]], frames[key[2]]
            detector(frame)  # threads of the one before may still spin
            started_ns = time.perf_counter_ns()
            detector(frame)
            if turn > 0:
                times[key].append((time.perf_counter_ns() - started_ns) / 1e6)
    rows = [
        {"backend": backend, "resize": where, "frame": kind, "p50_ms": statistics.median(each), "least_ms": min(each)}
        for (backend, where, kind), each in times.items()
    ]
    for row in rows:
        print(f"{row['backend']}, resize {row['resize']}, {row['frame']}: {row['p50_ms']:.1f} ms")
    found = {
        "command": f"python benchmarks/camera_size.py PLAIN CAMERA --turns {turns} --out benchmarks/results/{out.name}",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "frame_px": [form.height_px, form.width_px],
        "rows": rows,
        "environment": fingerprint(detectors["openvino", "in the graph"].session),
    }
    write_result(out, found)


if __name__ == "__main__":
    run_script(main)
