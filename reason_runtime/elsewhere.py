"""Pictures are never written to where they would be taken for images the next time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from reason_runtime.errors import ConfigurationError


def require_elsewhere(folder: Path, *, source: Path, places: Iterable[Path] | None = None) -> None:
    """Refuse a folder for pictures that lies, whatever links lead there, in what is read.

    Args:
        folder: That was asked for.
        source: A folder of images, in which no picture may come to lie, or an image, beside which none may.
        places: Folders below `folder` that get pictures; None: itself.

    Raises:
        ConfigurationError: A picture would lie there.
    """
    is_folder = source.is_dir()
    read = source if is_folder else source.parent
    real = Path(os.path.realpath(read))
    for place in map(Path, map(os.path.realpath, [folder] if places is None else places)):
        if place.is_relative_to(real) if is_folder else place == real:
            raise ConfigurationError(
                f"{folder}: puts pictures into {read}, where they would be taken for images the next time; give a "
                "folder elsewhere"
            )
