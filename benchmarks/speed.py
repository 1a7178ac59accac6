"""Every backend and precision side by side, against PyTorch fp32 in the same run.

    python benchmarks/speed.py BUNDLE... --out benchmarks/results/speed.json
    python benchmarks/speed.py BUNDLE... --device cuda --out benchmarks/results/speed_gpu.json

Each BUNDLE is a trained one with its int8 file, and on a GPU its fp16 file; engines are built into it. Its network
runs in PyTorch with made-up weights of the same shapes. The ResNets have made-up weights everywhere, all convolutions
in int8 but those that the map head reads: their speed is measured, their accuracy is not. All of them take turns in
one process, so that a busy moment meets all of them; of each turn the first call is not counted. The network is timed
from a batch of one image in memory to map and score in memory, on a GPU with both copies.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from numpy.typing import NDArray
from result_file import require_place, write_result

from reason_export.activations import measure_activations
from reason_export.engine import build_engine
from reason_export.engine_choices import EngineChoices
from reason_export.golden import golden_bytes, make_golden, synthetic_images
from reason_export.graph_parts import convolutions
from reason_export.half import half_graph
from reason_export.onnx_graph import export_graph
from reason_export.qdq import measured_tensors, quantised_graph, read_by_head_and_network
from reason_runtime.bench import LatencyPlan, measure_latency
from reason_runtime.bundle import GOLDEN, MODELS, UNSIGNED, Bundle, open_bundle, write_bundle
from reason_runtime.choices import BUILDERS, Backend, Device, Precision
from reason_runtime.detector import load
from reason_runtime.entry import run_script
from reason_runtime.environment import fingerprint
from reason_runtime.errors import BackendError
from reason_runtime.manifest import Manifest, MethodSettings, TrainingProvenance
from reason_runtime.roofline import measure_roofline
from reason_runtime.session import open_session
from reason_runtime.throughput import measure_throughput
from reason_train.config import MethodConfig, TeacherName, is_lite
from reason_train.device import find_device
from reason_train.model import build_model
from reason_train.run import read_settings
from reason_train.trained import input_format

RESNETS: tuple[TeacherName, ...] = ("resnet18", "wide_resnet50_2")
RUNS: dict[Device, tuple[tuple[Backend, Precision], ...]] = {
    "cpu": (
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    ),
    "cuda": tuple(
        (backend, precision)
        for backend in ("onnxruntime", "tensorrt_rtx", "tensorrt")
        for precision in ("fp32", "fp16", "int8")
    ),
}
Row = tuple[str, str]
"""Backend and precision; with CUDA graphs the backend's name says so."""
CALLS = 3
"""Counted ones of a turn."""
ROOFLINES: tuple[Precision, ...] = ("fp32", "bf16", "int8")
BATCHES: dict[Device, tuple[int, ...]] = {"cpu": (1, 4), "cuda": (1, 4, 16)}


