"""Whitening: hand-made features whose correlation is known, and channels that hardly vary."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reason_runtime.image import square_format
from reason_train.config import MethodConfig
from reason_train.image_store import ImageStore
from reason_train.model import build_model
from reason_train.whitening import (
    SHRINKAGE,
    measure_features,
    measure_maps,
    measured_power,
    neighbour_correlation,
    whitening_matrix,
)
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


def in_blocks(*shape: int, signal: float, seed: int) -> Tensor:
    """Unit variance, of which the share `signal` is the same within blocks of 2 x 2 and the rest noise."""
    images, channels, height, width = shape
    level = noise(images, channels, height // 2, width // 2, seed=seed).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return float(signal**0.5) * level + float((1 - signal) ** 0.5) * noise(*shape, seed=seed + 1)


@pytest.mark.parametrize(("signal", "power"), [(0.0, 0.2), (0.2, 0.32), (0.4, 0.64), (0.8, 0.8), (1.0, 0.8)])
def test_what_blocks_have_in_common_is_their_correlation(signal: float, power: float) -> None:
    features = in_blocks(64, 4, 32, 32, signal=signal, seed=1)
    assert neighbour_correlation(features) == pytest.approx(signal, abs=0.01)
    assert measured_power(features) == pytest.approx(power, abs=0.02)


def test_it_is_the_mean_correlation_of_all_pairs_in_a_block() -> None:
    values = torch.cumsum(noise(16, 3, 16, 16, seed=3), dim=3).double()
    values -= values.mean((0, 2, 3), keepdim=True)
    corners = [values[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    products = [(a * b).mean((0, 2, 3)) for a, b in itertools.combinations(corners, 2)]
    expected = (torch.stack(products).mean(0) / values.square().mean((0, 2, 3))).mean()
    assert neighbour_correlation(values) == pytest.approx(float(expected), abs=1e-3)


def test_units_do_not_matter() -> None:
    features = in_blocks(16, 3, 16, 16, signal=0.5, seed=4)
    scaled = features * torch.tensor([0.1, 1.0, 100.0]).view(1, -1, 1, 1) + 3
    assert neighbour_correlation(scaled) == pytest.approx(neighbour_correlation(features), abs=1e-5)


@pytest.mark.parametrize("images", [4, 8, 16])
def test_few_images_give_nearly_the_power_of_many(images: int) -> None:
    features = in_blocks(128, 8, 32, 32, signal=0.4, seed=5)
    assert measured_power(features[:images]) == pytest.approx(measured_power(features), abs=0.03)


def test_features_that_never_vary_have_nothing_in_common() -> None:
    assert neighbour_correlation(torch.ones(2, 4, 16, 16)) == 0
    assert neighbour_correlation(-torch.ones(1, 4, 2, 2)) == 0


def test_neighbours_that_contradict_each_other_count_as_unlike() -> None:
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert neighbour_correlation(board.expand(2, 3, 16, 16)) == 0


def store_of_4(folder: Path) -> ImageStore:
    for k in range(4):
        save(folder / f"{k}.png", good_picture(k, size_px=64))
    return ImageStore(sorted(folder.iterdir()), input_format=square_format(64))


def test_a_model_is_whitened_with_its_own_measured_power(tmp_path: Path) -> None:
    store = store_of_4(tmp_path)
    method = MethodConfig(
        teacher="efficientnet_lite0", image_size_px=64, suppression_layers=False, whitening="measured"
    )
    torch.manual_seed(0)
    model = build_model(method).eval()
    measure_features(model, store, device=torch.device("cpu"))
    features = model.teacher.stages(model.stem(torch.from_numpy(np.stack([store[k] for k in range(4)]))))
    power = measured_power(features[0])
    assert float(model.get_buffer("whitening_power")) == pytest.approx(power, abs=1e-3)
    for k, each in enumerate(features):
        expected = whitening_matrix(each, power=power)
        torch.testing.assert_close(model.get_buffer(f"whiten_{k}")[:, :, 0, 0], expected, rtol=1e-2, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_scales_are_balanced_by_a_power_of_their_typical_maximum(balance: float, tmp_path: Path) -> None:
    store = store_of_4(tmp_path)
    method = MethodConfig(teacher="efficientnet_lite0", image_size_px=64, suppression_layers=False, map_balance=balance)
    torch.manual_seed(0)
    model = build_model(method).eval()
    measure_maps(model, store, device=torch.device("cpu"))
    features = model.features(torch.from_numpy(np.stack([store[k] for k in range(4)])))
    for k, (t, g) in enumerate(zip(features, model.rebuild(features), strict=True)):
        cosine = (t * g).sum(1) / (t.norm(dim=1) * g.norm(dim=1))
        typical = float((1 - cosine).flatten(1).max(1).values.mean())
        assert float(model.head.get_buffer(f"weight_{k}")) == pytest.approx(typical**-balance, rel=1e-4)
