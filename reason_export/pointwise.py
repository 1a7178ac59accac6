"""Two linear 1x1 convolutions in a row made one: int8 then rounds once in place of twice, and one layer fewer runs."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from reason_export.graph_parts import wiring

_PLAIN = {"group": {1}, "strides": {1}, "pads": {0}}
"""Values of attributes, where a node has them."""


def merge_pointwise(model: ModelProto) -> ModelProto:
    """The same graph, up to rounding, with each such pair as one convolution, named as the second was.

    The Lite networks have one: the first block ends in a linear convolution and the second starts with one. In float it
    is more work, not less.
    """
    merged = ModelProto()
    merged.CopyFrom(model)
    graph = merged.graph
    wires, weights = wiring(graph), {item.name: item for item in graph.initializer}

    def value(node: NodeProto, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return numpy_helper.to_array(weights[node.input[index]]).astype(np.float64)

    for second in list(graph.node):
        first = wires.producers.get(second.input[0]) if second.input else None
        if first is None or len(wires.after(first)) != 1 or not all(_is_pointwise(n, weights) for n in (first, second)):
            continue
        before, after = value(first, 1)[:, :, 0, 0], value(second, 1)[:, :, 0, 0]  # (M, I), (O, M)
        bias = after @ (value(first, 2) if len(first.input) == 3 else np.zeros(len(before)))
        bias += value(second, 2) if len(second.input) == 3 else 0
        names = [f"{second.input[1]}.merged", f"{second.input[1]}.merged_bias"]
        for name, made in zip(names, ((after @ before)[:, :, None, None], bias), strict=True):
            weights[name] = numpy_helper.from_array(made.astype(np.float32), name)
        second.input[:] = [first.input[0], *names]
        graph.node.remove(first)
    read = {name for node in graph.node for name in node.input}
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(item for name, item in weights.items() if name in read)
    return merged


def _is_pointwise(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    if node.op_type != "Conv" or list(weights[node.input[1]].dims[2:]) != [1, 1]:
        return False
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return all(set(np.atleast_1d(found[name])) <= allowed for name, allowed in _PLAIN.items() if name in found)
