"""The version of the TensorRT library that ONNX Runtime's provider works with; the provider itself does not tell it."""

from __future__ import annotations

import ctypes

_LIBRARIES = ("libnvinfer.so.10", "libnvinfer.so.11")
"""As the provider asks the linker for them; ONNX Runtime 1.31 for the first."""


def nvinfer_version() -> str | None:
    """Such as `10.3.0`; None where the linker finds no TensorRT.

    Source: `NV_TENSORRT_VERSION` of NvInferVersion.h, 10000 major + 100 minor + patch since TensorRT 10.
    """
    for name in _LIBRARIES:
        try:
            number = ctypes.CDLL(name).getInferLibVersion()
        except (OSError, AttributeError):
            continue
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None
