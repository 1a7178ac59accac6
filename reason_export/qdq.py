"""Explicit quantisation: Q/DQ pairs where backends look for them, int8, symmetric, per-channel weights.

| where | why |
|---|---|
| at a convolution's input, one pair a tensor, however many read it | the convolution runs on int8 |
| on its weight, an int8 constant with one scale an output channel, and a DequantizeLinear | the same |
| one scale for all of a transposed convolution's weight | TensorRT has no kernel for one an output channel |
| on the shortcut of a residual sum, not on its other side | TensorRT and OpenVINO fuse convolution, sum and rectifier |
| nowhere on a sum that the map head alone reads, as that of two students | the head stays float32 |
| within a concatenation: int8 in, of its output's scale, and int8 out | OpenVINO computes wrong values otherwise |
| for every reader of an int8 convolution's output that has a pair | OpenVINO computes wrong values otherwise |
| before a max-pooling, with the scale of its output | it pools int8 values |

ONNX Runtime's CPU provider computes in float32, more slowly than without, what is not quantised as it likes. So it has
a file of its own, with the same weights:

| where | why |
|---|---|
| activations without a sign, from 0 where they are rectified, else around 128 | a rectifier vanishes in its quantiser |
| on the other side of a residual sum too | convolution and sum run on 8 bits only where the output is quantised |
| int32 biases | ONNX Runtime before 1.21 takes no other |

Instance norm and the map head stay float32, biases but for that file, too. Zero points are 0 but for it, as TensorRT
demands. What rounding its weights adds to a convolution's mean output is taken off its bias (Nagel et al.,
arXiv:1906.04721, section 4.2): depthwise convolutions have too few weights for the errors to cancel out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from reason_export.activations import Activations
from reason_export.equalisation import equalise
from reason_export.graph_parts import (
    CONVOLUTIONS,
    Wiring,
    along,
    convolutions,
    is_depthwise,
    map_head,
    wiring,
)

LEVELS = 127
"""Of each sign: -128 is not used, so that scales are the same for both."""
SUMMED_LEVELS = 63
"""Of weights whose products with several channels are summed. Processors without VNNI (AVX2, older AVX-512) add two
products of an unsigned 8-bit activation and a weight in 16 bits, which saturate: 2 * 255 * 63 fits in 32767,
2 * 255 * 127 does not, and OpenVINO and ONNX Runtime gave maps that were noise. Depthwise ones sum in 32 bits."""


def quantised_graph(
    model: ModelProto, *, seen: Activations, layers: Collection[str], unsigned: bool = False
) -> ModelProto:
    """The graph with the named convolutions in int8, what they read equalised before.

    Args:
        model: float32.
        seen: What every tensor of `measured_tensors` holds on calibration images.
        layers: Names of the convolutions to quantise.
        unsigned: As ONNX Runtime's CPU provider likes it.

    Returns:
        A new graph with the same inputs, outputs and opset.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    pairs = _Pairs(changed.graph, equalise(changed.graph, seen=seen, layers=layers), unsigned=unsigned)
    for node in convolutions(changed.graph):
        if node.name in layers:
            scale = pairs.quantise_weight(node)
            if unsigned and node.op_type == "Conv":
                pairs.quantise_bias(node, scale)
            node.input[0] = pairs.of(node.input[0])
    sums, wires = _residual_sums(model.graph), wiring(changed.graph)
    for node in changed.graph.node:
        if node.name in sums:
            _quantise_sum(node, wires, pairs, layers)
    for node in changed.graph.node:
        if node.op_type == "MaxPool" and node.output[0] in pairs.made:
            node.input[0] = pairs.of(node.input[0], like=node.output[0])
        if node.op_type == "Concat" and node.output[0] in pairs.made:
            pairs.join(node)
    _read_through_pairs(changed.graph, wires, pairs, layers)
    pairs.insert()
    return changed


def measured_tensors(graph: GraphProto) -> list[str]:
    """Tensors that may get a Q/DQ pair, so that their range must be known."""
    wires, sums = wiring(graph), _residual_sums(graph)
    names = [node.input[0] for node in convolutions(graph)]
    names += [name for node in graph.node if node.name in sums and _shortcut(node, wires) for name in node.input]
    return list(dict.fromkeys(names))


