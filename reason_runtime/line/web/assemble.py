"""Lines to frames: each frame repeats the end of the one before, so that a defect on the seam is seen whole once."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Lines `first` to `end`, the last one excluded, that nobody may judge."""

    first: int
    end: int
    text: str


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
        self._blocks: list[Lines] = []
        self._held = 0
        self._first_line = 0
        self._carried = 0  # of the held lines, those that the frame before has shown
        self._seen = 0
        self._expected_count: int | None = None  # of the next line; None where a web begins
        self._failures: list[_Failure] = []

    def add(self, lines: Lines) -> list[Grab]:
        """Take lines in; gives the frames that they complete."""
        first, end = self._seen, self._seen + len(lines.pixels)
        if self._expected_count is not None and lines.encoder_count != self._expected_count:
            lost = (lines.encoder_count - self._expected_count) / self._counts_per_line
            text = f"{lost:g} lines lost before encoder count {lines.encoder_count}"
            self._failures.append(_Failure(first=first, end=first + 1, text=text))
        if lines.failure is not None:
            self._failures.append(_Failure(first=first, end=end, text=lines.failure))
        self._blocks.append(lines)
        self._held += len(lines.pixels)
        self._seen = end
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
            grabs.append(self._frame(self._held, grabbed_ns=self._blocks[-1].grabbed_ns, last=True))
        self._forget(self._held)
        self._carried = 0
        self._expected_count = None
        return grabs

    def _frame(self, valid: int, *, grabbed_ns: int, last: bool) -> Grab:
        pixels = np.concatenate([block.pixels for block in self._blocks])[:valid]
        if valid < self._frame_lines:
            mirrored = np.arange(self._frame_lines) % (2 * valid)  # goes on like the web; a repeated line would not
            pixels = pixels[np.where(mirrored < valid, mirrored, 2 * valid - 1 - mirrored)]
        end = self._first_line + valid
        failure = next((item.text for item in self._failures if item.first < end and self._first_line < item.end), None)
        strip = Strip(
            first_line=self._first_line,
            valid_lines=valid,
            owned_first=self._carried // 2,
            owned_end=valid if last else valid - (self._overlap - self._overlap // 2),
            encoder_count=self._blocks[0].encoder_count,
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
        self._first_line += count
        self._held -= count
        self._failures = [item for item in self._failures if item.end > self._first_line]
        while count and self._blocks:
            block = self._blocks[0]
            if len(block.pixels) <= count:
                count -= len(block.pixels)
                self._blocks.pop(0)
                continue
            self._blocks[0] = Lines(
                pixels=block.pixels[count:],
                encoder_count=block.encoder_count + count * self._counts_per_line,
                grabbed_ns=block.grabbed_ns,
            )
            count = 0
