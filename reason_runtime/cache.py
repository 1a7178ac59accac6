"""Where things are kept that can always be made again: never in the bundle."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/reason-edge/<name>` (`~/.cache` where that is not set); it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "reason-edge" / name
