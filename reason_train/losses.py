"""The training loss: knowledge distillation over scales, and suppression of latent anomalies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_SHARE = 0.0625
"""Side of a block as a share of the shorter side of the map."""


def cosine_distance(*, teacher: Tensor, student: Tensor) -> Tensor:
    """How far the student is from the teacher at each position, 0 = same direction, 2 = opposite.

    Args:
        teacher: (N, C, H, W) features of one scale.
        student: Same shape.

    Returns:
        (N, H, W), float32 whatever the inputs are: in half precision 1 - cos cannot resolve below 5e-4.

    Raises:
        ValueError: The shapes differ.

    Source: REASON, IEEE TCSVT 2025; RD4AD, arXiv:2201.10703, eq. 1.
    """
    if teacher.shape != student.shape:
        raise ValueError(f"teacher features are {tuple(teacher.shape)}, student features {tuple(student.shape)}")
    return 1 - F.cosine_similarity(teacher.float(), student.float(), dim=1)


def global_cosine_loss(*, targets: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> Tensor:
    """Sum over scales of the batch mean of 1 - cos between whole flattened features; a scalar, 0 or more.

    The flattened form weighs positions by the length of their features. It serves as L_KD's first term (teacher
    against student) and as the suppression loss (its target against the suppressed features).

    Source: REASON, IEEE TCSVT 2025; RD4AD's published code.
    """
    losses = [
        (1 - F.cosine_similarity(target.float().flatten(1), feature.float().flatten(1), dim=1)).mean()
        for target, feature in zip(targets, rebuilt, strict=True)
    ]
    return torch.stack(losses).sum()


def block_loss(distances: Sequence[Tensor], *, block_share: float = BLOCK_SHARE) -> Tensor:
    """Mean over all blocks of all scales of the distance inside a block; a scalar, 0 or more.

    Each scale is cut into squares of side max(1, int(min(h, w) * block_share)), the last row and column possibly
    smaller. Small scales have as many blocks as large ones, so none is drowned.

    Args:
        distances: Per scale (N, h, w), as `cosine_distance` gives them.
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
    *,
    teacher: Tensor,
    student: Tensor,
    easy_share: float,
    easy_limit: Tensor | None,
    easy_gradient: float,
    gather: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor:
    """The student's features unchanged in value, with the gradient of the easiest positions scaled down.

    Background that is already rebuilt then no longer steers the student. Being among the easiest is not enough: in a
    random texture, of which the student has learnt no more than the mean, the hardest tenth of positions is noise, and
    following it alone keeps the student from learning anything. So an easy position is also close to the teacher
    against how much the images vary.

    Args:
        teacher: (N, C, H, W) features of one scale.
        student: Same shape.
        easy_share: Share of positions, by distance within the batch, that may count as easy; 0 changes nothing.
        easy_limit: What the distance of an easy position is below, a scalar: a share of the batch's mean `variety`, of
            the teacher alone, so the same for every student; None: any.
        easy_gradient: Factor on their gradient.
        gather: (N, ...) values of these samples to those of the whole batch, where several processes share it.

    Source: hard mining as in EfficientAD, arXiv:2303.14535, section 3.2, softened: easy positions keep a share.
    Departure: Not in REASON; `--preset paper` does not use it.
    """
    with torch.no_grad():
        distance = cosine_distance(teacher=teacher, student=student)
        limit = gather(distance).flatten().quantile(easy_share)
        if easy_limit is not None:
            limit = torch.minimum(limit, easy_limit)
        factor = torch.where(distance >= limit, 1.0, easy_gradient).unsqueeze(1).to(student.dtype)
    return student.detach() + factor * (student - student.detach())  # the difference is 0, so the value is exact


def variety(features: Tensor) -> Tensor:
    """(N,) how much an image varies: the mean distance, 0..2, between places half the image apart.

    Args:
        features: (N, C, H, W) of one scale.
    """
    elsewhere = torch.roll(features, (features.shape[2] // 2, features.shape[3] // 2), (2, 3))
    return cosine_distance(teacher=features, student=elsewhere).mean((1, 2))
