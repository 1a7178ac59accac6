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

    Clean teacher features of the images themselves are computed once where nothing changes them and those of all images
    fit into `cache_mib`; of several processes each keeps all of them, since every epoch deals the images anew.

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
        if FeatureCache.mib(model, store, config) <= cache_mib:
            kept = FeatureCache(model, store, config, clean_features=clean_features, device=device, clock=clock)
        together = max(1, TOGETHER // config.training.batch_size)
        known = store.images if kept is not None else 0
        deals = _clean(clean_features, read, kept, deal, known=known, together=together, steps=steps, clock=clock)
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
    known: int,
    together: int,
    steps: range,
    clock: PhaseClock,
) -> Iterator[tuple[int, Part, list[Tensor]]]:
    """Each step with its part and clean features; positions from `known` on are computed, `together` steps at once.

    Groups are the same wherever a training is resumed, so that every image has the company that it had.
    """
    firsts = range(steps.start // together * together, steps.stop, together)
    groups = (range(first, min(first + together, steps.stop)) for first in firsts)
    ahead, now = tee([(step, *deal(step)) for step in group] for group in groups)
    unknown = ([i for _, _, order in group for i in order if i >= known] for group in ahead)
    for group, batch in zip(now, clock.reading(read(unknown)), strict=True):
        with clock.during("teacher"):
            new = kept[[]] if kept is not None and len(batch) == 0 else clean_features(batch)
        for step, part, order in group:
            places = [place for place, i in enumerate(order) if i >= known]
            if step in steps:
                with clock.during("teacher"):
                    clean = _joined(order, places, new, kept)
                yield step, part, clean
            new = [scale[len(places) :] for scale in new]


def _joined(
    order: Sequence[int], places: Sequence[int], new: Sequence[Tensor], kept: FeatureCache | None
) -> list[Tensor]:
    """A batch's features: the first of `new` at `places`, kept ones elsewhere."""
    if kept is None:
        return [scale[: len(order)] for scale in new]
    clean = kept[[0 if place in places else i for place, i in enumerate(order)]]
    for scale, found in zip(clean, new, strict=True):
        scale[places] = found[: len(places)]
    return clean
