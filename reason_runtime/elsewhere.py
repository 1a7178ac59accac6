"""What a line writes never lies where it would be read the next time: as an image, or as a bundle's file."""

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


def require_outside(place: Path, *, bundles: Iterable[Path]) -> None:
    """Refuse a file or folder that lies, whatever links lead there, in a bundle: it would not open the next time.

    Raises:
        ConfigurationError: It lies in one.
    """
    for bundle in bundles:
        if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(bundle)):
            raise ConfigurationError(
                f"{place}: lies in bundle {bundle}, which does not open with files that are not its own; give another "
                "place"
            )
