"""Clean teacher features of all training images, computed once; only their views then cost the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reason_train.config import Config
from reason_train.image_store import ImageStore, all_images
from reason_train.model import ReasonModel
from reason_train.teacher import fold_norms, keep_front_in_float32, teacher_features
from reason_train.timing import PhaseClock


class CleanFeatures:
    """The teacher's features of images, computed as fast as it goes: its batch norms are folded away.

    Where networks train in bf16 it does too, but for its front (`keep_front_in_float32`).
    """

    def __init__(self, model: ReasonModel, config: Config, *, device: torch.device) -> None:
        self._whiten, self._device, self._bf16 = model.whiten, device, config.training.bf16
        self._teacher = fold_norms(model.teacher).to(memory_format=torch.channels_last)
        if self._bf16:
            keep_front_in_float32(self._teacher)

    @torch.no_grad()
    def __call__(self, batch: NDArray[np.uint8]) -> list[Tensor]:
        """(N, H, W, C) images to features over scales, finest first; bf16 where networks train in bf16."""
        images = torch.from_numpy(batch).to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            return self._whiten(teacher_features(self._teacher, images))


class FeatureCache:
    """Features by image position, in bf16 where networks train in bf16, which is how they would enter the student."""

    def __init__(
        self,
        model: ReasonModel,
        store: ImageStore,
        config: Config,
        *,
        clean_features: CleanFeatures,
        device: torch.device,
        clock: PhaseClock,
    ) -> None:
        kept = torch.bfloat16 if config.training.bf16 else torch.float32
        self._features = [
            torch.empty((store.images, *shape), dtype=kept, device=device) for shape in self._shapes(model, config)
        ]
        done = 0
        for batch in clock.reading(all_images(store)):
            with clock.during("teacher"):
                for place, feature in zip(self._features, clean_features(batch), strict=True):
                    place[done : done + len(batch)] = feature
            done += len(batch)

    @staticmethod
    def mib(model: ReasonModel, store: ImageStore, config: Config) -> int:
        """Memory that the features of all images take, MiB."""
        values = sum(c * rows * columns for c, rows, columns in FeatureCache._shapes(model, config))
        return store.images * values * (2 if config.training.bf16 else 4) // 2**20

    @staticmethod
    def _shapes(model: ReasonModel, config: Config) -> list[tuple[int, int, int]]:
        shape, size = model.teacher.shape, config.method.image_size_px
        sides = [size // stride for stride in shape.strides]
        return [(channels, side, side) for channels, side in zip(shape.channels, sides, strict=True)]

    def __getitem__(self, order: Sequence[int]) -> list[Tensor]:
        """Features over scales of the images at these positions, (N, C, h, w) each; a copy."""
        index = torch.tensor(order, dtype=torch.int64, device=self._features[0].device)
        return [scale[index].to(memory_format=torch.channels_last) for scale in self._features]
