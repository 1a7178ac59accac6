"""Lines to frames: each frame repeats the end of the one before, so that a defect on the seam is seen whole once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reason_runtime.detector import Pixels
from reason_runtime.errors import ConfigurationError
from reason_runtime.line.frame import Grab, Strip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """What a line-scan camera gives at once.

    Attributes:
        pixels: (n, W) or (n, W, C).
        encoder_count: Of the first line; None where the camera has none, and lines are counted here.
        grabbed_ns: `time.monotonic_ns` when the last line was there.
        failure: Why these lines are not to be judged; None where they are good.
    """

    pixels: Pixels
    encoder_count: int | None
    grabbed_ns: int
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Lines that are held.

    Attributes:
        first_line: Number of the first one on the web.
        encoder_count: Of the first one.
        pixels: Without the lines that no frame needs any more.
        gap: Why the first one does not follow the line before it; None where it does.
        failure: Why none of them is to be judged; None where they are good.
    """

    first_line: int
    encoder_count: int
    pixels: Pixels
    gap: str | None
    failure: str | None

    def without(self, count: int, counts_per_line: int) -> _Block:
        """What is left of it without its first lines."""
        return replace(
            self,
            first_line=self.first_line + count,
            encoder_count=self.encoder_count + count * counts_per_line,
            pixels=self.pixels[count:],
            gap=None,
        )


class Assembler:
    """Cuts an endless web into frames.

    Args:
        frame_lines: Lines of a frame, the overlap included.
        overlap_lines: Lines that two frames share; a defect no longer than this is whole in one of them.
        counts_per_line: Encoder counts from one line to the next; a jump means lost lines.

    Raises:
        ConfigurationError: The overlap does not leave at least half of the frame new.
    """

    def __init__(self, *, frame_lines: int, overlap_lines: int, counts_per_line: int = 1) -> None:
        if not 0 <= overlap_lines <= frame_lines // 2:
            raise ConfigurationError(
                f"an overlap of {overlap_lines} lines does not fit frames of {frame_lines}; at most half of them"
            )
        self._frame_lines = frame_lines
        self._overlap = overlap_lines
        self._counts_per_line = counts_per_line
        self._blocks: list[_Block] = []
        self._held = 0
        self._carried = 0  # of the held lines, those that the frame before has shown
        self._next_line = 0
        self._next_count = 0
        self._grabbed_ns = 0
        self._broken_off = False  # the lines before the next one are flushed

    def add(self, lines: Lines) -> list[Grab]:
        """Take lines in; gives the frames that they complete."""
        count = self._next_count if lines.encoder_count is None else lines.encoder_count
        lost, gap = self._lost_before(lines.encoder_count)
        self._next_line += lost
        self._blocks.append(
            _Block(first_line=self._next_line, encoder_count=count, pixels=lines.pixels, gap=gap, failure=lines.failure)
        )
        self._held += len(lines.pixels)
        self._grabbed_ns = lines.grabbed_ns
        self._next_line += len(lines.pixels)
        self._next_count = count + len(lines.pixels) * self._counts_per_line
        self._broken_off = False
        grabs = []
        while self._held >= self._frame_lines:
            grabs.append(self._frame(self._frame_lines, last=False))
            self._forget(self._frame_lines - self._overlap)
            self._carried = self._overlap
        return grabs

    def flush(self) -> list[Grab]:
        """The rest of the web as one partial frame, mirrored at its end; nothing where there is no line to own.

        What comes afterwards shares no line with it, and is incomplete unless a count says that nothing is missing.
        """
        grabs = []
        if self._held:
            grabs.append(self._frame(self._held, last=True))
        self._forget(self._held)
        self._carried = 0
        self._broken_off = self._next_line > 0
        return grabs

    def _lost_before(self, count: int | None) -> tuple[int, str | None]:
        """How many lines are missing before one of this count, as far as it says, and what is to be said of it."""
        if count is None:
            told = "lines lost while the camera was away; it has no encoder count that says how many"
            return 0, told if self._broken_off else None
        expected = self._next_count
        if self._next_line == 0 or count == expected:
            return 0, None
        lost = (count - expected) / self._counts_per_line
        if lost < 0:
            return 0, f"lines lost: the encoder count went back to {count} where {expected} was to come"
        return round(lost), f"{lost:.12g} lines lost before encoder count {count}"

    def _frame(self, valid: int, *, last: bool) -> Grab:
        pixels = np.concatenate([block.pixels for block in self._blocks])[:valid]
        if valid < self._frame_lines:
            mirrored = np.arange(self._frame_lines) % (2 * valid)  # goes on like the web; a repeated line would not
            pixels = pixels[np.where(mirrored < valid, mirrored, 2 * valid - 1 - mirrored)]
        # frames are cut as lines come, so that this one holds some of every block
        failures = (text for block in self._blocks for text in (block.gap, block.failure))
        failure = next((text for text in failures if text is not None), None)
        strip = Strip(
            first_line=self._blocks[0].first_line,
            valid_lines=valid,
            owned_first=self._carried // 2,
            owned_end=valid if last else valid - (self._overlap - self._overlap // 2),
            encoder_count=self._blocks[0].encoder_count,
            counts_per_line=self._counts_per_line,
        )
        return Grab(
            grabbed_ns=self._grabbed_ns,
            image=None if failure else pixels,
            failure=failure,
            encoder_count=strip.encoder_count,
            strip=strip,
        )

    def _forget(self, count: int) -> None:
        """Drop the oldest lines."""
        self._held -= count
        while count:
            block = self._blocks.pop(0)
            size = len(block.pixels)
            if size > count:
                self._blocks.insert(0, block.without(count, self._counts_per_line))
            count -= min(count, size)
