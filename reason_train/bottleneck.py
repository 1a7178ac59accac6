"""One-class bottleneck embedding (OCBE) of the ResNet teachers: three scales fused, then one residual stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


def initialise_convolutions(module: nn.Module) -> None:
    """Kaiming-normal fan-out for every Conv2d; transposed convolutions keep PyTorch's default."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class MultiScaleFusion(nn.Module):
    """Brings all scales to the coarsest one and concatenates them."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(second)
        self.conv2 = nn.Conv2d(second, third, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(third)
        self.conv3 = nn.Conv2d(second, third, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Suppressed features, finest first, to (N, 3 * C3, H3, W3)."""
        fine = self.relu(self.bn1(self.conv1(features[0])))  # (N, C2, H2, W2)
        fine = self.relu(self.bn2(self.conv2(fine)))  # (N, C3, H3, W3)
        middle = self.relu(self.bn3(self.conv3(features[1])))  # (N, C3, H3, W3)
        return torch.cat([fine, middle, features[2]], dim=1)


class ResNetBottleneck(nn.Module):
    """Fusion (`mmf`) and a stride-2 stage of three blocks (`bn_layer`); names are those of published checkpoints.

    Source: RD4AD, arXiv:2201.10703, section 3.3; REASON, IEEE TCSVT 2025.
    """

    def __init__(self, channels: Sequence[int], *, block: type[BasicBlock] | type[Bottleneck], base_width: int) -> None:
        super().__init__()
        self.mmf = MultiScaleFusion(channels)
        planes, width = 512, 512 * block.expansion
        downsample = nn.Sequential(
            nn.Conv2d(3 * channels[2], width, 1, stride=2, bias=False),
            nn.BatchNorm2d(width),
        )
        self.bn_layer = nn.Sequential(
            block(3 * channels[2], planes, stride=2, downsample=downsample, base_width=base_width),
            *(block(width, planes, base_width=base_width) for _ in range(2)),
        )
        self.channels = width
        initialise_convolutions(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Suppressed features, finest first, to the embedding (N, 512 * expansion, H3 / 2, W3 / 2)."""
        embedding: Tensor = self.bn_layer(self.mmf(features))
        return embedding
