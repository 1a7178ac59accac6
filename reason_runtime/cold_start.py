"""What a fresh process needs until its first decision, and the most memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reason_runtime.choices import Backend, Precision
from reason_runtime.errors import BackendError

_PROGRAM = """
import json, resource, sys, time
started = time.time()
import numpy as np
from reason_runtime import load
bundle, backend, precision, device, threads = json.loads(sys.argv[1])
detector = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
form = detector.bundle.manifest.input
image = np.zeros((form.resize_height_px, form.resize_width_px, form.channels), np.uint8)
detector(image)
first = time.time()
for _ in range(20):
    detector(image)
print(json.dumps([first - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Two fresh processes, the first with an empty cache of compiled models.

    Attributes:
        first_s: From the interpreter's first line to the first decision.
        second_s: The same, with what the first left in the cache.
        peak_memory_mib: Resident, of the second, after some more images; of the processor, not of a GPU.
    """

    first_s: float
    second_s: float
    peak_memory_mib: float


def measure_cold_start(
    bundle: Path, *, backend: Backend, precision: Precision, device: str | None, threads: int | None
) -> ColdStart:
    """Load and judge in two processes, one after the other.

    Raises:
        BackendError: A process failed, with what it said last.
    """
    arguments = json.dumps([str(bundle), backend, precision, device, threads])
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        first, second = (_run(arguments, environment) for _ in range(2))
    return ColdStart(first_s=first[0], second_s=second[0], peak_memory_mib=second[1] / 1024)


def _run(arguments: str, environment: dict[str, str]) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        raise BackendError(f"a fresh process failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    seconds, kibibytes = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(kibibytes)
