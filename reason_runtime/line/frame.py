"""A frame: pixels, or the reason why there are none, and everything that tells which part it shows and until when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reason_runtime.detector import Pixels
from reason_runtime.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Where a frame of a web lies; rows count from the frame's first line.

    Every line of the web is owned by exactly one frame: a frame decides about the rows it owns and sees the overlap
    around them only so that a defect on its edge is seen whole.

    Attributes:
        first_line: Number of the frame's first line since the source started; lost lines count where it is known how
            many they were. A frame that holds a gap has more numbers than lines, and no image.
        valid_lines: Lines that the camera gave; the rows after them mirror these.
        owned_first: First row that this frame decides about.
        owned_end: One after the last such row.
        encoder_count: Of the first line; None where nothing moves: of an area camera, looked at in tiles.
        counts_per_line: Encoder counts from one line to the next.
    """

    first_line: int
    valid_lines: int
    owned_first: int
    owned_end: int
    encoder_count: int | None
    counts_per_line: int = 1

    def encoder_count_at(self, row: int) -> int | None:
        """Of a row of the frame."""
        return None if self.encoder_count is None else self.encoder_count + row * self.counts_per_line


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grab:
    """What a source gives.

    Attributes:
        grabbed_ns: `time.monotonic_ns` when the last pixel was there, of an Aravis camera when the first packet came.
        image: (H, W), (H, W, 1) or (H, W, 3) RGB; None where nothing may be judged.
        failure: Why there is no image (incomplete, unreadable, lines lost); None where there is one.
        part_id: From a trigger or a reader; None lets the pipeline number the frame.
        path: The file it came from, if any.
        encoder_count: At the grab, if the source knows it.
        strip: Where on the web, for line-scan sources.
        reply: Who waits for the answer, told once, as for a line of JSON; None: there will be none. Does not wait.
    """

    grabbed_ns: int
    image: Pixels | None = None
    failure: str | None = None
    part_id: str | None = None
    path: str | None = None
    encoder_count: int | None = None
    strip: Strip | None = None
    reply: Callable[[dict[str, Json] | None], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """A grab in the pipeline; exactly one answer is given for it.

    Attributes:
        camera: Its name.
        number: Counts the frames of one camera from 0; answers leave in this order.
        key: Of the part in our books: unique over cameras and restarts, though pallets bring their ids again.
        part_id: What everybody else calls the part.
        grab: What the source gave.
        deadline_ns: `time.monotonic_ns` at which it is answered UNKNOWN at the latest; None for no deadline.
        grabbed_at: Wall clock in seconds since 1970, for records only.
        checks_freezing: The camera never gives the same bytes twice, so that an identical frame is a frozen one.
    """

    camera: str
    number: int
    key: str
    part_id: str
    grab: Grab
    deadline_ns: int | None
    grabbed_at: float
    checks_freezing: bool = False