def read_by_head_and_network(graph: GraphProto) -> set[str]:
    """Names of convolutions whose output goes to the map head and on through the network.

    The head would have to read it through its pair (see `_read_through_pairs`), in 8 bits: leave them in float32.
    """
    wires, head = wiring(graph), map_head(graph)
    readers = {node.name: {reader.name for reader in wires.after(node)} for node in convolutions(graph)}
    return {name for name, names in readers.items() if names & head and names - head}


def _residual_sums(graph: GraphProto) -> set[str]:
    """Names of the sums within the network: not of those that nothing but the map head reads."""
    wires, head = wiring(graph), map_head(graph)
    sums = (node for node in graph.node if node.op_type == "Add")
    return {node.name for node in sums if any(reader.name not in head for reader in wires.after(node))}


def _shortcut(node: NodeProto, wires: Wiring) -> str | None:
    """The input of a residual sum that does not come straight from a convolution; None where it is no such sum."""
    made = wires.inputs(node)
    straight = [name for name in made if wires.producers[name].op_type in CONVOLUTIONS]
    if len(made) != 2 or not straight:
        return None
    others = [name for name in made if name not in straight]
    return others[0] if others else made[1]


def _quantise_sum(node: NodeProto, wires: Wiring, pairs: _Pairs, layers: Collection[str]) -> None:
    shortcut = _shortcut(node, wires)
    if shortcut is None:
        return
    main = next(name for name in wires.inputs(node) if name != shortcut)
    if wires.producers[main].name in layers:
        sides = (shortcut, main) if pairs.unsigned else (shortcut,)
        node.input[:] = [pairs.of(name) if name in sides else name for name in node.input]


def _read_through_pairs(graph: GraphProto, wires: Wiring, pairs: _Pairs, layers: Collection[str]) -> None:
    """Let nobody read the output of an int8 convolution or of a concatenation beside its pair.

    OpenVINO 2026.4 gives wrong values where an int8 convolution's output is read by a quantiser and by float32 layers:
    it moves the scale of the product into the quantiser and applies it once more.
    """
    makers = {node.name for node in graph.node if node.op_type == "Concat"} | set(layers)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in pairs.made and name in wires.producers and wires.producers[name].name in makers:
                node.input[i] = pairs.made[name]


def _rectified(graph: GraphProto, weights: Mapping[str, NDArray[np.float32]]) -> set[str]:
    """Tensors that no negative value is in: of rectifiers, and what is pooled or joined of such."""
    found: set[str] = set()
    for node in graph.node:  # in topological order
        if (
            node.op_type == "Relu"
            or (node.op_type == "Clip" and node.input[1] in weights and weights[node.input[1]] >= 0)
            or (node.op_type in ("MaxPool", "Concat") and found.issuperset(node.input))
        ):
            found.update(node.output)
    return found


