"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reason_runtime.choices import BackendChoice, Device, Precision, Provider

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `reason-export onnx` wrote.")]
AnyBackendOption = Annotated[
    BackendChoice, typer.Option(help="Inference library; auto: the fastest that passed `reason-export check` here.")
]
AnyPrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Of the layers before the map head; bf16 needs openvino.", show_default="fp32; auto: any"),
]
PrecisionOption = Annotated[Precision, typer.Option(help="Of the layers before the map head; bf16 needs openvino.")]
DeviceOption = Annotated[
    Device | None,
    typer.Option(help="Where the model runs; what is asked for is never replaced.", show_default="the backend's"),
]
ProviderOption = Annotated[
    Provider | None, typer.Option(help="ONNX Runtime's execution provider.", show_default="the device's own")
]
CudaGraphOption = Annotated[bool, typer.Option("--cuda-graph", help="Let TensorRT replay a recorded run.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of the library on CPU.", show_default="chosen by the library")
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Raw score from which on a part is NG.", show_default="the bundle's")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
