"""One training step's loss: what the student, the suppression layers and the embedding are pulled towards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from reason_train.config import Config
from reason_train.losses import block_loss, cosine_distance, global_cosine_loss, hard_position_loss
from reason_train.model import ReasonModel
from reason_train.synthesis import synthesise


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Scalars, float32."""

    total: Tensor
    distillation: Tensor
    suppression: Tensor


def training_losses(
    model: ReasonModel,
    images: Tensor,
    config: Config,
    *,
    noise: Generator,
    noise_unit: Tensor,
    progress: float,
) -> Losses:
    """One batch's loss: L_KD + lambda L_supp, networks in bf16 autocast where configured, the loss in float32.

    Args:
        model: In training mode.
        images: (N, H, W, C) uint8.
        config: The run's.
        noise: For the latent noise; on the CPU.
        noise_unit: What one unit of `noise_std` is, in the stem's units; broadcasts to (N, C, H, W).
        progress: Share of the training that is done, 0..1; hard mining is ramped in over the first 30 %.

    Source: REASON, IEEE TCSVT 2025.
    """
    method = config.method
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.training.bf16):
        clean, seen = _teacher_features(model, images, config, noise=noise, noise_unit=noise_unit)
        suppressed = model.suppress(seen)
        rebuilt = model.rebuild(suppressed)
    distances = [cosine_distance(teacher=t, student=g) for t, g in zip(clean, rebuilt, strict=True)]
    distillation = global_cosine_loss(targets=clean, rebuilt=rebuilt)
    if method.easy_share > 0:
        gradient = 1 - (1 - method.easy_gradient) * min(1.0, progress / 0.3)
        mined = hard_position_loss(distances, easy_share=method.easy_share, easy_gradient=gradient)
        distillation = distillation + method.block_weight * mined
    else:
        distillation = distillation + method.block_weight * block_loss(distances)
    if model.suppression is None:
        return Losses(total=distillation, distillation=distillation, suppression=torch.zeros(()))
    targets = clean if method.suppression_target == "teacher" else rebuilt
    suppression = global_cosine_loss(targets=targets, rebuilt=suppressed)
    total = distillation + method.suppression_weight * suppression
    return Losses(total=total, distillation=distillation, suppression=suppression)


@torch.no_grad()
def _teacher_features(
    model: ReasonModel, images: Tensor, config: Config, *, noise: Generator, noise_unit: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Clean features of the batch, and what the trained part sees: the same with half of the batch noisy.

    The stem runs once and the stages on 1.5 batches: the half without noise is the same in both.
    """
    stem = model.stem(images)
    if model.suppression is None:
        clean = model.stages(stem)
        return clean, clean
    half = synthesise(stem, std=config.method.noise_std * noise_unit, generator=noise)
    both = model.stages(torch.cat([stem, half.stem]))
    clean = [feature[: len(stem)] for feature in both]
    seen = [feature.index_copy(0, half.indices, noisy[len(stem) :]) for feature, noisy in zip(clean, both, strict=True)]
    return clean, seen
