"""Teacher features made comparable over channels: measured once on training images, then fixed.

A plain cosine is ruled by the few channels, and the few directions among correlated channels, in which the teacher
varies most. Dividing by each channel's deviation evens out the channels; multiplying by a power of the inverse
correlation matrix evens out the directions, so that a small, unusual change is no longer lost beside a large, usual
one. The mean stays: without it a flat background has features near zero, whose direction is noise.

How far to even them out depends on the images. Where a place resembles its neighbours, as on parts, the strong
directions follow from the surroundings, defects show in the weak ones, and much whitening does no harm. In a random
texture the weak directions are what nothing foretells, and lifting them lifts noise. So the power follows from how
much neighbouring places have in common.

Departure: Not in REASON; `--preset paper` does not use it. `docs/accuracy.md` shows what it brings.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from reason_runtime.stratified import stratified
from reason_train.anomaly_map import head_distance
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.teacher import TOGETHER, fold_norms, teacher_features

MEASURED_IMAGES = 256
"""At most so many training images, a stratified sample of the list, are measured."""
SHRINKAGE = 0.05
"""Share of the identity in the correlation matrix, so that directions never seen are not blown up."""
MEASURED_STRIDE = 8
"""Neighbours are compared where positions are so many px apart; every teacher has this scale."""
POWER_PER_CORRELATION = 1.6
"""Whitening's power for each correlation of neighbours; chosen with `docs/accuracy.md`'s choosing sets."""
LEAST_POWER, MOST_POWER = 0.2, 0.8
"""The range that those sets cover."""
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


def measured_power(features: Tensor) -> float:
    """The power that suits these images, from their features of `MEASURED_STRIDE`, (N, C, h, w)."""
    return min(MOST_POWER, max(LEAST_POWER, POWER_PER_CORRELATION * neighbour_correlation(features)))


def neighbour_correlation(features: Tensor) -> float:
    """Mean correlation, 0..1, of two positions in one block of 2 x 2: about 0 for noise, 1 where blocks are flat.

    From the means of blocks, whose variance is (1 + 3 rho) / 4 of the positions' own; below zero counts as 0.

    Args:
        features: (N, C, h, w) of one scale, any float type; each channel counts in its deviation.
    """
    values = features.double()
    centred = values - values.mean((0, 2, 3), keepdim=True)
    scaled = centred / _deviations(_positions(values)).view(1, -1, 1, 1)
    kept = F.avg_pool2d(scaled, 2).square().mean() / scaled.square().mean().clamp_min(1e-12)
    return max(0.0, (4 * float(kept) - 1) / 3)


def _positions(features: Tensor) -> Tensor:
    """(N, C, h, w) to (C, N h w), float64."""
    return features.double().transpose(0, 1).flatten(1)


def _deviations(positions: Tensor) -> Tensor:
    """(C,) of the channels of (C, M), bounded from below."""
    deviation = positions.std(dim=1)
    return torch.maximum(deviation, SMALLEST_DEVIATION * deviation.median()).clamp_min(1e-8)


@torch.no_grad()
def measure_features(model: ReasonModel, store: ImageStore, *, device: torch.device) -> None:
    """Set the model's `whiten_k` from training images, where its method whitens."""
    power = model.method.whitening
    if power is None:
        return
    teacher = fold_norms(model.teacher)  # the same and faster
    batches = [teacher_features(teacher, batch) for batch in sample_batches(store, device)]
    scales = [torch.cat([part.float().cpu() for part in parts]) for parts in zip(*batches, strict=True)]
    if power == "measured":
        power = measured_power(scales[model.teacher.shape.strides.index(MEASURED_STRIDE)])
        model.get_buffer("whitening_power").fill_(power)
    for k, features in enumerate(scales):
        matrix = whitening_matrix(features, power=power)
        model.get_buffer(f"whiten_{k}").copy_(matrix[:, :, None, None])


@torch.no_grad()
def measure_maps(model: ReasonModel, store: ImageStore, *, device: torch.device) -> None:
    """Set the head's `weight_k` to m^-b, m the typical maximum of each scale's map on training images, b the balance.

    With b = 1 a scale whose distances are small everywhere counts as much as one whose distances are large; with 0 each
    counts as it is, as published.
    """
    balance = model.method.map_balance
    if balance == 0:
        return
    teacher, peaks = fold_norms(model.teacher), list[list[Tensor]]()
    for batch in sample_batches(store, device):
        features = model.whiten(teacher_features(teacher, batch))
        rebuilt = model.rebuild(model.suppress(features))
        peaks.append([head_distance(t, g).amax((1, 2)) for t, g in zip(features, rebuilt, strict=True)])
    for k, parts in enumerate(zip(*peaks, strict=True)):
        model.head.get_buffer(f"weight_{k}").copy_(torch.cat(parts).mean().clamp_min(1e-6) ** -balance)


def sample_batches(store: ImageStore, device: torch.device) -> Iterator[Tensor]:
    """At most `MEASURED_IMAGES` images, a stratified sample of the list, as uint8 batches on the device."""
    images = store.images  # without their views
    chosen = stratified(images, most=MEASURED_IMAGES)
    for batch in store.batches(chosen[i : i + TOGETHER].tolist() for i in range(0, len(chosen), TOGETHER)):
        yield torch.from_numpy(batch).to(device)
