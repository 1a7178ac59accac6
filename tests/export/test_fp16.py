from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reason_export.graph_parts import before_network, changed_in_head, front, map_head
from reason_export.half import half_graph, require_room
from reason_runtime.bundle import open_bundle, update_bundle
from reason_runtime.errors import ParityError
from tests.commands import call


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that a node computes or that is stored."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.output, *inferred.input]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {item.name: item.data_type for item in inferred.initializer}


@pytest.fixture(scope="module")
def half(precise_bundle: Path) -> onnx.ModelProto:
    return onnx.load(precise_bundle / "model_fp16.onnx")


def test_all_convolutions_but_the_front_are_in_half_precision(half: onnx.ModelProto) -> None:
    known = kinds(half)
    layers = [node for node in half.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(layers) > 50
    types = [{known[name] for name in (*node.input, *node.output)} for node in layers]
    groups = [each.i for node in layers[:5] for each in node.attribute if each.name == "group"]
    assert groups == [1, 32, 1, 1, 96]
    assert types == [{TensorProto.FLOAT}] * 5 + [{TensorProto.FLOAT16}] * (len(layers) - 5)


def test_a_front_ends_with_the_rectifier_of_the_second_depthwise_convolution() -> None:
    def network(*groups: int) -> onnx.GraphProto:
        make = helper.make_node
        nodes = [
            make("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
            make("Conv", ["pixels", "w"], ["a"], name="stem"),
            make("Relu", ["a"], ["b"], name="after stem"),
            make("Conv", ["pixels", "w"], ["aside"], name="beside"),
            make("Conv", ["b", "v"], ["c"], name="first", group=groups[0]),
            make("Clip", ["c"], ["d"], name="after first"),
            make("Conv", ["d", "v"], ["e"], name="second", group=groups[1]),
            make("Relu", ["e"], ["f"], name="after second"),
            make("Conv", ["f", "v"], ["g"], name="third", group=groups[2]),
            make("Add", ["g", "aside"], ["out"], name="sum"),
        ]
        return helper.make_graph(nodes, "g", [], [])

    up_to_first = {"cast", "stem", "after stem", "first", "after first"}
    assert front(network(4, 4, 4)) == front(network(4, 4, 1)) == up_to_first | {"second", "after second"}
    assert front(network(4, 1, 1)) == up_to_first
    assert front(network(1, 1, 1)) == {"cast"}


def test_a_sum_that_ends_the_network_is_none_of_the_heads() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "w"], ["a"], name="one student"),
        helper.make_node("Conv", ["pixels", "v"], ["b"], name="the other"),
        helper.make_node("Add", ["a", "b"], ["both"], name="students"),
        helper.make_node("Sqrt", ["both"], ["root"], name="root"),
        helper.make_node("Add", ["root", "one"], ["out"], name="sum of the head"),
    ]
    assert map_head(helper.make_graph(nodes, "g", [], [])) == {"root", "sum of the head"}


def test_instance_norm_cosine_and_head_stay_in_float32(half: onnx.ModelProto) -> None:
    known, head = kinds(half), map_head(half.graph)
    norms = [node for node in half.graph.node if node.op_type == "InstanceNormalization"]
    assert len(norms) == 8
    matrices = [node for node in half.graph.node if node.op_type == "MatMul"]
    assert {node.name for node in matrices} <= head
    for node in half.graph.node:
        if node.op_type != "Cast" and (node.name in head | before_network(half.graph) or node in norms):
            assert TensorProto.FLOAT16 not in {known[name] for name in node.output}, node.name


def test_values_change_type_only_where_the_network_meets_the_rest(half: onnx.ModelProto) -> None:
    made = {name: node for node in half.graph.node for name in node.output}
    for node in half.graph.node:
        if node.op_type == "Cast" and node.input[0] in made:
            assert made[node.input[0]].op_type != "Cast" or made[node.input[0]].input[0] == "image"


