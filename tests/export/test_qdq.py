"""What quantised graphs give in each backend, on the smallest graphs that have a part of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from reason_export.activations import Activation, Activations, measure_activations
from reason_export.qdq import LEVELS, SUMMED_LEVELS, measured_tensors, quantised_graph, read_by_head_and_network
from reason_runtime.backends.openvino_int8 import use_unsigned

CHANNELS = 8
LEAST_SQNR_DB = 26.0
"""Of OpenVINO against the graph computed as it is written: without VNNI it halves the weights of some layers, 30 dB."""


def small_network(seed: int = 5) -> onnx.ModelProto:
    """Two convolutions whose common input is a convolution's output, read by a third node in float32 too."""
    random = np.random.default_rng(seed)
    names = ("first", "second")
    stored = [
        numpy_helper.from_array(random.standard_normal((4, 4, 1, 1)).astype(np.float32), f"{name}.weight")
        for name in names
    ]
    nodes = [
        helper.make_node("Conv", ["image", "first.weight"], ["feature"], name="first"),
        helper.make_node("Conv", ["feature", "second.weight"], ["rebuilt"], name="second"),
        helper.make_node("Mul", ["feature", "rebuilt"], ["out"], name="product"),
    ]
    image, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("image", "out"))
    graph = helper.make_graph(nodes, "small", [image], [out], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def seen(model: onnx.ModelProto, image: NDArray[np.float32]) -> dict[str, Activation]:
    """Of the small network on one image, computed plainly."""
    weight = numpy_helper.to_array(model.graph.initializer[0])[:, :, 0, 0]
    feature = np.einsum("oi,nihw->nohw", weight, image)
    return {
        name: Activation(
            channel_largest=np.abs(value).max(axis=(0, 2, 3)).astype(np.float64),
            channel_means=value.mean(axis=(0, 2, 3), dtype=np.float64),
        )
        for name, value in {"image": image, "feature": feature}.items()
    }


def run_by_openvino(
    graph: onnx.ModelProto, image: NDArray[np.float32], *, unsigned: bool = False
) -> NDArray[np.float32]:
    """Unsigned: as sessions run it."""
    import openvino

    core = openvino.Core()
    model = core.read_model(graph.SerializeToString())
    if unsigned:
        use_unsigned(model)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled({"image": image})["out"])


