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
        encoder_count: Of the first line.
        grabbed_ns: `time.monotonic_ns` when the last line was there.
        failure: Why these lines are not to be judged; None where they are good.
    """

    pixels: Pixels
    encoder_count: int
    grabbed_ns: int
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Lines that are held.

    Attributes:
        first_line: Number of the first one on the web.
        lines: As they came, without those that no frame needs any more.
        gap: Why the first one does not follow the line before it; None where it does.
    """

    first_line: int
    lines: Lines
    gap: str | None

    def without(self, count: int, counts_per_line: int) -> _Block:
        """What is left of it without its first lines."""
        rest = replace(
            self.lines,
            pixels=self.lines.pixels[count:],
            encoder_count=self.lines.encoder_count + count * counts_per_line,
        )
        return _Block(first_line=self.first_line + count, lines=rest, gap=None)


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
        self._expected_count: int | None = None  # of the next line; None where a web begins

    def add(self, lines: Lines) -> list[Grab]:
        """Take lines in; gives the frames that they complete."""
        lost, gap = self._lost_before(lines)
        first_line = self._next_line + lost
        self._blocks.append(_Block(first_line=first_line, lines=lines, gap=gap))
        self._held += len(lines.pixels)
        self._next_line = first_line + len(lines.pixels)
        self._expected_count = lines.encoder_count + len(lines.pixels) * self._counts_per_line
        grabs = []
        while self._held >= self._frame_lines:
            grabs.append(self._frame(self._frame_lines, grabbed_ns=lines.grabbed_ns, last=False))
            self._forget(self._frame_lines - self._overlap)
            self._carried = self._overlap
        return grabs

    def flush(self) -> list[Grab]:
        """The rest of the web as one partial frame, mirrored at its end; nothing where there is no line to own.

        What comes afterwards starts a web of its own, since lines may be missing in between.
        """
        grabs = []
        if self._held > self._carried // 2:
            grabs.append(self._frame(self._held, grabbed_ns=self._blocks[-1].lines.grabbed_ns, last=True))
        self._forget(self._held)
        self._carried = 0
        self._expected_count = None
        return grabs

    def _lost_before(self, lines: Lines) -> tuple[int, str | None]:
        """How many lines are missing before these, as far as their count says, and what is to be said of it."""
        expected, count = self._expected_count, lines.encoder_count
        if expected is None or count == expected:
            return 0, None
        lost = (count - expected) / self._counts_per_line
        if lost < 0:
            return 0, f"lines lost: the encoder count went back to {count} where {expected} was to come"
        return round(lost), f"{lost:.12g} lines lost before encoder count {count}"

    def _frame(self, valid: int, *, grabbed_ns: int, last: bool) -> Grab:
        pixels = np.concatenate([block.lines.pixels for block in self._blocks])[:valid]
        if valid < self._frame_lines:
            mirrored = np.arange(self._frame_lines) % (2 * valid)  # goes on like the web; a repeated line would not
            pixels = pixels[np.where(mirrored < valid, mirrored, 2 * valid - 1 - mirrored)]
        # frames are cut as lines come, so that this one holds some of every block
        failures = (text for block in self._blocks for text in (block.gap, block.lines.failure))
        failure = next((text for text in failures if text is not None), None)
        strip = Strip(
            first_line=self._blocks[0].first_line,
            valid_lines=valid,
            owned_first=self._carried // 2,
            owned_end=valid if last else valid - (self._overlap - self._overlap // 2),
            encoder_count=self._blocks[0].lines.encoder_count,
            counts_per_line=self._counts_per_line,
        )
        return Grab(
            grabbed_ns=grabbed_ns,
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
            size = len(block.lines.pixels)
            if size > count:
                self._blocks.insert(0, block.without(count, self._counts_per_line))
            count -= min(count, size)
