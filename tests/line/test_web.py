from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime import load
from reason_runtime.blind import FROZEN
from reason_runtime.errors import BundleError, ConfigurationError, ImageError, SinkError, SourceError
from reason_runtime.line.frame import Grab, Strip
from reason_runtime.line.grabber import Camera
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Answer, Defect
from reason_runtime.line.model import LineModel
from reason_runtime.line.pipeline import PipelineSettings
from reason_runtime.line.sources.linescan import LineScanSource, Motion
from reason_runtime.line.sources.open import open_source
from reason_runtime.line.sources.source import Source
from reason_runtime.line.sources.web import WebSource
from reason_runtime.line.web.assemble import Assembler, Lines
from reason_runtime.line.web.judge import DefectBook, Found, WebSettings
from reason_runtime.strict_json import Json
from reason_runtime.tiles import cut, place_tiles, stitch, tile_px_of
from tests.line.models import line_bundle, part
from tests.line.stations import Given, Line, ListSource, running
from tests.runtime.bundles import make_manifest


def lines(first: int, count: int, *, width: int = 4, counts_per_line: int = 1, failure: str | None = None) -> Lines:
    pixels = np.repeat(np.arange(first, first + count, dtype=np.uint16)[:, None], width, axis=1)
    return Lines(pixels=pixels, encoder_count=first * counts_per_line, grabbed_ns=first, failure=failure)


def fed(assembler: Assembler, *blocks: Lines) -> list[Grab]:
    return [grab for block in blocks for grab in assembler.add(block)]


def owned(grab: Grab) -> list[int]:
    """The line numbers that a frame decides about, read from its pixels."""
    assert grab.strip is not None
    assert grab.image is not None
    return [int(row[0]) for row in grab.image[grab.strip.owned_first : grab.strip.owned_end]]


@pytest.mark.parametrize("block", [1, 3, 8, 20, 50])
@pytest.mark.parametrize("overlap", [0, 1, 4, 5])
def test_every_line_is_owned_by_exactly_one_frame_whatever_the_blocks(block: int, overlap: int) -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=overlap)
    grabs = fed(assembler, *[lines(first, block) for first in range(0, 100, block)]) + assembler.flush()
    total = -(-100 // block) * block
    assert [line for grab in grabs for line in owned(grab)] == list(range(total))
    for before, after in zip(grabs[:-1], grabs[1:-1], strict=False):
        assert before.image is not None
        assert after.image is not None
        np.testing.assert_array_equal(before.image[len(before.image) - overlap :], after.image[:overlap])


def test_a_frame_says_where_it_lies_and_the_last_one_how_many_lines_are_real() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=4, counts_per_line=3)
    grabs = fed(assembler, lines(0, 12, counts_per_line=3)) + assembler.flush()
    assert [grab.strip for grab in grabs] == [
        Strip(first_line=0, valid_lines=10, owned_first=0, owned_end=8, encoder_count=0, counts_per_line=3),
        Strip(first_line=6, valid_lines=6, owned_first=2, owned_end=6, encoder_count=18, counts_per_line=3),
    ]
    assert grabs[1].image is not None
    assert [int(row[0]) for row in grabs[1].image] == [6, 7, 8, 9, 10, 11, 11, 10, 9, 8]


def test_a_short_rest_is_mirrored_until_the_frame_is_full() -> None:
    (grab,) = [*fed(assembler := Assembler(frame_lines=10, overlap_lines=4), lines(0, 3)), *assembler.flush()]
    assert grab.image is not None
    assert [int(row[0]) for row in grab.image] == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2]


def test_a_frame_of_a_web_is_as_old_as_its_last_line() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=4)
    blocks = [dataclasses.replace(lines(first, 5), grabbed_ns=1000 + first) for first in (0, 5, 10, 15)]
    assert [grab.grabbed_ns for grab in fed(assembler, *blocks) + assembler.flush()] == [1005, 1015, 1015]


def test_lost_lines_make_the_frames_that_hold_the_gap_incomplete() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=2)
    grabs = fed(assembler, lines(0, 10), lines(10, 4), lines(17, 16))
    assert [grab.failure for grab in grabs] == [None, "3 lines lost before encoder count 17", None]
    assert grabs[1].image is None


