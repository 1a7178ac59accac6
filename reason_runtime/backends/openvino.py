"""OpenVINO on CPU. It reads the bundle's ONNX; bf16 is a hint on the fp32 file, and on the float layers of int8.

Compiled models are kept in `$XDG_CACHE_HOME/reason-edge/openvino` (`~/.cache` where that is not set), never in the
bundle; OpenVINO keys them by model, settings and its own version, and `openvino_cache` by the hash of what was written.
Where the folder cannot be made, every start compiles again.

The first few batch sizes have a compiled model each, whose shape is fixed: shapes that are found out run by run cost a
tenth of the time. One image after the other runs in latency mode; with streams a batch becomes requests of one image
each, several at a time, in throughput mode.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence
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
from reason_runtime.backends.signature import INPUT, OUTPUTS, Port, check_batch, check_signature
from reason_runtime.bundle import Bundle
from reason_runtime.choices import Device, Precision
from reason_runtime.errors import BackendError, BundleError
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs
from reason_runtime.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    import openvino as ov

_CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}
_X86 = ("x86_64", "AMD64")
"""Elsewhere (Arm) OpenVINO 2026.4 refuses a graph in which some values have a sign and others have none."""
FIXED = 3
"""Batch sizes with a compiled model of their own; all others share one."""


@dataclass(frozen=True, slots=True)
class Models:
    """Compiled models by the number of images that they take, each made when it is first asked for.

    Attributes:
        make: Compiles one; None: for any number.
        made: A request of each that exists, whose memory for inputs and outputs is kept.
    """

    make: Callable[[int | None], ov.CompiledModel]
    made: dict[int | None, ov.InferRequest] = field(default_factory=dict)

    def taking(self, images: int) -> ov.InferRequest:
        """A request of the model for so many images."""
        key = images if images in self.made or len(self.made) < FIXED else None
        if key not in self.made:
            self.made[key] = self.make(key).create_infer_request()
        return self.made[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoSession:
    """See `reason_runtime.session.Session`.

    Attributes:
        models: That for a single image is there from the start.
        requests: With streams, what images run on, several at a time.
        turn: Threads wait here for each other: requests and their memory are shared.
    """

    backend: Literal["openvino"] = "openvino"
    provider: None = None
    largest_batch: None = None
    precision: Precision
    libraries: dict[str, str]
    manifest: Manifest
    model: Path
    models: Models
    requests: tuple[ov.InferRequest, ...]
    turn: threading.Lock = field(default_factory=threading.Lock)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Session.run`; with streams, each image is a request of its own."""
        check_batch(images, self.manifest)
        try:
            with self.turn:
                return self._stream(images) if self.requests else self._one_run(images)
        except (RuntimeError, BundleError) as error:  # the bundle's, where this is the first batch of its size
            raise BackendError(f"{self.model}: OpenVINO failed on a batch of {len(images)} ({error})") from error

    def _one_run(self, images: NDArray[np.uint8]) -> Outputs:
        request = self.models.taking(len(images))
        pixels = request.get_tensor(INPUT)
        pixels.shape = images.shape
        pixels.data[:] = images
        request.infer(share_outputs=True)  # copies none of them
        found = [request.get_tensor(name).data.copy() for name in OUTPUTS]
        return Outputs(anomaly_map=found[0], score=found[1])

    def _stream(self, images: NDArray[np.uint8]) -> Outputs:
        size = self.manifest.map_size_px
        maps, scores = np.empty((len(images), size, size), np.float32), np.empty(len(images), np.float32)
        waiting: dict[int, int] = {}  # image by request
        for i in range(len(images) + len(self.requests)):
            lane = i % len(self.requests)
            request = self.requests[lane]
            if lane in waiting:
                request.wait()
                done = waiting.pop(lane)
                maps[done] = request.get_tensor(OUTPUTS[0]).data[0]
                scores[done] = request.get_tensor(OUTPUTS[1]).data[0]
            if i < len(images):
                request.get_tensor(INPUT).data[:] = images[i : i + 1]
                request.start_async()
                waiting[lane] = i
        return Outputs(anomaly_map=maps, score=scores)


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
    settings = _settings(threads=threads, streams=streams)

    def make(images: int | None) -> ov.CompiledModel:
        try:
            with kept_models(bundle.manifest.files[model.name].sha256) as kept:
                return compile_model(core, bundle, precision=precision, images=images, settings=settings | kept)
        except (RuntimeError, OSError) as error:
            raise BackendError(f"{model}: OpenVINO {library.__version__} refuses the model ({error})") from error

    models = Models(make)
    one = models.taking(1).get_compiled_model()
    used, lanes = (one.get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"))
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
        models=models,
        requests=() if streams is None else tuple(one.create_infer_request() for _ in range(2 * streams)),
    )


def in_bf16(precision: Precision, capabilities: Sequence[str]) -> bool:
    """Whether layers that are not int8 run in bf16, but for the front and the map head."""
    return precision == "bf16" or (precision == "int8" and "BF16" in capabilities)


def compile_model(
    core: ov.Core, bundle: Bundle, *, precision: Precision, images: int | None, settings: dict[str, str]
) -> ov.CompiledModel:
    """A bundle's model as sessions run it.

    Args:
        core: Of OpenVINO.
        bundle: That has the model.
        precision: Of the model.
        images: It takes in one run, where its graph leaves that open; None: any number.
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
    batch, *sides = source.input(INPUT).get_partial_shape()
    if images is not None and batch.is_dynamic:
        source.reshape({INPUT: [images, *sides]})
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


def _settings(*, threads: int | None, streams: int | None) -> dict[str, str]:
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if streams is not None:
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
