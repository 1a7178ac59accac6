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
        kept = torch.bfloat16 if config.training.bf16 else torch.float32
        self._features = [
            torch.empty((len(store), *shape), dtype=kept, device=device) for shape in self._shapes(model, config)
        ]
        done = 0
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=config.training.bf16):
            for batch in clock.reading(all_images(store)):
                with clock.during("teacher"):
                    features = model.features(torch.from_numpy(batch).to(device))
                    for place, feature in zip(self._features, features, strict=True):
                        place[done : done + len(batch)] = feature
                done += len(batch)

    @staticmethod
    def mib(model: ReasonModel, store: ImageStore, config: Config) -> int:
        """Memory that the features of all images take, MiB."""
        values = sum(c * rows * columns for c, rows, columns in FeatureCache._shapes(model, config))
        return len(store) * values * (2 if config.training.bf16 else 4) // 2**20

    @staticmethod
    def _shapes(model: ReasonModel, config: Config) -> list[tuple[int, int, int]]:
        shape, size = model.teacher.shape, config.method.image_size_px
        sides = [size // stride for stride in shape.strides]
        return [(channels, side, side) for channels, side in zip(shape.channels, sides, strict=True)]

    def __getitem__(self, order: Sequence[int]) -> list[Tensor]:
        """Features over scales of the images at these positions, (N, C, h, w) each."""
        index = torch.tensor(order, dtype=torch.int64, device=self._features[0].device)
        return [scale[index].to(memory_format=torch.channels_last) for scale in self._features]