def test_lost_lines_have_their_numbers_so_that_those_after_them_keep_their_place() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=2, counts_per_line=4)
    blocks = [lines(first, count, counts_per_line=4) for first, count in ((0, 10), (10, 4), (12_345, 16))]
    grabs = [*fed(assembler, *blocks), *assembler.flush()]
    assert [grab.failure for grab in grabs] == [None, "12331 lines lost before encoder count 49380", None, None]
    strips = [grab.strip for grab in grabs if grab.strip]
    assert [strip.first_line for strip in strips] == [0, 8, 12_347, 12_355]
    assert [strip.encoder_count / 4 for strip in strips] == [strip.first_line for strip in strips]


def test_an_encoder_count_that_went_back_makes_its_frame_incomplete_and_no_number_less() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=0)
    grabs = fed(assembler, lines(100, 10), lines(0, 10), lines(10, 10))
    told = "lines lost: the encoder count went back to 0 where 110 was to come"
    assert [grab.failure for grab in grabs] == [None, told, None]
    assert [grab.strip.first_line for grab in grabs if grab.strip] == [0, 10, 20]


def test_lines_lost_between_two_frames_without_overlap_make_the_second_incomplete() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=0)
    grabs = fed(assembler, lines(0, 10), lines(13, 10), lines(23, 10))
    assert [grab.failure for grab in grabs] == [None, "3 lines lost before encoder count 13", None]


def test_a_block_that_failed_makes_every_frame_that_holds_a_line_of_it_incomplete() -> None:
    assembler = Assembler(frame_lines=8, overlap_lines=4)
    blocks = [lines(first, 4, failure="torn" if first == 8 else None) for first in range(0, 32, 4)]
    assert [grab.failure for grab in fed(assembler, *blocks)] == [None, "torn", "torn", None, None, None, None]


@pytest.mark.parametrize("block", [3, 7, 10, 25])
@pytest.mark.parametrize("overlap", [0, 1, 5])
@pytest.mark.parametrize("torn", range(1, 6))
def test_no_line_of_a_block_that_failed_is_judged_however_blocks_and_frames_lie(
    block: int, overlap: int, torn: int
) -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=overlap)
    firsts = range(0, 20 * block, block)
    failed = set(range(torn * block, (torn + 1) * block))
    blocks = [lines(first, block, failure="torn" if first in failed else None) for first in firsts]
    for grab in fed(assembler, *blocks) + assembler.flush():
        assert grab.strip is not None
        held = range(grab.strip.first_line, grab.strip.first_line + grab.strip.valid_lines)
        assert grab.failure == ("torn" if failed & set(held) else None)


def test_after_a_flush_a_new_web_begins_and_owns_its_first_line() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=4)
    grabs = fed(assembler, lines(0, 13)) + assembler.flush() + assembler.flush() + fed(assembler, lines(13, 10))
    assert [line for grab in grabs for line in owned(grab)] == list(range(21))


def test_lines_lost_over_a_flush_are_counted_as_others_are() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=4)
    grabs = fed(assembler, lines(0, 13)) + assembler.flush() + fed(assembler, lines(50, 20))
    assert [grab.failure for grab in grabs] == [None, None, "37 lines lost before encoder count 50", None]
    assert [grab.strip.first_line for grab in grabs if grab.strip] == [0, 6, 50, 56]


def test_what_comes_after_a_flush_is_incomplete_where_no_count_says_what_was_lost() -> None:
    assembler = Assembler(frame_lines=10, overlap_lines=4)
    blocks = [dataclasses.replace(lines(first, 20), encoder_count=None) for first in (0, 20, 40)]
    assert assembler.flush() == []  # nothing came before it, so nothing can be missing
    grabs = fed(assembler, blocks[0]) + assembler.flush() + assembler.flush() + fed(assembler, *blocks[1:])
    told = "lines lost while the camera was away; it has no encoder count that says how many"
    assert [grab.failure for grab in grabs] == [None, None, None, told, *[None] * 5]
    assert [grab.encoder_count for grab in grabs] == [0, 6, 12, 20, 26, 32, 38, 44, 50]


