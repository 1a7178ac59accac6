"""Where things are kept that can always be made again: never in the bundle."""

from __future__ import annotations

import os
from pathlib import Path

from reason_runtime.errors import ReasonError


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/reason-edge/<name>` (`~/.cache` where that is not set); it may not exist yet.

    Raises:
        ReasonError: The user has no home folder, as in some containers.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "reason-edge" / name
    except RuntimeError as error:
        raise ReasonError("this user has no home folder to keep things in; set XDG_CACHE_HOME to one") from error
