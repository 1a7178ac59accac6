"""One training step's loss: what the student, the suppression layers and the embedding are pulled towards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from reason_train.config import Config, MethodConfig
from reason_train.losses import Comparison, block_loss, compare, global_cosine_loss, mine_hard_positions, variety
from reason_train.model import ReasonModel, Reconstruct
from reason_train.ranks import ALONE, Part
from reason_train.synthesis import synthesise, synthesise_in_features

MINING_RAMP = 0.3
"""Share of the training over which hard mining sets in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Scalars, float32."""

    total: Tensor
    distillation: Tensor
    suppression: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherView:
    """Features over scales, finest first, of one batch."""

    clean: Sequence[Tensor]
    """What the student must rebuild."""
    seen: Sequence[Tensor]
    """What the trained part is given: the same, with latent noise in half of the samples where the method has it."""
    part: Part
    """Which samples of the whole batch these are; all of them, but where several processes share it."""


@torch.no_grad()
def view_images(
    model: ReasonModel, images: Tensor, config: Config, *, noise: Generator, part: Part | None = None
) -> TeacherView:
    """The teacher's features of a batch, and those with latent noise at the stem.

    The stem runs once and the stages on 1.5 batches: the half without noise is the same in both.

    Args:
        model: Its teacher is run.
        images: (N, H, W, C) uint8.
        config: The run's; `has_stem_noise` holds.
        noise: On the CPU.
        part: Which images of the whole batch these are, where several processes share it; none: all.
    """
    part = part or ALONE.part(len(images))
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.training.bf16):
        stem = model.stem(images)
        half = synthesise(stem, std=config.method.noise_std, generator=noise, part=part)
        both = model.stages(torch.cat([stem, half.stem]))
    clean = [feature[: len(stem)] for feature in both]
    seen = [feature.index_copy(0, half.indices, noisy[len(stem) :]) for feature, noisy in zip(clean, both, strict=True)]
    return TeacherView(clean=clean, seen=seen, part=part)


def view_features(clean: Sequence[Tensor], config: Config, *, noise: Generator, part: Part) -> TeacherView:
    """Clean features, for example kept from an earlier epoch, with latent noise where the method has it."""
    if config.method.method == "rd4ad":
        return TeacherView(clean=clean, seen=clean, part=part)
    seen = synthesise_in_features(clean, std=config.method.noise_std, generator=noise, part=part)
    return TeacherView(clean=clean, seen=seen, part=part)


def training_losses(
    model: ReasonModel, view: TeacherView, config: Config, *, progress: float, reconstruct: Reconstruct | None = None
) -> Losses:
    """One batch's loss L_KD + lambda L_supp; networks in bf16 autocast where configured, the loss in float32.

    Args:
        model: In training mode.
        view: The batch as the teacher sees it.
        config: The run's.
        progress: Share of the training that is done, 0..1; hard mining sets in over the first 30 %.
        reconstruct: In place of the model's own, where several processes train it together.

    Returns:
        Means over these samples and over students. Mining's limit is that of the whole batch, everything else is a
        mean over samples.

    Source: REASON, IEEE TCSVT 2025.
    """
    method, clean = config.method, view.clean
    with torch.autocast(clean[0].device.type, torch.bfloat16, enabled=config.training.bf16):
        suppressed, students = (reconstruct or model.reconstruct)(view.seen)
    easy_share = method.easy_share * min(1.0, progress / MINING_RAMP)
    limits = _easy_limits(view, method) if easy_share > 0 else []
    distillation = _mean(
        _distillation(rebuilt, view, method, easy_share=easy_share, limits=limits) for rebuilt in students
    )
    if model.suppression is None:
        return Losses(total=distillation, distillation=distillation, suppression=torch.zeros_like(distillation))
    targets = [clean] if method.suppression_target == "teacher" else students
    suppression = _mean(global_cosine_loss(_compare(target, suppressed)) for target in targets)
    total = distillation + method.suppression_weight * suppression
    return Losses(total=total, distillation=distillation, suppression=suppression)


@torch.no_grad()
def _easy_limits(view: TeacherView, method: MethodConfig) -> list[Tensor | None]:
    """Per scale, what an easy position's distance is below; see `mine_hard_positions`."""
    if method.easy_below is None:
        return [None] * len(view.clean)
    return [method.easy_below * view.part.gather(variety(feature)).mean() for feature in view.clean]


def _distillation(
    rebuilt: Sequence[Tensor],
    view: TeacherView,
    method: MethodConfig,
    *,
    easy_share: float,
    limits: Sequence[Tensor | None],
) -> Tensor:
    """One student's L_KD, of whole features and of blocks; `limits` only where positions are mined."""
    scales = _compare(view.clean, rebuilt)
    if easy_share > 0:
        scales = [
            mine_hard_positions(
                scale,
                easy_share=easy_share,
                easy_limit=limit,
                easy_gradient=method.easy_gradient,
                gather=view.part.gather,
            )
            for scale, limit in zip(scales, limits, strict=True)
        ]
    blocks = block_loss([scale.distance() for scale in scales])
    return global_cosine_loss(scales) + method.block_weight * blocks


def _compare(targets: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> list[Comparison]:
    return [compare(target=target, rebuilt=feature) for target, feature in zip(targets, rebuilt, strict=True)]


def _mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
