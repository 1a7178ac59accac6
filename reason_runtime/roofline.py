"""How close a model comes to what the processor can do: its operations against a big matrix product by OpenVINO."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reason_runtime.bundle import Bundle
from reason_runtime.choices import Precision

if TYPE_CHECKING:
    import openvino as ov

SIDE = 2048
"""Of the matrices: 17 GFLOP, large enough that starting costs nothing, small enough for a line PC."""
_SECONDS = 2.0
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The processor's best and the model's share of it.

    Attributes:
        model_gflop: Of one image: two for each multiplication with addition, convolutions and matrix products only.
        product_gflop_per_s: What a product of two 2048 x 2048 matrices reaches at this precision on these threads.
        bound_ms: The time of one image if the model ran at that rate.
    """

    model_gflop: float
    product_gflop_per_s: float
    bound_ms: float


def measure_roofline(bundle: Bundle, *, precision: Precision, threads: int | None) -> Roofline | None:
    """Count the model and time the product; None where OpenVINO is missing or does not run the precision on a CPU."""
    try:
        import openvino
    except ImportError:
        return None
    if precision not in _HINTS:
        return None
    core = openvino.Core()
    gflop = count_gflop(core.read_model(str(bundle.model_path("fp32"))))
    rate = _product_gflop_per_s(core, precision, threads=threads)
    return Roofline(model_gflop=gflop, product_gflop_per_s=rate, bound_ms=gflop / rate * 1e3)


def count_gflop(model: ov.Model) -> float:
    """Operations of one image in 1e9, multiplication and addition counted as two."""
    model.reshape({0: [1, *(side.get_length() for side in list(model.inputs[0].get_partial_shape())[1:])]})
    total = 0
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"):
            continue
        made, taken = int(np.prod(list(operation.output(0).shape))), list(operation.input_value(0).shape)
        weight = list(operation.input_value(1).shape)
        if kind == "MatMul":
            total += 2 * made * taken[-1]
        elif kind == "ConvolutionBackpropData":  # each input value goes to every weight of its channel
            total += 2 * int(np.prod(taken)) * int(np.prod(weight[1:]))
        else:
            total += 2 * made * int(np.prod(weight[2 if kind == "GroupConvolution" else 1 :]))
    return total / 1e9


def _product_gflop_per_s(core: ov.Core, precision: Precision, *, threads: int | None) -> float:
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    left = ops.parameter([SIDE, SIDE], np.float32)
    weight = random.standard_normal((SIDE, SIDE)).astype(np.float32)
    right = ops.constant(weight)
    if precision == "int8":
        taken = ops.fake_quantize(left, *(np.float32(side) for side in (-4, 4, -4, 4)), 256)
        kept = ops.fake_quantize(right, *(np.float32(side) for side in (-4, 4, -4, 4)), 255)
        product = ops.matmul(taken, kept, False, True)
    else:
        product = ops.matmul(left, right, False, True)
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    request = core.compile_model(openvino.Model([product], [left]), "CPU", settings).create_infer_request()
    values = random.standard_normal((SIDE, SIDE)).astype(np.float32)
    request.infer({0: values})
    best_ns, until_ns = 1 << 62, time.perf_counter_ns() + int(_SECONDS * 1e9)
    while time.perf_counter_ns() < until_ns:
        started_ns = time.perf_counter_ns()
        request.infer({0: values})
        best_ns = min(best_ns, time.perf_counter_ns() - started_ns)
    return 2 * SIDE**3 / best_ns
