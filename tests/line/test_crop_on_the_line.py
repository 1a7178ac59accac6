"""A bundle that looks at a part of every frame: positions on the line are those of the whole frame."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.line.grabber import Camera
from reason_runtime.line.messages import Picture
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.line.models import Models
from reason_runtime.line.sinks.dashboard import DashboardSink
from reason_runtime.line.sinks.pictures import paint_reject
from reason_runtime.line.sources.web import WebSource
from reason_runtime.line.web.assemble import Assembler
from reason_runtime.line.web.judge import WebSettings
from tests.line.models import line_bundle
from tests.line.stations import ListSink, ListSource, camera, running

CROP = (30, 20, 64, 40)  # left, top, width, height


@pytest.fixture(scope="module")
def whole_part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("b") / "part", crop_px=CROP).path


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("b") / "tiled", tile_px=32, crop_px=CROP).path


def frame(*spots: tuple[int, int, int, int], rows: int = 80, columns: int = 120) -> np.ndarray:
    """Grey where it is looked at, far from it elsewhere; spots are top, left, height, width."""
    pixels = np.full((rows, columns, 3), 0, np.uint8)
    left, top, width, height = CROP
    pixels[top : top + height, left : left + width] = 128
    for first, column, height, width in spots:
        pixels[first : first + height, column : column + width] = 255
    return pixels


def test_a_part_is_judged_and_a_frame_that_it_does_not_lie_within_is_unknown(whole_part: Path) -> None:
    frames = (frame(), frame((50, 60, 4, 4)), frame(rows=59), frame())
    with running(whole_part, camera(*frames)) as line:
        line.finish()
    assert line.sink.decisions == ["OK", "NG", "UNKNOWN", "OK"]
    told = "120 x 59 pixels; the part that is looked at (--crop 30,20,64,40) does not lie within them"
    assert told in (line.sink.answers[2].reason or "")


def test_defects_of_a_whole_part_have_their_place_in_the_frame(whole_part: Path) -> None:
    spotted = frame((30, 80, 20, 14))  # resized by 40 / 32 along and 64 / 32 across
    regions = load(whole_part)(spotted).regions
    with running(whole_part, camera(spotted)) as line:
        line.finish()
    (item,) = line.sink.answers[0].defects
    (region,) = regions
    assert (item.x_px, item.first_line) == (region.x_px, region.y_px)
    assert abs(region.x_px - 80) <= 2
    assert region.x_px + region.width_px == 94
    assert abs(region.y_px - 30) <= 2
    assert abs(region.y_px + region.height_px - 50) <= 2


def test_defects_of_an_area_camera_in_tiles_have_their_place_in_the_frame(tiled: Path) -> None:
    settings = WebSettings(overlap_px=8, lanes=4, line_mm=0.5, pixel_mm=0.25)
    with running(tiled, camera(frame(), frame((40, 86, 4, 8))), web=settings) as line:
        line.finish()
    assert line.sink.decisions == ["OK", "NG"]
    (item,) = line.sink.answers[1].defects
    assert (item.x_px, item.first_line, item.width_px, item.lines) == (86, 40, 8, 4)
    assert (item.x_mm, item.y_mm, item.lane, item.encoder_count) == (86 / 4, 40 / 2, 3, None)


def test_defects_of_a_web_have_their_place_across_and_along_it(tmp_path: Path) -> None:
    bundle = line_bundle(tmp_path / "web", tile_px=32, crop_px=(30, 0, 64, 48)).path
    web = np.zeros((208, 120, 3), np.uint8)
    web[:, 30:94] = 128
    web[100:105, 40:46] = 255  # across a seam
    blocks = [web[first : first + 16] for first in range(0, 208, 16)]
    assembler = Assembler(frame_lines=48, overlap_lines=16, counts_per_line=2)
    source = WebSource(ListSource(blocks), assembler=assembler)  # type: ignore[arg-type]
    settings = WebSettings(overlap_px=8, lanes=3)
    with running(bundle, Camera(name="web", source=source), web=settings) as line:
        line.finish()
    (item,) = [item for found in line.sink.answers for item in found.defects]
    assert (item.x_px, item.first_line, item.width_px, item.lines) == (40, 100, 6, 5)
    assert (item.encoder_count, item.lane) == (200, 1)
    assert {found.cause for found in line.sink.answers} == {"judged"}


def test_lines_of_a_web_that_nobody_would_look_at_are_unknown(tiled: Path) -> None:
    blocks = [frame()] * 3
    source = WebSource(
        ListSource(blocks),  # type: ignore[arg-type]
        assembler=Assembler(frame_lines=80, overlap_lines=0),
    )
    with running(tiled, Camera(name="web", source=source), web=WebSettings(overlap_px=8)) as line:
        line.finish()
    assert line.sink.decisions == ["UNKNOWN"] * 3
    told = "a web is looked at in all of its lines, and --crop takes 40 of this frame's 80"
    assert told in (line.sink.answers[0].reason or "")


@pytest.mark.parametrize("kind", ["part", "tiles"])
def test_pictures_of_rejects_show_the_map_in_its_place(kind: str, whole_part: Path, tiled: Path) -> None:
    bundle, web = (whole_part, None) if kind == "part" else (tiled, WebSettings(overlap_px=8))
    spotted = frame((20, 80, 20, 14))
    with running(bundle, camera(spotted), web=web, sink=ListSink(wants_pictures=True)) as line:
        line.finish()
    (reject,) = line.sink.answers
    assert reject.picture is not None
    painted = paint_reject(reject.picture, load(bundle))
    rows, columns = np.nonzero((painted != spotted).any(axis=2))
    assert rows.min() == 20
    assert 36 <= rows.max() <= 45
    assert 75 <= columns.min() <= 82
    assert columns.max() == 93


@pytest.mark.parametrize("crop", [None, (30, 0, 64, 200)])
def test_a_partial_frame_of_a_web_shows_the_map_in_its_place_and_none_where_it_is_mirrored(
    crop: tuple[int, int, int, int] | None, tmp_path: Path
) -> None:
    bundle = line_bundle(tmp_path / "web", tile_px=32, crop_px=crop).path
    web = np.full((90, 120, 3), 128, np.uint8)
    web[70:80, 40:52] = 255  # mirrored at 100 to 110
    source = WebSource(ListSource([web]), assembler=Assembler(frame_lines=200, overlap_lines=0))  # type: ignore[arg-type]
    settings, sink = WebSettings(overlap_px=8), ListSink(wants_pictures=True)
    with running(bundle, Camera(name="web", source=source), web=settings, sink=sink) as line:
        line.finish()
    (reject,) = line.sink.answers
    assert [(item.first_line, item.lines) for item in reject.defects] == [(70, 10)]
    assert reject.picture is not None
    changed = paint_reject(reject.picture, load(bundle)) != reject.picture.image
    rows, columns = np.nonzero(changed.any(axis=2))
    line_px = 2  # that is drawn around the map's 70 to 79 and 40 to 51
    assert 70 - line_px <= rows.min() <= 70
    assert 79 <= rows.max() <= 79 + line_px
    assert 40 - line_px <= columns.min() <= 40
    assert 51 <= columns.max() <= 51 + line_px


def test_a_reject_is_drawn_as_the_bundle_that_judged_it_saw_it(whole_part: Path, tmp_path: Path) -> None:
    spotted = frame((20, 80, 20, 14))
    with running(whole_part, camera(spotted), sink=ListSink(wants_pictures=True)) as line:
        line.finish()
    (reject,) = line.sink.answers
    assert reject.picture is not None
    expected = paint_reject(reject.picture, load(whole_part))
    other = LineModel(load(line_bundle(tmp_path / "other", crop_px=(0, 0, 500, 500)).path))  # in use since
    board = DashboardSink("127.0.0.1", 0, metrics=Metrics(), models=Models({"top": other}))
    board.deliver([reject])
    content = board.reject()
    assert content is not None
    shown = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert np.abs(shown - expected).mean() < 6  # JPEG


def test_a_reject_without_a_map_is_drawn_as_it_is(whole_part: Path) -> None:
    small = np.full((30, 40, 3), 90, np.uint8)  # which the part does not lie within
    np.testing.assert_array_equal(paint_reject(Picture(image=small, anomaly_map=None), load(whole_part)), small)
