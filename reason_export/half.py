"""The fp16 graph: the network in half precision; instance norm, cosine and map head in float32. No torch here.

ONNX Runtime's own converter rounds to half precision between any two layers that it was told to leave alone, so that
the map head would lose what it is kept in float32 for. Here values change type only where the network meets the rest.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from reason_export.graph_parts import INSTANCE_NORM, before_network, map_head
from reason_runtime.errors import ParityError


def half_graph(model: ModelProto) -> ModelProto:
    """The graph with its network in fp16; inputs, outputs and opset are the same.

    Args:
        model: float32.

    Raises:
        ParityError: A weight does not fit in half precision.
    """
    kept = before_network(model.graph) | map_head(model.graph)
    kept |= {node.name for node in model.graph.node if node.op_type == INSTANCE_NORM}
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