def main(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Trained, with their int8 files.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Result file.")],
    seconds: Annotated[float, typer.Option(min=1, help="Of turns, for each network.")] = 30.0,
    resnets: Annotated[bool, typer.Option("--resnets/--no-resnets", help="Also the ResNet teachers.")] = True,
    device: Annotated[Device, typer.Option(help="Where everything runs.")] = "cpu",
) -> None:
    """Measure all networks, print a line for each row, write all of it."""
    require_place(out)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # compiled models of made-up networks are of no use later
        found = _measured(bundles, seconds=seconds, teachers=RESNETS if resnets else (), device=device)
    where = "" if device == "cpu" else f" --device {device}"
    where += "" if resnets else " --no-resnets"
    named = " ".join(["BUNDLE"] * len(bundles))
    found["command"] = (
        f"python benchmarks/speed.py {named}{where} --seconds {seconds:g} --out benchmarks/results/{out.name}"
    )
    found["measured"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_result(out, found)


def _measured(
    bundles: Sequence[Path], *, seconds: float, teachers: Sequence[TeacherName], device: Device
) -> dict[str, object]:
    edges = [open_bundle(bundle) for bundle in bundles]
    networks = [_network(edge, _method(edge), seconds=seconds, trained=True, device=device) for edge in edges]
    found = {
        "networks": networks,
        "overhead_ms": _overhead_ms(bundles[0], device=device),
        "throughput": [
            _throughput(edge, backend, precision, device=device)
            for edge in edges
            for backend, precision in _offline(device)
        ],
    }
    for teacher in teachers:
        with tempfile.TemporaryDirectory() as folder:
            made = made_up_bundle(Path(folder) / teacher, MethodConfig(teacher=teacher))
            networks.append(
                _network(made, MethodConfig(teacher=teacher), seconds=seconds, trained=False, device=device)
            )
    sessions = [open_session(edges[0], device=device)]
    sessions += [open_session(edges[0], backend="openvino")] if device == "cpu" else []
    libraries = {"torch": torch.__version__, "torch_threads": str(torch.get_num_threads())}
    found["environment"] = fingerprint(sessions[0]) | {
        "session": libraries | {name: value for session in sessions for name, value in session.libraries.items()}
    }
    return found


def _method(bundle: Bundle) -> MethodConfig:
    """What a bundle says it was trained with."""
    method = bundle.manifest.method
    return read_settings(MethodConfig, {**method.settings, "teacher": method.teacher})


def _title(method: MethodConfig) -> str:
    """A network's name in tables."""
    students = {1: "one student", 2: "two students"}.get(method.students, f"{method.students} students")
    return f"{method.teacher}, {students}" if is_lite(method.teacher) else method.teacher


def _offline(device: Device) -> list[tuple[Backend, Precision]]:
    return [(backend, precision) for backend, precision in RUNS[device] if backend == "openvino" or device == "cuda"]


def made_up_bundle(path: Path, method: MethodConfig) -> Bundle:
    """A bundle of an untrained network with fp32, fp16 and int8 files, for its speed only."""
    torch.manual_seed(0)
    model, form = build_model(method).eval(), input_format(method)
    graph = export_graph(model, input_format=form)
    source = onnx.load_from_string(graph)
    images = synthetic_images(form)[:1]
    seen = measure_activations(source, images, tensors=measured_tensors(source.graph))
    kept = read_by_head_and_network(source.graph)
    layers = [node.name for node in convolutions(source.graph) if node.name not in kept]
    int8, unsigned = (
        quantised_graph(source, seen=seen, layers=layers, unsigned=without_sign).SerializeToString()
        for without_sign in (False, True)
    )
    golden = golden_bytes(make_golden(model, images, synthetic=True))
    manifest = Manifest(
        name=method.teacher,
        created="2025-01-01T00:00:00+00:00",
        input=form,
        map_size_px=method.image_size_px,
        method=MethodSettings(teacher=method.teacher, settings={}),
        training=TrainingProvenance(images_sha256=None, images=0, seed=0, libraries={}, configuration={}),
    )
    half = half_graph(source).SerializeToString()
    files = {MODELS["fp32"]: graph, MODELS["fp16"]: half, MODELS["int8"]: int8, UNSIGNED: unsigned, GOLDEN: golden}
    return write_bundle(path, manifest=manifest, files=files)


def _network(
    bundle: Bundle, method: MethodConfig, *, seconds: float, trained: bool, device: Device
) -> dict[str, object]:
    form = bundle.manifest.input
    shape = (1, form.height_px, form.width_px, form.channels)
    image = np.random.default_rng(20250101).integers(0, 256, shape, dtype=np.uint8)
    torch.manual_seed(0)
    model = build_model(method).eval().to(find_device(device))
    pixels = torch.from_numpy(image)
    calls: dict[Row, Callable[[], object]] = {("pytorch", "fp32"): lambda: _by_pytorch(model, pixels)}
    not_run: dict[str, str] = {}
    for backend, precision in RUNS[device]:
        try:
            if backend in BUILDERS:
                build_engine(bundle, choices=EngineChoices(builder=backend, precision=precision))
            session = open_session(bundle, backend=backend, precision=precision, device=device)
        except BackendError as error:
            not_run[f"{backend} {precision}"] = str(error).replace(f"{bundle.path}", "BUNDLE")
            continue
        calls[backend, precision] = lambda session=session: session.run(image)
        if backend in BUILDERS:
            replayed = open_session(bundle, backend=backend, precision=precision, cuda_graph=True)
            calls[f"{backend}, CUDA graph", precision] = lambda session=replayed: session.run(image)
    times = _in_turns(calls, seconds=seconds)
    reference = statistics.median(times["pytorch", "fp32"])
    rows = []
    for (backend, precision), values in times.items():
        p50, p90 = np.percentile(values, (50, 90), method="inverted_cdf")
        rows.append(
            {
                "backend": backend,
                "precision": precision,
                "count": len(values),
                "p50_ms": float(p50),
                "p90_ms": float(p90),
                "least_ms": min(values),
                "times_pytorch": reference / statistics.median(values),
            }
        )
        print(
            f"{_title(method)} {backend} {precision}: p50 {p50:.2f} ms, {rows[-1]['times_pytorch']:.2f} x", flush=True
        )
    ways = {
        each: measure_roofline(bundle, precision=each, threads=None)
        for each in ROOFLINES
        if device == "cpu" and _can(each)
    }
    return {
        "network": _title(method),
        "teacher": method.teacher,
        "trained": trained,
        "input_px": [form.height_px, form.width_px],
        "rows": rows,
        "not_run": not_run,
        "rooflines": {each: dataclasses.asdict(way) for each, way in ways.items() if way is not None},
        "model_size_mib": {name: entry.size_bytes / 2**20 for name, entry in bundle.manifest.files.items()},
    }


def _in_turns(calls: dict[Row, Callable[[], object]], *, seconds: float) -> dict[Row, list[float]]:
    times: dict[Row, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["pytorch", "fp32"]) < CALLS:
        for key, call in calls.items():
            call()  # threads of the one before may still spin
            for _ in range(CALLS):
                started_ns = time.perf_counter_ns()
                call()
                times[key].append((time.perf_counter_ns() - started_ns) / 1e6)
    return times


def _by_pytorch(model: torch.nn.Module, pixels: torch.Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(pixels.to(next(model.parameters()).device))[0].cpu().numpy()


def _can(precision: Precision) -> bool:
    import openvino

    return precision.upper() in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _overhead_ms(bundle: Path, *, device: Device) -> float:
    plan = LatencyPlan(minimum_count=20, minimum_s=0)
    backend: Backend = "openvino" if device == "cpu" else "onnxruntime"
    return measure_latency(load(bundle, backend=backend, device=device, threshold=1.0), plan=plan).overhead_p50_ms


def _throughput(bundle: Bundle, backend: Backend, precision: Precision, *, device: Device) -> dict[str, object]:
    named = {"network": _title(_method(bundle)), "backend": backend, "precision": precision}
    if device == "cpu" and not _can(precision):
        return named | {"not_run": f"this processor has no {precision} for OpenVINO"}
    try:
        found = measure_throughput(
            load(bundle.path, backend=backend, precision=precision, device=device),
            threads=None,
            batches=BATCHES[device],
            plan=LatencyPlan(warm_up=1, minimum_count=3, minimum_s=2.0),
        )
    except BackendError as error:
        return named | {"not_run": str(error).replace(f"{bundle.path}", "BUNDLE")}
    print(f"throughput, {named['network']} {backend} {precision}: {found.fps:.1f} FPS", flush=True)
    return named | {name: value for name, value in dataclasses.asdict(found).items() if name != "environment"}


if __name__ == "__main__":
    run_script(main)
