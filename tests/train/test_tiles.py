from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.errors import ConfigurationError, DataError, ImageError
from reason_runtime.image import square_format
from reason_runtime.tiles import place_tiles
from reason_train.config import MethodConfig
from reason_train.datasets import load_dataset, read_masks_as_drawn, require_test
from reason_train.image_store import ImageStore, Piece
from reason_train.model import build_model
from reason_train.presets import resolve
from reason_train.trained import judge_tiled
from reason_train.views import change_view
from tests.commands import call
from tests.pictures import good_parts, save
from tests.train.trainings import CPU, small_choices
from tests.webs import TILE_PX, web_picture, webs_with_defects

FORM = square_format(TILE_PX)


@pytest.mark.parametrize("memory_mib", [0, 4096])
def test_a_store_of_tiles_gives_the_pixels_of_every_tile_unscaled(tmp_path: Path, memory_mib: int) -> None:
    pictures = {save(tmp_path / f"{number}.png", web_picture(number)): web_picture(number) for number in range(2)}
    store = ImageStore(list(pictures), input_format=FORM, tile_px=TILE_PX, memory_mib=memory_mib, seed=5)
    tiles = place_tiles((100, 112), tile_px=TILE_PX)
    assert store.images == 2 * len(tiles)
    expected = [picture[t.top : t.top + 64, t.left : t.left + 64] for picture in pictures.values() for t in tiles]
    for position, pixels in enumerate(expected):
        np.testing.assert_array_equal(store[position], pixels)
    last = len(expected) - 1
    view = change_view(expected[last], input_format=FORM, random=np.random.default_rng([5, last, 3]))
    np.testing.assert_array_equal(store[3 * store.images + last], view)


class CuttingStore(ImageStore):
    """Counts the tiles that it cuts."""

    cuts = 0

    def _taken(self, picture: NDArray[np.uint8], piece: Piece) -> NDArray[np.uint8]:
        self.cuts += 1
        return super()._taken(picture, piece)


@pytest.mark.parametrize("memory_mib", [0, 4096])
def test_a_check_of_all_pictures_cuts_no_tile_that_is_not_kept(tmp_path: Path, memory_mib: int) -> None:
    paths = [save(tmp_path / f"{number}.png", web_picture(number, rows=130)) for number in range(3)]
    store = CuttingStore(paths, input_format=FORM, tile_px=TILE_PX, memory_mib=memory_mib)
    assert store.images == 3 * len(place_tiles((130, 112), tile_px=TILE_PX))
    assert store.broken() == []
    assert store.cuts == (3 if memory_mib == 0 else store.images)
    paths[1].write_text("not an image")
    broken = ImageStore(paths, input_format=FORM, tile_px=None, memory_mib=memory_mib).broken()
    assert [str(paths[1]) in message for message in broken] == [True]


def test_a_picture_is_read_once_for_tiles_one_after_the_other(tmp_path: Path) -> None:
    path, picture = save(tmp_path / "web.png", web_picture(0)), web_picture(0)
    store = ImageStore([path], input_format=FORM, tile_px=TILE_PX, memory_mib=0)
    np.testing.assert_array_equal(store[0], picture[:64, :64])
    path.unlink()
    for position, tile in enumerate(place_tiles((100, 112), tile_px=TILE_PX)):
        np.testing.assert_array_equal(store[position], picture[tile.top : tile.top + 64, tile.left : tile.left + 64])


