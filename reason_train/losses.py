"""The training loss: knowledge distillation over scales, and suppression of latent anomalies.

Every term depends on features through three numbers a position: both lengths and the inner product. They are taken
once (`compare`), and the terms work on them, which is small beside the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from reason_train.anomaly_map import SMALLEST_NORM

BLOCK_SHARE = 0.0625
"""Side of a block as a share of the shorter side of the map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Features of one scale against their target; each (N, h, w), float32 whatever the features are.

    In half precision 1 - cos cannot resolve below 5e-4.
    """

    product: Tensor
    """Inner product of both."""
    target: Tensor
    """Length of the target."""
    rebuilt: Tensor
    """Length of what is to equal it."""

    def distance(self) -> Tensor:
        """(N, h, w) 1 - cos at each position: 0 same direction, 1 where either is zero, 2 opposite.

        Source: REASON, IEEE TCSVT 2025; RD4AD, arXiv:2201.10703, eq. 1.
        """
        return _one_minus_cosine(self.product, self.target, self.rebuilt)

    def global_distance(self) -> Tensor:
        """(N,) 1 - cos between whole flattened features, which weighs positions by their lengths."""
        positions = (1, 2)
        return _one_minus_cosine(
            self.product.sum(positions),
            vector_norm(self.target, dim=positions),
            vector_norm(self.rebuilt, dim=positions),
        )


def _one_minus_cosine(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return 1 - product / (one.clamp_min(SMALLEST_NORM) * other.clamp_min(SMALLEST_NORM))


def compare(*, target: Tensor, rebuilt: Tensor) -> Comparison:
    """What the losses need of two features.

    Args:
        target: (N, C, h, w) of one scale.
        rebuilt: Same shape.

    Raises:
        ValueError: The shapes differ.
    """
    if target.shape != rebuilt.shape:
        raise ValueError(f"features of {tuple(target.shape)} cannot be compared with those of {tuple(rebuilt.shape)}")
    target, rebuilt = target.float(), rebuilt.float()
    return Comparison(
        product=(target * rebuilt).sum(1), target=vector_norm(target, dim=1), rebuilt=vector_norm(rebuilt, dim=1)
    )


def global_cosine_loss(scales: Sequence[Comparison]) -> Tensor:
    """Sum over scales of the batch mean of 1 - cos between whole flattened features; a scalar, 0 or more.

    It serves as L_KD's first term (teacher against student) and as the suppression loss (its target against the
    suppressed features).

    Source: REASON, IEEE TCSVT 2025; RD4AD's published code.
    """
    return torch.stack([scale.global_distance().mean() for scale in scales]).sum()


def block_loss(distances: Sequence[Tensor], *, block_share: float = BLOCK_SHARE) -> Tensor:
    """Mean over all blocks of all scales of the distance inside a block; a scalar, 0 or more.

    Each scale is cut into squares of side max(1, int(min(h, w) * block_share)), the last row and column possibly
    smaller. Small scales have as many blocks as large ones, so none is drowned.

    Args:
        distances: Per scale (N, h, w), as `Comparison.distance` gives them.
        block_share: Side of a block over the shorter side of its map.

    Source: REASON, IEEE TCSVT 2025, block-wise distillation.
    Departure: The side is at least 1, where the reference divides by zero (14 x 14 maps of 224-pixel images).
    """
    sums, blocks = [], 0
    for distance in distances:
        side = max(1, int(min(distance.shape[-2:]) * block_share))
        means = F.avg_pool2d(distance.unsqueeze(1), side, ceil_mode=True)  # (N, 1, rows, columns) of blocks
        sums.append(means.mean(0).sum())
        blocks += means.shape[1:].numel()
    return torch.stack(sums).sum() / blocks


def mine_hard_positions(
    scale: Comparison,
    *,
    easy_share: float,
    easy_limit: Tensor | None,
    easy_gradient: float,
    gather: Callable[[Tensor], Tensor] = lambda values: values,
) -> Comparison:
    """The same in value, with the gradient of the easiest positions scaled down.

    Background that is already rebuilt then no longer steers the student. Being among the easiest is not enough: in a
    random texture, of which the student has learnt no more than the mean, the hardest tenth of positions is noise, and
    following it alone keeps the student from learning anything. So an easy position is also close to the teacher
    against how much the images vary.

    Args:
        scale: The student's features against the teacher's.
        easy_share: Share of positions, by distance within the batch, that may count as easy; 0 changes nothing.
        easy_limit: What the distance of an easy position is below, a scalar: a share of the batch's mean `variety`, of
            the teacher alone, so the same for every student; None: any.
        easy_gradient: Factor on their gradient.
        gather: (N, ...) values of these samples to those of the whole batch, where several processes share it.

    Source: hard mining as in EfficientAD, arXiv:2303.14535, section 3.2, softened: easy positions keep a share.
    Departure: Not in REASON; `--preset paper` does not use it.
    """
    with torch.no_grad():
        distance = scale.distance()
        limit = gather(distance).flatten().quantile(easy_share)
        if easy_limit is not None:
            limit = torch.minimum(limit, easy_limit)
        factor = torch.where(distance >= limit, 1.0, easy_gradient)

    def scaled(value: Tensor) -> Tensor:
        return value.detach() + factor * (value - value.detach())  # the difference is 0, so the value is exact

    return replace(scale, product=scaled(scale.product), rebuilt=scaled(scale.rebuilt))


def variety(features: Tensor) -> Tensor:
    """(N,) how much an image varies: the mean distance, 0..2, between places half the image apart.

    Args:
        features: (N, C, H, W) of one scale.
    """
    elsewhere = torch.roll(features, (features.shape[2] // 2, features.shape[3] // 2), (2, 3))
    return compare(target=features, rebuilt=elsewhere).distance().mean((1, 2))
