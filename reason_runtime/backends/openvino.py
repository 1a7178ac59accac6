"""OpenVINO on CPU. It reads the bundle's ONNX; bf16 is a hint on the fp32 file.

Compiled models are kept in `$XDG_CACHE_HOME/reason-edge/openvino` (`~/.cache` where that is not set), never in the
bundle; OpenVINO keys them by model, settings and its own version. Where the folder cannot be made, every start compiles
again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from reason_runtime.backends.signature import INPUT, OUTPUTS, check_batch, check_signature
from reason_runtime.bundle import Bundle
from reason_runtime.cache import cache_folder
from reason_runtime.choices import Device, Precision
from reason_runtime.errors import BackendError
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs

if TYPE_CHECKING:
    import openvino as ov

# Without the hint OpenVINO takes bf16 wherever the processor has it. int8 layers are int8 by the graph, the rest f32.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoSession:
    """See `reason_runtime.session.Session`."""

    backend: Literal["openvino"] = "openvino"
    precision: Precision
    libraries: dict[str, str]
    manifest: Manifest
    model: Path
    compiled: ov.CompiledModel

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Session.run`."""
        check_batch(images, self.manifest)
        try:
            found = self.compiled({INPUT: np.ascontiguousarray(images)})
        except RuntimeError as error:
            raise BackendError(f"{self.model}: OpenVINO failed on a batch of {len(images)} ({error})") from error
        return Outputs(anomaly_map=found[OUTPUTS[0]], score=found[OUTPUTS[1]])


def open_session(bundle: Bundle, *, precision: Precision, device: Device, threads: int | None) -> OpenVinoSession:
    """Load a bundle's model; see `reason_runtime.session.open_session`.

    Raises:
        BundleError: The bundle has no model for the precision, or the model is not what the manifest says.
        BackendError: OpenVINO is missing, refuses the model, or this processor cannot do the precision.
    """
    if device != "cpu":
        raise BackendError(f"the OpenVINO backend runs on cpu, not {device}")
    if precision not in _HINTS:
        raise BackendError(f"OpenVINO on CPU does not run {precision}; ask for one of {', '.join(_HINTS)}")
    ov = _import()
    model = bundle.model_path(precision)
    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in capabilities:
        raise BackendError(f"this processor has no {precision} for OpenVINO; it has {', '.join(capabilities)}")
    try:
        compiled = core.compile_model(str(model), "CPU", _settings(precision, threads=threads))
    except RuntimeError as error:
        raise BackendError(f"{model}: OpenVINO {ov.__version__} refuses the model ({error})") from error
    _check(compiled, model, bundle.manifest)
    used = compiled.get_property("INFERENCE_NUM_THREADS")
    return OpenVinoSession(
        precision=precision,
        libraries={"openvino": ov.__version__, "device": "CPU", "threads": str(used)},
        manifest=bundle.manifest,
        model=model,
        compiled=compiled,
    )


def _import() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f'OpenVINO cannot be imported ({error}); pip install "reason-edge[openvino]"') from error
    module: ModuleType = openvino
    return module


def _settings(precision: Precision, *, threads: int | None) -> dict[str, str]:
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    folder = _writable_cache_folder()
    return settings if folder is None else settings | {"CACHE_DIR": str(folder)}


def _writable_cache_folder() -> Path | None:
    """The cache folder, made if need be; None on a device where nothing may be written."""
    folder = cache_folder("openvino")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _check(compiled: ov.CompiledModel, model: Path, manifest: Manifest) -> None:
    def shapes(ports: list[ov.ConstOutput]) -> dict[str, list[int | None]]:
        return {
            port.get_any_name(): [side.get_length() if side.is_static else None for side in port.get_partial_shape()]
            for port in ports
        }

    check_signature(model, manifest, inputs=shapes(compiled.inputs), outputs=shapes(compiled.outputs))
