"""From features to the anomaly map and the score: the head that is trained with, exported and run, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from reason_runtime.manifest import SCORE_CELL_PX

BLUR_SIGMA_PX = 4.0  # the reference's
SMALLEST_NORM = 1e-8


def interpolation_matrix(size_px: int, side: int) -> NDArray[np.float64]:
    """(size_px, side) matrix of linear interpolation with aligned corners: `U @ column` is the column upsampled."""
    position = np.linspace(0.0, side - 1.0, size_px)
    lower = np.minimum(position.astype(np.int64), max(side - 2, 0))
    share = position - lower
    matrix = np.zeros((size_px, side))
    rows = np.arange(size_px)
    matrix[rows, lower] += 1 - share
    matrix[rows, np.minimum(lower + 1, side - 1)] += share
    return matrix


def map_matrix(size_px: int, side: int, *, sigma_px: float = BLUR_SIGMA_PX) -> NDArray[np.float64]:
    """(size_px, side) matrix A = G U: aligned-corner upsampling, then scipy's Gaussian blur, along one axis.

    Upsampling, the sum over scales and the blur are linear and separable, so the final map is exactly
    sum_k A_k D_k A_k^T with D_k the distance of scale k.
    """
    interpolation = interpolation_matrix(size_px, side)
    blurred: NDArray[np.float64] = gaussian_filter1d(interpolation, sigma_px, axis=0, mode="reflect", truncate=4.0)
    return blurred


def head_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, C, h, w) features of one scale to their (N, h, w) distance 1 - cos, float32; 1 where either is zero.

    `losses.Comparison.distance` up to rounding, written out: these are the operators of the exported graph.
    """
    teacher, student = teacher.float(), student.float()
    norms = (teacher.square().sum(1) * student.square().sum(1)).sqrt().clamp_min(SMALLEST_NORM)
    return (norms - (teacher * student).sum(1)) / norms


class MapHead(nn.Module):
    """Distance per scale, upsampled, weighted, summed and blurred in one expression; the score is its highest part.

    Each scale's distance is 1 - cos; `weight_k` is 1 until training measures it.

    Both constants stand on the left of their products: OpenVINO runs a product with the constant on the right in
    bf16 when its bf16 hint is set.

    With a region, the map is multiplied with the constant `region`, 1 where defects count and 0 elsewhere.

    The score is the map's maximum when `score_exponent` is None, else the generalised mean (mean of m^p)^(1/p) with
    p = `score_exponent`: the larger p, the closer to the maximum. A weak defect of some size then counts more than one
    stray peak as high. Computed relative to the maximum, so that no power leaves float32.

    Source: REASON, IEEE TCSVT 2025 (weights 1, maximum).
    Departure: Weights and the generalised mean are this project's, for the edge teachers.
    """

    def __init__(
        self,
        *,
        size_px: int,
        sides: Sequence[int],
        sigma_px: float = BLUR_SIGMA_PX,
        score_exponent: float | None = None,
        has_region: bool = False,
    ) -> None:
        super().__init__()
        self.size_px = size_px
        if has_region:
            self.register_buffer("region", torch.ones(size_px, size_px))
        self.has_region = has_region
        self.score_exponent = score_exponent
        for k, side in enumerate(sides):
            matrix = torch.from_numpy(map_matrix(size_px, side, sigma_px=sigma_px)).float()
            self.register_buffer(f"matrix_{k}", matrix, persistent=False)
            self.register_buffer(f"weight_{k}", torch.ones(()))

    @property
    def counts(self) -> NDArray[np.bool_] | None:
        """(S, S), True where defects count; None: everywhere."""
        return self.get_buffer("region").cpu().numpy() > 0 if self.has_region else None

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features over scales, finest first, to the map (N, S, S) and the score (N,), both in raw units."""
        matrices = [self.get_buffer(f"matrix_{k}") for k in range(len(teacher))]  # (S, h)
        halves = []
        for k, (t, g) in enumerate(zip(teacher, student, strict=True)):
            distance = head_distance(t, g) * self.get_buffer(f"weight_{k}")  # (N, h, h)
            halves.append(matrices[k] @ distance.transpose(1, 2))  # (N, S, h): A D^T
        # one product over all scales: the sum of A (A D^T)^T
        anomaly_map = torch.cat(matrices, dim=1) @ torch.cat(halves, dim=2).transpose(1, 2)  # (N, S, S)
        if self.has_region:
            anomaly_map = anomaly_map * self.get_buffer("region")
        if self.score_exponent is None:
            return anomaly_map, anomaly_map.amax((1, 2))
        return anomaly_map, generalised_mean(anomaly_map, exponent=self.score_exponent)


def generalised_mean(anomaly_map: Tensor, *, exponent: float) -> Tensor:
    """(N, S, S) maps to their (N,) generalised means over 4 x 4 cells; rounding below 0 counts as 0."""
    cells = F.avg_pool2d(anomaly_map.unsqueeze(1), SCORE_CELL_PX).flatten(1).relu()  # (N, (S / 4)^2)
    highest = cells.amax(1, keepdim=True).clamp_min(SMALLEST_NORM)
    return highest[:, 0] * (cells / highest).pow(exponent).mean(1).pow(1 / exponent)
