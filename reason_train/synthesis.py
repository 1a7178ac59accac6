"""Latent anomaly feature synthesis (LAFS): noise on a region of the teacher's features, training only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from reason_train.ranks import ALONE, Part

SMALLEST_RATIO, LARGEST_RATIO = 0.01, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Rows [top, top + height) and columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


def _integer(low: int, high: int, generator: Generator) -> int:
    """A whole number from [low, high)."""
    return int(torch.randint(low, high, (), generator=generator))


def draw_rectangle(height: int, width: int, generator: Generator) -> Rectangle:
    """A random rectangle in a (height, width) map: ratio ~ U(0.01, 0.5), sides from [1, max(int(side * ratio), 2)).

    Source: REASON, IEEE TCSVT 2025.
    Departure: Ratio, height, width and position are independent; the reference seeds a new generator for each draw,
    which ties them to one another by accident.
    """
    share = float(torch.rand((), generator=generator))
    ratio = SMALLEST_RATIO + (LARGEST_RATIO - SMALLEST_RATIO) * share
    rows = _integer(1, max(int(height * ratio), 2), generator)
    columns = _integer(1, max(int(width * ratio), 2), generator)
    return Rectangle(
        top=_integer(0, height - rows + 1, generator),
        left=_integer(0, width - columns + 1, generator),
        height=rows,
        width=columns,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyHalf:
    """Which samples were made noisy, and their stem outputs."""

    indices: Tensor
    """(floor(N / 2),) int64 positions in the batch; of several processes, each has its own part of them."""
    stem: Tensor
    """(floor(N / 2), C, H, W) noisy copies; the batch itself is untouched."""


def synthesise(stem: Tensor, *, std: float | Tensor, generator: Generator, part: Part | None = None) -> NoisyHalf:
    """Copies a random half of the batch and adds N(0, std^2) on one rectangle over all channels.

    The rectangle is the same for the whole half, the noise differs per sample.

    Args:
        stem: (N, C, H, W) output of the teacher's stem.
        std: Standard deviation of the noise in the stem's own units; a tensor broadcasts, (1, C, 1, 1) per channel.
        generator: On the CPU, so that every device draws the same numbers.
        part: Which samples of the whole batch these are, where several processes share it; none: all.

    Source: REASON, IEEE TCSVT 2025, latent anomaly feature synthesis.
    """
    part = part or ALONE.part(len(stem))
    n, (_, channels, height, width) = part.images, stem.shape
    indices = torch.randperm(n, generator=generator)[: n // 2]
    box = draw_rectangle(height, width, generator)
    noise = torch.randn((n // 2, channels, box.height, box.width), generator=generator)
    here = (indices >= part.start) & (indices < part.stop)
    indices, noise = indices[here] - part.start, noise[here]
    noisy = stem[indices.to(stem.device)].clone()
    area = noisy[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    area += (noise.to(stem.device) * std).to(stem.dtype)
    return NoisyHalf(indices=indices.to(stem.device), stem=noisy)


def synthesise_in_features(
    features: Sequence[Tensor], *, std: float, generator: Generator, part: Part | None = None
) -> list[Tensor]:
    """Adds noise to a smooth random region of the tapped features of half of the batch, the same region at every scale.

    The region is where a random field, upsampled from 3 to 8 values a side, is above its own 80 to 98 % quantile. The
    noise is N(0, (u std)^2) with u ~ U(0.3, 1) per sample.

    Args:
        features: Over scales, finest first, (N, C, h, w) each, in units of their own deviation (whitened).
        std: Largest standard deviation of the noise.
        generator: On the CPU.
        part: Which samples of the whole batch these are, where several processes share it; none: all.

    Returns:
        Copies; the first floor(N / 2) samples of the whole batch are noisy.

    Departure: REASON adds noise to the stem's output and runs the teacher again. Here the teacher runs once, so that
    its clean features can be kept from epoch to epoch; the noise reaches what the student sees without being smoothed
    by the teacher's layers. `--preset paper` does not use it.
    """
    part = part or ALONE.part(len(features[0]))
    noisy_samples = part.images // 2
    if noisy_samples == 0:  # the last batch of an epoch may be one image
        return [feature.clone() for feature in features]
    side = features[0].shape[-1]
    regions = torch.stack([draw_region(side, generator) for _ in range(noisy_samples)])  # (n, 1, side, side)
    strength = std * (0.3 + 0.7 * torch.rand((noisy_samples, 1, 1, 1), generator=generator))
    seen = []
    for feature in features:
        region = F.adaptive_max_pool2d(regions, feature.shape[-2:])
        noise = torch.randn((noisy_samples, *feature.shape[1:]), generator=generator) * strength * region
        noise = noise[part.start : part.stop]
        noisy = feature.clone()
        noisy[: len(noise)] += noise.to(feature)
        seen.append(noisy)
    return seen


def draw_region(side: int, generator: Generator) -> Tensor:
    """(1, side, side) float32 of 0 and 1: one or a few smooth blobs that cover 2 to 20 % of the map."""
    coarse = _integer(3, 9, generator)
    field = torch.randn((1, 1, coarse, coarse), generator=generator)
    smooth = F.interpolate(field, size=(side, side), mode="bicubic", align_corners=False)[0]
    quantile = 0.8 + 0.18 * float(torch.rand((), generator=generator))
    return (smooth > smooth.quantile(quantile)).float()
