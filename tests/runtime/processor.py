"""What the processor at hand can do. Tests of what it cannot are skipped, each with this reason."""

from __future__ import annotations

import openvino
import pytest


def _has_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


HAS_BF16 = _has_bf16()
NEEDS_BF16 = pytest.mark.skipif(not HAS_BF16, reason="OpenVINO lists no BF16 among this processor's capabilities")
BF16 = pytest.param("bf16", marks=NEEDS_BF16)
"""The precision among a test's parameters."""
