"""The whole network: teacher, suppression, bottleneck, student, map head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from reason_train.anomaly_map import MapHead
from reason_train.bottleneck import ResNetBottleneck
from reason_train.config import MethodConfig, TeacherName, is_lite
from reason_train.lite import LiteBottleneck, LiteStudent
from reason_train.student import ResNetStudent, UpBasicBlock, UpBottleneck
from reason_train.suppression import Suppression
from reason_train.teacher import Teacher, build_teacher, normalise

Reconstruct = Callable[[Sequence[Tensor]], tuple[list[Tensor], list[list[Tensor]]]]
"""Teacher features as the trained parts are given them, to suppressed features and to what each student rebuilt."""


class ReasonModel(nn.Module):
    """REASON, or RD4AD where there is no suppression: images in, anomaly map and score out.

    `features` runs the frozen teacher, `rebuild` the trained rest, `forward` both and the map head. With whitening,
    teacher features go through one fixed 1x1 convolution per scale (`whiten_k`), measured before training.

    Several students, each with a bottleneck of its own, learn the same features from other initial weights. What is
    compared with the teacher is their sum, whose cosine is that of their mean: on good parts errors then partly cancel.

    Source: REASON, IEEE TCSVT 2025.
    Departure: More than one student is this project's; `--preset paper` has one.
    """

    def __init__(self, method: MethodConfig, *, teacher: Teacher) -> None:
        super().__init__()
        self.method, self.teacher = method, teacher
        channels = teacher.shape.channels
        self.suppression = Suppression(channels) if method.has_suppression else None
        self.bottleneck, self.student = _trained_parts(method.teacher, channels)
        further = [nn.ModuleList(_trained_parts(method.teacher, channels)) for _ in range(method.students - 1)]
        self.further = nn.ModuleList(further)
        if method.whitening is not None:
            for k, width in enumerate(channels):
                self.register_buffer(f"whiten_{k}", torch.eye(width).view(width, width, 1, 1))
        if method.whitening == "measured":
            self.register_buffer("whitening_power", torch.zeros(()))  # known once measured; only told, never used
        self.head = MapHead(
            size_px=method.image_size_px,
            sides=[method.image_size_px // stride for stride in teacher.shape.strides],
            sigma_px=method.map_sigma_px,
            score_exponent=method.score_exponent,
            has_region=method.has_region,
        )

    def train(self, mode: bool = True) -> ReasonModel:
        """Training mode for all but the teacher, which always stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def measured(self) -> dict[str, float]:
        """Settings that training measured in place of being told, by name."""
        if self.method.whitening != "measured":
            return {}
        return {"whitening_power": round(float(self.get_buffer("whitening_power")), 4)}

    def stem(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) images to the output of the teacher's stem."""
        return self.teacher.stem(normalise(images, mean=self.teacher.mean, std=self.teacher.std))

    def stages(self, stem: Tensor) -> list[Tensor]:
        """The stem's output to teacher features, whitened where configured, finest first."""
        return self.whiten(self.teacher.stages(stem))

    def whiten(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Teacher features as they are to those that the student rebuilds: whitened where configured."""
        if self.method.whitening is None:
            return list(features)
        return [F.conv2d(feature, self.get_buffer(f"whiten_{k}")) for k, feature in enumerate(features)]

    def features(self, images: Tensor) -> list[Tensor]:
        """uint8 (N, H, W, C) images to teacher features over scales, finest first."""
        return self.stages(self.stem(images))

    def suppress(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Teacher features to suppressed features phi; unchanged without suppression layers."""
        if self.suppression is None:
            return list(features)
        suppressed: list[Tensor] = self.suppression(features)
        return suppressed

    def rebuilding_parts(self) -> list[nn.Module]:
        """Bottleneck and student, and those of every further student."""
        return [self.bottleneck, self.student, *self.further]

    def rebuild_each(self, suppressed: Sequence[Tensor]) -> list[list[Tensor]]:
        """Suppressed features to each student's, through its embedding."""
        pairs = [(self.bottleneck, self.student), *self.further]
        return [student(bottleneck(suppressed)) for bottleneck, student in pairs]

    def rebuild(self, suppressed: Sequence[Tensor]) -> list[Tensor]:
        """Suppressed features to the sum of the students'."""
        return [reduce(torch.add, scale) for scale in zip(*self.rebuild_each(suppressed), strict=True)]

    def reconstruct(self, seen: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Everything that is trained: teacher features to suppressed features and to what each student rebuilt."""
        suppressed = self.suppress(seen)
        return suppressed, self.rebuild_each(suppressed)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) images to the float32 map (N, S, S) and score (N,), raw units."""
        features = self.features(images)
        anomaly_map, score = self.head(features, self.rebuild(self.suppress(features)))
        return anomaly_map, score


def _trained_parts(teacher: TeacherName, channels: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    if is_lite(teacher):
        return LiteBottleneck(channels), LiteStudent(channels)
    width = 128 if teacher == "wide_resnet50_2" else 64
    if teacher == "resnet18":
        return (
            ResNetBottleneck(channels, block=BasicBlock, base_width=width),
            ResNetStudent(block=UpBasicBlock, depths=(2, 2, 2), base_width=width),
        )
    return (
        ResNetBottleneck(channels, block=Bottleneck, base_width=width),
        ResNetStudent(block=UpBottleneck, depths=(3, 4, 6), base_width=width),
    )


def build_model(method: MethodConfig) -> ReasonModel:
    """The model with freshly initialised trained parts and a teacher that has no weights yet."""
    return ReasonModel(method, teacher=build_teacher(method.teacher))