def run_by_onnx_runtime(graph: onnx.ModelProto, image: NDArray[np.float32], *, plain: bool) -> NDArray[np.float32]:
    """Plain: node by node in float32, as the graph is written, so that no backend's int8 arithmetic is involved."""
    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def test_nobody_reads_a_convolution_beside_its_pair() -> None:
    # OpenVINO 2026.4 gives wrong values otherwise: this is what broke whitened features
    model = small_network()
    assert measured_tensors(model.graph) == ["image", "feature"]
    image = np.random.default_rng(6).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)
    changed = quantised_graph(model, seen=seen(model, image), layers=["first", "second"])
    product = next(node for node in changed.graph.node if node.op_type == "Mul")
    assert "feature" not in product.input
    expected = run_by_openvino(model, image)
    assert np.abs(run_by_openvino(changed, image) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("seed", range(3))
def test_no_product_saturates_on_any_processor(seed: int) -> None:
    # without VNNI two products are added in 16 bits: weights of 8 bits gave values that were off by half
    model = small_network(seed)
    image = np.random.default_rng(seed).choice([-1, 1], (1, 4, 8, 8)).astype(np.float32)
    changed = quantised_graph(model, seen=seen(model, image), layers=["first", "second"])
    exact = run_by_onnx_runtime(changed, image, plain=True)
    for found in (run_by_openvino(changed, image), run_by_onnx_runtime(changed, image, plain=False)):
        assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()  # a value may round to the next step


def test_two_of_the_largest_products_fit_in_16_bits() -> None:
    # whether this very processor saturates or not
    model = small_network()
    image = np.ones((1, 4, 8, 8), np.float32)
    changed = quantised_graph(model, seen=seen(model, image), layers=["first", "second"])
    largest = [
        int(np.abs(numpy_helper.to_array(item).astype(int)).max())
        for item in changed.graph.initializer
        if item.name.endswith(".int8")
    ]
    assert len(largest) == 2
    assert all(2 * 255 * weight <= 2**15 - 1 for weight in largest)


def test_rounding_weights_does_not_shift_the_mean_output() -> None:
    # one depthwise layer with weights that all round the same way, on a bright image
    weight = np.full((2, 1, 1, 3), 0.4 / LEVELS, np.float32)
    weight[:, 0, 0, 0] = 1.0
    stored = [numpy_helper.from_array(weight, "layer.weight"), numpy_helper.from_array(np.ones(2, np.float32), "b")]
    node = helper.make_node("Conv", ["image", "layer.weight", "b"], ["out"], name="layer", group=2)
    image_info = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2, 8, 8])
    out_info = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 8, 6])
    graph = helper.make_graph([node], "g", [image_info], [out_info], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    means = np.array([0.5, 1.0])
    activation = Activation(channel_largest=np.ones(2), channel_means=means)
    changed = quantised_graph(model, seen={"image": activation}, layers=["layer"])
    bias = next(item for item in changed.graph.initializer if item.name == "layer.weight.bias")
    # two of three weights became 0
    np.testing.assert_allclose(numpy_helper.to_array(bias), 1 + 2 * 0.4 / LEVELS * means, rtol=1e-6)


def test_rounding_the_weights_of_a_dense_layer_does_not_shift_the_mean_output_either() -> None:
    step = 1 / SUMMED_LEVELS
    weight = np.array([[[[1, 0.4 * step]], [[0.4 * step, 0.4 * step]]]], np.float32)
    stored = [numpy_helper.from_array(weight, "layer.weight"), numpy_helper.from_array(np.ones(1, np.float32), "b")]
    node = helper.make_node("Conv", ["image", "layer.weight", "b"], ["out"], name="layer")
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 2, 8, 8]), ("out", [1, 1, 8, 7]))
    ]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    activation = Activation(channel_largest=np.ones(2), channel_means=np.array([0.5, 1.0]))
    changed = quantised_graph(model, seen={"image": activation}, layers=["layer"])
    bias = next(item for item in changed.graph.initializer if item.name == "layer.weight.bias")
    # one weight of the first channel became 0, and both of the second
    np.testing.assert_allclose(numpy_helper.to_array(bias), 1 + 0.4 * step * (0.5 + 2 * 1.0), rtol=1e-6)


