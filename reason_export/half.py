"""The fp16 graph: the network in half precision; front, instance norm, cosine and map head in float32. No torch here.

ONNX Runtime's own converter rounds to half precision between any two layers that it was told to leave alone, so that
the map head would lose what it is kept in float32 for. Here values change type only where the network meets the rest.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from reason_export.activations import largest_values
from reason_export.graph_parts import INSTANCE_NORM, front, map_head
from reason_runtime.errors import ParityError

LARGEST = float(np.finfo(np.float16).max) / 2
"""Magnitude that values of the network may reach on good images: half of what half precision holds, since those of a
defect may be larger."""


def half_graph(model: ModelProto) -> ModelProto:
    """The graph with its network in fp16; inputs, outputs and opset are the same.

    Args:
        model: float32.

    Raises:
        ParityError: A weight does not fit in half precision.
    """
    kept = _kept(model)
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    weights = {item.name: item for item in graph.initializer}
    made_half = {name for node in graph.node if node.name not in kept for name in node.output}
    produced = {name for node in graph.node for name in node.output}
    casts: dict[str, str] = {}
    ordered: list[NodeProto] = []
    for node in graph.node:
        half = node.name not in kept
        for i, name in enumerate(node.input):
            if half and name in weights and weights[name].data_type == TensorProto.FLOAT:
                node.input[i] = _half_weight(weights, name)
            elif name in produced and half != (name in made_half):
                if name not in casts:
                    casts[name] = f"{name}.{'fp16' if half else 'fp32'}"
                    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                    ordered.append(helper.make_node("Cast", [name], [casts[name]], name=casts[name], to=kind))
                node.input[i] = casts[name]
        ordered.append(node)
    read = {name for node in ordered for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(ordered)
    graph.initializer.extend(item for name, item in weights.items() if name in read)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def require_room(model: ModelProto, images: NDArray[np.uint8]) -> None:
    """Refuse a network whose values leave half precision.

    ONNX Runtime computes an fp16 graph in float32 on x86 processors, so that no parity check there sees it.

    Args:
        model: float32.
        images: (N, H, W, C) to measure on.

    Raises:
        ParityError: A value is too large.
    """
    kept = _kept(model)
    network = {name for node in model.graph.node if node.name not in kept for name in (*node.input, *node.output)}
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    tensors = [value.name for value in known if value.name in network and _is_float32(value)]
    for name, largest in largest_values(model, images, tensors=tensors).items():
        if not largest <= LARGEST:
            raise ParityError(
                f"{name}: reaches {largest:.3g} on these images, and half precision ends at 65504; use fp32 or int8"
            )


def _kept(model: ModelProto) -> set[str]:
    """Names of the nodes that stay in float32."""
    norms = {node.name for node in model.graph.node if node.op_type == INSTANCE_NORM}
    return front(model.graph) | map_head(model.graph) | norms


def _is_float32(value: ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _half_weight(weights: dict[str, TensorProto], name: str) -> str:
    half = f"{name}.fp16"
    if half not in weights:
        values = numpy_helper.to_array(weights[name])
        if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            raise ParityError(
                f"{name}: holds {np.abs(values).max():.3g}, more than half precision can; use fp32 or int8"
            )
        weights[half] = numpy_helper.from_array(values.astype(np.float16), half)
    return half
