"""Views of training images, and what the teacher makes of them step by step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reason_runtime.image import as_image, resize_image, square_format
from reason_train.feature_cache import FeatureCache
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.presets import resolve
from reason_train.ranks import ALONE
from reason_train.schedule import batch_order
from reason_train.teacher_views import teacher_views
from reason_train.teacher_weights import load_teacher
from reason_train.timing import PhaseClock
from reason_train.views import at_view_scale, change_view
from tests.pictures import good_parts
from tests.train.trainings import CPU, small_choices

FORM = square_format(64)


def texture(size_px: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Noise of one strength at all scales down to a pixel."""
    grey = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


def sharpness(image: NDArray[np.uint8]) -> float:
    """Mean magnitude of differences of neighbours, over the image's own contrast."""
    grey = image[:, :, 0].astype(np.float64)
    return float(np.abs(np.diff(grey, axis=1)).mean() / grey.std())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64), (64, 64)),
        ((120, 90), (120, 90)),  # between the input and twice it
        ((512, 256), (256, 128)),
        ((32, 128), (64, 256)),
        ((64, 40000), (26, 16384)),  # OpenCV's limit
    ],
)
def test_views_are_taken_at_one_to_two_times_the_input(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    scaled = at_view_scale(picture, input_format=FORM)
    assert scaled.shape == (*expected, 3)
    view = change_view(scaled, input_format=FORM, random=np.random.default_rng(0))
    assert (view.shape, view.dtype) == ((64, 64, 3), np.uint8)


def test_a_mono_picture_keeps_its_one_channel() -> None:
    form = square_format(64, channels=1)
    scaled = at_view_scale(texture(256)[:, :, :1], input_format=form)
    assert scaled.shape == (128, 128, 1)
    assert change_view(scaled, input_format=form, random=np.random.default_rng(0)).shape == (64, 64, 1)


@pytest.mark.parametrize("side", [64, 100, 300])  # both filters, with a resize and without
def test_a_mono_picture_taken_as_rgb_has_the_views_of_that_rgb_picture(side: int) -> None:
    mono = as_image(texture(side)[:, :, 0], input_format=FORM)
    expanded = np.ascontiguousarray(mono)
    assert mono.strides[2] == 0
    views = [
        change_view(at_view_scale(each, input_format=FORM), input_format=FORM, random=np.random.default_rng(7))
        for each in (mono, expanded)
    ]
    np.testing.assert_array_equal(views[0], views[1])


def test_views_of_large_pictures_are_nearer_in_sharpness_to_the_image_than_turned_images_are() -> None:
    picture = texture(128)
    image = resize_image(picture, input_format=FORM)
    found = {}
    for name, source in (("picture", picture), ("image", image)):
        draws = [np.random.default_rng(seed) for seed in range(20)]
        views = [sharpness(change_view(source, input_format=FORM, random=random)) for random in draws]
        found[name] = np.mean(views) / sharpness(image)
    assert abs(found["picture"] - 1) < 0.02 < 0.03 < abs(found["image"] - 1)


def test_a_view_is_moved_by_no_more_than_was_said_and_uses_it() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[60:68, 60:68] = 250
    places = []
    for seed in range(60):
        view = change_view(picture, input_format=FORM, random=np.random.default_rng(seed)).astype(np.float64)[:, :, 0]
        bright = np.clip(view - 60, 0, None)
        places.append([(bright.sum(axis) @ np.arange(64)) / bright.sum() for axis in (0, 1)])
    moved = np.abs(np.array(places) - 31.5)
    assert 1.6 < moved.max() < 64 / 32 + 0.2


def test_a_view_is_lit_differently_by_no_more_than_was_said_and_uses_it() -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    picture[:, 32:] = 156
    contrasts, shifts, noises = [], [], []
    for seed in range(200):
        view = change_view(picture, input_format=FORM, random=np.random.default_rng(seed)).astype(np.float64)
        left, right = view[:, 4:22], view[:, 42:60]  # clear of the edge, wherever it moved to
        contrasts.append((right.mean() - left.mean()) / 56)
        shifts.append((right.mean() + left.mean()) / 2 - 128)
        noises.append(left.std())
    assert 0.9 < min(contrasts) < 0.94
    assert 1.06 < max(contrasts) < 1.1
    assert -9 < min(shifts) < -7
    assert 7 < max(shifts) < 9
    assert min(noises) < 0.5
    assert 2.7 < max(noises) < 3.1  # 0.3 of it is rounding


@pytest.mark.parametrize("level", [0, 255])
def test_noise_does_not_run_over_black_or_white(level: int) -> None:
    picture = np.full((64, 64, 3), level, np.uint8)
    for seed in range(20):
        view = change_view(picture, input_format=FORM, random=np.random.default_rng(seed)).astype(np.float64)
        assert abs(view - level).max() < 8 + 3 * 3


@pytest.mark.parametrize("memory_mib", [0, 4096])
def test_a_view_depends_on_seed_image_and_its_number_alone(memory_mib: int, tmp_path: Path) -> None:
    paths = sorted((good_parts(tmp_path, images=3) / "train" / "good").iterdir())
    store = ImageStore(paths, input_format=FORM, memory_mib=memory_mib, seed=4)
    first = store[2 * 3 + 1].copy()
    assert not np.array_equal(first, store[3 * 3 + 1])
    np.testing.assert_array_equal(store[2 * 3 + 1], first)
    again = ImageStore(paths, input_format=FORM, memory_mib=0, seed=4)
    np.testing.assert_array_equal(again[2 * 3 + 1], first)
    assert not np.array_equal(ImageStore(paths, input_format=FORM, seed=5)[2 * 3 + 1], first)


@pytest.mark.parametrize("cache_mib", [4096, 1, 0], ids=["kept", "images kept", "read again"])
@pytest.mark.parametrize("start", [0, 3, 23, 45])
def test_every_step_gets_the_clean_features_of_its_images_and_views(start: int, cache_mib: int, tmp_path: Path) -> None:
    paths = sorted((good_parts(tmp_path, images=7) / "train" / "good").iterdir())
    config = resolve(small_choices(steps=50, batch_size=4, views=10), dataset="mvtec", bf16_is_fast=False)
    model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher)).eval()
    store = ImageStore(paths, input_format=FORM, seed=config.training.seed)
    steps, clock = range(start, 50), PhaseClock()
    mib = partial(FeatureCache.mib, model, store, config)
    assert mib(views=0) < 1 < mib(views=10)
    views = teacher_views(model, config, store, device=CPU, steps=steps, cache_mib=cache_mib, ranks=ALONE, clock=clock)
    for step, view in zip(steps, views, strict=True):
        order = batch_order(config.training, step=step, images=store.images)
        with torch.no_grad():
            expected = [model.features(torch.from_numpy(store[index][None].copy())) for index in order]
        for scale, found in enumerate(view.clean):
            alone = torch.cat([features[scale] for features in expected])
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


class CountingStore(ImageStore):
    """What was read, by position."""

    read: list[int]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        self.read.append(index)
        return super().__getitem__(index)


def test_views_are_read_once_for_the_rounds_that_share_them(tmp_path: Path) -> None:
    paths = sorted((good_parts(tmp_path, images=6) / "train" / "good").iterdir())
    config = resolve(small_choices(steps=18, batch_size=4, views=1), dataset="mvtec", bf16_is_fast=False)
    model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher)).eval()
    store = CountingStore(paths, input_format=FORM, seed=config.training.seed)
    store.read = []
    clock, steps = PhaseClock(), range(12)  # four rounds of three steps
    for _ in teacher_views(model, config, store, device=CPU, steps=steps, cache_mib=64, ranks=ALONE, clock=clock):
        pass
    assert sorted(store.read) == [*range(6), *range(6, 12), *range(12, 18)]
