"""Training images decoded once, kept in memory up to a bound, and read ahead by threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.image import InputFormat, load_image
from reason_train.views import change_view

READERS = 2
AHEAD = 2
"""Batches that are read while one is trained on."""


class ImageStore:
    """Images at the size of the graph's input, by position: all images first, then one view of each, then another.

    The first images that fit into `memory_mib` stay decoded; the others are read again each time. Which ones stay
    changes speed only, never a pixel.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        input_format: InputFormat,
        memory_mib: int = 4096,
        views: int = 0,
        seed: int = 0,
    ) -> None:
        self.paths, self.input_format = tuple(paths), input_format
        self._views, self._seed = views, seed
        bytes_each = input_format.height_px * input_format.width_px * input_format.channels
        self._keep = max(0, memory_mib) * 2**20 // bytes_each
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.paths) * (1 + self._views)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """(H, W, C) uint8: image `index % n`, as it is where index < n, else in view `index // n`.

        Raises:
            ImageError: The file cannot be read.
        """
        view, position = divmod(index, len(self.paths))
        image = self._image(position)
        if view == 0:
            return image
        return change_view(image, random=np.random.default_rng([self._seed, position, view]))

    def _image(self, position: int) -> NDArray[np.uint8]:
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        image = load_image(self.paths[position], input_format=self.input_format)
        if len(self._kept) < self._keep:
            self._kept[position] = image
        return image

    def batches(self, orders: Iterable[Sequence[int]]) -> Iterator[NDArray[np.uint8]]:
        """(N, H, W, C) uint8 for each list of positions, in order, read `AHEAD` batches before they are asked for.

        Raises:
            ImageError: A file cannot be read.
        """
        with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as readers:
            waiting: list[list[Future[NDArray[np.uint8]]]] = []
            for order in orders:
                waiting.append([readers.submit(self.__getitem__, index) for index in order])
                if len(waiting) > AHEAD:
                    yield self._stacked(waiting.pop(0))
            for futures in waiting:
                yield self._stacked(futures)

    def _stacked(self, futures: Sequence[Future[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
        form = self.input_format
        batch = np.empty((len(futures), form.height_px, form.width_px, form.channels), np.uint8)
        for position, future in enumerate(futures):
            batch[position] = future.result()
        return batch


def all_images(store: ImageStore, *, batch_size: int = 16) -> Iterator[NDArray[np.uint8]]:
    """Everything in a store once, in order, in batches."""
    return store.batches(range(i, min(i + batch_size, len(store))) for i in range(0, len(store), batch_size))
