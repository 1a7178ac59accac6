"""Pictures of rejects, with their heat map where there is one, in a folder that never outgrows its limit."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.atomic import reason
from reason_runtime.detector import Detector
from reason_runtime.errors import ConfigurationError, ReasonError, SinkError
from reason_runtime.image import as_image
from reason_runtime.line.messages import Answer, Message
from reason_runtime.line.model import LineModel
from reason_runtime.overlay import map_scale, overlay, save_picture

_LONGEST_NAME = 150


def paint_reject(answer: Answer, detector: Detector) -> NDArray[np.uint8] | None:
    """(h, w, 3) RGB of what a reject shows, in the detector's colour scale; None where the answer has no pixels.

    Raises:
        ImageError: Pixels of a kind that is refused.
    """
    if answer.picture is None:
        return None
    form = answer.picture.input_format or detector.bundle.manifest.input
    image = as_image(answer.picture.image, input_format=form)
    map_, scale = answer.picture.anomaly_map, 1.0
    try:
        scale = map_scale(detector)
    except ConfigurationError:  # neither threshold nor statistics: the picture alone
        map_ = None
    if map_ is None or not np.isfinite(map_).all():
        map_, form = np.zeros(image.shape[:2], np.float32), dataclasses.replace(form, crop_px=None)
    limit = detector.pixel_threshold if answer.is_reject else None
    return overlay(image, map_, input_format=form, scale=scale, pixel_threshold=limit)


class PicturesSink:
    """See `Sink`.

    Args:
        folder: To write into; made if need be. Pictures of earlier runs there count towards the limit.
        max_bytes: Of all pictures together; the oldest are removed first.
        model: The one in use, which may be another later; see `paint_reject`.
    """

    keeps = False
    drives_line = False
    wants_pictures = True

    def __init__(self, folder: Path, *, max_bytes: int, model: Callable[[], LineModel]) -> None:
        self.name = f"pictures {folder}"
        self._folder = folder
        self._max_bytes = max_bytes
        self._model = model
        self._files: deque[tuple[Path, int]] = deque()
        self._bytes = 0

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = [(path, path.stat()) for path in self._folder.glob("*.jpg")]
        except OSError as error:
            raise SinkError(f"{self._folder}: cannot be used ({reason(error)})") from error
        found.sort(key=lambda item: item[1].st_mtime_ns)
        self._files = deque((path, stat.st_size) for path, stat in found)
        self._bytes = sum(size for _, size in self._files)
        self._make_room()

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        for message in messages:
            if isinstance(message, Answer) and message.is_reject:
                self._save(message)

    def close(self) -> None:
        """See `Sink.close`."""

    def _save(self, answer: Answer) -> None:
        picture = paint_reject(answer, self._model().detector)
        if picture is None:
            return
        name = re.sub(r"[^\w.-]", "_", answer.part_id)[:_LONGEST_NAME]
        path = self._folder / f"{name}.{answer.decision}.jpg"
        try:
            save_picture(path, picture)
            size = path.stat().st_size
        except (ReasonError, OSError) as error:
            raise SinkError(str(error)) from error
        self._files.append((path, size))
        self._bytes += size
        self._make_room()

    def _make_room(self) -> None:
        while self._files and self._bytes > self._max_bytes:
            path, size = self._files.popleft()
            path.unlink(missing_ok=True)
            self._bytes -= size
