"""What magnitude the highest int8 level stands for, from real good images, by ONNX Runtime's own calibrators."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from reason_export.graph_parts import CONVOLUTIONS
from reason_runtime.progress import counted

RangeMethod = Literal["minmax", "percentile", "entropy"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)
PERCENTILE = 99.999
"""Of all magnitudes of a tensor; a lower one cut off what whitened features say, on every network tried."""
BINS, ENTROPY_BINS = 2048, 512
"""Of the histograms; the search by entropy grows with their square."""
CHUNK = 2
"""Images whose activations are in memory at once."""
_LIBRARY_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_OPTIONS: dict[RangeMethod, dict[str, object]] = {
    "minmax": {},
    "percentile": {"symmetric": True, "num_bins": BINS, "percentile": PERCENTILE},
    "entropy": {"symmetric": True, "num_bins": ENTROPY_BINS, "num_quantized_bins": 128},
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library asks for this base
    def __init__(self, name: str, images: NDArray[np.uint8]) -> None:
        self.batches: Iterator[dict[str, NDArray[np.uint8]]] = ({name: image[None]} for image in images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.batches, None)


def activation_ranges(
    model: Path, images: NDArray[np.uint8], *, method: RangeMethod, tensors: Collection[str], graph_input: str
) -> dict[str, float]:
    """Largest magnitude by tensor.

    Args:
        model: The float32 ONNX file.
        images: (N, H, W, C) good images.
        method: The largest magnitude seen, a percentile of all, or the one that loses least entropy.
        tensors: Inputs and outputs of convolutions whose range is wanted.
        graph_input: Name of the graph's input.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            str(model),
            list(CONVOLUTIONS),
            str(Path(folder) / "with_outputs.onnx"),
            _LIBRARY_METHODS[method],
            extra_options=_OPTIONS[method],
        )
        starts = range(0, len(images), CHUNK)
        for start in counted(starts, total=len(starts), what=f"pairs of images for ranges by {method}"):
            calibrator.collect_data(_Reader(graph_input, images[start : start + CHUNK]))
        found = calibrator.compute_data()
    return {name: float(np.max(np.abs(found[name].range_value))) for name in tensors}
