"""Anomaly suppression layers (ASL): learn to undo what latent noise did to the teacher's features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SuppressionLayer(nn.Module):
    """One scale: four 3x3 convolutions C -> C/2 -> C/4 -> C/2 -> C, each with instance norm and LeakyReLU.

    Source: REASON, IEEE TCSVT 2025, anomaly suppression layers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, channels // 2, channels // 4, channels // 2, channels)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.InstanceNorm2d(after, eps=1e-5), nn.LeakyReLU(0.01)]
        self.proj = nn.Sequential(*layers)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        suppressed: Tensor = self.proj(feature)
        return suppressed


class Suppression(nn.Module):
    """A suppression layer per scale; `proj_a` is the finest. State-dict keys are those of published checkpoints."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.names = [f"proj_{letter}" for letter in "abcdefgh"[: len(channels)]]
        for name, width in zip(self.names, channels, strict=True):
            self.add_module(name, SuppressionLayer(width))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features over scales, finest first, to suppressed features of the same shapes."""
        return [self.get_submodule(name)(feature) for name, feature in zip(self.names, features, strict=True)]
