from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.bundle import update_bundle
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import square_format
from reason_runtime.manifest import ScoreStatistics
from reason_runtime.overlay import heat_map, map_scale, overlay, save_picture
from reason_runtime.predict import judge
from reason_runtime.save_maps import MapWriter
from tests.runtime.bundles import grey_model, make_bundle
from tests.runtime.test_atomic import refused_for_lack_of_room

FORM = square_format(32)
GREY = np.full((40, 60, 3), 100, dtype=np.uint8)


def test_colours_depend_on_the_value_and_the_scale_only() -> None:
    quiet = np.full((8, 8), 0.2, dtype=np.float32)
    loud = quiet.copy()
    loud[4:] = 5.0
    np.testing.assert_array_equal(heat_map(quiet, scale=1.0)[0], heat_map(loud, scale=1.0)[0])
    np.testing.assert_array_equal(heat_map(loud, scale=1.0)[4:], heat_map(np.ones_like(loud), scale=1.0)[4:])


def test_low_is_blue_and_high_is_red() -> None:
    ramp = heat_map(np.array([[0.1, 0.9]], dtype=np.float32), scale=1.0)
    assert ramp[0, 0, 2] > ramp[0, 0, 0]
    assert ramp[0, 1, 0] > ramp[0, 1, 2]


def test_an_image_whose_map_is_zero_is_left_as_it_is() -> None:
    picture = overlay(GREY, np.zeros((32, 32), dtype=np.float32), input_format=FORM, scale=1.0, pixel_threshold=0.5)
    np.testing.assert_array_equal(picture, GREY)


def test_the_map_lies_over_the_part_of_the_image_that_the_crop_covers() -> None:
    cropped = square_format(32, resize_px=64)
    picture = overlay(GREY, np.ones((32, 32), dtype=np.float32), input_format=cropped, scale=1.0, pixel_threshold=None)
    changed = (picture != GREY).any(axis=2)
    assert changed[10:30, 15:45].all()
    assert changed.sum() == 20 * 30


def test_a_line_is_drawn_around_what_is_at_or_above_the_threshold() -> None:
    values = np.zeros((32, 32), dtype=np.float32)
    values[8:24, 8:24] = 0.5
    picture = overlay(GREY, values, input_format=FORM, scale=1.0, pixel_threshold=0.4)
    white = (picture == 255).all(axis=2)
    assert white.any()
    assert not white[20, 30]  # the middle of the region
    for brightness in (0, 255):  # and can be told from the image, whatever that is
        image = np.full_like(GREY, brightness)
        lined = overlay(image, values, input_format=FORM, scale=1.0, pixel_threshold=0.4)
        plain = overlay(image, values, input_format=FORM, scale=1.0, pixel_threshold=None)
        assert np.abs(lined.astype(int) - plain).max() > 150
    without = overlay(GREY, values, input_format=FORM, scale=1.0, pixel_threshold=None)
    assert not (without == 255).all(axis=2).any()


@pytest.mark.parametrize("size", [(2048, 3072), (3000, 2999)])
def test_a_peak_of_a_large_map_is_drawn_in_a_small_picture(size: tuple[int, int]) -> None:
    values = np.zeros(size, dtype=np.float32)
    values[1003, 1001] = 1.0
    image = np.full((*size, 3), 100, dtype=np.uint8)
    picture = overlay(image, values, input_format=FORM, scale=1.0, pixel_threshold=0.9)
    assert (picture == 255).all(axis=2).any()
    changed = np.argwhere((picture != 100).any(axis=2))
    place = np.array([1003.5, 1001.5]) * picture.shape[:2] / np.array(size)
    assert np.abs(changed - place).max() < 4  # the line around one pixel


def test_mono_and_large_images_become_rgb_pictures_of_bounded_size() -> None:
    image = np.zeros((3000, 1500, 1), dtype=np.uint8)
    picture = overlay(image, np.ones((32, 32), dtype=np.float32), input_format=FORM, scale=1.0, pixel_threshold=None)
    assert picture.shape == (1024, 512, 3)


def test_the_scale_is_twice_the_threshold_else_from_good_images_else_must_be_given(tmp_path: Path) -> None:
    assert map_scale(load(make_bundle(tmp_path / "limit", threshold=0.5).path)) == 1.0
    bundle = make_bundle(tmp_path / "bundle", threshold=None)
    with pytest.raises(ConfigurationError, match="neither a threshold nor score statistics .*give --map-scale"):
        map_scale(load(bundle.path))
    assert map_scale(load(bundle.path), asked=3.0) == 3.0
    known = ScoreStatistics(images=9, mean=0.2, std=0.1, minimum=0.1, maximum=0.4)
    update_bundle(bundle, manifest=replace(bundle.manifest, score_statistics=known))
    assert map_scale(load(bundle.path)) == 0.8


def test_the_scale_of_a_score_that_is_no_maximum_is_twice_the_pixel_threshold(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", threshold=0.5)
    known = ScoreStatistics(images=9, mean=0.2, std=0.1, minimum=0.1, maximum=0.4, pixel_threshold=0.75)
    update_bundle(bundle, manifest=replace(bundle.manifest, score_statistics=known))
    assert map_scale(load(bundle.path)) == 1.5


def test_a_part_that_passes_has_no_line_and_a_reject_has_one(tmp_path: Path) -> None:
    bright = np.full((32, 32, 3), 128, np.uint8)
    bright[8:24, 8:24] = 228  # its map is 0.78 there and 0 elsewhere, its mean 0.2
    path = tmp_path / "part.png"
    Image.fromarray(bright).save(path)
    for limit, decision in ((0.5, "OK"), (0.1, "NG")):
        bundle = make_bundle(tmp_path / decision, threshold=limit)
        update_bundle(bundle, manifest=bundle.manifest, files={"model.onnx": grey_model(score="ReduceMean")})
        detector = load(bundle.path)
        judgement = judge(detector, path)
        assert judgement.decision == decision
        assert judgement.result is not None
        assert judgement.result.anomaly_map.max() > limit
        MapWriter(detector, folder=tmp_path / decision / "maps", sources=[path], scale=None).write(judgement)
        with Image.open(tmp_path / decision / "maps" / "part.png.overlay.png") as picture:
            white = (np.asarray(picture) == 255).all(axis=2).any()
        assert white == (decision == "NG")


@pytest.mark.parametrize("asked", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(tmp_path: Path, asked: float) -> None:
    with pytest.raises(ConfigurationError, match="is not a positive number"):
        map_scale(load(make_bundle(tmp_path / "bundle").path), asked=asked)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_full_disk_keeps_the_old_picture(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{kind}"
    save_picture(path, GREY)
    before = path.read_bytes()
    assert f"{path.name}: could not be written" in refused_for_lack_of_room(f"save_large_{kind}", tmp_path)
    assert path.read_bytes() == before
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), GREY)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
