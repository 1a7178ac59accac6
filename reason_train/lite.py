"""Bottleneck and student for the EfficientNet-Lite teachers: small, and without a rectifier at the end.

Design. A Lite block ends in a linear 1x1 convolution, so its features are signed; a student that ends in ReLU, as the
ResNet one does, cannot point where they point. Each scale therefore leaves the student through a linear 1x1 head.
The embedding is 160 channels at half the resolution of the coarser scale (8 x 8 for 256-pixel images): narrow enough
to lose what was never seen, wide enough to keep the place and turn of a part. Residual blocks of plain 3x3
convolutions replace the teacher's depthwise ones: on CPUs and GPUs alike they do more work per byte moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reason_train.bottleneck import initialise_convolutions

FUSED, EMBEDDING, COARSE, FINE = 128, 160, 128, 64
"""Channels of each fused scale, of the embedding, and of the student's two stages."""


def _convolution(before: int, after: int, side: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, side, stride=stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _upsampling(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(before, after, 2, stride=2, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, rectified."""
        return F.relu(feature + self.second(self.first(feature)))


class LiteBottleneck(nn.Module):
    """Two scales fused at the coarser one, then halved and embedded."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, coarse = channels
        self.fine = _convolution(fine, FUSED, 3, stride=2)
        self.coarse = _convolution(coarse, FUSED, 1)
        self.embed = nn.Sequential(
            _convolution(2 * FUSED, EMBEDDING, 3, stride=2), ResidualBlock(EMBEDDING), ResidualBlock(EMBEDDING)
        )
        initialise_convolutions(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Suppressed features (N, C1, H/8, W/8), (N, C2, H/16, W/16) to (N, 160, H/32, W/32)."""
        fused = torch.cat([self.fine(features[0]), self.coarse(features[1])], dim=1)  # (N, 256, H/16, W/16)
        embedding: Tensor = self.embed(fused)
        return embedding


class LiteStudent(nn.Module):
    """Two upsampling residual stages with a linear head each."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, coarse = channels
        self.coarse = nn.Sequential(_upsampling(EMBEDDING, COARSE), ResidualBlock(COARSE))
        self.fine = nn.Sequential(_upsampling(COARSE, FINE), ResidualBlock(FINE))
        self.coarse_head = nn.Conv2d(COARSE, coarse, 1)
        self.fine_head = nn.Conv2d(FINE, fine, 1)
        initialise_convolutions(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(N, 160, H/32, W/32) to rebuilt features (N, C1, H/8, W/8), (N, C2, H/16, W/16)."""
        coarse = self.coarse(embedding)  # (N, 128, H/16, W/16)
        return [self.fine_head(self.fine(coarse)), self.coarse_head(coarse)]
