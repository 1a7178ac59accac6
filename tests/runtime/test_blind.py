from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.blind import BlindLimits, blindness, limits_from, measure_sight, same_pixels
from reason_runtime.errors import DataError
from tests.pictures import good_picture

GOOD = np.stack([good_picture(number) for number in range(12)])
LIMITS = limits_from(GOOD)


def why(image: NDArray[np.uint8]) -> str | None:
    return blindness(image[None], LIMITS)


def test_measures_of_a_picture_computed_by_hand() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    sight = measure_sight(image)
    assert (sight.mean, sight.black_share, sight.saturated_share) == (127.5, 0.5, 0.5)
    # rows alike; columns 0 0 255 255 with the mirrored border give 0, 255, -255, 0
    assert sight.sharpness == pytest.approx(2 * 255**2 / 4)
    assert measure_sight(np.full((16, 16, 1), 7, np.uint8)).sharpness == 0


@pytest.mark.parametrize("number", range(100, 130))
def test_further_good_pictures_are_seen(number: int) -> None:
    assert why(good_picture(number)) is None


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((64, 64, 3), np.uint8), "too dark"),
        (np.full((64, 64, 3), 255, np.uint8), "too bright"),
        ((good_picture(5) * 0.2).astype(np.uint8), "too dark"),
        (np.clip(good_picture(5) * 1.6, 0, 255).astype(np.uint8), "saturated"),
        (np.full((64, 64, 3), 127, np.uint8), "out of focus"),
        (cv2.GaussianBlur(good_picture(5), (0, 0), 6), "out of focus"),
        (
            np.where(np.arange(64)[:, None, None] < 52, 0, np.minimum(good_picture(5) * 2, 240)).astype(np.uint8),
            "dark|covered",
        ),
    ],
    ids=["lamp off", "glare", "lamp weak", "overexposed", "cap with a glow", "defocus", "half covered"],
)
def test_what_a_blind_camera_gives_is_refused_with_its_reason(image: NDArray[np.uint8], reason: str) -> None:
    found = why(image)
    assert found is not None
    assert any(word in found for word in reason.split("|"))


def test_one_blind_tile_among_seeing_ones_is_enough() -> None:
    tiles = np.stack([GOOD[0], np.zeros_like(GOOD[0]), GOOD[1]])
    assert "too dark" in (blindness(tiles, LIMITS) or "")


def grey(value: int, *, black: int = 0, glare: int = 0) -> NDArray[np.uint8]:
    """10 x 10 pixels, that many of them black and that many white."""
    pixels = np.full((100, 3), value, np.uint8)
    pixels[:black], pixels[100 - glare :] = 0, 255
    return pixels.reshape(10, 10, 3)


def test_the_limits_by_hand() -> None:
    images = np.stack([grey(80, black=10), grey(120, glare=2)])
    seen = [measure_sight(image) for image in images]
    limits = limits_from(images)
    assert limits == BlindLimits(
        mean_low=pytest.approx((90 * 80) / 100 / 2),
        mean_high=pytest.approx(((98 * 120 + 2 * 255) / 100 + 255) / 2),
        black_share_high=pytest.approx((0.1 + 1) / 2),
        saturated_share_high=pytest.approx(0.02 + 0.1),
        sharpness_low=pytest.approx(min(seen[0].sharpness, seen[1].sharpness) / 4),
        repeats=False,
        images=2,
    )
    glaring = [limits_from(grey(99, glare=count)[None]).saturated_share_high for count in (20, 60)]
    assert glaring == pytest.approx([3 * 0.2, 1.0])


def test_a_picture_at_a_limit_is_seen_and_one_just_beyond_is_not() -> None:
    picture = grey(100, black=10, glare=20)
    sight = measure_sight(picture)
    at = BlindLimits(
        mean_low=sight.mean,
        mean_high=sight.mean,
        black_share_high=sight.black_share,
        saturated_share_high=sight.saturated_share,
        sharpness_low=sight.sharpness,
        repeats=False,
        images=1,
    )
    assert blindness(picture[None], at) is None
    for name, word in [
        ("mean_low", "too dark"),
        ("mean_high", "too bright"),
        ("black_share_high", "covered"),
        ("saturated_share_high", "saturated"),
        ("sharpness_low", "out of focus"),
    ]:
        beyond = math.inf if name.endswith("low") else -math.inf
        limits = dataclasses.replace(at, **{name: np.nextafter(getattr(at, name), beyond)})
        assert word in (blindness(picture[None], limits) or "")


def test_identical_good_images_allow_identical_frames() -> None:
    assert not LIMITS.repeats
    assert limits_from(np.concatenate([GOOD, GOOD[:1]])).repeats


def test_limits_from_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="at least one good image"):
        limits_from(GOOD[:0])


def test_a_real_bundle_carries_limits_that_its_good_parts_meet(exported_bundle: Path, parts: Path) -> None:
    from reason_runtime.bundle import open_bundle
    from reason_runtime.image import list_images, load_image

    manifest = open_bundle(exported_bundle).manifest
    assert manifest.blind_limits is not None
    images = [load_image(path, input_format=manifest.input) for path in list_images(parts / "test" / "good")]
    assert blindness(np.stack(images), manifest.blind_limits) is None
    assert blindness(np.zeros_like(images[0])[None], manifest.blind_limits) is not None


@pytest.mark.parametrize("rows", [1, 64, 65, 200])
def test_pictures_are_the_same_only_where_every_byte_is(rows: int) -> None:
    picture = np.random.default_rng(rows).integers(0, 256, (rows, 40, 3), dtype=np.uint8)
    assert same_pixels(picture, picture.copy())
    for row in {0, rows // 2, rows - 1}:
        other = picture.copy()
        other[row, 39, 2] ^= 1
        assert not same_pixels(picture, other)
    assert not same_pixels(picture, picture[:, :20])
    assert not same_pixels(np.concatenate([picture, picture]), picture)
    assert not same_pixels(picture, picture.astype(np.uint16))


def test_the_measures_are_those_of_the_table() -> None:
    random = np.random.default_rng(1)
    picture = random.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture[:10], picture[10:12, :, 1] = random.integers(0, 9, (10, 70, 3)), 255
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    seen = measure_sight(picture)
    assert seen.mean == pytest.approx(grey.mean(), abs=0.5)  # OpenCV rounds its grey otherwise than Pillow
    assert seen.black_share == pytest.approx((grey <= 5).mean(), abs=0.02)
    assert seen.saturated_share == pytest.approx((picture.max(axis=2) >= 250).mean(), abs=1e-12)
    inner = grey.astype(float)
    second = inner[:-2, 1:-1] + inner[2:, 1:-1] + inner[1:-1, :-2] + inner[1:-1, 2:] - 4 * inner[1:-1, 1:-1]
    assert seen.sharpness == pytest.approx(second.var(), rel=0.1)  # the border is left out here
    mono = measure_sight(picture[:, :, :1])
    assert mono.mean == pytest.approx(picture[:, :, 0].mean())
    assert mono.saturated_share == pytest.approx((picture[:, :, 0] >= 250).mean(), abs=1e-12)
