"""ONNX Runtime, on CPU or CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from reason_runtime.backends.signature import INPUT, OUTPUTS, check_batch, check_signature
from reason_runtime.bundle import Bundle
from reason_runtime.choices import Device, Precision
from reason_runtime.errors import BackendError
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs

if TYPE_CHECKING:
    import onnxruntime as ort

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_EXTRAS: dict[Device, str] = {"cpu": "cpu", "cuda": "gpu"}
_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 would give fp32 runs the mantissa of half precision
_OPTIONS: dict[Device, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntimeSession:
    """See `reason_runtime.session.Session`."""

    backend: Literal["onnxruntime"] = "onnxruntime"
    precision: Precision
    libraries: dict[str, str]
    manifest: Manifest
    model: Path
    session: ort.InferenceSession
    failures: tuple[type[Exception], ...]

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Session.run`."""
        check_batch(images, self.manifest)
        try:
            anomaly_map, score = self.session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(images)})
        except self.failures as error:
            raise BackendError(f"{self.model}: ONNX Runtime failed on a batch of {len(images)} ({error})") from error
        return Outputs(anomaly_map=anomaly_map, score=score)


def open_session(bundle: Bundle, *, precision: Precision, device: Device, threads: int | None) -> OnnxRuntimeSession:
    """Load a bundle's model; see `reason_runtime.session.open_session`.

    Raises:
        BundleError: The bundle has no model for the precision, or the model is not what the manifest says.
        BackendError: ONNX Runtime is missing, installed twice, refuses the model, or did not take the device asked for.
    """
    if precision == "bf16":
        raise BackendError("ONNX Runtime does not run bf16; use --backend openvino, or fp32, fp16 or int8")
    ort = _import(device)
    model = bundle.model_path(precision)
    provider = _PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"{provider} is not in the installed ONNX Runtime {ort.__version__}, which has "
            f'{", ".join(ort.get_available_providers())}; pip install "reason-edge[{_EXTRAS[device]}]"'
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: the rest is said by exceptions
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    failures = _failures()
    try:
        session = ort.InferenceSession(str(model), options, providers=[(provider, _OPTIONS[device])])
    except failures as error:
        raise BackendError(f"{model}: ONNX Runtime {ort.__version__} refuses the model ({error})") from error
    if session.get_providers()[0] != provider:  # it falls back without a word
        raise BackendError(
            f"{model}: asked for {provider}, ONNX Runtime took {session.get_providers()[0]}; check the NVIDIA driver, "
            "CUDA and cuDNN, or ask for the CPU"
        )
    _check(session, model, bundle.manifest)
    libraries = {"onnxruntime": ort.__version__, "provider": provider, "threads": str(threads or "chosen by library")}
    return OnnxRuntimeSession(
        precision=precision,
        libraries=libraries,
        manifest=bundle.manifest,
        model=model,
        session=session,
        failures=failures,
    )


def _import(device: Device) -> ModuleType:
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) == 2:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            f'pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "reason-edge[{_EXTRAS[device]}]"'
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f'ONNX Runtime cannot be imported ({error}); pip install "reason-edge[{_EXTRAS[device]}]"'
        ) from error
    module: ModuleType = onnxruntime
    return module


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _failures() -> tuple[type[Exception], ...]:
    """The library's exceptions, which share no ancestor but `Exception`."""
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
    return tuple(getattr(state, name) for name in names)


def _check(session: ort.InferenceSession, model: Path, manifest: Manifest) -> None:
    def shapes(nodes: list[ort.NodeArg]) -> dict[str, list[int | None]]:
        return {node.name: [side if isinstance(side, int) else None for side in node.shape] for node in nodes}

    check_signature(model, manifest, inputs=shapes(session.get_inputs()), outputs=shapes(session.get_outputs()))
