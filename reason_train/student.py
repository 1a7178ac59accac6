"""The student of the ResNet teachers: the teacher mirrored, from the embedding back to its features."""

from __future__ import annotations

from torch import Tensor, nn

from reason_train.bottleneck import initialise_convolutions


def _upsampling(before: int, after: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 2, stride=2, bias=False)


def _shortcut(before: int, after: int, *, upsamples: bool) -> nn.Module:
    return nn.Sequential(_upsampling(before, after), nn.BatchNorm2d(after)) if upsamples else nn.Identity()


class UpBasicBlock(nn.Module):
    """Two 3x3 convolutions; the first is a 2x2 transposed one where the block upsamples.

    The shortcut is called `upsample`, as in published checkpoints.
    """

    expansion = 1

    def __init__(self, before: int, planes: int, *, upsamples: bool, base_width: int = 64) -> None:
        super().__init__()
        self.conv1 = _upsampling(before, planes) if upsamples else nn.Conv2d(before, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.upsample = _shortcut(before, planes, upsamples=upsamples)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) to (N, planes, H, W), or twice the side where the block upsamples."""
        rebuilt = self.relu(self.bn1(self.conv1(feature)))
        out: Tensor = self.relu(self.bn2(self.conv2(rebuilt)) + self.upsample(feature))
        return out


class UpBottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; the middle one is a 2x2 transposed one where the block upsamples.

    The shortcut upsamples too, but published checkpoints of these blocks call it `downsample`.
    """

    expansion = 4

    def __init__(self, before: int, planes: int, *, upsamples: bool, base_width: int = 64) -> None:
        super().__init__()
        width, after = planes * base_width // 64, planes * self.expansion
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _upsampling(width, width) if upsamples else nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(before, after, upsamples=upsamples)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 4 * planes, H, W), or twice the side where the block upsamples."""
        rebuilt = self.relu(self.bn1(self.conv1(feature)))
        rebuilt = self.relu(self.bn2(self.conv2(rebuilt)))
        out: Tensor = self.relu(self.bn3(self.conv3(rebuilt)) + self.downsample(feature))
        return out


class ResNetStudent(nn.Module):
    """Layers D3, D2, D1 (`layer1`, `layer2`, `layer3` in published checkpoints), each starting with an upsampling.

    Source: RD4AD, arXiv:2201.10703, section 3.2; REASON, IEEE TCSVT 2025.
    """

    def __init__(
        self,
        *,
        block: type[UpBasicBlock] | type[UpBottleneck],
        depths: tuple[int, int, int],
        base_width: int,
    ) -> None:
        super().__init__()

        def layer(before: int, planes: int, depth: int) -> nn.Sequential:
            first = block(before, planes, upsamples=True, base_width=base_width)
            after = planes * block.expansion
            rest = (block(after, planes, upsamples=False, base_width=base_width) for _ in range(depth - 1))
            return nn.Sequential(first, *rest)

        self.layer1 = layer(512 * block.expansion, 256, depths[0])
        self.layer2 = layer(256 * block.expansion, 128, depths[1])
        self.layer3 = layer(128 * block.expansion, 64, depths[2])
        initialise_convolutions(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """The embedding to rebuilt features [g1, g2, g3], the shapes of the teacher's, finest first."""
        coarse = self.layer1(embedding)  # (N, C3, H/16, W/16)
        middle = self.layer2(coarse)  # (N, C2, H/8, W/8)
        return [self.layer3(middle), middle, coarse]  # the first (N, C1, H/4, W/4)
