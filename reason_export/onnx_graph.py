"""The trained network as one ONNX graph: uint8 images in, anomaly map and score out."""

from __future__ import annotations

import warnings

import onnx
import torch

from reason_export.resize_graph import CameraModel
from reason_runtime.backends.signature import INPUT, OUTPUTS
from reason_runtime.choices import MOST_IN_A_GRAPH
from reason_runtime.errors import ParityError
from reason_runtime.image import InputFormat
from reason_train.model import ReasonModel

OPSET = 18
"""Read by TensorRT 10.3 and later, OpenVINO 2025 and later and ONNX Runtime 1.14 and later."""


def export_graph(model: ReasonModel | CameraModel, *, input_format: InputFormat) -> bytes:
    """The model as ONNX bytes, float32, with a dynamic batch.

    Normalisation, networks and the map head are all inside; batch norm is folded into the convolutions. What
    the exporter notes about the machine it ran on is removed.

    Args:
        model: In evaluation mode, on the CPU.
        input_format: Height, width and channels of the graph's input.

    Raises:
        ParityError: The exporter gave a graph of another form.
    """
    form = input_format
    example = torch.zeros((2, form.height_px, form.width_px, form.channels), dtype=torch.uint8)
    with warnings.catch_warnings():  # of PyTorch's own deprecations inside the exporter
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=MOST_IN_A_GRAPH)}},
            verbose=False,
        )
    if program is None:
        raise ParityError("PyTorch's exporter gave no graph; another version of torch or onnxscript may")
    graph = program.model_proto
    _forget_origins(graph)
    onnx.checker.check_model(graph, full_check=True)
    _check_form(graph)
    return bytes(graph.SerializeToString())


def _forget_origins(model: onnx.ModelProto) -> None:
    """Remove notes and stack traces, which carry paths; they change nothing that is computed."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.producer_name, model.producer_version = "reason-export", ""


def _check_form(model: onnx.ModelProto) -> None:
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if inputs != [INPUT] or outputs != list(OUTPUTS) or opsets != {"": OPSET}:
        raise ParityError(
            f"PyTorch's exporter gave inputs {inputs}, outputs {outputs}, opsets {opsets}; expected "
            f"['{INPUT}'], {list(OUTPUTS)} and {OPSET} only; another version of torch or onnxscript may"
        )
