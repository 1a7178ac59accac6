"""The judgement of one frame of a web: its stitched map, the rows it owns, and the defects that no frame listed yet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Detector
from reason_runtime.errors import ConfigurationError
from reason_runtime.line.frame import Frame, Strip
from reason_runtime.line.messages import Defect
from reason_runtime.regions import regions_and_pixels
from reason_runtime.session import Outputs
from reason_runtime.tiles import Tile, stitch


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """How a web is judged.

    Attributes:
        overlap_px: That neighbouring tiles share at least.
        lanes: The width is divided into this many.
        line_mm: Along the web from one line to the next; None where it is not known.
        pixel_mm: Across the web; None where it is not known.

    Raises:
        ConfigurationError: A value out of range.
    """

    overlap_px: int = 32
    lanes: int = 1
    line_mm: float | None = None
    pixel_mm: float | None = None

    def __post_init__(self) -> None:
        pitches = (self.line_mm, self.pixel_mm)
        if self.overlap_px < 0 or self.lanes < 1:
            raise ConfigurationError("a web needs an overlap of 0 or more and 1 or more lanes")
        if any(pitch is not None and not 0 < pitch < float("inf") for pitch in pitches):
            raise ConfigurationError(f"pitches of {pitches} mm are not positive numbers")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A defect with its own pixels of its box, of which others may have some too: (lines, width_px)."""

    defect: Defect
    pixels: NDArray[np.bool_]

    def below(self, line: int) -> Found | None:
        """What lies on this line of the web and those after it; None where nothing does."""
        cut = max(0, line - self.defect.first_line)
        if cut >= self.defect.lines:
            return None
        rest = replace(self.defect, first_line=self.defect.first_line + cut, lines=self.defect.lines - cut)
        return Found(defect=rest, pixels=self.pixels[cut:].copy())  # a view would keep all of it

    def shares_a_pixel(self, other: Found) -> bool:
        """Some pixel of the web is of both."""
        one, two = self.defect, other.defect
        top, left = max(one.first_line, two.first_line), max(one.x_px, two.x_px)
        bottom = min(one.first_line + one.lines, two.first_line + two.lines)
        right = min(one.x_px + one.width_px, two.x_px + two.width_px)
        if bottom <= top or right <= left:
            return False
        mine, its = (
            item.pixels[
                top - item.defect.first_line : bottom - item.defect.first_line,
                left - item.defect.x_px : right - item.defect.x_px,
            ]
            for item in (self, other)
        )
        return bool((mine & its).any())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What a frame of a web shows.

    Attributes:
        score: Highest value of the rows that the frame owns, raw units; NaN where any value is not finite.
        anomaly_map: (rows, columns) of what is looked at of the frame; 0 on lines that the camera did not give.
        defects: Regions at or above the threshold that touch an owned row.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    defects: tuple[Found, ...]


def judge_web(
    tiles: tuple[Tile, ...],
    outputs: Outputs,
    *,
    shape: tuple[int, int],
    frame: Frame,
    detector: Detector,
    settings: WebSettings,
) -> Seen:
    """Stitch a frame's maps and find what is wrong on the rows it owns.

    Args:
        tiles: Where the maps lie in what is looked at.
        outputs: Of the graph, one per tile.
        shape: Rows and columns of the frame.
        frame: With its strip; a frame without one (an area camera) owns all its rows.
        detector: Gives the threshold, and says what is looked at.
        settings: Of the web.
    """
    strip = frame.grab.strip or whole_frame(shape[0])
    rows, columns = detector.bundle.manifest.input.looked_at(height_px=shape[0], width_px=shape[1])
    part = (rows.stop - rows.start, columns.stop - columns.start)
    stitched = stitch(tiles, outputs.anomaly_map, shape=part)[: strip.valid_lines]
    owned = stitched[strip.owned_first : strip.owned_end]
    score = float(owned.max()) if np.isfinite(stitched).all() else float("nan")
    limit = detector.limit.value
    corner = (rows.start, columns.start)
    defects = (
        ()
        if limit is None or not score >= limit
        else _defects(stitched, limit, strip, settings, corner=corner, width_px=shape[1])
    )
    shown = np.pad(stitched, ((0, part[0] - len(stitched)), (0, 0)))  # pictures lay it over all of the frame
    return Seen(score=score, anomaly_map=shown, defects=defects)


def whole_frame(rows: int) -> Strip:
    """The strip of a frame that shares no line with another."""
    return Strip(first_line=0, valid_lines=rows, owned_first=0, owned_end=rows, encoder_count=None)


@dataclass(slots=True)
class DefectBook:
    """Defects that frames have listed already, by where they lie on the web; one for each camera.

    Two frames see the same defect where its pixels on the lines that they share are the same, at least in part.
    """

    _listed: list[Found] = field(default_factory=list)  # what the next frame may see of them
    _proposed: list[Found] = field(default_factory=list)

    def new(self, found: tuple[Found, ...], strip: Strip) -> tuple[Defect, ...]:
        """The defects to list: not listed before, and not about to be seen whole by the next frame.

        Args:
            found: Of a frame, in web coordinates.
            strip: Of that frame.
        """
        end = strip.first_line + strip.valid_lines
        # first line that the next frame repeats, at the latest; of the last frame the end
        carried = end - 2 * (strip.valid_lines - strip.owned_end)
        known = [rest for item in self._listed if (rest := item.below(strip.first_line)) is not None]
        fresh = []
        for item in found:
            cut_off = item.defect.first_line + item.defect.lines >= end and item.defect.first_line > carried
            if any(item.shares_a_pixel(other) for other in known) or cut_off:
                continue
            fresh.append(item)
        self._listed = known
        self._proposed = [rest for item in fresh if (rest := item.below(carried)) is not None]
        return tuple(item.defect for item in fresh)

    def went_out(self) -> None:
        """What `new` gave last was listed: no frame lists it again."""
        self._listed += self._proposed


def _defects(
    stitched: NDArray[np.float32],
    limit: float,
    strip: Strip,
    settings: WebSettings,
    *,
    corner: tuple[int, int],
    width_px: int,
) -> tuple[Found, ...]:
    """Of a map whose first row and column are `corner` of a frame of this width."""
    found = []
    for region, pixels in regions_and_pixels(stitched, pixel_threshold=limit):
        if region.y_px >= strip.owned_end or region.y_px + region.height_px <= strip.owned_first:
            continue  # it rejects a neighbour, which lists it
        row, column = corner[0] + region.y_px, corner[1] + region.x_px
        defect = Defect(
            x_px=column,
            width_px=region.width_px,
            first_line=strip.first_line + row,
            lines=region.height_px,
            peak=region.peak,
            encoder_count=strip.encoder_count_at(row),
            lane=min(int((column + region.width_px / 2) * settings.lanes / width_px), settings.lanes - 1),
            x_mm=None if settings.pixel_mm is None else column * settings.pixel_mm,
            y_mm=None if settings.line_mm is None else (strip.first_line + row) * settings.line_mm,
        )
        found.append(Found(defect=defect, pixels=pixels))
    return tuple(found)
