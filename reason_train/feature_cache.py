"""Clean teacher features: of all training images, computed once, and of their views for as long as they are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reason_train.config import Config
from reason_train.image_store import ImageStore, all_images
from reason_train.model import ReasonModel
from reason_train.schedule import first_step_with_views, shows_new_views
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
    """Features by position in the store, in bf16 where networks train in bf16, as they would enter the student.

    Those of images stay; those of a view stay until the next rounds' view of the image takes their place.
    """

    def __init__(
        self, model: ReasonModel, store: ImageStore, config: Config, *, views: int, device: torch.device
    ) -> None:
        kept = torch.bfloat16 if config.training.bf16 else torch.float32
        self._training, self._images, self._views = config.training, store.images, views
        places = store.images * (1 + views)
        self._features = [
            torch.empty((places, *shape), dtype=kept, device=device) for shape in self._shapes(model, config)
        ]

    def fill(self, clean_features: CleanFeatures, store: ImageStore, *, clock: PhaseClock) -> None:
        """Compute and keep the features of all images."""
        done = 0
        for batch in clock.reading(all_images(store)):
            with clock.during("teacher"):
                self.put(range(done, done + len(batch)), clean_features(batch))
            done += len(batch)

    @staticmethod
    def mib(model: ReasonModel, store: ImageStore, config: Config, *, views: int) -> float:
        """Memory that the features of all images and of so many views of each take, MiB."""
        values = sum(c * rows * columns for c, rows, columns in FeatureCache._shapes(model, config))
        return store.images * (1 + views) * values * (2 if config.training.bf16 else 4) / 2**20

    @staticmethod
    def _shapes(model: ReasonModel, config: Config) -> list[tuple[int, int, int]]:
        shape, size = model.teacher.shape, config.method.image_size_px
        sides = [size // stride for stride in shape.strides]
        return [(channels, side, side) for channels, side in zip(shape.channels, sides, strict=True)]

    def has(self, position: int, *, step: int) -> bool:
        """Whether a step finds the features of an image or view that it shows here, where all before it were put."""
        if position < self._images:
            return True
        return self._views > 0 and not shows_new_views(self._training, step=step, images=self._images)

    def filled_from(self, step: int) -> int:
        """The step from which on features must have been put, so that the given step and later ones find theirs."""
        return first_step_with_views(self._training, step=step, images=self._images) if self._views else step

    def __getitem__(self, order: Sequence[int]) -> list[Tensor]:
        """Features over scales of the images and views at these positions, (N, C, h, w) each; a copy."""
        index = torch.tensor([self._place(position) for position in order], dtype=torch.int64)
        return [scale[index.to(scale.device)].to(memory_format=torch.channels_last) for scale in self._features]

    def put(self, order: Sequence[int], features: Sequence[Tensor]) -> None:
        """Keep features of images and views at these positions; those of views only where there are places for them."""
        for n, position in enumerate(order):
            if position < self._images or self._views:
                for scale, found in zip(self._features, features, strict=True):
                    scale[self._place(position)] = found[n]

    def _place(self, position: int) -> int:
        view, image = divmod(position, self._images)
        return image if view == 0 else (1 + (view - 1) % self._views) * self._images + image
