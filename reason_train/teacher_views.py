"""What each step trains on, as the teacher sees it: from kept features where they fit in memory, else from images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import tee

import torch

from reason_train.config import Config
from reason_train.feature_cache import FeatureCache
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.ranks import Part, Ranks
from reason_train.schedule import batch_order, seeded
from reason_train.step import TeacherView, view_features, view_images
from reason_train.timing import PhaseClock


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

    Clean teacher features are computed once where nothing changes them and those of all images fit into `cache_mib`;
    of several processes each keeps all of them, since every epoch deals the images anew.

    Raises:
        ImageError: A training image cannot be read.
    """
    seed = config.training.seed
    orders = (batch_order(config.training, step=step, images=store.images) for step in steps)
    parts = map(partial(_dealt, ranks), orders)
    fixed = config.method.noise_at == "features" or config.method.method == "rd4ad"
    if fixed and FeatureCache.mib(model, store, config) <= cache_mib:
        cache = FeatureCache(model, store, config, device=device, clock=clock)
        for step, (part, order) in zip(steps, parts, strict=True):
            with clock.during("teacher"):
                view = view_features(cache[order], config, noise=seeded("noise", seed, step), part=part)
            yield view
        return
    ahead, now = tee(parts)
    batches = clock.reading(store.batches(order for _, order in ahead))
    for step, (part, _), batch in zip(steps, now, batches, strict=True):
        with clock.during("teacher"):
            images = torch.from_numpy(batch).to(device, non_blocking=True)
            view = view_images(model, images, config, noise=seeded("noise", seed, step), part=part)
        yield view


def _dealt(ranks: Ranks, order: Sequence[int]) -> tuple[Part, Sequence[int]]:
    """This process's part of a batch, and its images."""
    part = ranks.part(len(order))
    return part, part.of(order)
