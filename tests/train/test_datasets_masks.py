"""Masks at the size of the map: hand-computed values, the kinds of files that exist, and their sizes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime.errors import DataError, ImageError
from reason_train.datasets import Sample, read_mask, read_masks
from reason_train.datasets.masks import check_mask_size
from tests.train import trees


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def quarter(level: int, dtype: type = np.uint8, *, side: int = 32) -> np.ndarray:
    pixels = np.zeros((side, side), dtype)
    pixels[: side // 2, : side // 2] = level
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [quarter(255), quarter(1), quarter(3), quarter(1).astype(bool), quarter(65535, np.uint16), quarter(1, np.uint16)],
    ids=["white", "class 1", "class 3", "1 bit", "16 bits", "class 1 in 16 bits"],
)
def test_white_and_class_numbers_mean_defective(tmp_path: Path, pixels: np.ndarray) -> None:
    mask = read_mask(save(tmp_path / "m.png", pixels), size_px=16)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, quarter(1, side=16).astype(bool))


def test_coloured_and_transparent_masks_are_read_by_what_is_seen(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:16, :16, 0] = 255
    seen = np.zeros((32, 32, 4), np.uint8)
    seen[..., :3] = 255
    seen[:16, :16, 3] = 255
    expected = quarter(1, side=16).astype(bool)
    assert np.array_equal(read_mask(save(tmp_path / "red.png", red), size_px=16), expected)
    assert np.array_equal(read_mask(save(tmp_path / "seen.png", seen), size_px=16), expected)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
def test_a_defect_is_seen_in_whatever_colour_another_one_is_drawn(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16], pixels[:16, 16:] = colour, (255, 255, 0)
    mask = read_mask(save(tmp_path / "m.png", pixels), size_px=16)
    assert mask[:8].all()
    assert not mask[8:].any()


def test_a_coloured_edge_is_cut_at_one_half_as_a_grey_one_is(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:16, :, 0], red[16:20, :, 0] = 255, 60
    mask = read_mask(save(tmp_path / "m.png", red), size_px=32)
    assert np.array_equal(mask, red[:, :, 0] == 255)


def test_grey_levels_are_cut_above_one_half(tmp_path: Path) -> None:
    levels = np.repeat(np.array([255, 128, 127, 0], np.uint8), 8)[:, None] * np.ones(32, np.uint8)
    mask = read_mask(save(tmp_path / "m.png", levels), size_px=32)
    assert mask[:16].all()  # 128 / 255 is the first level above one half
    assert not mask[16:].any()


def test_the_resize_is_pillows_bilinear(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pixels = (rng.random((70, 50)) > 0.4).astype(np.uint8) * 255
    expected = np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR)) / 255 > 0.5
    assert np.array_equal(read_mask(save(tmp_path / "m.png", pixels), size_px=24), expected)


def test_a_crop_takes_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[4:10, 8:20] = 255
    mask = read_mask(save(tmp_path / "m.png", pixels), size_px=24, resize_px=32)
    assert np.array_equal(mask, pixels[4:28, 4:28] > 0)


def test_an_all_black_mask_is_empty(tmp_path: Path) -> None:
    assert not read_mask(save(tmp_path / "m.png", np.zeros((32, 32), np.uint8)), size_px=16).any()


def test_a_mask_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_text("no image")
    with pytest.raises(ImageError, match=r"m\.png"):
        read_mask(path, size_px=16)


def test_masks_of_a_test_set_are_empty_for_good_images(tmp_path: Path) -> None:
    good = Sample(path=trees.picture(tmp_path / "good.png"), anomalous=False, defect="good")
    dent = Sample(
        path=trees.picture(tmp_path / "dent.png"),
        anomalous=True,
        defect="dent",
        mask_path=trees.mask(tmp_path / "dent_mask.png"),
    )
    masks = read_masks([good, dent], size_px=16)
    assert masks is not None
    assert masks.shape == (2, 16, 16)
    assert not masks[0].any()
    assert np.array_equal(masks[1], quarter(1, side=16).astype(bool))
    assert read_masks([good], size_px=16) is None
    bare = Sample(path=tmp_path / "bare.png", anomalous=True, defect="dent")
    with pytest.raises(DataError, match=r"bare\.png: the defective image has no mask while others have one"):
        read_masks([dent, bare], size_px=16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_the_size_of_an_image_that_lies_on_its_side_is_compared_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image = save(tmp_path / f"i.{suffix}", np.zeros((32, 40, 3), np.uint8), exif=exif)
    check_mask_size(trees.mask(tmp_path / "upright.png", size=(32, 40)), image_path=image)
    with pytest.raises(DataError, match="expected equal sizes"):
        check_mask_size(trees.mask(tmp_path / "lying.png", size=(40, 32)), image_path=image)