def test_a_thinned_store_keeps_tiles_of_all_pictures_and_of_all_places(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{number}.png", web_picture(number)) for number in range(40)]
    tiles = ImageStore(paths, input_format=FORM, tile_px=TILE_PX).images // 40
    store = ImageStore(paths, input_format=FORM, tile_px=TILE_PX, most=40)
    assert [piece.path for piece in store.pieces] == paths
    assert len({piece.place for piece in store.pieces}) == tiles


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"image_size_px": 128}, "--image-size"),
        ({"crop_from_px": 256, "image_size_px": None}, "--crop-from"),
        ({"roi": (0.0, 0.0, 0.5, 0.5), "image_size_px": None}, "--roi"),
        ({"ignore_mask_sha256": "0" * 64, "image_size_px": None}, "--ignore-mask"),
        ({"paper_protocol": True, "image_size_px": None}, "--paper-protocol"),
    ],
)
def test_what_needs_whole_pictures_is_refused_with_tiles(more: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"tiles at native resolution and {named} on whole pictures"):
        resolve(small_choices(tile_px=64, **more), dataset="mvtec", bf16_is_fast=False)


def test_tiles_set_the_input_and_are_scored_by_the_maximum_of_their_map() -> None:
    config = resolve(small_choices(tile_px=96, image_size_px=None), dataset="aebad-s", bf16_is_fast=False)
    assert (config.method.image_size_px, config.method.crop_from_px, config.method.score_exponent) == (96, None, None)
    assert config.training.tile_px == 96
    assert "tile_px 96 in place of None" in config.departures


def test_a_picture_smaller_than_a_tile_is_one_line_and_no_run(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "data", images=3)
    failed = call("reason-train", "fit", "--data", data, "--out", tmp_path / "run", "--tile", 96, "--steps", 1)
    assert "64 x 64 pixels is smaller than a tile of 96" in failed.error
    assert str(data / "train" / "good") in failed.error
    assert not (tmp_path / "run").exists()


def test_masks_as_drawn_keep_their_pixels_and_need_one_size(tmp_path: Path) -> None:
    data = webs_with_defects(tmp_path / "data", pictures=2)
    samples = require_test(load_dataset(data))
    masks = read_masks_as_drawn(samples)
    assert masks is not None
    assert masks.shape == (4, 100, 112)
    assert sorted(masks.sum((1, 2)).tolist()) == [0, 0, 12 * 12, 12 * 13]
    save(data / "test" / "good" / "0.png", web_picture(1, rows=101))
    with pytest.raises(DataError, match="need images of one size"):
        read_masks_as_drawn(require_test(load_dataset(data)))


def test_maps_of_pictures_of_several_sizes_are_refused_before_the_first_is_judged(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{rows}.png", web_picture(0, rows=rows)) for rows in (100, 90)]
    model, judged = build_model(MethodConfig(teacher="efficientnet_lite0", image_size_px=TILE_PX)), []
    with pytest.raises(
        DataError, match="maps of tiles are kept of images of one size: crop them, or ask for no report"
    ):
        judge_tiled(model, paths, tile_px=TILE_PX, device=CPU, progress=judged.append)
    assert judged == []


def test_a_store_names_the_picture_that_is_too_small(tmp_path: Path) -> None:
    path = save(tmp_path / "small.png", web_picture(0, rows=50))
    with pytest.raises(ImageError, match=r"small.png: a picture of 112 x 50 pixels is smaller than a tile of 64"):
        ImageStore([path], input_format=FORM, tile_px=TILE_PX)


def test_tiles_are_of_the_picture_and_not_of_a_header_that_says_another_size(tmp_path: Path) -> None:
    """A PNG whose orientation stands behind its pixels is turned when it is read, and nobody looks for that before."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(web_picture(0, rows=140)).save(stream, format="PNG", exif=exif)
    content = stream.getvalue()
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    end = content.index(b"IEND") - 4
    path = tmp_path / "turned.png"
    path.write_bytes(content[:start] + content[start + len(chunk) : end] + chunk + content[end:])
    store = ImageStore([path], input_format=FORM, tile_px=TILE_PX)
    with pytest.raises(ImageError, match=r"turned\.png: its pixels are 140 x 112 the right way up, its header says"):
        store[0]
    assert len(store.broken()) == 1
    upright = tmp_path / "upright.png"
    upright.write_bytes(content)
    assert ImageStore([upright], input_format=FORM, tile_px=TILE_PX).broken() == []
