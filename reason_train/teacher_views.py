"""What each step trains on, as the teacher sees it: from kept features where they fit in memory, else from images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import tee

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reason_train.config import Config
from reason_train.device import leaves_cores_idle
from reason_train.feature_cache import CleanFeatures, FeatureCache
from reason_train.image_store import AHEAD, ImageStore
from reason_train.model import ReasonModel
from reason_train.ranks import Part, Ranks
from reason_train.schedule import batch_order, seeded
from reason_train.step import TeacherView, view_features, view_images
from reason_train.teacher import TOGETHER
from reason_train.timing import PhaseClock

Deal = Callable[[int], tuple[Part, Sequence[int]]]
"""A step's batch: this process's part of it, and the positions of its images in the store."""

Read = Callable[[Iterable[Sequence[int]]], Iterator[NDArray[np.uint8]]]
"""`ImageStore.batches`."""


def teacher_views(
    model: ReasonModel,
    config: Config,
    store: ImageStore,
    *,
    device: torch.device,
    steps: range,
    cache_mib: int,
    ranks: Ranks,
    clock: PhaseClock,
) -> Iterator[TeacherView]:
    """This process's part of each step's batch.

    Where nothing changes the teacher's input, clean features that fit into `cache_mib` are computed once: those of all
    images, and those of views for as long as they are shown. Each round deals anew: of several processes each keeps
    those of all images, and none of views.

    Raises:
        ImageError: A training image cannot be read.
    """

    def deal(step: int) -> tuple[Part, Sequence[int]]:
        order = batch_order(config.training, step=step, images=store.images)
        part = ranks.part(len(order))
        return part, part.of(order)

    seed = config.training.seed
    read = partial(store.batches, ahead=AHEAD if leaves_cores_idle(device) else 0)
    if not config.method.has_stem_noise:
        clean_features, kept = CleanFeatures(model, config, device=device), None
        most = config.training.views if ranks.size == 1 else 0
        fitting = [views for views in (most, 0) if FeatureCache.mib(model, store, config, views=views) <= cache_mib]
        if fitting:
            kept = FeatureCache(model, store, config, views=fitting[0], device=device)
            kept.fill(clean_features, store, clock=clock)
        together = max(1, TOGETHER // config.training.batch_size)
        deals = _clean(clean_features, read, kept, deal, together=together, steps=steps, clock=clock)
        for step, part, clean in deals:
            with clock.during("teacher"):
                view = view_features(clean, config, noise=seeded("noise", seed, step), part=part)
            yield view
        return
    ahead, now = tee(map(deal, steps))
    batches = clock.reading(read(order for _, order in ahead))
    for step, (part, _), batch in zip(steps, now, batches, strict=True):
        with clock.during("teacher"):
            images = torch.from_numpy(batch).to(device, non_blocking=True)
            view = view_images(model, images, config, noise=seeded("noise", seed, step), part=part)
        yield view


def _clean(
    clean_features: CleanFeatures,
    read: Read,
    kept: FeatureCache | None,
    deal: Deal,
    *,
    together: int,
    steps: range,
    clock: PhaseClock,
) -> Iterator[tuple[int, Part, list[Tensor]]]:
    """Each step with its part and clean features; what is not kept is computed, `together` steps at once.

    Groups are the same wherever a training is resumed, so that every image has the company that it had. What steps
    before the first one would have kept for it is computed again.
    """

    def dealt(step: int) -> tuple[int, Part, Sequence[int], list[int]]:
        """The step's part and positions, and the places among them of those to compute."""
        part, order = deal(step)
        unknown = [n for n, position in enumerate(order) if kept is None or not kept.has(position, step=step)]
        return step, part, order, unknown

    start = steps.start if kept is None else kept.filled_from(steps.start)
    firsts = range(start // together * together, steps.stop, together)
    groups = (range(first, min(first + together, steps.stop)) for first in firsts)
    ahead, now = tee([dealt(step) for step in group] for group in groups)
    to_read = ([order[n] for _, _, order, places in group for n in places] for group in ahead)
    for group, batch in zip(now, clock.reading(read(to_read)), strict=True):
        with clock.during("teacher"):
            new = kept[[]] if kept is not None and len(batch) == 0 else clean_features(batch)
        for step, part, order, places in group:
            clean, new = [scale[: len(places)] for scale in new], [scale[len(places) :] for scale in new]
            with clock.during("teacher"):
                if kept is not None:
                    kept.put([order[n] for n in places], clean)
                    clean = _joined(order, places, clean, kept)
            if step in steps:
                yield step, part, clean


def _joined(order: Sequence[int], places: Sequence[int], found: Sequence[Tensor], kept: FeatureCache) -> list[Tensor]:
    """A batch's features: those just `found` at `places`, kept ones elsewhere."""
    clean = kept[[0 if n in places else position for n, position in enumerate(order)]]
    for scale, new in zip(clean, found, strict=True):
        scale[places] = new
    return clean