def test_an_overlap_of_more_than_half_a_frame_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at most half"):
        Assembler(frame_lines=10, overlap_lines=6)


@pytest.mark.parametrize(("shape", "overlap"), [((64, 64), 0), ((64, 200), 16), ((130, 65), 8), ((100, 333), 63)])
def test_tiles_cover_a_frame_and_share_the_overlap(shape: tuple[int, int], overlap: int) -> None:
    tiles = place_tiles(shape, tile_px=64, overlap_px=overlap)
    covered = np.zeros(shape, int)
    for tile in tiles:
        covered[tile.top : tile.top + 64, tile.left : tile.left + 64] += 1
        assert cut(np.zeros((*shape, 3), np.uint8), tile).shape == (64, 64, 3)
    assert covered.min() >= 1
    for positions in (sorted({tile.top for tile in tiles}), sorted({tile.left for tile in tiles})):
        assert all(after - before <= 64 - overlap for before, after in zip(positions, positions[1:], strict=False))


def test_a_frame_smaller_than_a_tile_is_refused() -> None:
    with pytest.raises(ImageError, match="smaller than a tile of 64"):
        place_tiles((63, 500), tile_px=64, overlap_px=0)


def test_tiles_of_one_map_are_stitched_to_that_map_without_a_seam() -> None:
    whole = np.random.default_rng(3).random((100, 150), dtype=np.float32)
    tiles = place_tiles((100, 150), tile_px=64, overlap_px=20)
    maps = np.stack([whole[tile.top : tile.top + 64, tile.left : tile.left + 64] for tile in tiles])
    np.testing.assert_allclose(stitch(tiles, maps, shape=(100, 150)), whole, rtol=1e-6)


def test_the_map_of_one_tile_is_the_map() -> None:
    maps = np.random.default_rng(3).random((1, 64, 64), dtype=np.float32)
    np.testing.assert_array_equal(stitch(place_tiles((64, 64), tile_px=64), maps, shape=(64, 64)), maps[0])


def test_maps_that_disagree_change_smoothly_from_one_to_the_next() -> None:
    tiles = place_tiles((64, 96), tile_px=64, overlap_px=32)
    maps = np.stack([np.full((64, 64), value, np.float32) for value in (0.0, 1.0)])
    row = stitch(tiles, maps, shape=(64, 96))[32]
    assert (row[0], row[-1]) == (0, 1)
    assert np.all(np.diff(row) >= 0)
    assert np.diff(row).max() < 0.05


def test_a_tile_that_is_not_finite_shows_in_the_stitched_map() -> None:
    tiles = place_tiles((64, 96), tile_px=64, overlap_px=32)
    maps = np.zeros((2, 64, 64), np.float32)
    maps[1, 5, 5] = np.nan
    assert not np.isfinite(stitch(tiles, maps, shape=(64, 96))).all()


def defect(first: int, count: int, *, x_px: int = 0) -> Defect:
    return Defect(x_px=x_px, width_px=4, first_line=first, lines=count, peak=1.0)


def found(*defects: Defect) -> tuple[Found, ...]:
    """Each fills its box."""
    return tuple(Found(defect=item, pixels=np.ones((item.lines, item.width_px), bool)) for item in defects)


