"""What leaves the pipeline: one answer a part, events for people, and heartbeats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Decision, Pixels
from reason_runtime.image import InputFormat
from reason_runtime.strict_json import Json

# Why a decision is UNKNOWN, one word for counters; the sentence stands beside it.
Cause = Literal[
    "judged",
    "not-finite",
    "no-threshold",
    "deadline",
    "dropped",
    "incomplete",
    "blind",
    "error",
    "hung",
    "stopped",
    "journal",
    "repeated",
    "restart",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One connected region at or above the pixel threshold.

    Attributes:
        x_px: Left edge in the frame.
        width_px: Of its box.
        first_line: Of its box; a row of the frame, or the line number on a web.
        lines: Of its box.
        peak: Highest map value, raw units.
        encoder_count: At its first line, on a web.
        lane: Counted from 0 at the left, on a web.
        x_mm: Left edge across the web, where the pixel pitch is known.
        y_mm: First line along the web since the start, where the line pitch is known.
    """

    x_px: int
    width_px: int
    first_line: int
    lines: int
    peak: float
    encoder_count: int | None = None
    lane: int | None = None
    x_mm: float | None = None
    y_mm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What a saved part shows: the frame as grabbed and, of a reject, its map in raw units.

    Attributes:
        image: The frame.
        anomaly_map: None where there is none.
        input_format: Of the bundle that judged it: how the frame is read, and which part of it the map covers. None:
            that of the bundle in use.
    """

    image: Pixels
    anomaly_map: NDArray[np.float32] | None
    input_format: InputFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The one decision about a part; `OK` passes, everything else is a reject.

    Attributes:
        camera: Its name.
        number: Of the frame, per camera.
        key: Of the part in our books; see `Frame`. Never in JSON.
        part_id: What everybody else calls the part.
        decision: OK, NG or UNKNOWN.
        cause: One word: `judged`, or why it is UNKNOWN.
        reason: The sentence to that word; None where it was judged.
        score: Raw units; None where there is none.
        threshold: In force; None where there is none.
        threshold_source: Where that came from.
        grabbed: ISO 8601, UTC, wall clock.
        latency_ms: From the grab to the answer; None for one given after a restart.
        bundle: First 12 digits of the bundle's content hash.
        path: File that the frame came from.
        encoder_count: At the grab, or at the first line of a web's frame.
        first_line: Of a web's frame, since the source started; lost lines count where it is known how many they were.
        valid_lines: Of a web's frame.
        defects: Regions at or above the pixel threshold, in pixels of the frame; on a web each is listed once, by one
            frame.
        picture: For sinks that save rejects, or ask for OK parts too; never in JSON.
    """

    camera: str
    number: int
    key: str
    part_id: str
    decision: Decision
    cause: Cause
    reason: str | None = None
    score: float | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    grabbed: str
    latency_ms: float | None = None
    bundle: str | None = None
    path: str | None = None
    encoder_count: int | None = None
    first_line: int | None = None
    valid_lines: int | None = None
    defects: tuple[Defect, ...] = ()
    picture: Picture | None = field(default=None, repr=False)

    @property
    def is_reject(self) -> bool:
        """True for NG and for UNKNOWN."""
        return self.decision != "OK"

    def line(self) -> dict[str, Json]:
        """For one line of JSON; what has no value is null."""
        return {
            "kind": "result",
            "camera": self.camera,
            "frame": self.number,
            "part_id": self.part_id,
            "decision": self.decision,
            "reject": self.is_reject,
            "cause": self.cause,
            "reason": self.reason,
            "score": self.score,
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "grabbed": self.grabbed,
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
            "bundle": self.bundle,
            "path": self.path,
            "encoder_count": self.encoder_count,
            "first_line": self.first_line,
            "valid_lines": self.valid_lines,
            "defects": [asdict(defect) for defect in self.defects],
        }

    def without_picture(self) -> Answer:
        """The same without its pixels, which would fill a buffer."""
        return self if self.picture is None else replace(self, picture=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that people should know: a camera lost, a stage failed, a bundle swapped.

    Attributes:
        level: `info` or `fault`.
        name: Short and stable, for filters.
        text: One sentence.
        at: ISO 8601, UTC.
    """

    level: Literal["info", "fault"]
    name: str
    text: str
    at: str

    def line(self) -> dict[str, Json]:
        """For one line of JSON."""
        return {"kind": "event", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A heartbeat: the count goes up only while everything is healthy.

    Attributes:
        count: Healthy beats since the start.
        healthy: No fault at present that a decision depends on.
        faults: What is wrong, by what it is wrong with.
        busy: A part is waiting for its answer.
    """

    count: int
    healthy: bool
    faults: dict[str, str]
    busy: bool

    def line(self) -> dict[str, Json]:
        """For one line of JSON."""
        return {"kind": "beat", "count": self.count, "healthy": self.healthy, "faults": dict(self.faults)}


Message = Answer | Event | Beat


def now_text() -> str:
    """The wall clock, ISO 8601 UTC, to the millisecond."""
    return wall_text(datetime.now(timezone.utc).timestamp())


def wall_text(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
