"""Keeps what a native library prints out of standard output, which belongs to results."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send the process's standard output to standard error for a while, below Python: C and C++ print there too."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # or buffered lines would come out after the way back
        os.dup2(kept, 1)
        os.close(kept)
