"""Channels scaled before rounding: what is computed stays, what is lost gets less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, numpy_helper

from reason_export.activations import Activation, largest_values, measure_activations
from reason_export.equalisation import HEADROOM, equalise
from reason_export.pointwise import merge_pointwise
from reason_export.qdq import measured_tensors, quantised_graph
from tests.export.test_qdq import (
    CHANNELS,
    CLIPPED,
    FIRST,
    layer,
    network,
    run_by_onnx_runtime,
    simple,
    sqnr_db,
)

IMAGE = np.random.default_rng(3).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
BEHIND: dict[str, list[NodeProto]] = {
    "depthwise": [*FIRST, layer("out", "feature", size=3, group=CHANNELS)],
    "dense": [*FIRST, layer("out", "feature", size=3)],
    "transposed": [*FIRST, layer("out", "feature", kind="ConvTranspose", size=2, stride=2)],
    "behind a transposed one": [
        layer("a", "image", kind="ConvTranspose", size=2, stride=2),
        simple("Relu", "feature", "a"),
        layer("out", "feature", size=3),
    ],
    "three in a row": [
        *FIRST,
        layer("b", "feature", size=3),
        simple("Relu", "second", "b"),
        layer("out", "second", size=3),
    ],
}


def uneven(nodes: Sequence[NodeProto]) -> onnx.ModelProto:
    """A network whose first layer makes channels of very different sizes, and whose second undoes it."""
    model = network(nodes, seed=1)
    sizes = np.float32(1.7) ** -np.arange(CHANNELS)
    for item in model.graph.initializer:
        value = numpy_helper.to_array(item)
        if item.name in ("a.weight", "a.bias"):
            transposed = next(node for node in nodes if node.name == "a").op_type == "ConvTranspose"
            axis = 1 if transposed and value.ndim == 4 else 0
            value = value * sizes.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
        elif item.name == "out.weight":
            axis = 1 if value.shape[1] == CHANNELS and not nodes[-1].op_type == "ConvTranspose" else 0
            value = value / sizes.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
        item.CopyFrom(numpy_helper.from_array(value.astype(np.float32), item.name))
    return model


def without_bias(name: str, source: str) -> NodeProto:
    node = layer(name, source)
    del node.input[2:]
    return node


@pytest.mark.parametrize("order", [1, -1])
def test_ranges_and_means_are_of_all_images(order: int) -> None:
    model = network([simple("Neg", "feature", "image"), layer("out", "feature")], seed=0)
    images = np.zeros((2, CHANNELS, 16, 16), np.float32)
    images[0, 0], images[1, 0], images[1, 1, 3, 5] = 1, 3, -8
    images = images[::order]
    found = measure_activations(model, images, tensors=["feature"])["feature"]  # type: ignore[arg-type]
    assert found.channel_largest.tolist() == [3, 8, *[0] * (CHANNELS - 2)]
    assert found.channel_means.tolist() == [-2, 8 / 256 / 2, *[0] * (CHANNELS - 2)]
    assert found.largest == 8
    assert largest_values(model, images, tensors=["feature"]) == {"feature": 8}  # type: ignore[arg-type]
    images[0, 2, 1, 1] = np.nan
    assert np.isnan(largest_values(model, images, tensors=["feature"])["feature"])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BEHIND)
def test_the_float_network_stays_what_it_was(kind: str) -> None:
    model = uneven(BEHIND[kind])
    expected = run_by_onnx_runtime(model, IMAGE, plain=True)
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    equalise(model.graph, seen=seen, layers=["a", "b", "out"])
    onnx.checker.check_model(model)
    names = [item.name for item in model.graph.initializer]
    assert sorted(set(names)) == sorted(names)
    found = run_by_onnx_runtime(model, IMAGE, plain=True)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_a_layer_without_a_bias_is_scaled_as_any_other() -> None:
    model = uneven([without_bias("a", "image"), simple("Relu", "feature", "a"), layer("out", "feature", size=3)])
    expected = run_by_onnx_runtime(model, IMAGE, plain=True)
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    assert equalise(model.graph, seen=seen, layers=["out"]) != seen
    found = run_by_onnx_runtime(model, IMAGE, plain=True)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_a_depthwise_layers_channels_fill_the_range_up_to_the_headroom() -> None:
    model = uneven(BEHIND["depthwise"])
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    told = equalise(model.graph, seen=seen, layers=["out"])["feature"]
    now = measure_activations(model, IMAGE, tensors=["feature"])["feature"]
    whole = seen["feature"].largest
    assert told.largest == pytest.approx(whole)
    np.testing.assert_allclose(now.channel_largest, told.channel_largest, rtol=1e-5)
    np.testing.assert_allclose(now.channel_means, told.channel_means, rtol=1e-5)
    assert now.channel_largest.max() == pytest.approx(whole, rel=1e-5)
    assert now.channel_largest.min() == pytest.approx(whole / HEADROOM, rel=1e-5)


@pytest.mark.parametrize(("kind", "brought_to"), [("depthwise", 0.8), ("dense", 0.4)])
def test_a_channel_is_scaled_in_full_before_a_depthwise_layer_and_by_the_square_root_before_a_dense_one(
    kind: str, brought_to: float
) -> None:
    model = network(BEHIND[kind], seed=1)
    largest = np.ones(CHANNELS)
    largest[1] = 0.2  # a quarter of the range with the headroom
    seen = {"feature": Activation(channel_largest=largest, channel_means=largest / 2)}
    told = equalise(model.graph, seen=seen, layers=["out"])["feature"]
    np.testing.assert_allclose(told.channel_largest, np.where(largest < 1, brought_to, 1))
    np.testing.assert_allclose(told.channel_means, np.where(largest < 1, brought_to / 2, 0.5))


@pytest.mark.parametrize(("kind", "gain_db"), [("depthwise", 18), ("dense", 6)])
def test_rounding_then_loses_less(kind: str, gain_db: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = uneven(BEHIND[kind])
    expected = run_by_onnx_runtime(model, IMAGE, plain=True)
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))

    def lost() -> float:
        changed = quantised_graph(model, seen=seen, layers=["out"])
        return sqnr_db(expected, run_by_onnx_runtime(changed, IMAGE, plain=True))

    equalised = lost()
    monkeypatch.setattr("reason_export.equalisation.HEADROOM", np.inf)  # every channel has the tensor's range
    assert equalised > lost() + gain_db


@pytest.mark.parametrize(
    "nodes",
    [
        [*FIRST, layer("out", "feature"), simple("Add", "sum", "feature", "out")],
        [
            layer("a", "image"),
            layer("b", "image"),
            simple("Add", "s", "a", "b"),
            simple("Relu", "r", "s"),
            layer("out", "r"),
        ],
        [layer("a", "image"), layer("out", "a")],
        [*FIRST, layer("out", "feature"), simple("Add", "sum", "a", "out")],
        [layer("a", "image"), simple("Clip", "feature", "a", "highest", "highest"), layer("out", "feature")],
    ],
    ids=["read twice", "a sum before the rectifier", "no rectifier", "read before the rectifier too", "cut off at 2"],
)
def test_what_others_read_or_cannot_be_scaled_is_left_alone(nodes: list[NodeProto]) -> None:
    model = network(nodes, seed=0)
    before = model.SerializeToString()
    seen = measure_activations(model, IMAGE, tensors=measured_tensors(model.graph))
    assert equalise(model.graph, seen=seen, layers=["a", "b", "out"]) == seen
    assert model.SerializeToString() == before


def test_values_a_fifth_beyond_those_seen_are_not_cut_off() -> None:
    nodes = [
        without_bias("a", "image"),
        simple("Clip", "feature", "a", "lowest", "highest"),
        layer("out", "feature", size=3, group=CHANNELS),
    ]
    model = uneven(nodes)
    seen = measure_activations(model, IMAGE, tensors=["feature"])
    largest = seen["feature"].channel_largest
    assert largest.max() == 2  # the upper end, which the other channels are brought near to
    assert (largest < 1).sum() >= 4
    brighter = np.float32(1.2) * IMAGE
    expected = run_by_onnx_runtime(model, brighter, plain=True)
    equalise(model.graph, seen=seen, layers=["out"])
    found = run_by_onnx_runtime(model, brighter, plain=True)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_a_silent_channel_is_not_blown_up() -> None:
    model = network([*CLIPPED, layer("out", "feature", size=3, group=CHANNELS)], seed=0)
    silent = Activation(channel_largest=np.eye(CHANNELS)[0], channel_means=np.zeros(CHANNELS))
    told = equalise(model.graph, seen={"feature": silent}, layers=["out"])["feature"]
    assert told.channel_largest.tolist() == [1.0, *[0.0] * (CHANNELS - 1)]
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert np.abs(weights["a.1.equalised"]).max() <= 64 * np.abs(weights["a.weight"]).max()


def test_two_linear_convolutions_become_one() -> None:
    model = network([layer("a", "image"), layer("b", "a"), simple("Relu", "r", "b"), layer("out", "r", size=3)], seed=2)
    merged = merge_pointwise(model)
    onnx.checker.check_model(merged, full_check=True)
    assert [node.name for node in merged.graph.node] == ["b", "r", "out"]
    expected = run_by_onnx_runtime(model, IMAGE, plain=True)
    found = run_by_onnx_runtime(merged, IMAGE, plain=True)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_three_linear_convolutions_become_one() -> None:
    model = network([layer("a", "image"), layer("b", "a"), layer("out", "b")], seed=2)
    merged = merge_pointwise(model)
    assert [node.name for node in merged.graph.node] == ["out"]
    expected = run_by_onnx_runtime(model, IMAGE, plain=True)
    found = run_by_onnx_runtime(merged, IMAGE, plain=True)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("bare", ["a", "out"])
def test_convolutions_without_a_bias_become_one_too(bare: str) -> None:
    nodes = [(without_bias if name == bare else layer)(name, source) for name, source in (("a", "image"), ("out", "a"))]
    model = network(nodes, seed=2)
    merged = merge_pointwise(model)
    assert [node.name for node in merged.graph.node] == ["out"]
    expected = run_by_onnx_runtime(model, IMAGE, plain=True)
    found = run_by_onnx_runtime(merged, IMAGE, plain=True)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "nodes",
    [
        [layer("a", "image", size=3), layer("out", "a")],
        [layer("a", "image"), layer("out", "a", size=3)],
        [layer("a", "image"), layer("out", "a", stride=2)],
        [layer("a", "image", group=2), layer("out", "a")],
        [layer("a", "image"), layer("b", "a"), simple("Add", "out", "a", "b")],
        [*FIRST, layer("out", "feature")],
    ],
)
def test_other_pairs_stay_two(nodes: list[NodeProto]) -> None:
    model = network(nodes, seed=0)
    assert [node.name for node in merge_pointwise(model).graph.node] == [node.name for node in nodes]
