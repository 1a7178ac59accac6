"""Bundles of real networks with made-up weights, in the three precisions that engines are built from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reason_export.onnx_graph import export_graph
from reason_runtime.bundle import Bundle, write_bundle
from reason_train.config import MethodConfig
from reason_train.trained import input_format
from tests.filled_model import filled_model
from tests.runtime.bundles import golden_bytes, make_manifest

ACTIVATION_STEP = np.float32(0.1)  # what a calibration would find; an engine's form does not depend on it


def engine_bundle(path: Path, method: MethodConfig) -> Bundle:
    """A bundle with fp32, fp16 and int8 files of a network whose weights are a function of their names."""
    form = input_format(method)
    graph = export_graph(filled_model(method), input_format=form)
    manifest = dataclasses.replace(make_manifest(input_format=form), map_size_px=method.image_size_px)
    files: dict[str, Path | bytes] = {
        "model.onnx": graph,
        "model_fp16.onnx": half_precision(graph),
        "model_int8.onnx": quantised(graph),
        "golden.npz": golden_bytes(form),
    }
    return write_bundle(path, manifest=manifest, files=files)


def half_precision(graph: bytes) -> bytes:
    """Convolutions in float16, between casts; everything else stays float32."""
    model = onnx.load_from_string(graph)
    weights = _weights(model)
    for node in _convolutions(model):
        for index, name in enumerate(node.input):
            if name in weights:
                half = numpy_helper.from_array(weights[name].astype(np.float16), f"{name}_half")
                model.graph.initializer.append(half)
                node.input[index] = half.name
        _insert_before(model, node, helper.make_node("Cast", [node.input[0]], [_own(node)], to=TensorProto.FLOAT16))
        node.input[0] = _own(node)
        result, node.output[0] = node.output[0], f"{node.output[0]}_half"
        _insert_after(model, node, helper.make_node("Cast", [node.output[0]], [result], to=TensorProto.FLOAT))
    return _finished(model)


def quantised(graph: bytes) -> bytes:
    """Q/DQ around convolutions: inputs by one step, weights symmetric by channel, biases float32 as TensorRT wants."""
    model = onnx.load_from_string(graph)
    weights = _weights(model)
    model.graph.initializer.append(numpy_helper.from_array(ACTIVATION_STEP, "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    for node in _convolutions(model):
        name = node.input[1]
        axes = tuple(range(1, weights[name].ndim))
        steps = (np.abs(weights[name]).max(axis=axes) / 127).astype(np.float32)
        levels = np.round(weights[name] / steps.reshape(-1, *(1 for _ in axes))).astype(np.int8)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, f"{name}_{what}")
            for what, array in (("levels", levels), ("steps", steps), ("zeros", np.zeros(len(steps), np.int8)))
        )
        names = [f"{name}_levels", f"{name}_steps", f"{name}_zeros"]
        _insert_before(model, node, helper.make_node("DequantizeLinear", names, [f"{name}_real"], axis=0))
        node.input[1] = f"{name}_real"
        levels_of, real = f"{_own(node)}_levels", _own(node)
        _insert_before(model, node, helper.make_node("QuantizeLinear", [node.input[0], "step", "zero"], [levels_of]))
        _insert_before(model, node, helper.make_node("DequantizeLinear", [levels_of, "step", "zero"], [real]))
        node.input[0] = real
    return _finished(model)


def _weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def _own(node: onnx.NodeProto) -> str:
    return f"{node.name}_input"


def _insert_before(model: onnx.ModelProto, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    model.graph.node.insert(list(model.graph.node).index(node), new)


def _insert_after(model: onnx.ModelProto, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    model.graph.node.insert(list(model.graph.node).index(node) + 1, new)


def _finished(model: onnx.ModelProto) -> bytes:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