def layer(name: str, source: str, *, kind: str = "Conv", size: int = 1, stride: int = 1, group: int = 1) -> NodeProto:
    parts = [source, f"{name}.weight", f"{name}.bias"]
    shape = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "group": group}
    pads = [size // 2] * 4 if kind == "Conv" else [0] * 4
    return helper.make_node(kind, parts, [name], name=name, pads=pads, **shape)


def simple(kind: str, name: str, *sources: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, sources, [name], name=name, **attributes)  # type: ignore[arg-type]


FIRST = [layer("a", "image"), simple("Relu", "feature", "a")]
CLIPPED = [layer("a", "image"), simple("Clip", "feature", "a", "lowest", "highest")]
POOLED = [*FIRST, simple("MaxPool", "pooled", "feature", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)]
PARTS: dict[str, list[NodeProto]] = {
    "a rectifier between": [*FIRST, layer("out", "feature", size=3, stride=2)],
    "a rectifier with an upper end between": [*CLIPPED, layer("out", "feature", size=3)],
    "a depthwise layer behind one": [*CLIPPED, layer("b", "feature", size=3, group=CHANNELS), layer("out", "b")],
    "nothing between": [layer("a", "image"), layer("out", "a", size=3)],
    "a depthwise layer": [*FIRST, layer("b", "feature", size=3, group=CHANNELS), layer("out", "b")],
    "a concatenation": [
        *FIRST,
        layer("b", "image"),
        simple("Relu", "other", "b"),
        simple("Concat", "both", "feature", "other", axis=1),
        layer("out", "both", size=3, stride=2),
    ],
    "a concatenation of plain outputs": [
        layer("a", "image"),
        layer("b", "image"),
        simple("Concat", "both", "a", "b", axis=1),
        layer("out", "both"),
    ],
    "a residual sum": [*FIRST, layer("b", "feature"), simple("Add", "sum", "b", "feature"), layer("out", "sum")],
    "a residual sum of two layers": [
        *FIRST,
        layer("b", "feature"),
        layer("c", "feature"),
        simple("Add", "sum", "b", "c"),
        simple("Relu", "positive", "sum"),
        layer("out", "positive"),
    ],
    "a sum of two layers that the map head reads": [
        *FIRST,
        layer("b", "feature"),
        layer("c", "feature"),
        simple("Add", "sum", "b", "c"),
        simple("Abs", "out", "sum"),
    ],
    "a max-pooling": [*POOLED, layer("out", "pooled")],
    "a residual sum behind a max-pooling": [
        *POOLED,
        layer("b", "pooled"),
        simple("Add", "sum", "b", "pooled"),
        layer("out", "sum"),
    ],
    "a transposed layer": [*FIRST, layer("b", "feature", kind="ConvTranspose", size=2, stride=2), layer("out", "b")],
}


def network(nodes: Sequence[NodeProto], *, seed: int) -> onnx.ModelProto:
    """With random weights that keep the size of what passes."""
    random = np.random.default_rng(seed)
    channels = {"image": CHANNELS}
    ends = {"lowest": 0.0, "highest": 2.0}
    stored = [numpy_helper.from_array(np.float32(value), name) for name, value in ends.items()]
    for node in nodes:
        read = [channels[name] for name in node.input if name in channels]
        channels[node.output[0]] = sum(read) if node.op_type == "Concat" else CHANNELS
        if node.op_type in ("Conv", "ConvTranspose"):
            inputs = read[0] // helper.get_node_attr_value(node, "group")
            size = helper.get_node_attr_value(node, "kernel_shape")
            shape = (CHANNELS, inputs, *size) if node.op_type == "Conv" else (inputs, CHANNELS, *size)
            weight = random.standard_normal(shape) / np.sqrt(inputs * size[0])
            stored.append(numpy_helper.from_array(weight.astype(np.float32), f"{node.name}.weight"))
            bias = random.normal(0, 0.2, CHANNELS)
            stored.append(numpy_helper.from_array(bias.astype(np.float32), f"{node.name}.bias"))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, CHANNELS, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", "C", "H", "W"])
    graph = helper.make_graph(list(nodes), "part", [image], [out], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def sqnr_db(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    noise = np.square(found - expected, dtype=np.float64).mean()
    return float(10 * np.log10(np.square(expected, dtype=np.float64).mean() / max(noise, 1e-12)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", PARTS)
def test_backends_compute_every_part_as_it_is_written(part: str, seed: int) -> None:
    model = network(PARTS[part], seed=seed)
    image = np.random.default_rng(seed).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    changed = quantised_graph(model, seen=seen, layers=layers)
    onnx.checker.check_model(changed)
    exact = run_by_onnx_runtime(changed, image, plain=True)
    assert sqnr_db(run_by_onnx_runtime(model, image, plain=True), exact) > 28
    assert sqnr_db(exact, run_by_onnx_runtime(changed, image, plain=False)) > 40
    assert sqnr_db(exact, run_by_openvino(changed, image)) > LEAST_SQNR_DB
    assert sqnr_db(exact, run_by_openvino(changed, image, unsigned=True)) > LEAST_SQNR_DB


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", PARTS)
def test_onnx_runtime_has_its_own_graph_of_every_part_and_computes_it_in_8_bits(
    part: str, seed: int, tmp_path: Path
) -> None:
    model = network(PARTS[part], seed=seed)
    image = np.random.default_rng(seed).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    changed = quantised_graph(model, seen=seen, layers=layers, unsigned=True)
    onnx.checker.check_model(changed)
    exact = run_by_onnx_runtime(changed, image, plain=True)
    assert sqnr_db(run_by_onnx_runtime(model, image, plain=True), exact) > 28
    assert sqnr_db(exact, run_by_onnx_runtime(changed, image, plain=False)) > 40
    optimised = optimised_by_onnx_runtime(changed, tmp_path / "optimised.onnx")
    float_layers = {"b", "c"} if part == "a sum of two layers that the map head reads" else {"out"}
    assert [optimised.count(kind) for kind in ("Relu", "Clip")] == [0, 0]
    assert optimised.count("Conv") + optimised.count("FusedConv") == len(float_layers)
    assert optimised.count("QLinearConv") == len(
        [name for name in plain_convolutions(model) if name not in float_layers]
    )


def test_a_bias_fits_beside_weights_that_are_next_to_nothing() -> None:
    # a channel of a pretrained network that is dead: as a sum of such products its bias would be beyond int32
    model = network([layer("a", "image"), simple("Relu", "feature", "a"), layer("out", "feature")], seed=0)
    stored = {item.name: item for item in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(stored[name]).copy() for name in ("a.weight", "a.bias"))
    weight[2] = np.where(weight[2] > 0, 1e-13, -1e-13)
    bias[2] = 1.5
    for name, value in (("a.weight", weight), ("a.bias", bias)):
        stored[name].CopyFrom(numpy_helper.from_array(value, name))
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    signed, changed = (
        quantised_graph(model, seen=seen, layers=["a", "out"], unsigned=unsigned) for unsigned in (False, True)
    )
    values = {
        item.name: numpy_helper.to_array(item) for item in (*signed.graph.initializer, *changed.graph.initializer)
    }
    plain, first = (next(node for node in graph.graph.node if node.name == "a") for graph in (signed, changed))
    made = next(node for node in changed.graph.node if node.output[0] == first.input[2])
    integers, scale = (values[name] for name in made.input)
    assert integers.dtype == np.int32
    assert abs(integers[2]) > 2**28
    steps = (integers * scale.astype(np.float64) - values[plain.input[2]]) / scale
    assert np.abs(np.delete(steps, 2)).max() <= 0.51
    assert abs(steps[2]) < 100  # float32 itself is no finer there
    expected = run_by_onnx_runtime(model, image, plain=True)
    assert sqnr_db(expected, run_by_onnx_runtime(changed, image, plain=False)) > 28


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_channel_of_zeros_has_a_scale_above_zero(unsigned: bool) -> None:
    model = network([layer("out", "image")], seed=0)
    for item in model.graph.initializer:
        if item.name in ("out.weight", "out.bias"):
            value = numpy_helper.to_array(item).copy()
            value[2] = 0
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    changed = quantised_graph(model, seen=seen, layers=["out"], unsigned=unsigned)
    scales = [item for item in changed.graph.initializer if item.name.endswith(".scale")]
    assert len(scales) == (3 if unsigned else 2)
    assert all((numpy_helper.to_array(item) > 0).all() for item in scales)
    assert not run_by_onnx_runtime(changed, image, plain=True)[:, 2].any()


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_tensor_that_is_silent_on_good_images_has_a_scale_above_zero(unsigned: bool) -> None:
    model = network([*FIRST, layer("out", "feature")], seed=0)
    zeros = np.zeros((1, CHANNELS, 16, 16), np.float32)
    silent = Activation(channel_largest=np.zeros(CHANNELS), channel_means=np.zeros(CHANNELS))
    changed = quantised_graph(model, seen={"image": silent, "feature": silent}, layers=["a", "out"], unsigned=unsigned)
    scales = [numpy_helper.to_array(item) for item in changed.graph.initializer if item.name.endswith(".scale")]
    assert all((scale > 0).all() for scale in scales)
    for plain in (False, True):
        assert np.isfinite(run_by_onnx_runtime(changed, zeros, plain=plain)).all()


def optimised_by_onnx_runtime(graph: onnx.ModelProto, path: Path) -> list[str]:
    """The operators that it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


def plain_convolutions(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def test_only_what_is_never_negative_has_its_zero_at_the_lowest_level() -> None:
    nodes = [layer("a", "image"), simple("Clip", "clipped", "a", "below", "highest"), layer("out", "clipped")]
    model = network(nodes, seed=0)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-1), "below"))
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    for lowest, zeros in ((-1.0, [128, 128]), (0.0, [128, 0])):
        model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.float32(lowest), "below"))
        changed = quantised_graph(model, seen=seen, layers=["a", "out"], unsigned=True)
        values = {item.name: numpy_helper.to_array(item) for item in changed.graph.initializer}
        pairs = [node for node in changed.graph.node if node.op_type == "QuantizeLinear"]
        assert [(int(values[node.input[2]]), values[node.input[2]].dtype) for node in pairs] == [
            (zero, np.uint8) for zero in zeros
        ]
        steps = [float(values[node.input[1]]) for node in pairs]
        largest = [seen[name].largest for name in ("image", "clipped")]
        assert steps == pytest.approx([largest[0] / 127, largest[1] / (127 if zeros[1] else 255)])


def test_a_concatenation_of_which_one_side_is_rectified_keeps_the_sign_of_the_other() -> None:
    nodes = [*FIRST, layer("b", "image"), simple("Concat", "both", "feature", "b", axis=1), layer("out", "both")]
    model = network(nodes, seed=0)
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    changed = quantised_graph(model, seen=seen, layers=["a", "b", "out"], unsigned=True)
    values = {item.name: numpy_helper.to_array(item) for item in changed.graph.initializer}
    made = {node.output[0]: node for node in changed.graph.node}
    joint = next(node for node in changed.graph.node if node.op_type == "Concat")
    assert [int(values[made[name].input[2]]) for name in joint.input] == [128, 128]
    assert [float(values[made[name].input[1]]) for name in joint.input] == pytest.approx(
        [seen["both"].largest / 127] * 2
    )
    expected = run_by_onnx_runtime(model, image, plain=True)
    assert sqnr_db(expected, run_by_onnx_runtime(changed, image, plain=True)) > 28


def test_a_sum_behind_a_layer_left_in_float32_takes_its_shortcut_as_it_is() -> None:
    model = network(PARTS["a residual sum"], seed=0)
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    for layers, shortcut in ((["a", "out"], "feature"), (["a", "b", "out"], "feature.dequantised")):
        changed = quantised_graph(model, seen=seen, layers=layers)
        total = next(node for node in changed.graph.node if node.op_type == "Add")
        assert list(total.input) == ["b", shortcut]


def test_a_sum_that_head_and_network_both_read_takes_its_shortcut_quantised() -> None:
    model = network([*PARTS["a residual sum"][:-1], layer("c", "sum"), simple("Mul", "out", "sum", "c")], seed=0)
    assert measured_tensors(model.graph) == ["image", "feature", "sum", "b"]
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    changed = quantised_graph(model, seen=seen, layers=["a", "b", "c"])
    total = next(node for node in changed.graph.node if node.op_type == "Add")
    assert list(total.input) == ["b", "feature.dequantised"]


def test_only_what_head_and_network_both_read_is_told() -> None:
    both = [layer("a", "image"), layer("b", "a"), simple("Mul", "out", "a", "b")]  # b is the head's alone
    assert read_by_head_and_network(network(both, seed=0).graph) == {"a"}
    neither = [*FIRST, layer("out", "feature")]
    assert read_by_head_and_network(network(neither, seed=0).graph) == set()


def test_what_the_map_head_reads_is_not_rounded() -> None:
    # two students' features are added up and go straight into the cosine
    model = network(PARTS["a sum of two layers that the map head reads"], seed=0)
    assert measured_tensors(model.graph) == ["image", "feature"]
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    for unsigned in (False, True):
        changed = quantised_graph(model, seen=seen, layers=["a", "b", "c"], unsigned=unsigned)
        total = next(node for node in changed.graph.node if node.op_type == "Add")
        assert list(total.input) == ["b", "c"]


def test_a_layer_left_in_float32_reads_a_concatenation_through_its_pair() -> None:
    nodes = [*PARTS["a concatenation of plain outputs"][:-1], layer("c", "both"), layer("d", "both")]
    model = network([*nodes, simple("Add", "out", "c", "d")], seed=0)
    image = np.random.default_rng(0).normal(0, 1.5, (1, CHANNELS, 16, 16)).astype(np.float32)
    seen: Activations = measure_activations(model, image, tensors=measured_tensors(model.graph))
    changed = quantised_graph(model, seen=seen, layers=["a", "b", "c"])
    onnx.checker.check_model(changed)
    exact = run_by_onnx_runtime(changed, image, plain=True)
    assert sqnr_db(run_by_onnx_runtime(model, image, plain=True), exact) > 28
    assert sqnr_db(exact, run_by_openvino(changed, image)) > LEAST_SQNR_DB
