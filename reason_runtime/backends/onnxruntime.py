"""ONNX Runtime with its CPU, CUDA or TensorRT provider.

It replaces a provider that does not start by the CPU without a word. Here the provider asked for is the one in use for
every node, or it is an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from reason_runtime.atomic import make_folder
from reason_runtime.backends.cuda import Cuda
from reason_runtime.backends.nvinfer import nvinfer_version
from reason_runtime.backends.onnxruntime_binding import BoundRuns
from reason_runtime.backends.signature import INPUT, OUTPUTS, Port, check_batch, check_signature
from reason_runtime.bundle import Bundle
from reason_runtime.cache import cache_folder
from reason_runtime.choices import Device, Precision, Provider, runner_device
from reason_runtime.environment import usable_cores
from reason_runtime.errors import BackendError, ConfigurationError, ReasonError
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs
from reason_runtime.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    import onnxruntime as ort

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_EXTRAS: dict[Device, str] = {"cpu": "cpu", "cuda": "gpu"}
_PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})  # TF32 would give fp32 runs the mantissa of half precision
_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
_ON = "True"  # TensorRT's provider refuses "1", which CUDA's takes
# without its flag this provider computes the graph's half-precision or quantised layers in float32
_TENSORRT_FLAGS: dict[Precision, dict[str, str]] = {"fp16": {"trt_fp16_enable": _ON}, "int8": {"trt_int8_enable": _ON}}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntimeSession:
    """See `reason_runtime.session.Session`."""

    backend: Literal["onnxruntime"] = "onnxruntime"
    largest_batch: None = None
    provider: Provider
    precision: Precision
    libraries: dict[str, str]
    manifest: Manifest
    model: Path
    session: ort.InferenceSession
    bound: BoundRuns | None
    failures: tuple[type[Exception], ...]

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Session.run`."""
        check_batch(images, self.manifest)
        try:
            if self.bound is not None:
                return self.bound.run(images)
            anomaly_map, score = self.session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(images)})
        except self.failures as error:
            raise BackendError(f"{self.model}: ONNX Runtime failed on a batch of {len(images)} ({error})") from error
        return Outputs(anomaly_map=anomaly_map, score=score)


def open_session(
    bundle: Bundle, *, precision: Precision, device: Device, threads: int | None, provider: Provider | None = None
) -> OnnxRuntimeSession:
    """Load a bundle's model; see `reason_runtime.session.open_session`.

    Raises:
        ConfigurationError: The provider does not run on the device.
        BundleError: The bundle has no model for the precision, or the model is not what the manifest says.
        BackendError: ONNX Runtime is missing, installed twice, refuses the model, or did not take the provider.
    """
    provider = provider or device
    if (own := runner_device("onnxruntime", provider)) != device:
        raise ConfigurationError(f"provider {provider} runs on {own}, not on {device}")
    if precision == "bf16":
        raise BackendError("ONNX Runtime does not run bf16; use --backend openvino, or fp32, fp16 or int8")
    if precision == "int8" and provider == "cuda":  # seen: nodes of the graph fall to the CPU
        raise BackendError(
            "ONNX Runtime's CUDA provider does not compute in int8; use --precision fp16, --provider tensorrt, or "
            "--backend tensorrt"
        )
    if threads is None and device == "cpu" and usable_cores() < (os.cpu_count() or 1):
        threads = usable_cores()  # left alone it binds a thread to every core, also to those that are not ours
    ort = _import(device)
    missing = _load_cuda(ort) if device == "cuda" else ""
    model = bundle.model_path(precision, provider=provider)
    name = _PROVIDERS[provider]
    if name not in ort.get_available_providers():
        raise BackendError(
            f"{name} is not in the installed ONNX Runtime {ort.__version__}, which has "
            f'{", ".join(ort.get_available_providers())}; pip install "reason-edge[{_EXTRAS[device]}]"'
        )
    gpu = Cuda().gpu.name if device == "cuda" else ""
    failures = _failures()
    try:
        session = ort.InferenceSession(
            str(model),
            _session_options(ort, device=device, threads=threads),
            providers=_with_options(bundle, provider=provider, precision=precision, gpu=gpu),
            enable_fallback=0,
        )
    except failures as error:
        raise BackendError(
            f"{model}: ONNX Runtime {ort.__version__} refuses the model with {name} ({error})"
        ) from error
    bundle.require_unchanged(model.name)
    in_use = session.get_providers()
    if in_use[0] != name:
        raise BackendError(
            f"{model}: asked for {name}, ONNX Runtime took {in_use[0]}; check the NVIDIA driver, CUDA, cuDNN and "
            f"TensorRT, or ask for the CPU{missing and f' ({missing})'}"
        )
    _check(session, model, bundle.manifest)
    size = bundle.manifest.map_size_px
    libraries = {"onnxruntime": ort.__version__, "provider": name}
    if device == "cuda":
        libraries["device"] = gpu
        if provider == "tensorrt":
            libraries["tensorrt"] = nvinfer_version() or "unknown"
    else:
        libraries["threads"] = str(threads or "chosen by library")
    return OnnxRuntimeSession(
        provider=provider,
        precision=precision,
        libraries=libraries,
        manifest=bundle.manifest,
        model=model,
        session=session,
        bound=None if device == "cpu" else BoundRuns(library=ort, session=session, device=device, map_size_px=size),
        failures=failures,
    )


