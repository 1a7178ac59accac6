"""Small real bundles: a graph that measures how far an image is from mid grey."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from reason_runtime.bundle import Bundle, write_bundle
from reason_runtime.image import InputFormat, square_format
from reason_runtime.manifest import Manifest, MethodSettings, Threshold, TrainingProvenance

SIZE_PX = 32


def expected_map(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the test graph computes: |mean over channels - 128| / 128."""
    return (np.abs(images.astype(np.float32).mean(axis=3) - 128) / 128).astype(np.float32)


def grey_model(
    *,
    channels: int = 3,
    size_px: int = SIZE_PX,
    scale: float = 1 / 128,
    batch: int | str = "N",
    score: str = "ReduceMax",
) -> bytes:
    """A graph with the bundle's signature; `scale` NaN makes every output NaN, `score` is how the map is reduced."""
    constants = [
        numpy_helper.from_array(np.float32(128), "grey"),
        numpy_helper.from_array(np.float32(scale), "scale"),
        numpy_helper.from_array(np.array([3], dtype=np.int64), "last_axis"),
        numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "map_axes"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "last_axis"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "grey"], ["distance"]),
        helper.make_node("Abs", ["distance"], ["absolute"]),
        helper.make_node("Mul", ["absolute", "scale"], ["anomaly_map"]),
        helper.make_node(score, ["anomaly_map", "map_axes"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, size_px, size_px, channels])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [batch, size_px, size_px]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def golden_bytes(input_format: InputFormat) -> bytes:
    rng = np.random.default_rng(7)
    shape = (2, input_format.height_px, input_format.width_px, input_format.channels)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    maps = expected_map(images)
    stream = io.BytesIO()
    np.savez(stream, images=images, anomaly_map=maps, score=maps.max(axis=(1, 2)), synthetic=np.array([True, True]))
    return stream.getvalue()


def make_manifest(*, threshold: float | None = 0.5, input_format: InputFormat | None = None) -> Manifest:
    found = Threshold(
        value=threshold or 0.0,
        target_false_reject_rate=0.01,
        images=300,
        rejected=3,
        false_reject_upper_bound=0.026,
        source="300 held-out good images",
    )
    return Manifest(
        name="grey",
        created="2025-11-23T12:00:00Z",
        input=input_format or square_format(SIZE_PX),
        map_size_px=SIZE_PX,
        method=MethodSettings(teacher="none", settings={"suppression_target": "teacher", "taps": [1, 2]}),
        training=TrainingProvenance(
            images_sha256=None, images=3, seed=1, libraries={"numpy": np.__version__}, configuration={"epochs": 1}
        ),
        thresholds={} if threshold is None else {"fp32": found},
    )


def make_bundle(
    path: Path,
    *,
    threshold: float | None = 0.5,
    input_format: InputFormat | None = None,
    scale: float = 1 / 128,
    batch: int | str = "N",
) -> Bundle:
    form = input_format or square_format(SIZE_PX)
    model = grey_model(channels=form.channels, scale=scale, batch=batch)
    return write_bundle(
        path,
        manifest=make_manifest(threshold=threshold, input_format=form),
        files={"model.onnx": model, "golden.npz": golden_bytes(form)},
    )
