from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from reason_export.onnx_graph import OPSET, export_graph
from reason_runtime.choices import MOST_IN_A_GRAPH
from reason_runtime.image import as_image, resize_image, square_format
from reason_train.config import MethodConfig
from reason_train.model import ReasonModel
from reason_train.trained import load_run
from tests.filled_model import filled_model

PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")
# float32 convolutions in another order of summation, batch norm folded into them
MAP_TOLERANCE, SCORE_TOLERANCE = 1e-4, 1e-4
Run = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]


def photographs(size_px: int, *, channels: int = 3) -> NDArray[np.uint8]:
    form = square_format(size_px, channels=1 if channels == 1 else 3)
    pictures = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    return np.stack([resize_image(as_image(picture, input_format=form), input_format=form) for picture in pictures])


def runner(graph: bytes) -> Run:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["anomaly_map", "score"], {"image": images})


@torch.no_grad()
def torch_outputs(model: ReasonModel, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    return [output.numpy() for output in model(torch.from_numpy(images))]


def assert_parity(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> None:
    for ours, theirs, tolerance in zip(found, expected, (MAP_TOLERANCE, SCORE_TOLERANCE), strict=True):
        assert (ours.dtype, ours.shape) == (np.float32, theirs.shape)
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.fixture(scope="module")
def model_path(exported_bundle: Path) -> Path:
    return exported_bundle / "model.onnx"


@pytest.fixture(scope="module")
def graph(model_path: Path) -> onnx.GraphProto:
    return onnx.load(model_path).graph


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_the_graph_takes_images_and_gives_maps_and_scores(graph: onnx.GraphProto) -> None:
    (image,), (anomaly_map, score) = graph.input, graph.output
    assert (image.name, anomaly_map.name, score.name) == ("image", "anomaly_map", "score")
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert anomaly_map.type.tensor_type.elem_type == score.type.tensor_type.elem_type == TensorProto.FLOAT
    batch = shape(image)[0]
    assert isinstance(batch, str)
    assert (shape(image), shape(anomaly_map), shape(score)) == ([batch, 64, 64, 3], [batch, 64, 64], [batch])


def test_the_opset_is_fixed_and_the_only_one(model_path: Path) -> None:
    model = onnx.load(model_path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert OPSET == 18
    assert len(model.functions) == 0
    assert model.ir_version <= 10  # what ONNX Runtime 1.18 reads
    onnx.checker.check_model(model, full_check=True)


def test_all_weights_are_inside_and_every_float_is_float32(graph: onnx.GraphProto) -> None:
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in graph.initializer)
    floats = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    assert {value.type.tensor_type.elem_type for value in graph.value_info} & floats == set()


def test_the_map_head_needs_no_resize_and_no_padding(graph: onnx.GraphProto) -> None:
    kinds = {node.op_type for node in graph.node}
    assert kinds & {"Resize", "Upsample", "Pad", "GridSample", "Loop", "If", "Scan", "RandomNormal", "Dropout"} == set()
    assert {"Conv", "MatMul", "ReduceMax"} <= kinds


def test_batch_norm_is_folded_into_the_convolutions_before_it(graph: onnx.GraphProto) -> None:
    producers = {output: node.op_type for node in graph.node for output in node.output}
    left = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert [producers.get(node.input[0]) for node in left if producers.get(node.input[0]) == "Conv"] == []


def test_the_maps_matrices_stand_on_the_left(graph: onnx.GraphProto) -> None:
    """OpenVINO runs a product with the constant on the right in bf16 when its bf16 hint is set."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(products) == 3  # one side of each of two scales, the other side of both
    assert all(node.input[0] in constants and node.input[1] not in constants for node in products)


def test_the_file_says_nothing_of_the_machine_it_was_made_on(model_path: Path) -> None:
    model = onnx.load(model_path)
    without_weights = onnx.load(model_path)
    for tensor in without_weights.graph.initializer:
        tensor.raw_data = b""
    content = without_weights.SerializeToString()
    for word in (str(Path.home()), "/tmp/", "site-packages", "torch/nn", ".py", socket.gethostname(), "Traceback"):
        assert word.encode() not in content, word
    parts = (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info)
    assert all(not part.metadata_props and not part.doc_string for part in (*parts, *model.graph.initializer))
    assert (model.producer_name, model.producer_version) == ("reason-export", "")


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_onnx_runtime_gives_what_torch_gives_on_photographs(batch: int, finished_run: Path, model_path: Path) -> None:
    _, model = load_run(finished_run)
    images = photographs(64)[:batch]
    assert_parity(runner(model_path.read_bytes())(images), torch_outputs(model, images))


def test_a_batch_is_its_images_one_by_one(model_path: Path) -> None:
    run, images = runner(model_path.read_bytes()), photographs(64)
    singles = [np.concatenate(outputs) for outputs in zip(*(run(image[None]) for image in images), strict=True)]
    for together, single in zip(run(images), singles, strict=True):
        np.testing.assert_allclose(together, single, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(finished_run: Path, model_path: Path) -> None:
    _, model = load_run(finished_run)
    assert export_graph(model, input_format=square_format(64)) == model_path.read_bytes()


@pytest.mark.slow
def test_the_published_model_gives_the_same_in_onnx_runtime() -> None:
    model = filled_model(MethodConfig(teacher="resnet18", image_size_px=96))
    images = photographs(96)
    run = runner(export_graph(model, input_format=square_format(96)))
    assert_parity(run(images), torch_outputs(model, images))


def test_large_batches_are_allowed() -> None:
    assert MOST_IN_A_GRAPH >= 64
