"""Golden arrays: images with what the trained PyTorch model gives for them, for every later comparison."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reason_export.painted import painted_golden
from reason_export.resize_graph import CameraModel
from reason_runtime.golden import PAINTED, Answers, Golden, Preparation
from reason_runtime.image import InputFormat
from reason_train.model import ReasonModel

MOST_IMAGES = 16
SYNTHETIC_IMAGES = 4
SYNTHETIC_SEED = 20250


def synthetic_images(input_format: InputFormat) -> NDArray[np.uint8]:
    """(4, H, W, C): sine patterns with a sharp rectangle, the same on every machine."""
    random = np.random.default_rng(SYNTHETIC_SEED)
    height, width, channels = input_format.height_px, input_format.width_px, input_format.channels
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    images = np.empty((SYNTHETIC_IMAGES, height, width, channels))
    for image in images:
        for channel in range(channels):
            across, down, phase = random.uniform(1, 8, 3)
            image[:, :, channel] = 127.5 + 80 * np.sin(2 * np.pi * (across * columns + down * rows) + phase)
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        image[top : top + height // 8, left : left + width // 4] += random.uniform(-60, 60)
    return np.clip(np.round(images), 0, 255).astype(np.uint8)


def make_golden(
    model: ReasonModel | CameraModel,
    images: NDArray[np.uint8],
    *,
    synthetic: bool,
    preparation: Preparation | None = None,
) -> Golden:
    """Maps and scores of the PyTorch model in float32 on the CPU, one image at a time.

    Args:
        model: In evaluation mode.
        images: (N, H, W, C) as the graph takes them.
        synthetic: Whether they are made-up patterns; on photographs defects are painted beside, but on those of a
            camera's size, where that takes minutes.
        preparation: What comes before the graph.
    """
    painted = images[:0]
    if not synthetic and isinstance(model, ReasonModel):
        painted = painted_golden(images, counts=model.head.counts)
    return Golden(
        **_answers(model, images),
        synthetic=np.full(len(images), synthetic),
        painted=Answers(**_answers(model, painted)) if len(painted) else None,
        preparation=preparation,
    )


@torch.no_grad()
def _answers(model: ReasonModel | CameraModel, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    maps, scores = [], []
    for image in images:
        anomaly_map, score = model(torch.from_numpy(image[None]))
        maps.append(anomaly_map.numpy()[0])
        scores.append(score.numpy()[0])
    return {"images": images, "anomaly_map": np.stack(maps), "score": np.array(scores, np.float32)}


def golden_bytes(golden: Golden) -> bytes:
    """The content of `golden.npz`."""
    buffer = io.BytesIO()
    arrays = {name: getattr(golden, name) for name in ("images", "anomaly_map", "score", "synthetic")}
    if golden.painted is not None:
        arrays |= {PAINTED + name: getattr(golden.painted, name) for name in ("images", "anomaly_map", "score")}
    if golden.preparation is not None:
        arrays |= {"picture": golden.preparation.picture, "prepared": golden.preparation.prepared}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
