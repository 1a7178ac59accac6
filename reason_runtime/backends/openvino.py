"""OpenVINO on CPU. It reads the bundle's ONNX; bf16 is a hint on the fp32 file, and on the float layers of int8.

Compiled models are kept in `$XDG_CACHE_HOME/reason-edge/openvino` (`~/.cache` where that is not set), never in the
bundle; OpenVINO keys them by model, settings and its own version, and `openvino_cache` by the hash of what was written.
Where the folder cannot be made, every start compiles again.

A single image runs in latency mode, on all threads. A batch becomes requests of one image each, several at a time, in
throughput mode: side by side they wait for each other less than threads that share every layer do. What runs has one
shape, which is fixed: shapes that are found out run by run cost a tenth of the time.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from reason_runtime.backends.openvino_bf16 import (
    keep_front_in_float32,
    keep_head_in_float32,
    write_transposed_as_convolutions,
)
from reason_runtime.backends.openvino_cache import kept_models
from reason_runtime.backends.openvino_int8 import use_unsigned
from reason_runtime.backends.signature import INPUT, OUTPUTS, Port, check_batch, check_signature, shapes_of_one
from reason_runtime.bundle import Bundle
from reason_runtime.choices import Device, Precision
from reason_runtime.errors import BackendError, BundleError
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs, joined
from reason_runtime.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    import openvino as ov

_CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}
_X86 = ("x86_64", "AMD64")
"""Elsewhere (Arm) OpenVINO 2026.4 refuses a graph in which some values have a sign and others have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoSession:
    """See `reason_runtime.session.Session`.

    Attributes:
        make: Compiles the model for so many images at a time, and gives the requests that they run on.
        requests: By how many run at a time, each with memory for its input and outputs; those of one are there from the
            start, the others when they are first asked for.
        threads: Of the library.
        streams: How many images run at a time, where that was asked for.
        turn: Threads wait here for each other: requests and their memory are shared.
    """

    backend: Literal["openvino"] = "openvino"
    provider: None = None
    largest_batch: None = None
    precision: Precision
    libraries: dict[str, str]
    manifest: Manifest
    model: Path
    make: Callable[[int], tuple[ov.InferRequest, ...]]
    requests: dict[int, tuple[ov.InferRequest, ...]]
    threads: int
    streams: int | None
    turn: threading.Lock = field(default_factory=threading.Lock)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Session.run`; each image is a request of its own."""
        check_batch(images, self.manifest)
        try:
            with self.turn:
                return self._run(images)
        except (RuntimeError, BundleError) as error:  # the bundle's, where a model is compiled for the first such batch
            raise BackendError(f"{self.model}: OpenVINO failed on a batch of {len(images)} ({error})") from error

    def _run(self, images: NDArray[np.uint8]) -> Outputs:
        if len(images) == 1:
            return self._one_run(images)
        streams = self.streams or at_a_time(len(images), threads=self.threads)
        left = 0 if self.streams else len(images) % streams
        if left == 0:
            return self._stream(streams, images)
        return joined([self._stream(streams, images[:-left]), self._run(images[-left:])])

    def _one_run(self, images: NDArray[np.uint8]) -> Outputs:
        request = self._requests(self.streams or 1)[0]
        request.get_tensor(INPUT).data[:] = images
        request.infer(share_outputs=True)  # copies none of them
        found = [request.get_tensor(name).data.copy() for name in OUTPUTS]
        return Outputs(anomaly_map=found[0], score=found[1])

    def _stream(self, streams: int, images: NDArray[np.uint8]) -> Outputs:
        size, requests = self.manifest.map_size_px, self._requests(streams)
        maps, scores = np.empty((len(images), size, size), np.float32), np.empty(len(images), np.float32)
        waiting: dict[int, int] = {}  # image by request
        try:
            for i in range(len(images) + len(requests)):
                lane = i % len(requests)
                request = requests[lane]
                if lane in waiting:
                    done = waiting.pop(lane)
                    request.wait()
                    maps[done] = request.get_tensor(OUTPUTS[0]).data[0]
                    scores[done] = request.get_tensor(OUTPUTS[1]).data[0]
                if i < len(images):
                    request.get_tensor(INPUT).data[:] = images[i : i + 1]
                    request.start_async()
                    waiting[lane] = i
        finally:  # where one fails the others run on, and would be busy for the next batch
            for lane in waiting:
                with suppress(RuntimeError):
                    requests[lane].wait()
        return Outputs(anomaly_map=maps, score=scores)

    def _requests(self, streams: int) -> tuple[ov.InferRequest, ...]:
        if streams not in self.requests:
            self.requests[streams] = self.make(streams)
        return self.requests[streams]


def at_a_time(images: int, *, threads: int) -> int:
    """How many images of a batch run side by side: a power of two, so that few models are compiled."""
    return 1 << (min(images, threads).bit_length() - 1)


def open_session(
    bundle: Bundle, *, precision: Precision, device: Device, threads: int | None, streams: int | None = None
) -> OpenVinoSession:
    """Load a bundle's model; see `reason_runtime.session.open_session`.

    Raises:
        BundleError: The bundle has no model for the precision, or the model is not what the manifest says.
        BackendError: OpenVINO is missing, refuses the model, or this processor cannot do the precision.
    """
    if device != "cpu":
        raise BackendError(f"the OpenVINO backend runs on cpu, not {device}")
    if precision not in _CAPABILITIES:
        raise BackendError(f"OpenVINO on CPU does not run {precision}; ask for one of {', '.join(_CAPABILITIES)}")
    library = _import()
    model = bundle.model_path(precision)
    core = library.Core()
    core.set_property({"ENABLE_MMAP": False})  # of kept models, see `openvino_cache`
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in capabilities:
        raise BackendError(f"this processor has no {precision} for OpenVINO; it has {', '.join(capabilities)}")

    def make(lanes: int) -> tuple[ov.InferRequest, ...]:
        settings = _settings(threads=threads, streams=lanes)
        try:
            with kept_models(bundle.manifest.files[model.name].sha256) as kept:
                compiled = compile_model(core, bundle, precision=precision, settings=settings | kept)
        except (RuntimeError, OSError) as error:
            raise BackendError(f"{model}: OpenVINO {library.__version__} refuses the model ({error})") from error
        requests = 1 if lanes == 1 else 2 * lanes  # of several, one each to work on and one to come
        return tuple(compiled.create_infer_request() for _ in range(requests))

    first = make(streams or 1)
    used, lanes = (
        first[0].get_compiled_model().get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS")
    )
    return OpenVinoSession(
        precision=precision,
        libraries={
            "openvino": library.__version__,
            "device": "CPU",
            "float_layers": "bf16" if in_bf16(precision, capabilities) else "fp32",
            "threads": str(used),
            "streams": str(lanes),
        },
        manifest=bundle.manifest,
        model=model,
        make=make,
        requests={streams or 1: first},
        threads=used,
        streams=streams,
    )


def in_bf16(precision: Precision, capabilities: Sequence[str]) -> bool:
    """Whether layers that are not int8 run in bf16, but for the front and the map head."""
    return precision == "bf16" or (precision == "int8" and "BF16" in capabilities)


def compile_model(core: ov.Core, bundle: Bundle, *, precision: Precision, settings: dict[str, str]) -> ov.CompiledModel:
    """A bundle's model as sessions run it, for one image.

    Args:
        core: Of OpenVINO.
        bundle: That has the model.
        precision: Of the model.
        settings: More of OpenVINO's.

    Raises:
        BundleError: The model is not what the manifest says, or was changed since the bundle was opened.
        BackendError: A temporary copy cannot be written.
        RuntimeError: OpenVINO refuses the model.
    """
    model = bundle.model_path(precision)
    source = core.read_model(str(model))
    bundle.require_unchanged(model.name)
    _check(source, model, bundle.manifest)
    if precision == "int8" and platform.machine() in _X86:
        use_unsigned(source)
    half = in_bf16(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if half:
        write_transposed_as_convolutions(source)
        source = keep_front_in_float32(source, core)
        keep_head_in_float32(source)
    source.reshape({INPUT: [1, *shapes_of_one(bundle.manifest)[INPUT]]})
    # without the hint OpenVINO takes bf16 wherever the processor has it
    return core.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32", **settings})


def _import() -> ModuleType:
    switch_off_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f'OpenVINO cannot be imported ({error}); pip install "reason-edge[openvino]"') from error
    module: ModuleType = openvino
    return module


def _settings(*, threads: int | None, streams: int) -> dict[str, str]:
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if streams > 1:
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(streams)}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    return settings


def _check(source: ov.Model, model: Path, manifest: Manifest) -> None:
    def ports(found: list[ov.Output]) -> dict[str, Port]:
        return {
            port.get_any_name(): Port(
                [side.get_length() if side.is_static else None for side in port.get_partial_shape()],
                str(port.get_element_type().to_dtype()),
            )
            for port in found
        }

    check_signature(model, manifest, inputs=ports(source.inputs), outputs=ports(source.outputs))
