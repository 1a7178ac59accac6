from __future__ import annotations

from pathlib import Path

import pytest

from reason_train.datasets import DataSet, Sample
from reason_train.plan import MOST_HELD_OUT, split


def data_set(images: int) -> DataSet:
    samples = [
        Sample(
            path=Path(f"/set/train/good/{number:05}.png"), anomalous=False, defect="good", mask_path=None, group=None
        )
        for number in range(images)
    ]
    return DataSet(name="set", root=Path("/set"), layout="mvtec", category=None, train=tuple(samples), test=())


@pytest.mark.parametrize(
    ("images", "share", "held_out"),
    [
        (2, 0.2, 0),
        (4, 0.2, 1),
        (5, 0.2, 1),
        (5, 0.01, 1),
        (10, 0.2, 2),
        (10, 0.0, 0),
        (100, 0.2, 20),
        (3, 0.5, 2),
        (1, 0.5, 0),
        (2000, 0.5, 1000),
        (10_000, 0.2, 1000),
    ],
)
def test_how_many_images_are_held_out(images: int, share: float, held_out: int) -> None:
    parts = split(data_set(images), held_out_share=share, seed=0)
    assert (len(parts.train), len(parts.held_out)) == (images - held_out, held_out)
    assert held_out <= MOST_HELD_OUT


@pytest.mark.parametrize("seed", range(5))
def test_every_image_is_on_one_side_in_the_lists_order(seed: int) -> None:
    whole = data_set(30)
    parts = split(whole, held_out_share=0.2, seed=seed)
    assert sorted([*parts.train, *parts.held_out]) == [sample.path for sample in whole.train]
    assert list(parts.train) == sorted(parts.train)
    assert list(parts.held_out) == sorted(parts.held_out)


def test_the_split_depends_on_the_seed_only() -> None:
    first, again, other = (split(data_set(30), held_out_share=0.2, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_image_is_held_out_about_as_often() -> None:
    counts = dict.fromkeys((sample.path for sample in data_set(10).train), 0)
    for seed in range(1000):
        for path in split(data_set(10), held_out_share=0.2, seed=seed).held_out:
            counts[path] += 1
    assert sum(counts.values()) == 2000
    assert all(140 <= count <= 260 for count in counts.values())  # 200 expected, deviation 13
