"""Rectified activations of an int8 graph in 8 bits without a sign.

A bundle's int8 values carry a sign, as TensorRT demands, so that behind a rectifier only half of the levels are used.
OpenVINO has unsigned ones as well: its quantiser of a rectified tensor is made to take the same range in all 256
levels. The steps are half as wide, and since the quantiser cuts off below 0 and above the range by itself, a rectifier
that nothing else reads goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino as ov

LEVELS = 256
LOWEST = -128
"""Of a quantiser with a sign."""
_ROUNDING = 1e-5
"""Relative, of scales in float32."""


def use_unsigned(model: ov.Model) -> int:
    """Change a model so; how many tensors were.

    Zero points are 0, as `reason_export.qdq` writes them.
    """
    changed = 0
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "FakeQuantize":
            changed += _make_unsigned(operation)
    return changed


def _make_unsigned(quantiser: ov.Node) -> bool:
    from openvino import opset13

    highest = _constant(quantiser, 2)
    source = _before_rectifier(quantiser.input_value(0), highest)
    chain = _chain(quantiser)
    if _constant(quantiser, 3) != LOWEST or source is None or chain is None:
        return False
    zero, top, whole = (np.float32(value) for value in (0, highest, LEVELS - 1))
    unsigned = opset13.convert(opset13.fake_quantize(source, zero, top, zero, whole, LEVELS), "u8")
    _, to_float, _, scaling = chain
    to_float.input(0).replace_source_output(unsigned.output(0))
    scaling.input(1).replace_source_output(opset13.constant(np.float32(highest / (LEVELS - 1))).output(0))
    return True


def _chain(quantiser: ov.Node) -> list[ov.Node] | None:
    """What follows: to int8, to float, zero point taken off, scaled; None where int8 values are read otherwise."""
    chain = [quantiser]
    for kind in ("Convert", "Convert", "Subtract", "Multiply"):
        readers = list(chain[-1].output(0).get_target_inputs())
        if len(readers) != 1 or readers[0].get_node().get_type_name() != kind:
            return None
        chain.append(readers[0].get_node())
    return chain[1:]


def _before_rectifier(value: ov.Output, highest: float) -> ov.Output | None:
    """What a rectifier takes in, where the quantiser cuts off as it does; None where `value` is not rectified."""
    node = value.get_node()
    if node.get_type_name() == "Minimum":
        bound, value = _bound(node)
        if not bound >= highest * (1 - _ROUNDING):
            return None
        node = value.get_node()
    if node.get_type_name() == "Maximum":
        bound, value = _bound(node)
        return value if bound == 0 else None
    return node.input_value(0) if node.get_type_name() == "Relu" else None


def _bound(node: ov.Node) -> tuple[float, ov.Output]:
    """The constant of a minimum or maximum, not a number where it has none, and the other side."""
    for i in range(2):
        if np.isfinite(found := _constant(node, i)):
            return found, node.input_value(1 - i)
    return float("nan"), node.input_value(0)


def _constant(node: ov.Node, index: int) -> float:
    """A scalar input of an operation; not a number where it is no constant scalar."""
    source = node.input_value(index).get_node()
    if source.get_type_name() != "Constant":
        return float("nan")
    found = np.asarray(source.data)
    return float(found.item()) if found.size == 1 else float("nan")
