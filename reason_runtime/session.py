"""A session: one model of a bundle, loaded by one inference library for one precision.

Every backend gives an object that follows `Session`; nothing above this module knows which one it is.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reason_runtime.bundle import Bundle
from reason_runtime.choices import BACKENDS, DEVICES, PRECISIONS, Backend, Device, Precision
from reason_runtime.errors import ConfigurationError


class Outputs(NamedTuple):
    """What the graph gives for N images, in raw units.

    Attributes:
        anomaly_map: (N, S, S) float32.
        score: (N,) float32, the maximum of each map.
    """

    anomaly_map: NDArray[np.float32]
    score: NDArray[np.float32]


class Session(Protocol):
    """A loaded model. Not safe for use by several threads at once: give each its own."""

    @property
    def backend(self) -> Backend:
        """The inference library."""

    @property
    def precision(self) -> Precision:
        """What the layers before the map head compute in."""

    @property
    def libraries(self) -> dict[str, str]:
        """What runs, for records: library versions, provider or device, threads."""

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Maps and scores of a batch.

        Args:
            images: (N, H, W, C), as the manifest's `input` says.

        Raises:
            BackendError: The library refused the batch or failed on it.
        """


def open_session(
    bundle: Bundle,
    *,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    device: Device = "cpu",
    threads: int | None = None,
) -> Session:
    """Load a bundle's model.

    Args:
        bundle: As opened.
        backend: The inference library; it must be installed.
        precision: fp32 and bf16 read `model.onnx`, the others their own file.
        device: Where it runs. What is asked for is what runs, or it is an error.
        threads: Of the library, on CPU; None leaves the choice to it.

    Raises:
        ConfigurationError: An unknown backend, precision or device, or fewer than one thread.
        BundleError: The bundle has no model for the precision.
        BackendError: The library is missing, twice installed, or cannot do what was asked for.
    """
    for name, value, known in (
        ("backend", backend, BACKENDS),
        ("precision", precision, PRECISIONS),
        ("device", device, DEVICES),
    ):
        if value not in known:
            raise ConfigurationError(f"{name} {value!r} is not known; expected one of {', '.join(known)}")
    if threads is not None and threads < 1:
        raise ConfigurationError(f"{threads} threads cannot work; expected 1 or more")
    if backend == "openvino":
        from reason_runtime.backends.openvino import open_session as open_openvino

        return open_openvino(bundle, precision=precision, device=device, threads=threads)
    from reason_runtime.backends.onnxruntime import open_session as open_onnxruntime

    return open_onnxruntime(bundle, precision=precision, device=device, threads=threads)