@pytest.mark.parametrize("name", ["model_fp16.onnx", "model_int8.onnx", "model_int8_unsigned.onnx"])
def test_a_file_whose_map_head_is_not_float32s_is_told_whatever_was_changed(precise_bundle: Path, name: str) -> None:
    reference, other = (onnx.load(precise_bundle / each).graph for each in ("model.onnx", name))
    head = map_head(reference)
    assert changed_in_head(reference, other) is None

    def told(change: Callable[[onnx.GraphProto, onnx.NodeProto], object], op_type: str) -> bool:
        graph = onnx.GraphProto()
        graph.CopyFrom(other)
        node = next(node for node in graph.node if node.name in head and node.op_type == op_type)
        change(graph, node)
        return changed_in_head(reference, graph) == node.name

    def rescale(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        (matrix,) = (item for item in graph.initializer if item.name in node.input)
        matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix) * np.float32(1.001), matrix.name))

    def rewire(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
        node.input[0] = node.input[1]

    assert told(rescale, "MatMul")
    assert told(rewire, "Sub") or told(rewire, "Div")
    assert told(lambda _, node: node.attribute.pop(), "Transpose")
    assert told(lambda _, node: setattr(node, "op_type", "ReduceMax"), "ReduceMean")
    assert told(lambda graph, node: graph.node.remove(node), "AveragePool")
    assert told(lambda _, node: node.output.__setitem__(0, "other"), "ReduceMax")


def test_a_file_with_another_map_head_fails_its_check(precise_bundle: Path, tmp_path: Path) -> None:
    """Its score is another power of the same map by so little that no tolerance of half precision would see it."""
    bundle = open_bundle(shutil.copytree(precise_bundle, tmp_path / "bundle"))
    model = onnx.load(bundle.path / "model_fp16.onnx")
    last = next(node for node in model.graph.node if "score" in node.output)
    last.output[0] = "plain"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.001), "more"))
    model.graph.node.append(helper.make_node("Mul", ["plain", "more"], ["score"], name="scaled"))
    update_bundle(bundle, manifest=bundle.manifest, files={"model_fp16.onnx": model.SerializeToString()})
    done = call("reason-export", "check", bundle.path, "--precision", "fp16", "--json")
    by_score, by_head = json.loads(done.output)["broken"]
    assert by_score.startswith("the score differs by 1.00e-03 of the largest from what the map beside it gives")
    assert by_head == f"the map head of model_fp16.onnx is not that of model.onnx: see node {last.name}"


def test_inputs_and_outputs_are_unchanged(precise_bundle: Path, half: onnx.ModelProto) -> None:
    full = onnx.load(precise_bundle / "model.onnx")
    assert list(half.graph.input) == list(full.graph.input)
    assert list(half.graph.output) == list(full.graph.output)
    assert half.opset_import == full.opset_import


def test_it_passes_its_own_gate_and_has_its_own_threshold(precise_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(precise_bundle, tmp_path / "bundle")  # which gets the check
    done = call("reason-export", "check", bundle, "--precision", "fp16", "--json")
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    assert facts["sqnr_db"] > 40
    assert 0 < facts["map_difference_max"] <= 2e-2
    limits = open_bundle(precise_bundle).manifest.thresholds
    assert limits["fp16"].images == limits["fp32"].images
    assert limits["fp16"].value == pytest.approx(limits["fp32"].value, rel=2e-2)


def network_of(gain: float) -> onnx.ModelProto:
    """Pixels times a gain, and back: only the value between them is large."""
    weights = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
        for name, value in (("up", gain), ("down", 1 / gain))
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "up"], ["large"], name="first"),
        helper.make_node("Conv", ["large", "down"], ["out"], name="second"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 4, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 1, 4, 4])
    graph = helper.make_graph(nodes, "g", [image], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_values_beyond_half_precision_are_refused_where_no_check_on_a_cpu_sees_them() -> None:
    images = np.full((2, 1, 4, 4), 200, np.uint8)
    require_room(network_of(100), images)  # 20000
    with pytest.raises(ParityError, match="large: reaches 6e\\+04 on these images, and half precision ends at 65504"):
        require_room(network_of(300), images)


@pytest.mark.parametrize("where", ["before the first convolution", "behind the last"])
def test_what_the_network_takes_from_the_rest_and_gives_to_it_must_fit_too(where: str) -> None:
    gains = [300.0, 1.0, 1 / 300] if where == "before the first convolution" else [1 / 300, 300.0 * 300, 1 / 300]
    weights = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), gain, np.float32), f"gain {i}") for i, gain in enumerate(gains)
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "gain 0"], ["before"], name="front"),
        helper.make_node("Conv", ["before", "gain 1"], ["after"], name="layer"),
        helper.make_node("Mul", ["after", "gain 2"], ["out"], name="head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 4, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 1, 4, 4])
    graph = helper.make_graph(nodes, "g", [image], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    require_room(model, np.full((2, 1, 4, 4), 100, np.uint8))  # 30000
    tensor = "before" if where == "before the first convolution" else "after"
    with pytest.raises(ParityError, match=f"{tensor}: reaches 6e\\+04 on these images"):
        require_room(model, np.full((2, 1, 4, 4), 200, np.uint8))


def test_integers_in_the_network_stay_what_they_are() -> None:
    weights = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.array([2, 3]), "sides"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "w"], ["a"], name="first"),
        helper.make_node("ReduceMean", ["a", "sides"], ["b"], name="mean"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="second"),
        helper.make_node("Sqrt", ["c"], ["out"], name="head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 4, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 1, 1, 1])
    graph = helper.make_graph(nodes, "g", [image], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    known = kinds(half_graph(model))
    assert (known["sides"], known["b"]) == (TensorProto.INT64, TensorProto.FLOAT16)


@pytest.mark.parametrize("value", [1e5, -1e5])
def test_a_weight_beyond_half_precision_is_refused(value: float) -> None:
    weight = numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), "huge")
    image, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in ("image", "out"))
    node = helper.make_node("Conv", ["image", "huge"], ["out"], name="convolution")
    model = helper.make_model(
        helper.make_graph([node], "g", [image], [out], [weight]), opset_imports=[helper.make_opsetid("", 18)]
    )
    with pytest.raises(ParityError, match="huge: holds 1e\\+05, more than half precision can"):
        half_graph(model)
