"""The part of every picture that is looked at: where it lies, what is refused, and where its map is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from reason_runtime import load
from reason_runtime.errors import BundleError, ConfigurationError, ImageError
from reason_runtime.image import load_image, part_of, read_image, read_part, resize_image, square_format
from reason_runtime.manifest import content_hash, from_json, to_json
from reason_runtime.overlay import overlay
from reason_runtime.strict_json import Json
from tests.commands import call
from tests.runtime.bundles import make_bundle, make_manifest
from tests.runtime.images import write_16_bit_png

FORM = replace(square_format(32), crop_px=(20, 10, 64, 16))  # left, top, width, height
PART = (slice(10, 26), slice(20, 84))
PICTURE = np.random.default_rng(1).integers(0, 256, (40, 90, 3), dtype=np.uint8)


def cut_and_resized(picture: Image.Image) -> np.ndarray:
    """By Pillow alone."""
    return np.asarray(picture.crop((20, 10, 84, 26)).resize((32, 32), Image.Resampling.BILINEAR))


def test_a_part_of_an_array_is_what_is_cut_out() -> None:
    np.testing.assert_array_equal(part_of(PICTURE, input_format=FORM), PICTURE[PART])
    mono = part_of(PICTURE[:, :, 0], input_format=FORM)
    np.testing.assert_array_equal(mono, np.repeat(PICTURE[PART][:, :, :1], 3, axis=2))
    deep = np.full((40, 90), 65535, np.uint16)
    deep[PART] = 257 * 7
    np.testing.assert_array_equal(part_of(deep, input_format=FORM), np.full((16, 64, 3), 7))
    resized = resize_image(part_of(PICTURE, input_format=FORM), input_format=FORM)
    np.testing.assert_array_equal(resized, cut_and_resized(Image.fromarray(PICTURE)))
    assert np.shares_memory(part_of(PICTURE, input_format=square_format(32)), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_of_a_file_is_one_of_the_picture_the_right_way_up(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation in back:
        stored = stored.transpose(back[orientation])
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", input_format=FORM), PICTURE)
    np.testing.assert_array_equal(read_part(tmp_path / "turned.png", input_format=FORM), PICTURE[PART])
    expected = cut_and_resized(Image.fromarray(PICTURE))
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", input_format=FORM), expected)


def test_a_part_of_a_transparent_picture_of_16_bits(tmp_path: Path) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (40, 90, 4)).astype(np.uint16)
    write_16_bit_png(tmp_path / "deep.png", deep)
    whole = read_image(tmp_path / "deep.png", input_format=FORM)
    np.testing.assert_array_equal(read_part(tmp_path / "deep.png", input_format=FORM), whole[PART])


@pytest.mark.parametrize(("width", "height"), [(83, 26), (84, 25), (16, 16)])
def test_a_picture_that_the_part_does_not_lie_within_is_refused_by_name(
    tmp_path: Path, width: int, height: int
) -> None:
    told = rf"{width} x {height} pixels; the part that is looked at \(--crop 20,10,64,16\) does not lie within them"
    with pytest.raises(ImageError, match=told):
        part_of(np.zeros((height, width), np.uint8), input_format=FORM)
    Image.new("L", (width, height)).save(tmp_path / "small.png")
    for read in (read_part, load_image):
        with pytest.raises(ImageError, match=f"small.png: {told}"):
            read(tmp_path / "small.png", input_format=FORM)


def test_one_pixel_more_is_enough() -> None:
    assert part_of(np.zeros((26, 84), np.uint8), input_format=FORM).shape == (16, 64, 3)


@pytest.mark.parametrize("crop", [(-1, 0, 64, 64), (0, -1, 64, 64), (0, 0, 15, 64), (0, 0, 64, 15)])
def test_rectangles_that_are_none_are_refused(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match="expected LEFT,TOP,WIDTH,HEIGHT in pixels"):
        replace(square_format(32), crop_px=crop)


def test_a_part_is_not_cropped_again_and_a_graph_that_resizes_takes_just_that() -> None:
    with pytest.raises(ConfigurationError, match="is not cropped once more"):
        replace(square_format(32, resize_px=64), crop_px=(0, 0, 64, 64))
    with pytest.raises(ConfigurationError, match=r"the graph takes \(32, 32\) pixels"):
        replace(FORM, resize_filter="in-graph")
    form = replace(square_format(32), crop_px=(3, 2, 32, 32), resize_filter="in-graph")
    picture = np.random.default_rng(3).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    for side in (picture, picture[:34, :35]):
        part = resize_image(part_of(side, input_format=form), input_format=form)
        np.testing.assert_array_equal(part, picture[2:34, 3:35])


def test_a_picture_that_the_graph_does_not_take_is_named(tmp_path: Path) -> None:
    form = replace(square_format(32), resize_filter="in-graph")
    Image.new("RGB", (40, 40)).save(tmp_path / "other.png")
    with pytest.raises(ImageError, match=r"other.png: the image has 40 rows and 40 columns; this graph"):
        load_image(tmp_path / "other.png", input_format=form)


def test_a_manifest_says_which_part_is_looked_at() -> None:
    assert json.loads(to_json(make_manifest()))["input"]["crop_px"] is None
    manifest = make_manifest(input_format=FORM)
    manifest = replace(manifest, content_sha256=content_hash(manifest))
    assert json.loads(to_json(manifest))["input"]["crop_px"] == [20, 10, 64, 16]
    assert from_json(to_json(manifest), where="m") == manifest
    assert content_hash(manifest) != content_hash(replace(manifest, input=replace(FORM, crop_px=(21, 10, 64, 16))))


def test_a_part_in_the_corner_for_a_mono_camera_is_read_back() -> None:
    corner = make_manifest(input_format=replace(square_format(32, channels=1), crop_px=(0, 0, 64, 64)))
    corner = replace(corner, content_sha256=content_hash(corner))
    assert from_json(to_json(corner), where="m") == corner


@pytest.mark.parametrize("value", [[], [1, 2, 3], [0, 0, 32, 32, 1], [0, 0, 32, -1], [0, 0, 32.0, 32], "all"])
def test_a_manifest_with_another_kind_of_part_is_refused(value: Json) -> None:
    values = json.loads(to_json(make_manifest(input_format=FORM)))
    values["input"]["crop_px"] = value
    with pytest.raises(
        BundleError, match=r"m: input\.crop_px: found .*, expected a list of 4 whole numbers, 0 or more"
    ):
        from_json(json.dumps(values, indent=2) + "\n", where="m")


def test_info_says_which_part_is_looked_at(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", input_format=FORM).path
    said = call("reason-run", "info", bundle).output
    assert "32 x 32 RGB, from the 16 x 64 at row 10, column 20 of each picture" in said


def test_the_detector_judges_the_part_alone(tmp_path: Path) -> None:
    detector = load(make_bundle(tmp_path / "bundle", input_format=FORM).path)
    picture = np.full((40, 90, 3), 255, np.uint8)  # far from grey wherever nothing is looked at
    picture[PART] = 128
    assert (detector(picture).score, detector(picture).decision) == (0, "OK")
    picture[25, 83] = 255
    assert detector(picture).score > 0
    with pytest.raises(ImageError, match="does not lie within them"):
        detector.batch([picture, picture[:25]])


def test_the_map_is_drawn_where_it_belongs_in_the_whole_picture() -> None:
    grey = np.full((40, 90, 3), 100, np.uint8)
    values = np.zeros((32, 32), np.float32)
    values[:16, 16:] = 1  # upper right quarter of the part
    picture = overlay(grey, values, input_format=FORM, scale=1.0, pixel_threshold=None)
    changed = (picture != grey).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.max()) == (10, 83)  # to the corner of the part
    assert abs(int(rows.max()) - 17) <= 1  # to its middle, softly
    assert abs(int(columns.min()) - 52) <= 1
    full = overlay(grey, np.ones((32, 32), np.float32), input_format=FORM, scale=1.0, pixel_threshold=None)
    outside = np.ones((40, 90), np.bool_)
    outside[PART] = False
    np.testing.assert_array_equal((full != grey).any(axis=2), ~outside)


def test_the_map_of_a_part_of_a_large_picture_is_made_smaller_with_it() -> None:
    form = replace(square_format(32), crop_px=(1000, 500, 400, 200))
    large = np.full((2000, 3072, 1), 100, np.uint8)
    for longest, factor in ((1024, 3), (384, 8)):
        picture = overlay(
            large,
            np.ones((32, 32), np.float32),
            input_format=form,
            scale=1.0,
            pixel_threshold=0.5,
            longest_side_px=longest,
        )
        assert picture.shape == (round(2000 / factor), longest, 3)
        rows, columns = np.nonzero((picture != 100).any(axis=2))
        assert (rows.min(), columns.min()) == (500 // factor, 1000 // factor)
        assert (rows.max() + 1, columns.max() + 1) == (round(700 / factor), round(1400 / factor))


def test_saved_maps_lie_over_the_part(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", input_format=FORM).path
    picture = np.full((40, 90, 3), 128, np.uint8)
    picture[18, 30] = 255  # of the part: row 8, column 10
    Image.fromarray(picture).save(tmp_path / "part.png")
    small = tmp_path / "small.png"
    Image.new("RGB", (50, 50)).save(small)
    files = (tmp_path / "part.png", small)
    done = call("reason-run", "predict", bundle, *files, "--save-maps", tmp_path / "maps", "--threshold", 0.01)
    assert done.status == 1
    (drawn,) = (tmp_path / "maps").iterdir()
    changed = (np.asarray(Image.open(drawn)).astype(int) != picture).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert 18 in rows
    assert 30 in columns
    assert np.ptp(rows) <= 8
    assert np.ptp(columns) <= 10
    assert f"UNKNOWN  {small}: 50 x 50 pixels; the part that is looked at (--crop 20,10,64,16)" in done.output
