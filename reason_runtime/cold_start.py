"""What a fresh process needs until its first decision, and the most memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reason_runtime.errors import BackendError
from reason_runtime.strict_json import Json

_PROGRAM = """
import json, sys, time
from pathlib import Path
started = time.monotonic()
import numpy as np
from reason_runtime import load
bundle, options = json.loads(sys.argv[1])
detector = load(bundle, **options)
form = detector.bundle.manifest.input
image = np.zeros((*form.picture_px, form.channels), np.uint8)
detector(image)
first = time.monotonic()
for _ in range(20):
    detector(image)
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.is_file() else []
peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
print(json.dumps([first - started, peak]))
"""
"""Memory is Linux' VmHWM, of this program alone: `getrusage` would count what the process that started it has had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Two fresh processes, the first with an empty cache of compiled models.

    Attributes:
        first_s: From the interpreter's first line to the first decision.
        second_s: The same, with what the first left in the cache.
        peak_memory_mib: Resident, of the second, after some more images; of the processor, not of a GPU.
            None where the system does not tell.
    """

    first_s: float
    second_s: float
    peak_memory_mib: float | None


def measure_cold_start(bundle: Path, options: Mapping[str, Json]) -> ColdStart:
    """Load and judge in two processes, one after the other.

    Args:
        bundle: Folder.
        options: The other arguments of `reason_runtime.load`.

    Raises:
        BackendError: A process failed, with what it said last.
    """
    arguments = json.dumps([str(bundle), dict(options)])
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        first, second = (_run(arguments, environment) for _ in range(2))
    return ColdStart(first_s=first[0], second_s=second[0], peak_memory_mib=second[1])


def _run(arguments: str, environment: dict[str, str]) -> tuple[float, float | None]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        raise BackendError(f"a fresh process failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    seconds, mebibytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, mebibytes
