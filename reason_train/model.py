"""The whole network: teacher, suppression, bottleneck, student, map head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from reason_train.anomaly_map import MapHead
from reason_train.bottleneck import ResNetBottleneck
from reason_train.config import MethodConfig, TeacherName
from reason_train.lite import LiteBottleneck, LiteStudent
from reason_train.student import ResNetStudent, UpBasicBlock, UpBottleneck
from reason_train.suppression import Suppression
from reason_train.teacher import Teacher, build_teacher, normalise


class ReasonModel(nn.Module):
    """REASON, or RD4AD where there is no suppression: images in, anomaly map and score out.

    `features` runs the frozen teacher, `rebuild` the trained rest, `forward` both and the map head. Teacher features
    are multiplied by `scale_k`, ones unless training measured the channels' deviations.

    Source: REASON, IEEE TCSVT 2025.
    """

    def __init__(self, method: MethodConfig, *, teacher: Teacher) -> None:
        super().__init__()
        self.method, self.teacher = method, teacher
        channels = teacher.shape.channels
        self.suppression = Suppression(channels) if method.method == "reason" else None
        self.bottleneck, self.student = _trained_parts(method.teacher, channels)
        for k, width in enumerate(channels):
            self.register_buffer(f"scale_{k}", torch.ones(1, width, 1, 1))
        size = method.image_size_px
        self.head = MapHead(
            size_px=size,
            sides=[size // stride for stride in teacher.shape.strides],
            damping=method.map_damping,
            weights=method.map_weights,
        )

    def train(self, mode: bool = True) -> ReasonModel:
        """Training mode for all but the teacher, which always stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def stem(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) images to the output of the teacher's stem."""
        return self.teacher.stem(normalise(images, mean=self.teacher.mean, std=self.teacher.std))

    def stages(self, stem: Tensor) -> list[Tensor]:
        """The stem's output to scaled teacher features, finest first."""
        return [f * self.get_buffer(f"scale_{k}") for k, f in enumerate(self.teacher.stages(stem))]

    def suppress(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Teacher features to suppressed features phi; unchanged without suppression layers."""
        return list(features) if self.suppression is None else self.suppression(features)

    def rebuild(self, suppressed: Sequence[Tensor]) -> list[Tensor]:
        """Suppressed features to the student's, through the embedding."""
        return self.student(self.bottleneck(suppressed))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) images to the float32 map (N, S, S) and score (N,), raw units."""
        features = self.stages(self.stem(images))
        return self.head(features, self.rebuild(self.suppress(features)))


def _trained_parts(teacher: TeacherName, channels: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    if teacher.startswith("efficientnet_lite"):
        bottleneck = LiteBottleneck(channels)
        return bottleneck, LiteStudent(channels, embedding_channels=bottleneck.channels)
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
