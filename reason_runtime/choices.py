"""The words a user chooses between; imports nothing, so that `--help` starts at once."""

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
Builder = Literal["tensorrt", "tensorrt_rtx"]
BUILDERS: tuple[Builder, ...] = get_args(Builder)
RunsOn = Literal["same_gpu", "same_compute_capability", "ampere_and_later"]
RUNS_ON: tuple[RunsOn, ...] = get_args(RunsOn)
BackPressure = Literal["block", "drop-oldest"]
