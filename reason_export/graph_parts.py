"""The parts of an exported graph that a change of precision must tell apart."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

CONVOLUTIONS = ("Conv", "ConvTranspose")
INSTANCE_NORM = "InstanceNormalization"
_CARRIERS = ("Add", "Relu", "Clip", "LeakyRelu")
"""What may end a network after its last convolution: it belongs to the network, not to the map head."""
_RECTIFIERS = ("Relu", "Clip")
FRONT_DEPTHWISE = 2
"""Depthwise convolutions of the front."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Who makes and who reads each tensor of a graph."""

    producers: dict[str, NodeProto]
    consumers: dict[str, list[NodeProto]]

    def inputs(self, node: NodeProto) -> list[str]:
        """The inputs of a node that another node computes."""
        return [name for name in node.input if name in self.producers]

    def after(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that read what a node computes."""
        return [reader for name in node.output for reader in self.consumers.get(name, [])]


def wiring(graph: GraphProto) -> Wiring:
    """Index a graph."""
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return Wiring({name: node for node in graph.node for name in node.output}, consumers)


def convolutions(graph: GraphProto) -> list[NodeProto]:
    """Plain and transposed convolutions, in the order they run."""
    return [node for node in graph.node if node.op_type in CONVOLUTIONS]


def output_axis(node: NodeProto) -> int:
    """Of a convolution's weight: (out, in, ...), (in, out, ...) where transposed. The other one is its input's."""
    return 0 if node.op_type == "Conv" else 1


def is_depthwise(node: NodeProto, weight: NDArray[np.floating]) -> bool:
    """Whether each output channel reads one channel alone."""
    return node.op_type == "Conv" and weight.shape[1] == 1


def along(axis: int, values: NDArray[np.floating], *, dimensions: int) -> NDArray[np.floating]:
    """A value for each channel, (C,), in the shape that broadcasts along an axis."""
    return values.reshape([-1 if i == axis else 1 for i in range(dimensions)])


def before_network(graph: GraphProto) -> set[str]:
    """Names of the nodes that make the network's input from the image: all that no convolution precedes."""
    wires = wiring(graph)
    before: set[str] = set()
    for node in graph.node:  # in topological order
        if node.op_type not in CONVOLUTIONS and all(
            wires.producers[name].name in before for name in wires.inputs(node)
        ):
            before.add(node.name)
    return before


def front(graph: GraphProto) -> set[str]:
    """Names of the nodes up to the second depthwise convolution and its rectifier; without one, of `before_network`.

    The first depthwise convolutions' outputs are small differences of large products: added up in half precision, they
    and what comes before alone make most of the map's noise.
    """
    wires = wiring(graph)
    grouped = [node for node in graph.node if any(each.name == "group" and each.i > 1 for each in node.attribute)]
    if not grouped:
        return before_network(graph)
    last = grouped[:FRONT_DEPTHWISE][-1]
    found = {last.name, *(node.name for node in wires.after(last) if node.op_type in _RECTIFIERS)}
    wanted = wires.inputs(last)
    while wanted:
        node = wires.producers[wanted.pop()]
        if node.name not in found:
            found.add(node.name)
            wanted += wires.inputs(node)
    return found


def map_head(graph: GraphProto) -> set[str]:
    """Names of the nodes from the features to map and score: cosine, interpolation, blur, maximum.

    They are what no convolution follows, without the sums and rectifiers that end a network itself.
    """
    wires = wiring(graph)
    tail: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type not in CONVOLUTIONS and all(reader.name in tail for reader in wires.after(node)):
            tail.add(node.name)
    head = tail - before_network(graph)
    for node in graph.node:
        if node.name in head and node.op_type in _CARRIERS and not _any_made_in(wires, node, head):
            head.discard(node.name)
    return head


def changed_in_head(reference: GraphProto, other: GraphProto) -> str | None:
    """The first node of a graph's map head that another graph has not, or with other constants; None without one.

    What a change of precision may alter lies before the head.
    """
    head, known = map_head(reference), {node.name: node for node in other.node}
    constants, others = ({each.name: each for each in graph.initializer} for graph in (reference, other))
    made = {name for node in reference.node if node.name in head for name in node.output}
    for node in reference.node:
        if node.name in head:
            found = known.get(node.name)
            if found is None or _spelled(node, constants, made) != _spelled(found, others, made):
                return str(node.name)
    return None


def _spelled(node: NodeProto, constants: Mapping[str, TensorProto], made: Collection[str]) -> tuple[object, ...]:
    """All that a node does with what comes from outside of the nodes that made `made`."""
    from onnx import numpy_helper

    inputs: list[object] = []
    for name in node.input:
        if name in constants:
            values = numpy_helper.to_array(constants[name])
            inputs.append((values.dtype, values.shape, values.tobytes()))
        else:
            inputs.append(name if name in made else "from outside")
    attributes = sorted(each.SerializeToString(deterministic=True) for each in node.attribute)
    return node.op_type, attributes, inputs, list(node.output)


def _any_made_in(wires: Wiring, node: NodeProto, names: Iterable[str]) -> bool:
    return any(wires.producers[name].name in names for name in wires.inputs(node))
