"""Pictures of rejects, with their heat map where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Detector
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import as_image
from reason_runtime.line.messages import Answer, Message
from reason_runtime.line.model import LineModel
from reason_runtime.line.sinks.bounded_folder import BoundedFolder, file_name
from reason_runtime.overlay import map_scale, overlay, save_picture


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
    wants = None

    def __init__(self, folder: Path, *, max_bytes: int, model: Callable[[], LineModel]) -> None:
        self.name = f"pictures {folder}"
        self._folder = BoundedFolder(folder, names=r".*\.(NG|UNKNOWN)(\.\w{8})?\.jpg", max_bytes=max_bytes)
        self._model = model

    def open(self) -> None:
        """See `Sink.open`."""
        self._folder.open()

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
        with self._folder.adding(f"{file_name(answer.part_id)}.{answer.decision}.jpg") as path:
            save_picture(path, picture)
