"""Whitening: hand-made features whose correlation is known, and channels that hardly vary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reason_train.whitening import SHRINKAGE, whitening_matrix


def mixed_features(*, correlation: float, deviations: tuple[float, float], seed: int) -> Tensor:
    """(8, 2, 32, 32) Gaussian features with a mean of 5, exactly the given deviations and correlation."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn((2, 8 * 32 * 32), generator=generator, dtype=torch.float64)
    plain -= plain.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(plain @ plain.T / plain.shape[1])
    white = (vectors / values.sqrt()) @ vectors.T @ plain  # exactly uncorrelated, deviation 1
    mixed = torch.stack([white[0], correlation * white[0] + (1 - correlation**2) ** 0.5 * white[1]])
    scaled = mixed * torch.tensor(deviations, dtype=torch.float64)[:, None] + 5
    return scaled.view(2, 8, 32, 32).transpose(0, 1).float()


def test_power_0_divides_each_channel_by_its_deviation_and_nothing_else() -> None:
    matrix = whitening_matrix(mixed_features(correlation=0.8, deviations=(2.0, 0.5), seed=0), power=0)
    torch.testing.assert_close(matrix, torch.diag(torch.tensor([0.5, 2.0])), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_directions_are_scaled_by_the_power_of_the_shrunk_correlation(power: float) -> None:
    features = mixed_features(correlation=0.8, deviations=(2.0, 0.5), seed=1)
    matrix = whitening_matrix(features, power=power)
    # R = [[1, .8], [.8, 1]] has eigenvectors (1, 1) and (1, -1) with eigenvalues 1.8 and 0.2, shrunk towards 1
    for direction, value in (((1.0, 1.0), 1.8), ((1.0, -1.0), 0.2)):
        unit = torch.tensor(direction) / 2**0.5
        given = matrix @ (torch.tensor([2.0, 0.5]) * unit)  # one deviation along the direction
        expected = unit * ((1 - SHRINKAGE) * value + SHRINKAGE) ** (-power / 2)
        torch.testing.assert_close(given, expected, rtol=2e-3, atol=1e-4)


def test_the_mean_does_not_enter() -> None:
    features = mixed_features(correlation=0.3, deviations=(1.0, 1.0), seed=2)
    torch.testing.assert_close(
        whitening_matrix(features, power=0.5), whitening_matrix(features + 7, power=0.5), rtol=1e-4, atol=1e-5
    )


def test_a_channel_that_never_varies_is_not_blown_up() -> None:
    features = torch.cat(
        [mixed_features(correlation=0.0, deviations=(1.0, 1.0), seed=3), torch.full((8, 1, 32, 32), 2.0)], 1
    )
    matrix = whitening_matrix(features, power=0.5)
    assert torch.isfinite(matrix).all()
    assert matrix.abs().max() <= 1 / 0.01 / (SHRINKAGE**0.25) * 1.01
