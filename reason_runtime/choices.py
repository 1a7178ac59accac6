"""The words and the limits that a user chooses between; imports nothing, so that `--help` starts at once."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
BackendChoice = Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
BACKEND_CHOICES: tuple[BackendChoice, ...] = get_args(BackendChoice)
Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
RUNNERS: tuple[tuple[Backend, Provider | None], ...] = (
    *(("onnxruntime", provider) for provider in PROVIDERS),
    *((backend, None) for backend in BACKENDS if backend != "onnxruntime"),
)
"""What computes: a backend, and of ONNX Runtime the provider."""
Builder = Literal["tensorrt", "tensorrt_rtx"]
BUILDERS: tuple[Builder, ...] = get_args(Builder)
RunsOn = Literal["same_gpu", "same_compute_capability", "ampere_and_later"]
RUNS_ON: tuple[RunsOn, ...] = get_args(RunsOn)
BackPressure = Literal["block", "drop-oldest"]
MOST_IN_A_RUN = 16
"""Images that `reason-export check` puts in one run, and `reason-run inspect` takes."""
MOST_IN_A_GRAPH = 1024
"""Images in one run that a bundle's graph is exported for."""


def runner_name(backend: Backend, provider: Provider | None) -> str:
    """As users and file names call it: `onnxruntime-cuda`; a provider that is the CPU goes without saying."""
    return backend if provider in (None, "cpu") else f"{backend}-{provider}"


def run_name(backend: Backend, provider: Provider | None, precision: Precision) -> str:
    """Of a runner and what it computes in: `onnxruntime-cuda fp16`."""
    return f"{runner_name(backend, provider)} {precision}"


def runner_device(backend: Backend, provider: Provider | None) -> Device:
    """Where it computes."""
    return "cpu" if backend == "openvino" or provider == "cpu" else "cuda"
