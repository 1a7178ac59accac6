"""Pictures of rejects, with their heat map where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Detector
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import as_image
from reason_runtime.line.messages import Answer, Message, Picture
from reason_runtime.line.models import Models
from reason_runtime.line.sinks.bounded_folder import BoundedFolder, file_name
from reason_runtime.overlay import map_scale, overlay, save_picture


def paint_reject(picture: Picture, detector: Detector) -> NDArray[np.uint8]:
    """(h, w, 3) RGB of what a reject shows, in the detector's colour scale.

    Raises:
        ImageError: Pixels of a kind that is refused.
    """
    form = picture.input_format or detector.bundle.manifest.map_format
    image = as_image(picture.image, input_format=form)
    map_, scale = picture.anomaly_map, 1.0
    try:
        scale = map_scale(detector)
    except ConfigurationError:  # neither threshold nor statistics: the picture alone
        map_ = None
    if map_ is None or not np.isfinite(map_).all():
        map_, form = np.zeros(image.shape[:2], np.float32), dataclasses.replace(form, crop_px=None)
    return overlay(image, map_, input_format=form, scale=scale, pixel_threshold=detector.pixel_threshold)


class PicturesSink:
    """See `Sink`.

    Args:
        folder: To write into; made if need be. Pictures of earlier runs there count towards the limit.
        max_bytes: Of all pictures together; the oldest are removed first.
        models: Of the station; see `paint_reject`.
    """

    keeps = False
    drives_line = False
    wants_pictures = True
    wants = None

    def __init__(self, folder: Path, *, max_bytes: int, models: Models) -> None:
        self.name = f"pictures {folder}"
        self._folder = BoundedFolder(folder, names=r".*\.(NG|UNKNOWN)(\.\w{8})?\.jpg", max_bytes=max_bytes)
        self._models = models

    def open(self) -> None:
        """See `Sink.open`."""
        self._folder.open()

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        for message in messages:
            if isinstance(message, Answer) and message.is_reject and message.picture is not None:
                painted = paint_reject(message.picture, self._models.of(message.camera).detector)
                with self._folder.adding(f"{file_name(message.part_id)}.{message.decision}.jpg") as path:
                    save_picture(path, painted)

    def close(self) -> None:
        """See `Sink.close`."""
