"""Runs whose inputs and outputs stay bound to memory on the device: two copies a run and no allocation."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reason_runtime.backends.signature import INPUT, OUTPUTS
from reason_runtime.choices import Device
from reason_runtime.session import Outputs

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRuns:
    """A session with memory for every batch size that it has seen.

    Attributes:
        library: ONNX Runtime.
        session: That runs.
        device: Where the memory is.
        map_size_px: Side of the map.
        bindings: By batch size: the binding, its input, its two outputs.
        turn: Threads wait here for each other: this memory is shared.
    """

    library: ModuleType
    session: ort.InferenceSession
    device: Device
    map_size_px: int
    bindings: dict[int, tuple[ort.IOBinding, ort.OrtValue, list[ort.OrtValue]]] = field(default_factory=dict)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Maps and scores of (N, H, W, C) images."""
        with self.turn:
            if len(images) not in self.bindings:
                self.bindings[len(images)] = self._bind(images.shape)
            binding, image, outputs = self.bindings[len(images)]
            image.update_inplace(np.ascontiguousarray(images))
            self.session.run_with_iobinding(binding)
            anomaly_map, score = (np.array(output.numpy()) for output in outputs)  # the memory is written again
        return Outputs(anomaly_map=anomaly_map, score=score)

    def _bind(self, shape: tuple[int, ...]) -> tuple[ort.IOBinding, ort.OrtValue, list[ort.OrtValue]]:
        batch, size = shape[0], self.map_size_px
        image = self._memory(shape, np.uint8)
        outputs = [self._memory((batch, size, size), np.float32), self._memory((batch,), np.float32)]
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(INPUT, image)
        for name, output in zip(OUTPUTS, outputs, strict=True):
            binding.bind_ortvalue_output(name, output)
        return binding, image, outputs

    def _memory(self, shape: tuple[int, ...], kind: type[np.uint8] | type[np.float32]) -> ort.OrtValue:
        return self.library.OrtValue.ortvalue_from_shape_and_type(shape, kind, self.device, 0)
