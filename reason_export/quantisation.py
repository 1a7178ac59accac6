"""The int8 graph: ranges and sensitive layers found by measurement on calibration images. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from reason_export.activations import measure_activations
from reason_export.graph_parts import convolutions
from reason_export.pointwise import merge_pointwise
from reason_export.qdq import measured_tensors, quantised_graph, read_by_head_and_network
from reason_runtime.backends.signature import INPUT, OUTPUTS
from reason_runtime.errors import ParityError
from reason_runtime.progress import counted
from reason_runtime.stratified import stratified

TARGET_SQNR_DB = 20.0
"""Of the map on calibration images: layers are left in float32, the noisiest for their cost first, until it is met."""
LEAST_SQNR_DB = 15.0
MEASURED_IMAGES = 4
"""Calibration images that the noise of each layer is measured on."""
PRODUCTS_A_VALUE = 20
"""Multiplications that take about as long as moving one value more in float32 than in 8 bits, on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """An int8 graph and how it came about."""

    graph: bytes
    unsigned: bytes
    """The same network for ONNX Runtime's CPU provider."""
    sqnr_db: float
    """Of the map, as it is."""
    layers: int
    """Convolutions in int8."""
    kept: dict[str, float]
    """Convolutions left in float32, each with the map's SQNR when it alone is in int8: the noisiest for their cost, and
    those that the map head reads beside the network."""


def quantise_model(model: Path, images: NDArray[np.uint8]) -> Quantised:
    """The int8 graph of a float32 one.

    The noise of the map is close to the sum of what each layer alone brings, so that one run a layer finds the order in
    which layers are left out: by noise for what they cost in float32, since a small layer at a network's end may be as
    noisy as a large one at its begin.

    Args:
        model: The float32 ONNX file.
        images: (N, H, W, C) good images to calibrate on.

    Raises:
        ParityError: Even with half of the layers in float32 the map is too far off.
    """
    original = onnx.load(model)
    probe = _Probe(original, images[stratified(len(images), most=MEASURED_IMAGES)])
    labels = {node.name: node.input[1].removesuffix(".weight") for node in convolutions(original.graph)}
    source = merge_pointwise(original)
    names = [node.name for node in convolutions(source.graph)]
    seen = measure_activations(source, images, tensors=measured_tensors(source.graph))
    alone = {
        name: probe.sqnr_db(quantised_graph(source, seen=seen, layers=[name]))
        for name in counted(names, total=len(names), what="layers measured")
    }
    pinned = read_by_head_and_network(source.graph)
    costs = _costs(source)
    order = sorted(names, key=lambda name: (name not in pinned, costs[name] * 10 ** (alone[name] / 10)))
    half = len(order) // 2
    for kept in range(max(len(pinned), min(_first_guess(alone, order), half)), max(len(pinned), half) + 1):
        graph = quantised_graph(source, seen=seen, layers=order[kept:])
        sqnr_db = probe.sqnr_db(graph)
        if sqnr_db >= TARGET_SQNR_DB:
            break
    if sqnr_db < LEAST_SQNR_DB:
        raise ParityError(
            f"{model}: in int8 the map's SQNR is {sqnr_db:.1f} dB even with half of the layers in float32, at least "
            f"{LEAST_SQNR_DB:.0f} dB is needed; use fp16 or bf16"
        )
    unsigned = quantised_graph(source, seen=seen, layers=order[kept:], unsigned=True)
    if (own_db := probe.sqnr_db(unsigned)) < LEAST_SQNR_DB:
        raise ParityError(f"{model}: in int8 the map's SQNR in ONNX Runtime is {own_db:.1f} dB; use fp16 or bf16")
    for made in (graph, unsigned):
        onnx.checker.check_model(made, full_check=True)
    return Quantised(
        graph=bytes(graph.SerializeToString()),
        unsigned=bytes(unsigned.SerializeToString()),
        sqnr_db=round(sqnr_db, 2),
        layers=len(order) - kept,
        kept={labels[name]: round(alone[name], 2) for name in order[:kept]},
    )


def _costs(model: onnx.ModelProto) -> dict[str, int]:
    """What each convolution costs in float32, by name: products for one image, and values that it reads and writes."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        value.name: math.prod(side.dim_value or 1 for side in value.type.tensor_type.shape.dim)  # 0: number of images
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = {each.name: math.prod(each.dims[1:]) for each in graph.initializer}
    costs = {}
    for node in convolutions(graph):
        read, written = sizes[node.input[0]], sizes[node.output[0]]
        each_goes_to_all = node.op_type == "ConvTranspose"
        products = (read if each_goes_to_all else written) * weights[node.input[1]]
        costs[node.name] = products + PRODUCTS_A_VALUE * (read + written)
    return costs


def _first_guess(alone: dict[str, float], order: Sequence[str]) -> int:
    """How many layers must stay in float32 if the noise of the others adds up."""
    allowed = 10 ** (-TARGET_SQNR_DB / 10)
    noise = np.array([10 ** (-alone[name] / 10) for name in order])
    left = np.append(np.cumsum(noise[::-1])[::-1], 0.0)  # of the layers from i on
    return int(np.argmax(left <= allowed))


class _Probe:
    """Maps of a few images by the float32 graph, to measure the noise of another graph against."""

    def __init__(self, source: onnx.ModelProto, images: NDArray[np.uint8]) -> None:
        self.images = images
        self.expected = self._maps(source)

    def sqnr_db(self, graph: onnx.ModelProto) -> float:
        noise = float(np.square(self._maps(graph) - self.expected).mean())
        return float(10 * np.log10(np.square(self.expected).mean() / max(noise, np.finfo(np.float64).tiny)))

    def _maps(self, graph: onnx.ModelProto) -> NDArray[np.float64]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        maps = [session.run([OUTPUTS[0]], {INPUT: image[None]})[0][0] for image in self.images]
        return np.stack(maps).astype(np.float64)
