"""What native code prints does not reach standard output."""

from __future__ import annotations

import subprocess
import sys

PRINTS = """
import ctypes, os
from reason_runtime.native_output import stdout_to_stderr
libc = ctypes.CDLL(None)
print("result 1")
with stdout_to_stderr():
    libc.puts(b"by C, kept in its buffer")
    os.write(1, b"by the system\\n")
print("result 2", flush=True)
libc.puts(b"by C, afterwards")
libc.fflush(None)
"""


def test_what_c_prints_inside_goes_to_standard_error_and_nothing_else_does() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["result 1", "result 2", "by C, afterwards"]
    assert sorted(done.stderr.splitlines()) == ["by C, kept in its buffer", "by the system"]
