"""Bundles of real networks with made-up weights, in the three precisions that engines are built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from reason_export.activations import Activation
from reason_export.graph_parts import convolutions
from reason_export.half import half_graph
from reason_export.onnx_graph import export_graph
from reason_export.qdq import measured_tensors, quantised_graph, read_by_head_and_network
from reason_runtime.bundle import Bundle, write_bundle
from reason_train.config import MethodConfig
from reason_train.trained import input_format
from tests.filled_model import filled_model
from tests.runtime.bundles import golden_bytes, make_manifest

LARGEST = 12.7  # what a calibration would find; an engine's form does not depend on it


def engine_bundle(path: Path, method: MethodConfig) -> Bundle:
    """A bundle with fp32, fp16 and int8 files of a network whose weights are a function of their names."""
    form = input_format(method)
    graph = export_graph(filled_model(method), input_format=form)
    manifest = dataclasses.replace(make_manifest(input_format=form), map_size_px=method.image_size_px)
    source = onnx.load_from_string(graph)
    files: dict[str, Path | bytes] = {
        "model.onnx": graph,
        "model_fp16.onnx": half_graph(source).SerializeToString(),
        "model_int8.onnx": quantised(source).SerializeToString(),
        "golden.npz": golden_bytes(form),
    }
    return write_bundle(path, manifest=manifest, files=files)


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every convolution in int8 but those that `quantize` never quantises."""
    shapes = {item.name: item.dims for item in model.graph.initializer}
    widths = {node.input[0]: _channels_read(node, shapes[node.input[1]]) for node in convolutions(model.graph)}
    seen = {
        name: Activation(
            channel_largest=np.full(widths.get(name, 1), LARGEST),
            channel_means=np.zeros(widths.get(name, 1)),
        )
        for name in measured_tensors(model.graph)
    }
    kept = read_by_head_and_network(model.graph)
    layers = [node.name for node in convolutions(model.graph) if node.name not in kept]
    return quantised_graph(model, seen=seen, layers=layers)


def _channels_read(node: onnx.NodeProto, weight: Sequence[int]) -> int:
    if node.op_type == "ConvTranspose":
        return weight[0]
    groups = next((item.i for item in node.attribute if item.name == "group"), 1)
    return weight[1] * groups
