from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from reason_train.synthesis import draw_rectangle, draw_region, synthesise, synthesise_in_features

STD = 0.015
SMALLEST_P = 1e-4  # seeds are fixed: a right implementation passes always, a wrong one is off by far more


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def added_noise(stem: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Which samples were made noisy, and what was added to them."""
    half = synthesise(stem, std=STD, generator=generator(seed))
    return half.indices, half.stem - stem[half.indices]


@pytest.mark.parametrize(("batch", "noisy"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3), (16, 8)])
def test_half_of_the_batch_rounded_down_gets_noise(batch: int, noisy: int) -> None:
    half = synthesise(torch.zeros(batch, 2, 16, 16), std=1.0, generator=generator(batch))
    assert half.stem.shape == (noisy, 2, 16, 16)
    assert len(set(half.indices.tolist())) == noisy
    assert half.stem.flatten(1).abs().amax(1).gt(0).all()


@pytest.mark.parametrize("seed", range(20))
def test_one_rectangle_over_all_channels_is_shared_by_the_half_and_the_rest_is_untouched(seed: int) -> None:
    stem = torch.randn((6, 8, 32, 48), generator=generator(1000 + seed))
    before = stem.clone()
    _, noise = added_noise(stem, seed)
    changed = (noise != 0).flatten(0, 1)  # (samples and channels, H, W)
    rows, columns = changed.any(0).any(1).nonzero()[:, 0], changed.any(0).any(0).nonzero()[:, 0]
    box = torch.zeros((32, 48), dtype=torch.bool)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    assert not changed[:, ~box].any()
    assert changed[:, box].float().mean() > 0.99  # float32 swallows a rare tiny value beside a large one
    assert torch.equal(stem, before)


def test_noise_differs_between_samples_and_channels() -> None:
    _, noise = added_noise(torch.zeros(8, 4, 32, 32), seed=5)
    flat = noise.flatten(0, 1)
    assert len({tuple(plane.flatten().tolist()) for plane in flat}) == len(flat)


def test_noise_is_normal_with_the_asked_deviation() -> None:
    values = torch.cat(
        [noise[noise != 0] for _, noise in (added_noise(torch.zeros(8, 16, 32, 32), s) for s in range(40))]
    )
    assert len(values) > 50_000
    assert stats.kstest(values.numpy() / STD, "norm").pvalue > SMALLEST_P
    assert float(values.std()) == pytest.approx(STD, rel=0.01)


def test_a_deviation_per_channel_scales_each_channel() -> None:
    deviations = torch.tensor([0.1, 1.0, 10.0]).view(1, 3, 1, 1)
    halves = [synthesise(torch.zeros(8, 3, 64, 64), std=deviations, generator=generator(s)).stem for s in range(30)]
    for channel, deviation in enumerate((0.1, 1.0, 10.0)):
        values = torch.cat([half[:, channel][half[:, channel] != 0] for half in halves])
        assert float(values.std()) == pytest.approx(deviation, rel=0.05)


def test_every_sample_is_chosen_equally_often() -> None:
    chosen = np.zeros(6)
    for seed in range(600):
        chosen[synthesise(torch.zeros(6, 1, 4, 4), std=1.0, generator=generator(seed)).indices.numpy()] += 1
    assert chosen.sum() == 600 * 3
    assert stats.chisquare(chosen).pvalue > SMALLEST_P


@pytest.mark.parametrize(("height", "width"), [(64, 64), (56, 56), (8, 24), (1, 1), (2, 3)])
def test_rectangles_keep_their_limits_and_lie_inside(height: int, width: int) -> None:
    boxes = [draw_rectangle(height, width, generator(seed)) for seed in range(500)]
    for side, sizes in ((height, [b.height for b in boxes]), (width, [b.width for b in boxes])):
        assert min(sizes) == 1
        assert max(sizes) <= max(int(side * 0.5), 2) - 1
    assert all(0 <= b.top <= height - b.height and 0 <= b.left <= width - b.width for b in boxes)


def test_rectangle_sizes_have_the_distribution_of_the_method() -> None:
    """P(height = h) for ratio ~ U(0.01, 0.5), height ~ U{1 .. max(int(64 ratio), 2) - 1}, by integrating the ratio."""
    ratios = np.linspace(0.01, 0.5, 200_001)
    limits = np.maximum((64 * ratios).astype(int), 2)
    expected = np.array([np.mean((limits > h) / (limits - 1)) for h in range(1, 32)])
    boxes = [draw_rectangle(64, 64, generator(seed)) for seed in range(4000)]
    for sizes in ([b.height for b in boxes], [b.width for b in boxes]):
        counts = np.bincount(sizes, minlength=32)[1:32]
        rare = expected * 4000 < 5
        found, wanted = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
        kept = wanted > 0
        assert stats.chisquare(found[kept], wanted[kept] / wanted.sum() * 4000).pvalue > SMALLEST_P


def test_positions_fill_the_map_evenly_and_do_not_follow_each_other() -> None:
    boxes = [draw_rectangle(64, 64, generator(seed)) for seed in range(3000)]
    top = np.array([(b.top + 0.5) / (64 - b.height + 1) for b in boxes])
    left = np.array([(b.left + 0.5) / (64 - b.width + 1) for b in boxes])
    jitter = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 3000))  # positions are whole numbers
    top += jitter[0] / np.array([64 - b.height + 1 for b in boxes])
    left += jitter[1] / np.array([64 - b.width + 1 for b in boxes])
    assert stats.kstest(top, "uniform").pvalue > SMALLEST_P
    assert stats.kstest(left, "uniform").pvalue > SMALLEST_P
    assert stats.spearmanr(top, left).pvalue > SMALLEST_P


def test_draws_depend_on_the_generator_only() -> None:
    stem = torch.zeros(4, 2, 16, 16)
    first, again, other = (synthesise(stem, std=1.0, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.stem, again.stem)
    assert not torch.equal(first.stem, other.stem)


def test_noise_in_features_reaches_the_first_half_at_the_same_place_of_every_scale() -> None:
    features = [torch.zeros(5, 6, 32, 32), torch.zeros(5, 9, 16, 16)]
    seen = synthesise_in_features(features, std=2.0, generator=generator(3))
    fine, coarse = ((noisy != 0).any(1) for noisy in seen)
    assert [noisy.flatten(1).any(1).tolist() for noisy in seen] == [[True, True, False, False, False]] * 2
    assert torch.equal(torch.nn.functional.max_pool2d(fine.float(), 2).bool(), coarse)
    assert all(not feature.any() for feature in features)  # the originals are untouched


def test_a_batch_of_one_gets_no_noise_in_its_features() -> None:
    features = [torch.ones(1, 6, 32, 32), torch.ones(1, 9, 16, 16)]
    seen = synthesise_in_features(features, std=2.0, generator=generator(3))
    assert all(torch.equal(ours, feature) for ours, feature in zip(seen, features, strict=True))


@pytest.mark.parametrize("side", [8, 28, 32])
def test_a_region_covers_2_to_20_percent(side: int) -> None:
    shares = [float(draw_region(side, generator(seed)).mean()) for seed in range(200)]
    rounding = 1 / side**2
    assert 0.02 - rounding <= min(shares)
    assert max(shares) <= 0.2 + rounding
    assert max(shares) - min(shares) > 0.12
