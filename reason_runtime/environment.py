"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from reason_runtime.session import Session
from reason_runtime.strict_json import Json

RUNTIME = "reason-edge"
"""This distribution."""
_LIBRARIES = (RUNTIME, "numpy", "pillow", "opencv-python-headless")
_INSTRUCTION_SETS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimddp", "i8mm", "bf16", "sve"),  # Arm's
)
"""As Linux writes them."""


def usable_cores() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(session: Session) -> dict[str, Json]:
    """Processor, cores, system and versions, so that a figure can be compared with another.

    Keys: `processor`, `cores` (that this process may use), `memory_gib`, `system`, `python`, `libraries` (version by
    name), and the session's own facts under `session` (library version, provider or device, threads).
    """
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "session": dict(session.libraries),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name and those of its instruction sets that libraries choose kernels by.

    Virtual machines name different processors alike, and int8 and bf16 give other values with other kernels. The
    architecture stands for the name where the system does not tell (Arm).
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    facts = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))
    }
    flags = (facts.get("flags") or facts.get("features") or "").split()
    sets = [name for name in _INSTRUCTION_SETS if name in flags]
    return " ".join([facts.get("model name") or platform.machine(), *sets])


def runtime_version() -> str | None:
    """Of this distribution; None where it runs without being installed."""
    return _version(RUNTIME)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
