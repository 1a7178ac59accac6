"""A session: one model of a bundle, loaded by one inference library for one precision.

Every backend gives an object that follows `Session`; nothing above this module knows which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reason_runtime.bundle import Bundle
from reason_runtime.choices import (
    BACKENDS,
    BUILDERS,
    DEVICES,
    PRECISIONS,
    PROVIDERS,
    Backend,
    Device,
    Precision,
    Provider,
    runner_device,
)
from reason_runtime.errors import ConfigurationError


class Outputs(NamedTuple):
    """What the graph gives for N images, in raw units.

    Attributes:
        anomaly_map: (N, S, S) float32.
        score: (N,) float32, the maximum or the generalised mean of each map, as the bundle's method has it.
    """

    anomaly_map: NDArray[np.float32]
    score: NDArray[np.float32]


def joined(outputs: Sequence[Outputs]) -> Outputs:
    """Several outputs as those of one batch."""
    return Outputs(
        anomaly_map=np.concatenate([output.anomaly_map for output in outputs]),
        score=np.concatenate([output.score for output in outputs]),
    )


class Session(Protocol):
    """A loaded model. Several threads may use it at once; they wait for each other where the library makes them."""

    @property
    def backend(self) -> Backend:
        """The inference library."""

    @property
    def provider(self) -> Provider | None:
        """ONNX Runtime's execution provider; None of other libraries."""

    @property
    def precision(self) -> Precision:
        """What the layers before the map head compute in."""

    @property
    def largest_batch(self) -> int | None:
        """Images in one run, at most; None where any number is taken."""

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
    device: Device | None = None,
    threads: int | None = None,
    provider: Provider | None = None,
    cuda_graph: bool = False,
    streams: int | None = None,
) -> Session:
    """Load a bundle's model.

    Args:
        bundle: As opened.
        backend: The inference library; it must be installed.
        precision: fp32 and bf16 read `model.onnx`, the others their own file.
        device: Where it runs; None: where the backend and provider do, cpu where they leave it open. What is asked for
            is what runs, or it is an error.
        threads: Of the library, on CPU; None leaves the choice to it.
        provider: ONNX Runtime's execution provider; None: the device's own.
        cuda_graph: Whether TensorRT records a run once and replays it, which saves the launching of its kernels.
        streams: OpenVINO: images of a batch that run at the same time, each on its share of the threads; None runs one
            after the other on all of them, which is the quickest for a single image.

    Raises:
        ConfigurationError: An unknown word, fewer than one thread, or an option that the backend does not have.
        BundleError: The bundle has no model for the precision.
        BackendError: The library is missing, twice installed, or cannot do what was asked for.
    """
    _check_words(backend=backend, precision=precision, device=device, provider=provider)
    _check_options(backend, threads=threads, provider=provider, cuda_graph=cuda_graph, streams=streams)
    if backend == "tensorrt" or backend == "tensorrt_rtx":
        from reason_runtime.backends.tensorrt import open_session as open_tensorrt

        return open_tensorrt(
            bundle, backend=backend, precision=precision, device=device or "cuda", cuda_graph=cuda_graph
        )
    device = device or runner_device(backend, provider or "cpu")
    if backend == "openvino":
        from reason_runtime.backends.openvino import open_session as open_openvino

        return open_openvino(bundle, precision=precision, device=device, threads=threads, streams=streams)
    from reason_runtime.backends.onnxruntime import open_session as open_onnxruntime

    return open_onnxruntime(bundle, precision=precision, device=device, threads=threads, provider=provider)


def _check_words(*, backend: str, precision: str, device: str | None, provider: str | None) -> None:
    for name, value, known in (
        ("backend", backend, BACKENDS),
        ("precision", precision, PRECISIONS),
        ("device", device, DEVICES),
        ("provider", provider, PROVIDERS),
    ):
        if value is not None and value not in known:
            raise ConfigurationError(f"{name} {value!r} is not known; expected one of {', '.join(known)}")


def _check_options(
    backend: Backend, *, threads: int | None, provider: Provider | None, cuda_graph: bool, streams: int | None
) -> None:
    if threads is not None and threads < 1:
        raise ConfigurationError(f"{threads} threads cannot work; expected 1 or more")
    if streams is not None and (backend != "openvino" or streams < 1):
        raise ConfigurationError(f"{streams} streams on {backend}; streams are 1 or more, an option of openvino")
    if threads is not None and backend in BUILDERS:
        raise ConfigurationError(f"threads are an option of backends that run on a CPU, not of {backend}")
    if provider is not None and backend != "onnxruntime":
        raise ConfigurationError(f"a provider is an option of onnxruntime, not of {backend}")
    if cuda_graph and backend not in BUILDERS:
        raise ConfigurationError(f"CUDA graphs are an option of {' and '.join(BUILDERS)}, not of {backend}")
