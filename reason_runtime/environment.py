"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from reason_runtime.session import Session
from reason_runtime.strict_json import Json

_LIBRARIES = ("reason-edge", "numpy", "pillow", "opencv-python-headless")


def fingerprint(session: Session) -> dict[str, Json]:
    """Processor, cores, system and versions, so that a figure can be compared with another.

    Keys: `processor`, `cores` (that this process may use), `memory_gib`, `system`, `python`, `libraries` (version by
    name), and the session's own facts under `session` (library version, provider or device, threads).
    """
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "session": dict(session.libraries),
    }


def processor() -> str:
    """The processor's own name; its architecture where the system does not tell (Arm)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
