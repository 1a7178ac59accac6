"""The bf16 hint reaches the network only: its front, and cosine, map head and score, stay in float32.

The front is a resize in the graph and, of the Lite networks, the convolutions up to the first depthwise one, which is a
small difference of large products: in bf16 it alone makes most of the map's noise. They are marked `precise`, which is
what OpenVINO's own files call it; Python has no other way to say so than to write and read such a file.

OpenVINO applies the hint to the whole graph but its tail: everything from an output back to the last convolution or
matrix product. The map head is made of matrix products, so that the cosine before them would run in bf16, where 1 - cos
cannot resolve below 4e-3. Read out as outputs too, the distances are a tail themselves. Where features are residual
sums, that tail would go on through all the shortcuts before them: a depthwise convolution by 1 ends it at the features.

Transposed convolutions do not end it, and take longer than plain ones. They are written as what they are: 1 x 1
convolutions of which each pixel makes a block.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from reason_runtime.errors import BackendError

if TYPE_CHECKING:
    import openvino as ov

NETWORK = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
RESIDUAL = ("Add", "Relu")
"""What residual blocks end with."""


def keep_front_in_float32(model: ov.Model, core: ov.Core) -> ov.Model:
    """The same model, its front marked to stay in float32.

    Raises:
        BackendError: The temporary copy cannot be written.
    """
    front = _front(model)
    if not front:
        return model
    from openvino import Tensor, serialize

    try:
        with tempfile.TemporaryDirectory() as folder:
            description, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
            serialize(model, description, weights)
            tree, content = ElementTree.parse(description), weights.read_bytes()  # noqa: S314 - our own file
        for layer in tree.iter("layer"):
            if layer.get("name") in front:
                facts = layer.find("rt_info")
                facts = ElementTree.SubElement(layer, "rt_info") if facts is None else facts
                ElementTree.SubElement(facts, "attribute", name="precise", version="0")
        return core.read_model(ElementTree.tostring(tree.getroot()), Tensor(np.frombuffer(content, np.uint8)))
    except (RuntimeError, ElementTree.ParseError, OSError) as error:  # not every OpenVINO says that it could not write
        reason = f"bf16 needs a temporary copy of the model, which cannot be written ({error})"
        raise BackendError(f"{reason}; set TMPDIR to a folder with room") from error


def _front(model: ov.Model) -> set[str]:
    """Names of the products and convolutions up to the first depthwise one; without one, of the products before any."""
    layers = [each for each in model.get_ordered_ops() if each.get_type_name() in ("MatMul", *NETWORK)]
    kinds, end = [each.get_type_name() for each in layers], 0
    if "GroupConvolution" in kinds:
        end = kinds.index("GroupConvolution") + 1
    elif "Convolution" in kinds:
        end = kinds.index("Convolution")
    return {each.get_friendly_name() for each in layers[:end]}


def keep_head_in_float32(model: ov.Model) -> None:
    """End the network at its features, and read out what the map head's matrix products take in, behind the outputs."""
    head = _after_network(model)
    _end_at_features(head)
    for operation in head:
        if operation.get_type_name() == "MatMul":
            source = operation.input(1).get_source_output()  # a constant stands on the left
            if source.get_node().get_type_name() == "Transpose":
                source = source.get_node().input_value(0)  # a product transposes its inputs by itself
            if not any(reader.get_node().get_type_name() == "Result" for reader in source.get_target_inputs()):
                model.add_outputs([source])


def _end_at_features(head: Sequence[ov.Node]) -> None:
    """Put a depthwise convolution by 1 between the head and each feature that a sum or a rectifier makes."""
    from openvino import opset1

    names = {operation.get_friendly_name() for operation in head}
    readers: dict[str, list[ov.Input]] = defaultdict(list)
    for operation in head:
        for read in operation.inputs():
            feature = read.get_source_output().get_node()
            if feature.get_type_name() in RESIDUAL and feature.get_friendly_name() not in names:
                readers[feature.get_friendly_name()].append(read)
    for found in readers.values():
        feature = found[0].get_source_output()
        channels = feature.get_partial_shape()[1].get_length()
        ones = np.ones((channels, 1, 1, 1, 1), np.float32)
        same = opset1.group_convolution(feature, ones, [1, 1], [0, 0], [0, 0], [1, 1])
        for read in found:
            read.replace_source_output(same.output(0))


def write_transposed_as_convolutions(model: ov.Model) -> None:
    """Make transposed convolutions whose blocks do not overlap 1 x 1 ones and a rearrangement of their channels.

    Those of other shapes, and those in int8, stay as they are.
    """
    from openvino import opset1

    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "ConvolutionBackpropData":
            continue
        weight, facts = operation.input_value(1).get_node(), operation.get_attributes()
        if weight.get_type_name() != "Constant":
            continue
        taken, made, *kernel = weight.data.shape
        side = kernel[0]
        apart = {"strides": [side, side], "dilations": [1, 1], "output_padding": [0, 0]}
        apart |= {"pads_begin": [0, 0], "pads_end": [0, 0]}
        if kernel != [side, side] or any(facts[name] != wanted for name, wanted in apart.items()):
            continue
        # (in, out, i, j) to (i, j, out, in): of a block's pixels one after the other
        flat = np.ascontiguousarray(weight.data.transpose(2, 3, 1, 0)).reshape(side * side * made, taken, 1, 1)
        blocks = opset1.convolution(operation.input_value(0), flat, [1, 1], [0, 0], [0, 0], [1, 1])
        pixels = opset1.depth_to_space(blocks, "blocks_first", side)
        operation.output(0).replace(pixels.output(0))


def _after_network(model: ov.Model) -> list[ov.Node]:
    """The operations that no convolution follows, last first."""
    after: dict[str, ov.Node] = {}
    for operation in reversed(model.get_ordered_ops()):
        readers = [reader.get_node() for value in operation.outputs() for reader in value.get_target_inputs()]
        known = all(reader.get_friendly_name() in after for reader in readers)
        if known and operation.get_type_name() not in NETWORK:
            after[operation.get_friendly_name()] = operation
    return list(after.values())
