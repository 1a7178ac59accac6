"""TensorRT and TensorRT-RTX: one Python interface under two module names, imported, checked and listened to."""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from reason_runtime.choices import Builder
from reason_runtime.engine_facts import AMPERE, Gpu, numbers
from reason_runtime.errors import BackendError

if TYPE_CHECKING:
    import tensorrt

NAMES: dict[Builder, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_EXTRAS: dict[Builder, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_OLDEST: dict[Builder, str] = {"tensorrt": "10.3", "tensorrt_rtx": "1.4"}  # 10.3 is JetPack 6's; from 1.7 on int8
_KEPT = 50
"""Errors; of more, the last ones."""
Made = TypeVar("Made")


def load_library(builder: Builder) -> ModuleType:
    """The library's module.

    Raises:
        BackendError: It is not installed, cannot be loaded, or is too old.
    """
    try:
        trt = importlib.import_module(builder)
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs is missing
        raise BackendError(
            f'{NAMES[builder]} cannot be imported ({error}); pip install "reason-edge[{_EXTRAS[builder]}]"'
        ) from error
    if numbers(trt.__version__) < numbers(_OLDEST[builder]):
        raise BackendError(
            f"{NAMES[builder]} {trt.__version__} is too old, {_OLDEST[builder]} or later is needed; "
            f'pip install --upgrade "reason-edge[{_EXTRAS[builder]}]"'
        )
    return trt


def numpy_name(name: str) -> str:
    """What NumPy calls a type of TensorRT's; others than those of a bundle's inputs and outputs keep their name."""
    return {"FLOAT": "float32", "UINT8": "uint8"}.get(name, name)


def compute_capability_words(trt: ModuleType) -> dict[str, str]:
    """The compute capabilities that TensorRT-RTX builds for, oldest first, and its words: `8.6` is `SM86`."""
    words = [name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    return {f"{word[2:-1]}.{word[-1]}": word for word in sorted(words, key=lambda word: int(word[2:]))}


def require_rtx_gpu(gpu: Gpu, *, known: Sequence[str], version: str) -> None:
    """TensorRT-RTX runs on the GPUs that it builds for and on later ones, not on those in between.

    Nor on Turing (7.5), which it has a word for: it has no float32 matrix product there, and the map head is float32.

    Args:
        gpu: Of this machine.
        known: Compute capabilities that the library has words for, oldest first.
        version: Of the library.

    Raises:
        BackendError: Not on this one; says what does.
    """
    able = [capability for capability in known if numbers(capability) >= numbers(AMPERE)]
    if gpu.compute_capability not in able and numbers(gpu.compute_capability) < numbers(able[-1]):
        raise BackendError(
            f"TensorRT-RTX {version} does not run on {gpu.name} (compute capability {gpu.compute_capability}), only on "
            f"{', '.join(able)} and later; use --backend tensorrt, or --backend onnxruntime --device cuda"
        )


class Messages:
    """What the library says while it works: errors are kept for the exception that follows them, the rest is dropped.

    The library says why in its log only; its functions return None or False.

    Args:
        trt: The library.
    """

    def __init__(self, trt: ModuleType) -> None:
        self._library = f"{trt.__name__} {trt.__version__}"
        self.log, self._errors = _log(trt)
        self._errors.clear()

    def made(self, kind: Callable[..., Made], *before: object) -> Made:
        """A builder, parser or runtime, which takes the log last.

        Raises:
            BackendError: The library made none.
        """
        try:
            return kind(*before, self.log)
        except TypeError as error:  # what the bindings make of a null pointer
            raise BackendError(
                f"{self._library} does not start here ({self.why()}); it may need a later NVIDIA driver"
            ) from error

    def why(self) -> str:
        """The errors since the last call, each once, without the echo that every one has while no driver is there."""
        errors = list(self._errors)
        self._errors.clear()
        said = dict.fromkeys(error for error in errors if "catchCudaError" not in error) or dict.fromkeys(errors)
        return "; ".join(said) or "no reason given"


@cache
def _log(trt: ModuleType) -> tuple[tensorrt.ILogger, deque[str]]:
    """The library's log and the errors in it.

    One for the life of the process: the library registers the first log that it gets, and goes on calling it for later
    sessions too, when that of the first is gone.
    """
    errors: deque[str] = deque(maxlen=_KEPT)

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]  # a class of a module that is chosen at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(message.strip())

    return Log(), errors
