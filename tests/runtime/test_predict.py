from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.errors import DataError
from reason_runtime.predict import expand, judge
from reason_runtime.save_maps import MapWriter
from tests.runtime.bundles import make_bundle
from tests.runtime.images import write_16_bit_png


def save_flat(path: Path, value: int) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (40, 30), (value, value, value)).save(path)


def test_files_and_folders_are_judged_in_order(tmp_path: Path) -> None:
    for name, value in (("one.png", 128), ("folder/b.bmp", 255), ("folder/a.png", 129)):
        save_flat(tmp_path / name, value)
    detector = load(make_bundle(tmp_path / "bundle").path)
    found = [judge(detector, path) for path in expand([tmp_path / "one.png", tmp_path / "folder"])]
    assert [judgement.path.name for judgement in found] == ["one.png", "a.png", "b.bmp"]
    assert [judgement.decision for judgement in found] == ["OK", "OK", "NG"]
    assert [judgement.line()["score"] for judgement in found] == [0.0, 1 / 128, 127 / 128]


def test_every_kind_of_file_gives_the_score_of_its_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for suffix in ("png", "bmp", "tif"):
        save_flat(folder / f"eight.{suffix}", 160)
    Image.new("RGB", (64, 16), (160, 160, 160)).save(folder / "wide.jpg", quality=100)
    Image.new("L", (300, 200), 160).save(folder / "mono.jpeg", quality=100)
    Image.new("RGBA", (40, 30), (160, 160, 160, 255)).save(folder / "alpha.png")
    write_16_bit_png(folder / "deep.png", np.full((30, 40, 3), 160 * 257, dtype=np.uint16))
    detector = load(make_bundle(tmp_path / "bundle").path)
    assert {judge(detector, path).line()["score"] for path in expand([folder])} == {32 / 128}


def test_an_unreadable_file_is_unknown_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    save_flat(tmp_path / "folder" / "c.png", 255)
    (tmp_path / "folder" / "b.png").write_text("text")
    save_flat(tmp_path / "folder" / "a.png", 128)
    detector = load(make_bundle(tmp_path / "bundle").path)
    found = [judge(detector, path) for path in expand([tmp_path / "folder"])]
    assert [judgement.decision for judgement in found] == ["OK", "UNKNOWN", "NG"]
    line = found[1].line()
    assert (line["score"], line["latency_ms"]) == (None, None)
    assert "b.png: is not an image" in str(line["reason"])


def test_maps_never_leave_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("day/one.png", "work/two.png"):
        save_flat(tmp_path / name, 250)
    detector = load(make_bundle(tmp_path / "bundle").path)
    monkeypatch.chdir(tmp_path / "work")
    sources = [Path("../day/one.png"), Path("two.png")]
    writer = MapWriter(detector, folder=Path("../maps"), sources=sources, scale=1.0)
    for path in expand(sources):
        writer.write(judge(detector, path))
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.overlay.png"))
    assert written == ["maps/day/one.png.overlay.png", "maps/work/two.png.overlay.png"]


def test_a_missing_source_and_an_empty_folder_are_errors_before_anything_is_judged(tmp_path: Path) -> None:
    save_flat(tmp_path / "one.png", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"two\.png: does not exist; expected an image or a folder"):
        expand([tmp_path / "one.png", tmp_path / "two.png"])
    with pytest.raises(DataError, match=r"empty: holds no image; expected files that end in \.png"):
        expand([tmp_path / "one.png", tmp_path / "empty"])
