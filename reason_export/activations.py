"""What activations hold on real good images: the ranges that int8 levels are spread over, and means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper

from reason_runtime.backends.signature import INPUT
from reason_runtime.progress import counted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activation:
    """Of one tensor (N, C, H, W), over all calibration images."""

    channel_largest: NDArray[np.float64]
    """(C,), magnitudes; percentiles and the search by entropy were tried and left the map no less noise."""
    channel_means: NDArray[np.float64]
    """(C,)"""

    @property
    def largest(self) -> float:
        """Magnitude in all channels, above 0."""
        return max(float(self.channel_largest.max()), float(np.finfo(np.float32).tiny))


Activations = Mapping[str, Activation]
"""By name of the tensor."""


def measure_activations(model: ModelProto, images: NDArray[np.uint8], *, tensors: Collection[str]) -> Activations:
    """Run the float32 graph on (N, H, W, C) good images and look at the named tensors."""
    session = _session_with_outputs(model, tensors)
    largest: dict[str, NDArray[np.float64]] = {}
    sums: dict[str, NDArray[np.float64]] = {}
    for image in counted(images, total=len(images), what="images for ranges"):
        for name, value in zip(tensors, session.run(list(tensors), {INPUT: image[None]}), strict=True):
            largest[name] = np.maximum(largest.get(name, 0.0), np.abs(value).max(axis=(0, 2, 3)).astype(np.float64))
            sums[name] = sums.get(name, 0) + value.mean(axis=(0, 2, 3), dtype=np.float64)
    return {
        name: Activation(channel_largest=largest[name], channel_means=total / len(images))
        for name, total in sums.items()
    }


def largest_values(model: ModelProto, images: NDArray[np.uint8], *, tensors: Collection[str]) -> dict[str, float]:
    """Largest magnitude that each of the named float32 tensors, of any shape, takes on (N, H, W, C) images."""
    session = _session_with_outputs(model, tensors)
    largest = dict.fromkeys(tensors, 0.0)
    for image in images:
        for name, value in zip(tensors, session.run(list(tensors), {INPUT: image[None]}), strict=True):
            largest[name] = float(np.maximum(largest[name], np.abs(value).max()))  # NaN, where there is one
    return largest


def _session_with_outputs(model: ModelProto, tensors: Collection[str]) -> onnxruntime.InferenceSession:
    changed = ModelProto()
    changed.CopyFrom(model)
    known = {value.name for value in changed.graph.output}
    changed.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