def strip(first: int, *, valid: int = 100, overlap: int = 20) -> Strip:
    return Strip(first_line=first, valid_lines=valid, owned_first=overlap // 2, owned_end=90, encoder_count=0)


def test_a_defect_on_a_seam_is_listed_once_and_whole() -> None:
    book = DefectBook()
    assert listed(book, (defect(50, 5), defect(94, 6)), strip(0)) == (defect(50, 5),)  # the second goes on
    assert listed(book, (defect(94, 9),), strip(80)) == (defect(94, 9),)
    book = DefectBook()
    assert listed(book, (defect(82, 5),), strip(0)) == (defect(82, 5),)
    assert listed(book, (defect(82, 5), defect(83, 5, x_px=30)), strip(80)) == (defect(83, 5, x_px=30),)
    book = DefectBook()
    long = defect(70, 30)  # longer than the overlap: no frame will see it whole
    assert listed(book, (long,), strip(0)) == (long,)
    assert listed(book, (defect(80, 40),), strip(80)) == ()


def test_a_defect_straight_above_or_below_a_listed_one_is_listed_too() -> None:
    upper, lower = defect(82, 3), defect(86, 9)
    for first, second in ((upper, lower), (lower, upper)):
        book = DefectBook()
        assert listed(book, (first,), strip(0)) == (first,)
        assert listed(book, (first, second), strip(80)) == (second,)


def test_a_wide_defect_beside_a_listed_one_is_listed_too() -> None:
    narrow, wide = defect(82, 5), dataclasses.replace(defect(82, 5, x_px=30), width_px=40)
    book = DefectBook()
    assert listed(book, (narrow,), strip(0)) == (narrow,)
    assert listed(book, (narrow, wide), strip(80)) == (wide,)


def test_of_a_defect_is_left_what_lies_below_a_line() -> None:
    (item,) = found(defect(10, 5))
    for line, left in ((3, defect(10, 5)), (10, defect(10, 5)), (14, defect(14, 1))):
        rest = item.below(line)
        assert rest is not None
        assert rest.defect == left
        assert rest.pixels.shape == (left.lines, 4)
    assert item.below(15) is None


def test_a_defect_whose_answer_did_not_go_out_is_new_to_the_next_frame() -> None:
    book = DefectBook()
    assert book.new(found(defect(82, 5)), strip(0)) == (defect(82, 5),)
    assert listed(book, (defect(82, 5),), strip(80)) == (defect(82, 5),)


def listed(book: DefectBook, defects: tuple[Defect, ...], strip: Strip) -> tuple[Defect, ...]:
    fresh = book.new(found(*defects), strip)
    book.went_out()
    return fresh


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("b") / "tiled", tile_px=32).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("b") / "whole").path


@pytest.mark.parametrize("value", [True, 0, -64, 64.0, "64", [64]])
def test_a_tile_of_no_size_is_refused(value: Json) -> None:
    training = make_manifest().training
    made = dataclasses.replace(training, configuration={"tile_px": value})
    with pytest.raises(BundleError, match=r"training\.configuration\.tile_px is .*, expected a number of pixels"):
        tile_px_of(dataclasses.replace(make_manifest(), training=made))


def test_a_bundle_for_whole_parts_lists_what_it_finds_on_a_web_in_lines_of_the_web(whole: Path) -> None:
    web = np.full((150, 80, 3), 128, np.uint8)
    web[110:120, 40:50] = 250
    web[140:144, 10:20] = 250
    assembler = Assembler(frame_lines=64, overlap_lines=0, counts_per_line=3)
    source = WebSource(ListSource([web[:100], web[100:]]), assembler=assembler)  # type: ignore[arg-type]
    with running(whole, Camera(name="web", source=source)) as line:
        line.finish()
    assert [answer.valid_lines for answer in line.sink.answers] == [64, 64, 22]
    found = [(answer.first_line, item) for answer in line.sink.answers for item in answer.defects]
    assert [first for first, _ in found] == [64, 128]  # the last one is not listed again where it is mirrored
    for (_, item), (top, height) in zip(found, [(110, 10), (140, 4)], strict=True):
        assert abs(item.first_line - top) <= 2  # a frame of 64 lines is resized to 32
        assert abs(item.first_line + item.lines - top - height) <= 2
        assert item.encoder_count == 3 * item.first_line


def test_a_bundle_for_whole_parts_refuses_tiles_and_the_other_way_round(tiled: Path, whole: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="trained on whole parts and cannot judge tiles.*leave out --tile-overlap-px"
    ):
        LineModel(load(whole), web=WebSettings())
    with pytest.raises(
        ConfigurationError, match="trained on tiles of 32 px and cannot judge whole parts.*give --tile-overlap-px"
    ):
        LineModel(load(tiled))


@pytest.mark.parametrize("overlap_px", [32, 33, 60])
def test_an_overlap_that_leaves_nothing_of_a_tile_is_refused(tiled: Path, overlap_px: int) -> None:
    # placed so, one tile of 32 px was all that a frame of 50 px got, and the rest of it passed unseen
    with pytest.raises(ConfigurationError, match=f"tiles of 32 px cannot share {overlap_px} px; .* less than 32"):
        LineModel(load(tiled), web=WebSettings(overlap_px=overlap_px))
    LineModel(load(tiled), web=WebSettings(overlap_px=31))


