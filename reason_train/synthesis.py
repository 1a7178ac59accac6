"""Latent anomaly feature synthesis (LAFS): noise on one rectangle of the stem's output, training only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

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
    """(floor(N / 2),) int64 positions in the batch."""
    stem: Tensor
    """(floor(N / 2), C, H, W) noisy copies; the batch itself is untouched."""


def synthesise(stem: Tensor, *, std: float | Tensor, generator: Generator) -> NoisyHalf:
    """Copies a random half of the batch and adds N(0, std^2) on one rectangle over all channels.

    The rectangle is the same for the whole half, the noise differs per sample.

    Args:
        stem: (N, C, H, W) output of the teacher's stem.
        std: Standard deviation of the noise in the stem's own units; a tensor broadcasts, (1, C, 1, 1) per channel.
        generator: On the CPU, so that every device draws the same numbers.

    Source: REASON, IEEE TCSVT 2025, latent anomaly feature synthesis.
    """
    n, channels, height, width = stem.shape
    indices = torch.randperm(n, generator=generator)[: n // 2]
    box = draw_rectangle(height, width, generator)
    noise = torch.randn((n // 2, channels, box.height, box.width), generator=generator)
    noisy = stem[indices.to(stem.device)].clone()
    area = noisy[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    area += (noise.to(stem.device) * std).to(stem.dtype)
    return NoisyHalf(indices=indices.to(stem.device), stem=noisy)