def _session_options(ort: ModuleType, *, device: Device, threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: the rest is said by exceptions
    # between two runs its threads sleep: spinning, they would take the cores from whoever prepares the next image
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if device == "cuda":  # a node left to the CPU makes the session fail
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _with_options(
    bundle: Bundle, *, provider: Provider, precision: Precision, gpu: str
) -> list[tuple[str, dict[str, str]]]:
    """Providers in order of preference. TensorRT's leaves nodes that it does not know to CUDA's, on the same GPU."""
    if provider != "tensorrt":
        return [_CUDA] if provider == "cuda" else [(_PROVIDERS[provider], {})]
    model = bundle.manifest.files[bundle.model_path(precision).name]
    kept = _kept_engines(model.sha256, gpu=gpu, tensorrt=nvinfer_version())
    return [(_PROVIDERS["tensorrt"], kept | _TENSORRT_FLAGS.get(precision, {})), _CUDA]


def _kept_engines(model_sha256: str, *, gpu: str, tensorrt: str | None) -> dict[str, str]:
    """Options that let TensorRT's provider keep its engines; none where they cannot be kept.

    By itself it tells neither weights, nor GPUs of one compute capability, nor releases of one TensorRT apart: it would
    run the engine of a model before this one, or one tuned for another GPU, and fail at one of another release.
    """
    try:
        name = "-".join([model_sha256, re.sub(r"\W+", "_", gpu), tensorrt or "unknown"])
        folder = cache_folder("onnxruntime-tensorrt") / name
        make_folder(folder)  # the provider makes the last folder of a path alone
    except ReasonError:
        return {}
    return {
        "trt_engine_cache_enable": _ON,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": _ON,
        "trt_timing_cache_path": str(folder),
    }


def _import(device: Device) -> ModuleType:
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) == 2:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            f'pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "reason-edge[{_EXTRAS[device]}]"'
        )
    switch_off_telemetry()
    try:
        import onnxruntime
    except ImportError as error:
        other = ", or, where one can be chosen, --backend openvino, which is installed"
        is_there = device == "cpu" and _is_installed("openvino")
        hint = f'pip install "reason-edge[{_EXTRAS[device]}]"{other if is_there else ""}'
        raise BackendError(f"ONNX Runtime cannot be imported ({error}); {hint}") from error
    module: ModuleType = onnxruntime
    return module


def _load_cuda(ort: ModuleType) -> str:
    """Load CUDA and cuDNN, also from NVIDIA's wheels, where no linker looks; what the library said of missing ones."""
    said = io.StringIO()
    # errors are raised; what cuDNN tries in vain before it finds a way is logged as one too
    ort.set_default_logger_severity(4)
    if hasattr(ort, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
    return "; ".join(said.getvalue().split("\n")).strip("; ")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _failures() -> tuple[type[Exception], ...]:
    """The library's exceptions, which share no ancestor but `Exception`, and those of its bindings."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail",
        "EngineError",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoModel",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
    return (*(getattr(state, name) for name in names), RuntimeError, TypeError, ValueError)


def _check(session: ort.InferenceSession, model: Path, manifest: Manifest) -> None:
    def ports(nodes: list[ort.NodeArg]) -> dict[str, Port]:
        return {
            node.name: Port(
                [side if isinstance(side, int) else None for side in node.shape], _TYPES.get(node.type, node.type)
            )
            for node in nodes
        }

    check_signature(model, manifest, inputs=ports(session.get_inputs()), outputs=ports(session.get_outputs()))