def web_with_spots(*spots: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    web = np.full((640, 80, 3), 128, np.uint8)
    for top, left, height, width in spots:
        web[top : top + height, left : left + width] = 250
    return web


def inspected(
    tiled: Path, web: NDArray[np.uint8], *, overlap_lines: int = 16, journal: Journal | None = None, **settings: float
) -> Line:
    camera = LineScanSource(
        web, motion=Motion(lines_per_s=20_000, block_lines=10, loops=1, buffer_blocks=10**6), name="web"
    )
    assembler = Assembler(frame_lines=64, overlap_lines=overlap_lines)
    source = WebSource(camera, assembler=assembler)
    plan = WebSettings(overlap_px=8, **settings)  # type: ignore[arg-type]
    with running(tiled, Camera(name="web", source=source), web=plan, journal=journal) as line:
        line.finish()
    return line


def test_spots_of_a_web_are_found_once_where_they_are_seams_or_not(tiled: Path) -> None:
    spots = [(20, 5, 6, 7), (44, 60, 12, 6), (100, 30, 3, 3), (236, 0, 10, 4), (330, 10, 4, 40), (600, 70, 40, 10)]
    line = inspected(tiled, web_with_spots(*spots), lanes=4, line_mm=0.5, pixel_mm=0.25)
    found = [item for answer in line.sink.answers for item in answer.defects]
    assert [(item.first_line, item.x_px, item.lines, item.width_px) for item in found] == spots
    assert [item.lane for item in found] == [0, 3, 1, 0, 1, 3]
    assert [(item.y_mm, item.x_mm) for item in found] == [(top / 2, left / 4) for top, left, _, _ in spots]
    assert [item.encoder_count for item in found] == [top for top, *_ in spots]
    for top, _, height, _ in spots:
        frames = [
            answer
            for answer in line.sink.answers
            if answer.first_line is not None and answer.first_line < top + height and top < answer.first_line + 64
        ]
        assert any(answer.decision == "NG" for answer in frames)
    assert line.sink.decisions.count("OK") >= 5


def test_a_frame_is_rejected_for_its_own_rows_and_lists_only_what_touches_them(tiled: Path) -> None:
    spots = [(10, 5, 3, 3), (50, 20, 3, 3), (56, 40, 4, 4), (160, 60, 3, 3), (196, 30, 4, 4)]
    line = inspected(tiled, web_with_spots(*spots))
    rejected = [(answer.first_line, answer.defects) for answer in line.sink.answers if answer.decision == "NG"]
    # frames begin every 48 lines and share 16: the first owns the lines before 56, the one at 144 those of 152 to 199
    assert [(first, [item.first_line for item in defects]) for first, defects in rejected] == [
        (0, [10, 50]),
        (48, [56]),
        (144, [160, 196]),
    ]


class FullOnce(Journal):
    """The disk is full when the first answer comes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._is_full = True

    def answered(self, answer: Answer, *, instead: Callable[[], Answer | None] = lambda: None) -> Answer:
        if self._is_full:
            self._is_full = False
            raise SinkError("the disk is full")
        return super().answered(answer, instead=instead)


def test_a_defect_of_a_frame_whose_judgement_did_not_go_out_is_listed_by_the_next(tiled: Path, tmp_path: Path) -> None:
    journal = FullOnce(tmp_path / "journal")
    first, second, *_ = inspected(tiled, web_with_spots((54, 20, 6, 3)), journal=journal).sink.answers
    journal.close()
    assert (first.cause, first.defects) == ("journal", ())
    assert [(item.first_line, item.lines) for item in second.defects] == [(54, 6)]
    once = inspected(tiled, web_with_spots((54, 20, 6, 3))).sink.answers
    assert [len(answer.defects) for answer in once[:2]] == [1, 0]


def test_a_defect_at_the_threshold_is_listed(tiled: Path) -> None:
    web = np.full((64, 80, 3), 128, np.uint8)
    web[20:30, 10:20] = 192  # 64/128, the threshold
    (answer,) = inspected(tiled, web).sink.answers
    assert (answer.decision, answer.score) == ("NG", 0.5)
    assert len(answer.defects) == 1


def test_a_defect_within_the_box_of_a_listed_one_is_listed_too(tiled: Path) -> None:
    web = web_with_spots((57, 5, 3, 3))  # of the second frame, which begins at 48 and owns the lines from 56 on
    for row in range(10, 61):
        web[row, row - 10 : row - 7] = 250  # a scratch, whose box holds that spot
    line = inspected(tiled, web)
    found = [[(item.first_line, item.x_px, item.lines) for item in answer.defects] for answer in line.sink.answers[:3]]
    assert found == [[(10, 0, 51)], [(57, 5, 3)], []]


def test_a_defect_in_the_bay_of_a_listed_one_is_listed_too(tiled: Path) -> None:
    web = web_with_spots((40, 10, 20, 3), (40, 40, 20, 3), (40, 10, 3, 33), (57, 20, 3, 3))
    line = inspected(tiled, web)
    found = [[(item.first_line, item.x_px, item.lines) for item in answer.defects] for answer in line.sink.answers[:3]]
    assert found == [[(40, 10, 20)], [(57, 20, 3)], []]


def test_a_web_without_a_threshold_is_unknown_and_says_why(tmp_path: Path) -> None:
    line = inspected(line_bundle(tmp_path / "b", tile_px=32, threshold=None).path, web_with_spots((20, 5, 6, 7)))
    assert {(answer.decision, answer.cause) for answer in line.sink.answers} == {("UNKNOWN", "no-threshold")}


@pytest.mark.parametrize(
    "settings", [{"overlap_px": -1}, {"lanes": 0}, {"line_mm": 0.0}, {"pixel_mm": float("inf")}, {"line_mm": -1.0}]
)
def test_settings_of_a_web_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        WebSettings(**settings)  # type: ignore[arg-type]
    assert WebSettings(overlap_px=0).overlap_px == 0


def test_encoder_counts_are_those_of_the_address(tiled: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "web.npy", web_with_spots((100, 30, 3, 3)))
    address = f"linescan:{tmp_path / 'web.npy'}?lines_per_s=20000&block_lines=10&loops=1&buffer_blocks=1000"
    source = open_source(
        f"{address}&frame_lines=64&overlap_lines=16&counts_per_line=4", input_format=load(tiled).bundle.manifest.input
    )
    with running(tiled, Camera(name="web", source=source), web=WebSettings(overlap_px=8)) as line:
        line.finish()
    assert set(line.sink.decisions) == {"OK", "NG"}
    assert [item.encoder_count for answer in line.sink.answers for item in answer.defects] == [400]


@pytest.mark.parametrize("top", range(30, 110, 7))
def test_no_place_of_a_small_defect_is_blind(tiled: Path, top: int) -> None:
    line = inspected(tiled, web_with_spots((top, 37, 2, 2)))
    assert "NG" in line.sink.decisions
    assert len([item for answer in line.sink.answers for item in answer.defects]) == 1


def test_the_partial_frame_at_the_end_judges_its_valid_lines_only(tiled: Path) -> None:
    web = web_with_spots((639, 10, 1, 4))
    line = inspected(tiled, web)
    last = line.sink.answers[-1]
    assert last.decision == "NG"
    assert last.valid_lines is not None
    assert last.valid_lines < 64
    assert [(item.first_line, item.lines) for item in last.defects] == [(639, 1)]


def frames_of(source: Source, *, frame_lines: int) -> list[Grab]:
    """All frames of a web without overlap, one encoder count a line."""
    web = WebSource(source, assembler=Assembler(frame_lines=frame_lines, overlap_lines=0))
    web.open()
    found = []
    while (item := web.read()) != "end":
        if isinstance(item, Grab):
            found.append(item)
    return found


def test_a_line_scan_camera_that_gives_the_same_block_again_is_frozen() -> None:
    blocks = [np.full((8, 4), value, np.uint8) for value in (1, 2, 2, 3, 4, 5)]
    source = ListSource(blocks, live=True, checks_freezing=True)  # type: ignore[arg-type]
    found = [grab.failure for grab in frames_of(source, frame_lines=8)]
    assert found == [None, None, FROZEN, None, None, None]


def test_a_block_that_the_host_lost_is_lines_that_nobody_saw() -> None:
    blocks = [np.full((6, 4), 1, np.uint8), "lost", "lost", *[np.full((6, 4), 1, np.uint8)] * 3]
    source = ListSource(blocks)  # type: ignore[arg-type]
    found = [(grab.encoder_count, grab.failure) for grab in frames_of(source, frame_lines=8)]
    assert found == [(0, "lost"), (8, "lost"), (16, "lost"), (24, None), (32, None)]


def test_a_first_block_that_the_host_lost_is_answered_and_the_web_begins_with_the_next() -> None:
    source = ListSource(["lost", np.full((8, 4), 1, np.uint8)])
    found = [(grab.failure, grab.strip and grab.strip.first_line) for grab in frames_of(source, frame_lines=8)]
    assert found == [("lost", None), (None, 0)]


def test_every_frame_of_a_block_comes_before_the_next_block_and_before_an_error() -> None:
    block = np.full((20, 4), 1, np.uint8)
    source = ListSource([block, 0.0, block, SourceError("connection lost"), block], live=True)
    web = WebSource(source, assembler=Assembler(frame_lines=8, overlap_lines=0))
    web.open()
    reads: list[int | str] = []
    while not reads or reads[-1] != "end":
        try:
            item = web.read()
        except SourceError as error:
            item = str(error)
        reads.append(item.strip.first_line if isinstance(item, Grab) and item.strip else str(item))
    assert reads == [0, 8, "idle", 16, 24, 32, "idle", "connection lost", 40, 48, 56, "end"]


class Counting(ListSource):
    """Whose blocks have encoder counts, four a line; `lost` blocks came to nobody."""

    def __init__(self, web: NDArray[np.uint8], *, lost: range, unplugged: bool = False) -> None:
        blocks = [number for number in range(len(web) // 10) if number not in lost]
        items: list[Given] = [web[10 * number : 10 * number + 10] for number in blocks]
        if unplugged:
            items.insert(lost.start, SourceError("connection lost"))
        super().__init__(items, live=True)
        self._counts = iter([40 * number for number in blocks])

    def read(self) -> Grab | Literal["idle", "end"]:
        grab = super().read()
        return dataclasses.replace(grab, encoder_count=next(self._counts)) if isinstance(grab, Grab) else "end"


def counted(tiled: Path, source: Source) -> list[Answer]:
    web = WebSource(source, assembler=Assembler(frame_lines=64, overlap_lines=16, counts_per_line=4))
    settings = PipelineSettings(when_full="block")
    with running(
        tiled,
        Camera(name="web", source=web),
        web=WebSettings(overlap_px=8, line_mm=0.5),
        settings=settings,
    ) as line:
        line.finish()
    return line.sink.answers


def test_a_defect_behind_lost_lines_is_listed_where_it_lies(tiled: Path) -> None:
    answers = counted(tiled, Counting(web_with_spots((600, 30, 3, 3)), lost=range(20, 45)))
    assert {answer.reason for answer in answers} == {None, "250 lines lost before encoder count 1800"}
    (item,) = [item for answer in answers for item in answer.defects]
    assert (item.first_line, item.encoder_count, item.y_mm) == (600, 2400, 300.0)


def test_lines_lost_while_the_camera_was_away_are_answered(tiled: Path) -> None:
    source = Counting(web_with_spots((600, 30, 3, 3)), lost=range(20, 45), unplugged=True)
    answers = counted(tiled, source)
    assert (source.opened, source.closed) == (2, 2)
    (gap,) = [answer for answer in answers if answer.decision == "UNKNOWN"]
    assert (gap.reason, gap.first_line) == ("250 lines lost before encoder count 1800", 450)
    (item,) = [item for answer in answers for item in answer.defects]
    assert (item.first_line, item.encoder_count, item.y_mm) == (600, 2400, 300.0)


@pytest.mark.parametrize("error", [SourceError("connection lost"), OSError("the driver failed")])
def test_after_a_loss_of_a_camera_without_a_count_nobody_knows_what_is_missing(tiled: Path, error: Exception) -> None:
    block = np.full((40, 80, 3), 128, np.uint8)
    answers = counted(tiled, ListSource([block, block, error, *[block] * 4], live=True))
    told = "lines lost while the camera was away; it has no encoder count that says how many"
    assert [(answer.first_line, answer.reason) for answer in answers] == [
        (0, None),
        (48, None),  # the rest before the loss
        (80, told),
        (128, None),
        (176, None),
        (224, None),
    ]


def test_a_picture_of_another_width_ends_a_web_by_name_behind_the_lines_before_it(tiled: Path, tmp_path: Path) -> None:
    for number, width in enumerate((80, 80, 72, 80)):
        Image.fromarray(np.full((40, width, 3), 128, np.uint8)).save(tmp_path / f"{number}.png")
    source = open_source(f"folder:{tmp_path}?frame_lines=64", input_format=load(tiled).bundle.manifest.input)
    told = (
        f"{tmp_path / '2.png'}: lines of 72 px and 3 channels, uint8; expected 80 px and 3 channels, uint8 "
        "as in those before; a web has one width, take this out"
    )
    with running(tiled, Camera(name="web", source=source), web=WebSettings(overlap_px=8)) as line:
        with pytest.raises(SourceError, match=re.escape(told)):
            line.finish()
    assert [(answer.decision, answer.valid_lines) for answer in line.sink.answers] == [("OK", 64), ("OK", 16)]


def test_a_camera_that_gives_another_width_is_lost_and_goes_on_with_it(tiled: Path) -> None:
    wide, narrow = (np.full((40, width, 3), 128, np.uint8) for width in (80, 72))
    answers = counted(tiled, ListSource([wide, wide, narrow, narrow, narrow], live=True))
    assert [answer.cause for answer in answers] == ["judged", "judged", "incomplete", "judged"]


class Slow(ListSource):
    """Takes 20 ms for a block of 40 lines."""

    given_lines = 0

    def read(self) -> Grab | Literal["idle", "end"]:
        time.sleep(0.02)
        self.given_lines += 40
        return super().read()  # type: ignore[return-value]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("frame_lines", [64, 4000])
def test_every_line_that_was_taken_before_a_stop_is_judged(tiled: Path, frame_lines: int, live: bool) -> None:
    camera = Slow([np.full((40, 80, 3), 128, np.uint8)] * 1000, live=live)
    web = WebSource(camera, assembler=Assembler(frame_lines=frame_lines, overlap_lines=0))
    with running(tiled, Camera(name="web", source=web), web=WebSettings(overlap_px=8)) as line:
        while camera.given_lines < 200:
            time.sleep(0.005)
        line.close()
    assert set(line.sink.causes) == {"judged"}
    assert sum(answer.valid_lines or 0 for answer in line.sink.answers) == camera.given_lines


def test_an_area_camera_can_be_tiled_too(tiled: Path) -> None:
    from tests.line.stations import camera

    wide = np.full((64, 100, 3), 128, np.uint8)
    spotted = wide.copy()
    spotted[40:44, 90:95] = 250
    with running(tiled, camera(wide, spotted), web=WebSettings(overlap_px=8)) as line:
        line.finish()
    assert line.sink.decisions == ["OK", "NG"]
    (item,) = line.sink.answers[1].defects
    assert (item.x_px, item.first_line, item.width_px, item.lines) == (90, 40, 5, 4)


def test_a_simulated_camera_that_is_not_read_in_time_loses_lines_and_says_so(tmp_path: Path) -> None:
    camera = LineScanSource(
        part(128, size_px=320), motion=Motion(lines_per_s=20_000, block_lines=20, buffer_blocks=2), name="x"
    )
    camera.open()
    while not isinstance(first := camera.read(), Grab):
        pass  # on a busy machine this reader, too, may be late for the very first block
    time.sleep(0.05)  # fifty blocks
    seen = []
    while len(seen) < 2:
        if isinstance(item := camera.read(), Grab):
            seen.append(item)
    assert (seen[0].encoder_count or 0) - (first.encoder_count or 0) > 20
    assert seen[0].grabbed_ns - first.grabbed_ns > 0.02e9  # the moment of the block, not of the first one lost
