"""Bottleneck and student for the EfficientNet-Lite teachers: small, and without a rectifier at the end.

Design. A Lite block ends in a linear 1x1 convolution, so its features are signed; a student that ends in ReLU, as the
ResNet one does, cannot point where they point. Each scale therefore leaves the student through a linear 1x1 head.
The embedding is as wide as both scales fused and half as fine as the coarser one (8 x 8 for 256-pixel
images): narrow enough to lose what was never seen, wide enough to keep the place of a rotated part. Residual blocks of
plain 3x3 convolutions replace the teacher's depthwise ones: on CPUs and GPUs alike they do more work per byte moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from reason_train.bottleneck import initialise_convolutions
from reason_train.student import UpBasicBlock


class LiteBottleneck(nn.Module):
    """Two scales fused at the coarser one, then one stride-2 residual block."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, coarse = channels
        self.channels = 2 * coarse
        self.fuse = nn.Sequential(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(coarse),
            nn.ReLU(inplace=True),
        )
        downsample = nn.Sequential(
            nn.Conv2d(self.channels, self.channels, 1, stride=2, bias=False),
            nn.BatchNorm2d(self.channels),
        )
        self.embed = BasicBlock(self.channels, self.channels, stride=2, downsample=downsample)
        initialise_convolutions(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Suppressed features (N, C1, H/8, W/8), (N, C2, H/16, W/16) to (N, 2 * C2, H/32, W/32)."""
        return self.embed(torch.cat([self.fuse(features[0]), features[1]], dim=1))


class LiteStudent(nn.Module):
    """Two upsampling residual stages with a linear head each."""

    def __init__(self, channels: Sequence[int], *, embedding_channels: int) -> None:
        super().__init__()
        fine, coarse = channels
        wide, narrow = coarse, max(64, fine)
        self.coarse = nn.Sequential(
            UpBasicBlock(embedding_channels, wide, upsamples=True), UpBasicBlock(wide, wide, upsamples=False)
        )
        self.fine = nn.Sequential(
            UpBasicBlock(wide, narrow, upsamples=True), UpBasicBlock(narrow, narrow, upsamples=False)
        )
        self.coarse_head = nn.Conv2d(wide, coarse, 1)
        self.fine_head = nn.Conv2d(narrow, fine, 1)
        initialise_convolutions(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(N, E, H/32, W/32) to rebuilt features (N, C1, H/8, W/8), (N, C2, H/16, W/16)."""
        coarse = self.coarse(embedding)
        return [self.fine_head(self.fine(coarse)), self.coarse_head(coarse)]
