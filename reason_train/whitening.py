"""Teacher features made comparable over channels: measured once on training images, then fixed.

A plain cosine is ruled by the few channels, and the few directions among correlated channels, in which the teacher
varies most. Dividing by each channel's deviation evens out the channels; multiplying by a power of the inverse
correlation matrix evens out the directions, so that a small, unusual change is no longer lost beside a large, usual
one. The mean stays: without it a flat background has features near zero, whose direction is noise.

Departure: Not in REASON; `--preset paper` does not use it. `docs/accuracy.md` shows what it brings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reason_runtime.evenly import evenly
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.teacher import TOGETHER, fold_norms, teacher_features

MEASURED_IMAGES = 256
"""At most so many training images, evenly spaced over the list, are measured."""
SHRINKAGE = 0.05
"""Share of the identity in the correlation matrix, so that directions never seen are not blown up."""
POWER_PER_SHARE = 1.6
"""Whitening's power for each explained share; chosen with `docs/accuracy.md`'s choosing sets."""
RIDGE = 0.01
"""Added to the squares of what explains, in units of their mean; from a tenth to ten times it hardly matters."""
SMALLEST_DEVIATION = 0.01
"""Of the median channel's: a channel that hardly varies on training images must not be blown up until it rules."""


def whitening_matrix(features: Tensor, *, power: float) -> Tensor:
    """(C, C) matrix R^(-power / 2) diag(1 / deviation), float32; R is the shrunk correlation matrix.

    Args:
        features: (N, C, h, w) of one scale, any float type.
        power: 0 divides by the deviations only, 1 whitens fully.
    """
    positions = _positions(features)
    deviation = _deviations(positions)
    standardised = (positions - positions.mean(dim=1, keepdim=True)) / deviation[:, None]
    correlation = standardised @ standardised.T / positions.shape[1]
    identity = torch.eye(len(correlation), dtype=torch.float64)
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * correlation + SHRINKAGE * identity)
    matrix: Tensor = (vectors * values.pow(-power / 2)) @ vectors.T / deviation
    return matrix.float()


def explained_power(features: Sequence[Tensor]) -> float:
    """The power that suits these images, 0..1: 1.6 times the explained share."""
    return min(1.0, POWER_PER_SHARE * explained_share(features))


def explained_share(features: Sequence[Tensor]) -> float:
    """R^2, 0..1: the share of the finest scale's variance that follows from means over cells, by a linear map.

    A cell is a position of the student's embedding, half as fine as the coarsest scale. What it holds at all scales
    explains what is at each place inside it. Half of the cells fit the map (ridge regression) and the other half judge
    it, both ways; halves are of different images wherever there is more than one.

    Args:
        features: Over scales, finest first, (N, C_k, h_k, w_k), any float type; each channel counts in its deviation.
    """
    scaled = [(each / _deviations(_positions(each)).view(1, -1, 1, 1)).float() for each in features]
    cells = max(1, features[-1].shape[-1] // 2)
    look = _positions(torch.cat([F.avg_pool2d(each, each.shape[-1] // cells) for each in scaled], dim=1)).T
    finest, step = scaled[0], scaled[0].shape[-1] // cells
    places = [_positions(finest[:, :, i::step, j::step]).T for i in range(step) for j in range(step)]  # (N cells^2, C)
    first, second = slice(0, len(look) // 2), slice(len(look) // 2, None)
    left = varied = 0.0
    for fitted, judged in ((first, second), (second, first)):
        mean = look[fitted].mean(0)
        given, unseen = look[fitted] - mean, look[judged] - mean
        square = given.T @ given / len(given)
        square += RIDGE * square.diagonal().mean().clamp_min(1e-6) * torch.eye(len(square), dtype=square.dtype)
        factor = torch.linalg.cholesky(square)
        for place in places:
            middle = place[fitted].mean(0)
            weights = torch.cholesky_solve(given.T @ (place[fitted] - middle) / len(given), factor)
            left += float((place[judged] - middle - unseen @ weights).square().sum())
            varied += float((place[judged] - middle).square().sum())
    return min(1.0, max(0.0, 1 - left / max(varied, 1e-12)))


def _positions(features: Tensor) -> Tensor:
    """(N, C, h, w) to (C, N h w), float64."""
    return features.double().transpose(0, 1).flatten(1)


def _deviations(positions: Tensor) -> Tensor:
    """(C,) of the channels of (C, M), bounded from below."""
    deviation = positions.std(dim=1)
    return torch.maximum(deviation, SMALLEST_DEVIATION * deviation.median()).clamp_min(1e-8)


@torch.no_grad()
def measure_features(model: ReasonModel, store: ImageStore, *, device: torch.device) -> None:
    """Set the model's `whiten_k` and the head's `power_k` from training images, where its method uses them."""
    power = model.method.whitening
    if power is None and model.method.map_damping == 0:
        return
    teacher = fold_norms(model.teacher)  # the same and faster
    batches = [teacher_features(teacher, batch) for batch in sample_batches(store, device)]
    scales = [torch.cat([part.float().cpu() for part in parts]) for parts in zip(*batches, strict=True)]
    if power == "explained":
        power = explained_power(scales)
    for k, features in enumerate(scales):
        if power is not None:
            matrix = whitening_matrix(features, power=power)
            model.get_buffer(f"whiten_{k}").copy_(matrix[:, :, None, None])
            features = F.conv2d(features, matrix[:, :, None, None])
        model.head.get_buffer(f"power_{k}").copy_(features.square().sum(1).mean())


@torch.no_grad()
def measure_maps(model: ReasonModel, store: ImageStore, *, device: torch.device) -> None:
    """Set the head's `weight_k` to 1 / the typical maximum of each scale's map on training images.

    A scale whose distances are small everywhere then counts as much as one whose distances are large.
    """
    if not model.method.map_normalised:
        return
    teacher, peaks = fold_norms(model.teacher), list[list[Tensor]]()
    for batch in sample_batches(store, device):
        features = model.whiten(teacher_features(teacher, batch))
        rebuilt = model.rebuild(model.suppress(features))
        pairs = enumerate(zip(features, rebuilt, strict=True))
        peaks.append([model.head.distance(k, teacher=t, student=g).amax((1, 2)) for k, (t, g) in pairs])
    for k, parts in enumerate(zip(*peaks, strict=True)):
        model.head.get_buffer(f"weight_{k}").copy_(1 / torch.cat(parts).mean().clamp_min(1e-6))


def sample_batches(store: ImageStore, device: torch.device) -> Iterator[Tensor]:
    """At most `MEASURED_IMAGES` images, evenly spaced over the list, as uint8 batches on the device."""
    images = store.images  # without their views
    chosen = evenly(images, most=MEASURED_IMAGES)
    for batch in store.batches(chosen[i : i + TOGETHER].tolist() for i in range(0, len(chosen), TOGETHER)):
        yield torch.from_numpy(batch).to(device)
