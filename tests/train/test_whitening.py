"""Whitening: hand-made features whose correlation is known, and channels that hardly vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reason_runtime.image import square_format
from reason_train.config import MethodConfig
from reason_train.image_store import ImageStore
from reason_train.model import build_model
from reason_train.whitening import SHRINKAGE, explained_power, explained_share, measure_features, whitening_matrix
from tests.pictures import good_picture, save


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


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blocks(values: Tensor, side: int) -> Tensor:
    return values.repeat_interleave(side, 2).repeat_interleave(side, 3)


@pytest.mark.parametrize(("signal", "power"), [(0.0, 0.1), (0.4, 0.7), (1.0, 1.0)])
def test_what_a_cell_explains_of_noise_around_its_level_is_known(signal: float, power: float) -> None:
    # x = s + n is foretold from the mean of 16 such values, s + mean n: R^2 = (S + N / 16) / (S + N)
    fine = signal**0.5 * blocks(noise(64, 2, 4, 4, seed=1), 4) + (1 - signal) ** 0.5 * noise(64, 2, 16, 16, seed=2)
    features = [fine, noise(64, 2, 8, 8, seed=3)]
    assert explained_share(features) == pytest.approx(signal + (1 - signal) / 16, abs=0.02)
    assert explained_power(features) == pytest.approx(power, abs=0.03)


def test_the_coarse_scale_explains_the_fine_one() -> None:
    level = noise(32, 1, 4, 4, seed=1)
    pattern = noise(1, 1, 4, 4, seed=2)
    pattern -= pattern.mean()  # so that the fine scale's own means say nothing
    fine = blocks(level, 4) * pattern.tile(1, 1, 4, 4)
    assert explained_share([fine, blocks(level, 2)]) == pytest.approx(1, abs=0.01)
    assert explained_share([fine, noise(32, 1, 8, 8, seed=3)]) < 0.01


def test_units_do_not_matter() -> None:
    features = [noise(16, 3, 16, 16, seed=4), noise(16, 5, 8, 8, seed=5)]
    scaled = [each * torch.arange(1.0, each.shape[1] + 1).view(1, -1, 1, 1) + 3 for each in features]
    assert explained_share(scaled) == pytest.approx(explained_share(features), abs=1e-6)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_and_constant_ones_give_a_power(images: int) -> None:
    for features in (
        [noise(images, 4, 16, 16, seed=6), noise(images, 4, 8, 8, seed=7)],
        [torch.ones(images, 4, 16, 16), torch.ones(images, 4, 8, 8)],
    ):
        assert 0 <= explained_power(features) <= 1


def test_a_model_is_whitened_with_its_own_measured_power(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / f"{k}.png", good_picture(k, size_px=64))
    store = ImageStore(sorted(tmp_path.iterdir()), input_format=square_format(64))
    method = MethodConfig(
        teacher="efficientnet_lite0", image_size_px=64, suppression_layers=False, whitening="explained"
    )
    torch.manual_seed(0)
    model = build_model(method).eval()
    measure_features(model, store, device=torch.device("cpu"))
    features = model.teacher.stages(model.stem(torch.from_numpy(np.stack([store[k] for k in range(4)]))))
    for k, each in enumerate(features):
        expected = whitening_matrix(each, power=explained_power(features))
        torch.testing.assert_close(model.get_buffer(f"whiten_{k}")[:, :, 0, 0], expected, rtol=1e-2, atol=1e-3)
