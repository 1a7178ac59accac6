"""The frozen ImageNet network whose features the student learns to rebuild."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reason_train.config import TeacherName, is_lite

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255  # inputs of the Lite networks are (x - 127) / 128, x in 0..255

TOGETHER = 8
"""Images that the teacher sees at once where nothing is added to its stem; more would leave the caches of a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherShape:
    """What the rest of the model must know of a teacher."""

    channels: tuple[int, ...]
    """Channels of the tapped features, finest scale first."""
    strides: tuple[int, ...]
    """Input pixels per feature position, the same order."""


def timm_network(name: TeacherName) -> nn.Module:
    """The whole EfficientNet-Lite classifier without weights."""
    network: nn.Module = timm.create_model(f"tf_{name}", pretrained=False)
    return network


def _output_channels(stage: nn.Module) -> int:
    convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    return convolutions[-1].out_channels


class ResNetTeacher(nn.Module):
    """Stem E0 and stages E1, E2, E3 of a torchvision ResNet: features at strides 4, 8, 16, rectified.

    Stage 4 and the classifier are not part of the model; state-dict keys are torchvision's.

    Source: REASON, IEEE TCSVT 2025; RD4AD, arXiv:2201.10703.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: TeacherName) -> None:
        super().__init__()
        network = torchvision.models.get_model(name, weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3 = network.layer1, network.layer2, network.layer3
        width = 64 if name == "resnet18" else 256
        self.shape = TeacherShape(channels=(width, 2 * width, 4 * width), strides=(4, 8, 16))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def stem(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, 64, H/4, W/4)."""
        out: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return out

    def stages(self, stem: Tensor) -> list[Tensor]:
        """The stem's output to the features of all scales, finest first."""
        first = self.layer1(stem)  # (N, C1, H/4, W/4)
        second = self.layer2(first)  # (N, C2, H/8, W/8)
        return [first, second, self.layer3(second)]  # the last (N, C3, H/16, W/16)


class LiteTeacher(nn.Module):
    """Stem and inverted-residual stages of an EfficientNet-Lite, tapped at the linear block outputs.

    Taps are the last block of stage 3 (stride 8) and of stage 5 (stride 16). Stride 4 is not tapped: its 24 channels
    see too little to tell a scratch from texture, and rebuilding them costs as much as the rest of the student.
    Stages after the last tap are dropped. State-dict keys are timm's.

    Source: EfficientNet-Lite (TensorFlow model garden), as timm's `tf_efficientnet_lite*` builds it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: TeacherName) -> None:
        super().__init__()
        network = timm_network(name)
        self.conv_stem, self.bn1 = network.get_submodule("conv_stem"), network.get_submodule("bn1")
        self.blocks = nn.Sequential(*list(network.get_submodule("blocks").children())[:5])
        channels = tuple(_output_channels(self.blocks[stage]) for stage in (2, 4))
        self.shape = TeacherShape(channels=channels, strides=(8, 16))
        self.register_buffer("mean", torch.full((1, 3, 1, 1), LITE_MEAN), persistent=False)
        self.register_buffer("std", torch.full((1, 3, 1, 1), LITE_STD), persistent=False)

    def stem(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, 32, H/2, W/2)."""
        out: Tensor = self.bn1(self.conv_stem(images))
        return out

    def stages(self, stem: Tensor) -> list[Tensor]:
        """The stem's output to the features of all scales, finest first."""
        third = self.blocks[:3](stem)  # (N, C1, H/8, W/8)
        return [third, self.blocks[3:](third)]  # the last (N, C2, H/16, W/16)


Teacher = ResNetTeacher | LiteTeacher


def build_teacher(name: TeacherName) -> Teacher:
    """The architecture of a teacher without trained weights, frozen, in evaluation mode."""
    teacher = LiteTeacher(name) if is_lite(name) else ResNetTeacher(name)
    return teacher.eval().requires_grad_(False)


def fold_norms(teacher: Teacher) -> Teacher:
    """A copy that computes the same, up to rounding, faster: batch norms in the convolutions before them.

    Args:
        teacher: In evaluation mode; every batch norm is declared right after the convolution whose output it takes, as
            torchvision and timm do.
    """
    folded = copy.deepcopy(teacher)
    for module in folded.modules():
        parts = list(module.named_children())
        for (name, convolution), (norm_name, norm) in zip(parts, parts[1:], strict=False):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms rectify as well
    return folded


class InFloat32(nn.Module):
    """A part that stays in float32 where autocast runs the rest in bf16."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, feature: Tensor) -> Tensor:
        """As the part's own."""
        with torch.autocast(feature.device.type, enabled=False):
            out: Tensor = self.part(feature.float())
        return out


def keep_front_in_float32(teacher: Teacher) -> None:
    """Of a Lite network, keep the stem and the first stage out of bf16.

    Its first depthwise convolution is a small difference of large products: in bf16 it alone makes most of the noise in
    the features, and costs next to nothing in float32.
    """
    if isinstance(teacher, LiteTeacher):
        teacher.conv_stem, teacher.blocks[0] = InFloat32(teacher.conv_stem), InFloat32(teacher.blocks[0])


def teacher_features(teacher: Teacher, images: Tensor) -> list[Tensor]:
    """uint8 (N, H, W, C) images to the features of all scales, finest first."""
    return teacher.stages(teacher.stem(normalise(images, mean=teacher.mean, std=teacher.std)))


def normalise(images: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (N, H, W, C) images, C = 3 (RGB) or 1 (grey), to the teacher's float32 (N, 3, H, W) input."""
    # cast first: TensorRT transposes no uint8; transpose last: OpenVINO then finds its own layout and moves nothing;
    # whole rows at a time: ONNX Runtime is slow where it repeats three values
    width = images.shape[2]
    mean, std = (one.flatten().expand(3).tile(width) for one in (mean, std))
    rows = images.float().expand(-1, -1, -1, 3).flatten(2)  # one grey channel becomes three
    normalised = (rows / 255 - mean) / std
    return normalised.reshape(*images.shape[:3], 3).permute(0, 3, 1, 2)
