"""Channels brought to the range of their tensor before it is rounded to one scale.

A rectified tensor between two convolutions may be scaled by any positive factor a channel, when the convolution before
makes it so and the one behind takes it back. Both have a scale an output channel: the first loses nothing by it, and a
channel that uses a small part of the range is rounded more finely. A depthwise convolution behind has a scale for each
of these channels too, and takes the factor back at no loss; another one has not, and gets its square root.

Source: cross-layer equalisation, Nagel et al., arXiv:1906.04721, section 4.1.
Departure: The factors come from what activations hold on good images, not from weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from reason_export.activations import Activations
from reason_export.graph_parts import CONVOLUTIONS, Wiring, along, convolutions, is_depthwise, output_axis, wiring

HEADROOM = 1.25
"""Times the largest value of a channel on good images that still fits the range: a defect may go beyond them."""
LARGEST_FACTOR = 64.0
"""Of a channel that hardly ever does anything."""


def equalise(graph: GraphProto, *, seen: Activations, layers: Collection[str]) -> Activations:
    """Scale, in place, the channels of what the named convolutions read.

    Args:
        graph: float32. What it computes stays the same, but for a `Clip` that cuts off beyond the headroom.
        seen: What those tensors hold.
        layers: Names of convolutions that will be in int8.

    Returns:
        What tensors hold now.
    """
    wires, changed = wiring(graph), dict(seen)
    weights = {item.name: item for item in graph.initializer}

    def scale(node: NodeProto, index: int, factors: NDArray[np.float64], *, axis: int) -> None:
        value = numpy_helper.to_array(weights[node.input[index]])
        scaled = value * along(axis, factors, dimensions=value.ndim)
        name = f"{node.name}.{index}.equalised"
        if name not in weights:  # a reader that was scaled may be a maker as well
            weights[name] = graph.initializer.add()
        weights[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
        node.input[index] = name

    for reader in convolutions(graph):
        maker = _maker(reader, wires, weights) if reader.name in layers else None
        if maker is None:
            continue
        tensor = reader.input[0]
        found = seen[tensor]
        likely = np.clip(HEADROOM * found.channel_largest, found.largest / LARGEST_FACTOR, found.largest)
        factors = found.largest / likely
        alone = is_depthwise(reader, numpy_helper.to_array(weights[reader.input[1]]))
        factors = factors if alone else np.sqrt(factors)
        scale(maker, 1, factors, axis=output_axis(maker))
        if len(maker.input) == 3:
            scale(maker, 2, factors, axis=0)
        scale(reader, 1, 1 / factors, axis=0 if alone else 1 - output_axis(reader))
        changed[tensor] = dataclasses.replace(
            found, channel_means=found.channel_means * factors, channel_largest=found.channel_largest * factors
        )
    return changed


def _maker(reader: NodeProto, wires: Wiring, weights: Mapping[str, TensorProto]) -> NodeProto | None:
    """The convolution before a rectifier that only `reader` reads; None where the graph is another."""
    rectifier = wires.producers.get(reader.input[0])
    if rectifier is None or not _cuts_off_at_zero(rectifier, weights) or len(wires.after(rectifier)) != 1:
        return None
    maker = wires.producers.get(rectifier.input[0])
    if maker is None or maker.op_type not in CONVOLUTIONS or len(wires.after(maker)) != 1:
        return None
    return maker


def _cuts_off_at_zero(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a channel may be scaled before a node as well as after it."""
    if node.op_type == "Clip":
        lower = weights.get(node.input[1])
        return lower is not None and bool(numpy_helper.to_array(lower) == 0)
    return node.op_type == "Relu"
