"""Marks of tests that need an NVIDIA GPU: `pytestmark = NEEDS_GPU`. Without one they are skipped and say so."""

from __future__ import annotations

import ctypes

import pytest


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not _has_driver(), reason="no NVIDIA GPU here; docs/not-run-here.md lists what that leaves open"
    ),
]
