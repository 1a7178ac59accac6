"""The bf16 hint reaches the network only: cosine, map head and score stay in float32.

OpenVINO applies the hint to the whole graph but its tail: everything from an output back to the last convolution or
matrix product. The map head is made of matrix products, so that the cosine before them would run in bf16, where 1 - cos
cannot resolve below 4e-3. Read out as outputs too, the distances are a tail themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov

NETWORK = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")


def keep_head_in_float32(model: ov.Model) -> int:
    """Read out what the map head's matrix products take in.

    Returns:
        How many outputs were added behind the model's own.
    """
    added = 0
    for operation in _after_network(model):
        if operation.get_type_name() == "MatMul":
            source = operation.input(1).get_source_output()  # a constant stands on the left
            if not any(reader.get_node().get_type_name() == "Result" for reader in source.get_target_inputs()):
                model.add_outputs([source])
                added += 1
    return added


def _after_network(model: ov.Model) -> list[ov.Node]:
    """The operations that no convolution follows, last first."""
    after: dict[str, ov.Node] = {}
    for operation in reversed(model.get_ordered_ops()):
        readers = [reader.get_node() for value in operation.outputs() for reader in value.get_target_inputs()]
        known = all(reader.get_friendly_name() in after for reader in readers)
        if known and operation.get_type_name() not in NETWORK:
            after[operation.get_friendly_name()] = operation
    return list(after.values())
