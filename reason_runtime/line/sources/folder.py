"""Images of a folder, in the order of their names, or one image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from reason_runtime.decode import Decoded
from reason_runtime.detector import Pixels
from reason_runtime.errors import DataError, ImageError, SourceError
from reason_runtime.image import SUFFIXES, InputFormat, decode_file, image_of, list_images
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.source import Nothing


class FolderSource:
    """See `Source`; an image that cannot be read is a frame without pixels.

    Args:
        place: A folder with images, or an image.
        input_format: Of the bundle: files are read by its rules. None keeps 16 bits, and mono is mono.
    """

    live = False
    checks_freezing = False

    def __init__(self, place: Path, *, input_format: InputFormat | None) -> None:
        self._place = place
        self._form = input_format
        self._paths: Iterator[Path] = iter(())

    def open(self) -> None:
        """See `Source.open`."""
        try:
            paths = [self._place] if self._place.is_file() else list_images(self._place)
        except DataError as error:
            raise SourceError(str(error)) from error
        if not paths:
            raise SourceError(f"{self._place}: holds no image; expected files that end in {' '.join(SUFFIXES)}")
        self._paths = iter(paths)

    def read(self) -> Grab | Nothing:
        """See `Source.read`."""
        path = next(self._paths, None)
        if path is None:
            return "end"
        try:
            image = pixels_of(decode_file(path), name=str(path), input_format=self._form)
        except ImageError as error:
            return Grab(grabbed_ns=time.monotonic_ns(), failure=str(error), path=str(path))
        return Grab(grabbed_ns=time.monotonic_ns(), image=image, path=str(path))

    def close(self) -> None:
        """See `Source.close`."""


def pixels_of(decoded: Decoded, *, name: str, input_format: InputFormat | None) -> Pixels:
    """A picture as the line takes it; without a format, before there is a bundle, as it is in the file.

    Raises:
        ImageError: The format refuses it; or it is transparent, which no camera gives.
    """
    if input_format is not None:
        return image_of(decoded, input_format=input_format)
    if decoded.alpha is not None and decoded.alpha.min() < 255:
        raise ImageError(f"{name}: is transparent in places, which no camera gives; copy the file instead")
    return decoded.colour
