"""Clean teacher features of all training images, computed once: training then costs the student only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reason_train.config import Config
from reason_train.image_store import ImageStore, all_images
from reason_train.model import ReasonModel
from reason_train.timing import PhaseClock


class FeatureCache:
    """Features by image position, in bf16 where networks train in bf16, which is how they would enter the student."""

    def __init__(
        self, model: ReasonModel, store: ImageStore, config: Config, *, device: torch.device, clock: PhaseClock
    ) -> None:
        parts: list[list[Tensor]] = []
        kept = torch.bfloat16 if config.training.bf16 else torch.float32
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=config.training.bf16):
            for batch in clock.reading(all_images(store)):
                with clock.during("teacher"):
                    features = model.features(torch.from_numpy(batch).to(device))
                    parts.append([feature.to(kept) for feature in features])
        self._features = [torch.cat(scale) for scale in zip(*parts, strict=True)]

    @staticmethod
    def mib(model: ReasonModel, store: ImageStore, config: Config) -> int:
        """Memory that the features of all images take, MiB."""
        shape, size = model.teacher.shape, config.method.image_size_px
        values = sum(c * (size // stride) ** 2 for c, stride in zip(shape.channels, shape.strides, strict=True))
        return len(store) * values * (2 if config.training.bf16 else 4) // 2**20

    def __getitem__(self, order: Sequence[int]) -> list[Tensor]:
        """Features over scales of the images at these positions, (N, C, h, w) each."""
        index = torch.tensor(order, dtype=torch.int64, device=self._features[0].device)
        return [scale[index].to(memory_format=torch.channels_last) for scale in self._features]
