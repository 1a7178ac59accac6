"""Frames as PNG files, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from reason_runtime.atomic import write_bytes
from reason_runtime.detector import Pixels
from reason_runtime.image import is_one_channel


def save_frame(path: Path, image: Pixels) -> None:
    """Write a frame without loss, whole or not at all: 8 or 16 bits as it has them, mono where it is mono.

    Args:
        path: Ends in `.png`.
        image: (H, W), (H, W, 1) or (H, W, 3) RGB.

    Raises:
        ReasonError: The system refused to write.
    """
    if image.ndim == 3:
        one_channel = image.shape[2] == 1 or is_one_channel(image)
        image = image[:, :, 0] if one_channel else image[:, :, ::-1]  # OpenCV has BGR, and keeps 16 bits of colour
    _, content = cv2.imencode(".png", np.ascontiguousarray(image))
    write_bytes(path, content.tobytes())
