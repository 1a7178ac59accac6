"""Real models that misbehave on request: the value of an image's first pixel says how."""

from __future__ import annotations

import dataclasses
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from reason_runtime.blind import BlindLimits
from reason_runtime.bundle import Bundle, write_bundle
from reason_runtime.image import Crop, square_format
from tests.runtime.bundles import SIZE_PX, golden_bytes, make_manifest

SLOW = 77  # about `_SLOW_S` in one call
NAN = 78
HANG = 79  # a native call that never returns
FAIL = 80  # the library refuses the call
_SLOW_S, _MEASURED_TRIPS = 0.6, 1_000
_HANG_TRIPS = 10**15


def part(value: int, *, code: int = 0, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """A grey part; its score is |value - 128| / 128. The code sits in the corner and counts as mid grey."""
    image = np.full((size_px, size_px, 3), value, np.uint8)
    image[0, 0] = code
    return image


def trips_of(seconds: float) -> int:
    """Turns of the loop that take so long on this machine, whatever it is and does besides."""
    return round(_trips_per_s() * seconds)


@lru_cache(maxsize=1)
def _trips_per_s() -> float:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = line_model(trips=_MEASURED_TRIPS, slow_trips=0)
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    durations = []
    for _ in range(5):
        started_s = time.perf_counter()
        session.run(None, {"image": part(128)[None]})
        durations.append(time.perf_counter() - started_s)
    return _MEASURED_TRIPS / sorted(durations)[len(durations) // 2]


def line_model(*, size_px: int = SIZE_PX, trips: int = 0, slow_trips: int | None = None) -> bytes:
    """The grey model of the runtime's tests that obeys the first pixel; a call takes `trips` turns of a loop more."""
    table = np.full(256, trips, np.int64)
    table[SLOW], table[HANG] = trips_of(_SLOW_S) if slow_trips is None else slow_trips, _HANG_TRIPS
    broken = np.zeros(256, np.float32)
    broken[NAN] = np.nan
    place = np.arange(256)
    place[FAIL] = 256  # there is none
    ignore = np.ones((size_px, size_px), np.float32)
    ignore[0, 0] = 0
    constants = {
        "table": table,
        "broken": broken,
        "place": place,
        "keep": ignore,
        "grey": np.float32(128),
        "scale": np.float32(1 / 128),
        "zero": np.float32(0),
        "last_axis": np.array([3], np.int64),
        "map_axes": np.array([1, 2], np.int64),
        "first": np.array([0, 0, 0, 0], np.int64),
        "corner": np.array([2**31, 1, 1, 1], np.int64),
        "flat": np.array([-1], np.int64),
        "turn": np.eye(64, dtype=np.float32),
        "yes": np.array(True),
        "column": np.array([1, 2], np.int64),
    }
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "turn"], ["next_state"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, [64, 64]),
        ],
    )
    make = helper.make_node
    nodes = [
        make("Slice", ["image", "first", "corner"], ["corner_pixels"]),
        make("Reshape", ["corner_pixels", "flat"], ["codes_octets"]),
        make("Cast", ["codes_octets"], ["codes"], to=TensorProto.INT64),
        make("Gather", ["table", "codes"], ["wanted"]),
        make("ReduceMax", ["wanted"], ["turns"], keepdims=0),
        make("Loop", ["turns", "yes", "turn"], ["turned"], body=body),
        make("ReduceMax", ["turned"], ["turned_to"], keepdims=0),
        make("Mul", ["turned_to", "zero"], ["nothing"]),
        make("Gather", ["place", "codes"], ["places"]),
        make("Gather", ["broken", "places"], ["breaks_flat"]),
        make("Unsqueeze", ["breaks_flat", "column"], ["breaks"]),
        make("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make("ReduceMean", ["pixels", "last_axis"], ["mean"], keepdims=0),
        make("Sub", ["mean", "grey"], ["distance"]),
        make("Abs", ["distance"], ["absolute"]),
        make("Mul", ["absolute", "scale"], ["scaled"]),
        make("Mul", ["scaled", "keep"], ["kept"]),
        make("Add", ["kept", "breaks"], ["maybe"]),
        make("Add", ["maybe", "nothing"], ["anomaly_map"]),
        make("ReduceMax", ["anomaly_map", "map_axes"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "line",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size_px, size_px, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", size_px, size_px]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def line_bundle(
    path: Path,
    *,
    threshold: float | None = 0.5,
    size_px: int = SIZE_PX,
    tile_px: int | None = None,
    blind_limits: BlindLimits | None = None,
    trips: int = 0,
    slow_trips: int | None = None,
    overwrite: bool = False,
    crop_px: Crop | None = None,
    white_level: int = 65535,
) -> Bundle:
    size_px = tile_px or size_px
    form = dataclasses.replace(square_format(size_px), crop_px=crop_px, white_level=white_level)
    manifest = make_manifest(threshold=threshold, input_format=form)
    training = manifest.training
    if tile_px is not None:
        training = dataclasses.replace(training, configuration={**training.configuration, "tile_px": tile_px})
    manifest = dataclasses.replace(
        manifest, training=training, blind_limits=blind_limits, map_size_px=size_px, created=f"{trips} {threshold}"
    )
    golden = golden_bytes(form)
    return write_bundle(
        path,
        manifest=manifest,
        files={"model.onnx": line_model(size_px=size_px, trips=trips, slow_trips=slow_trips), "golden.npz": golden},
        overwrite=overwrite,
    )
