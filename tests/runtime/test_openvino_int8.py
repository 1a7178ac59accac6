"""Rectified activations without a sign: the same graph, in finer steps, and nothing else touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import openvino
import pytest
from onnx import NodeProto

from reason_export.activations import measure_activations
from reason_export.qdq import measured_tensors, quantised_graph
from reason_runtime.backends.openvino_int8 import use_unsigned
from tests.export.test_qdq import (
    CHANNELS,
    CLIPPED,
    FIRST,
    PARTS,
    layer,
    network,
    run_by_onnx_runtime,
    run_by_openvino,
    simple,
    sqnr_db,
)

IMAGE = np.random.default_rng(3).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)


def quantised(nodes: Sequence[NodeProto]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network, and its second layer in int8."""
    model = network(nodes, seed=4)
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    return model, quantised_graph(model, seen=seen, layers=["out"])


def read(graph: onnx.ModelProto) -> openvino.Model:
    return openvino.Core().read_model(graph.SerializeToString())


def kinds(model: openvino.Model) -> list[str]:
    return [each.get_type_name() for each in model.get_ordered_ops()]


@pytest.mark.parametrize("first", [FIRST, CLIPPED])
def test_its_levels_are_as_written_below_zero_and_twice_as_many_above(first: list[NodeProto]) -> None:
    _, graph = quantised([*first, layer("out", "feature")])
    model = read(graph)
    assert use_unsigned(model) == 1
    assert not {"Relu", "Minimum", "Maximum", "Clamp"} & set(kinds(model))  # the quantiser cuts off by itself
    quantiser = next(each for each in model.get_ordered_ops() if each.get_type_name() == "FakeQuantize")
    lowest, highest, first_level, last_level = (float(each.get_node().data) for each in quantiser.input_values()[1:])
    (scale,) = (each for each in graph.graph.initializer if each.name == "feature.scale")
    assert (lowest, first_level, last_level) == (0, 0, 255)
    assert highest == pytest.approx(127 * float(onnx.numpy_helper.to_array(scale)), rel=1e-6)


@pytest.mark.parametrize("first", [FIRST, CLIPPED])
def test_it_is_closer_to_the_float_network_than_the_file(first: list[NodeProto]) -> None:
    source, graph = quantised([*first, layer("out", "feature", size=3, group=CHANNELS)])
    expected = run_by_onnx_runtime(source, IMAGE, plain=True)
    signed, unsigned = (sqnr_db(expected, run_by_openvino(graph, IMAGE, unsigned=each)) for each in (False, True))
    assert unsigned > signed + 1  # it would be 6, were weights not rounded and values not cut off


def test_nothing_is_left_to_change_the_second_time() -> None:
    _, graph = quantised([*FIRST, layer("out", "feature")])
    model = read(graph)
    assert [use_unsigned(model), use_unsigned(model)] == [1, 0]


def test_values_of_both_signs_keep_theirs() -> None:
    _, graph = quantised([layer("a", "image"), layer("out", "a", size=3)])
    model = read(graph)
    before = kinds(model)
    assert use_unsigned(model) == 0
    assert kinds(model) == before


def test_a_lower_end_below_zero_stays() -> None:
    model = network(
        [layer("a", "image"), simple("Clip", "feature", "a", "below", "highest"), layer("out", "feature")], seed=4
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1), "below"))
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    graph = quantised_graph(model, seen=seen, layers=["out"])
    assert use_unsigned(read(graph)) == 0
    exact = run_by_onnx_runtime(graph, IMAGE, plain=True)
    assert sqnr_db(exact, run_by_openvino(graph, IMAGE, unsigned=True)) > 26


def test_an_upper_end_inside_the_range_stays() -> None:
    model, _ = quantised([*CLIPPED, layer("out", "feature")])
    seen = dict(measure_activations(model, 10 * IMAGE, tensors=measured_tensors(model.graph)))
    seen["feature"] = dataclasses.replace(seen["feature"], channel_largest=np.full(CHANNELS, 4.0))  # the clip ends at 2
    graph = quantised_graph(model, seen=seen, layers=["out"])
    assert use_unsigned(read(graph)) == 0
    exact = run_by_onnx_runtime(graph, 10 * IMAGE, plain=True)
    assert sqnr_db(exact, run_by_openvino(graph, 10 * IMAGE, unsigned=True)) > 26


def test_a_rectified_tensor_that_others_read_is_still_rectified_for_them() -> None:
    nodes = [*FIRST, layer("b", "feature"), simple("Mul", "out", "b", "feature")]
    model = network(nodes, seed=4)
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    graph = quantised_graph(model, seen=seen, layers=["b"])
    changed = read(graph)
    assert use_unsigned(changed) == 1
    assert "Relu" in kinds(changed)
    exact = run_by_onnx_runtime(graph, IMAGE, plain=True)
    assert sqnr_db(exact, run_by_openvino(graph, IMAGE, unsigned=True)) > 26


def test_concatenated_int8_values_are_left_as_they_are() -> None:
    model = network(PARTS["a concatenation"], seed=4)
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    changed = read(quantised_graph(model, seen=seen, layers=["out"]))
    assert use_unsigned(changed) == 0