class _Pairs:
    """The Q/DQ pairs of one graph, each made once."""

    def __init__(self, graph: GraphProto, seen: Activations, *, unsigned: bool) -> None:
        self.graph, self.seen, self.unsigned = graph, seen, unsigned
        self.made: dict[str, str] = {}
        self.nodes: dict[str, list[NodeProto]] = {}
        self.weights: dict[str, NDArray[np.float32]] = {
            item.name: numpy_helper.to_array(item) for item in graph.initializer
        }
        self._rectified = _rectified(graph, self.weights) if unsigned else set()
        self._constant("zero_point", np.zeros((), np.uint8 if unsigned else np.int8))
        if unsigned:
            self._constant("middle", np.uint8(128))

    def of(self, tensor: str, *, like: str | None = None) -> str:
        """The name of a tensor after its pair; `like` names the tensor whose scale is used."""
        key = tensor if like is None else f"{tensor}.{like}"
        if key not in self.made:
            self.made[key] = f"{key}.dequantised"
            parts = [self.quantised(tensor, like=like), f"{key}.scale", self._zero(like or tensor)]
            self._add("DequantizeLinear", parts, self.made[key], after=tensor)
        return self.made[key]

    def quantised(self, tensor: str, *, like: str | None = None) -> str:
        """The name of a tensor's int8 values."""
        key = tensor if like is None else f"{tensor}.{like}"
        scale = self._constant(f"{key}.scale", self._scale(like or tensor))
        self._add("QuantizeLinear", [tensor, scale, self._zero(like or tensor)], f"{key}.quantised", after=tensor)
        return f"{key}.quantised"

    def _scale(self, tensor: str) -> np.float32:
        scale: np.float32 = np.float32(self.seen[tensor].largest / (255 if tensor in self._rectified else LEVELS))
        return scale

    def _zero(self, tensor: str) -> str:
        return "middle" if self.unsigned and tensor not in self._rectified else "zero_point"

    def join(self, node: NodeProto) -> None:
        """Make a concatenation that has a pair join int8 values.

        OpenVINO 2026.4 gives wrong values where it joins dequantised ones: the convolutions before it then round their
        outputs to whole numbers, whatever the scale.
        """
        quantise, dequantise = self.nodes.pop(node.output[0])
        node.input[:] = [self.quantised(name, like=node.output[0]) for name in node.input]
        node.output[:] = quantise.output
        self.nodes[quantise.output[0]] = [dequantise]

    def quantise_weight(self, node: NodeProto) -> NDArray[np.float32]:
        """Replace a convolution's weight by int8 values and their scales, which it returns, and correct its bias."""
        name = node.input[1]
        weight = self.weights[name]
        axis = None if node.op_type == "ConvTranspose" else 0
        levels = LEVELS if is_depthwise(node, weight) else SUMMED_LEVELS
        rest = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(axis=rest)
        scale: NDArray[np.float32] = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(levels)
        if axis == 0 and len(node.input) == 3:
            scale = np.maximum(scale, self._least_scale(node))
        scales = scale if axis is None else along(axis, scale, dimensions=weight.ndim)
        values = np.clip(np.round(weight / scales), -levels, levels).astype(np.int8)
        if axis == 0:
            self._correct_bias(node, values * scales - weight)
        zeros = self._constant(f"{name}.zero_point", np.zeros(scale.shape, np.int8))
        parts = [self._constant(f"{name}.int8", values), self._constant(f"{name}.scale", scale), zeros]
        node.input[1] = f"{name}.dequantised"
        self._add("DequantizeLinear", parts, node.input[1], after="", axis=axis)
        return scale

    def quantise_bias(self, node: NodeProto, weight_scale: NDArray[np.float32]) -> None:
        """Write the bias of a convolution in int32, as a sum of its products is."""
        name = node.input[2]
        scale = self._scale(node.input[0]) * weight_scale
        values = np.round(self.weights[name] / scale.astype(np.float64)).astype(np.int32)
        parts = [self._constant(f"{name}.int32", values), self._constant(f"{name}.scale", scale)]
        node.input[2] = f"{name}.dequantised"
        self._add("DequantizeLinear", parts, node.input[2], after="", axis=0)

    def _least_scale(self, node: NodeProto) -> NDArray[np.float32]:
        """Of weights that are next to nothing beside their channel's bias, so that this fits in int32, twice over."""
        room = self.seen[node.input[0]].largest / 255 * 2**30
        least: NDArray[np.float32] = np.abs(self.weights[node.input[2]] / room).astype(np.float32)
        return least

    def _correct_bias(self, node: NodeProto, added: NDArray[np.float32]) -> None:
        """Take off what a weight's rounding errors (O, I / groups, h, w) add to the mean output."""
        means = self.seen[node.input[0]].channel_means
        errors = added.sum(axis=(2, 3), dtype=np.float64)  # (O, I / groups)
        groups = len(means) // errors.shape[1]
        by_group = errors.reshape(groups, -1, errors.shape[1])  # (groups, O / groups, I / groups)
        excess = np.einsum("goi,gi->go", by_group, means.reshape(groups, -1)).ravel()
        before = self.weights[node.input[2]] if len(node.input) == 3 else 0
        name = f"{node.input[1]}.bias"
        self.weights[name] = (before - excess).astype(np.float32)
        del node.input[2:]
        node.input.append(self._constant(name, self.weights[name]))

    def insert(self) -> None:
        """Put the nodes where they belong in the order of the graph, and drop weights that nothing reads any more."""
        produced = {name for node in self.graph.node for name in node.output}
        ordered = [pair for name, pairs in self.nodes.items() if name not in produced for pair in pairs]
        for node in self.graph.node:
            ordered.append(node)
            ordered += [pair for name in node.output for pair in self.nodes.get(name, [])]
        del self.graph.node[:]
        self.graph.node.extend(ordered)
        read = {name for node in ordered for name in node.input}
        kept = [item for item in self.graph.initializer if item.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _add(self, kind: str, parts: list[str], out: str, *, after: str, axis: int | None = None) -> None:
        """A node named like its output, to stand behind the node that makes the tensor `after`."""
        self.nodes.setdefault(after, []).append(helper.make_node(kind, parts, [out], name=out, axis=axis))

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name
