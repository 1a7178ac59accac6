"""Counts and times of a running line, kept whether or not anybody asks for them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sized
from dataclasses import dataclass, field

# seconds; from a tenth of the smallest model's latency to the longest sensible deadline
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
# score / threshold; finest where good parts and faint defects lie
BUCKETS_SCORE = (0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
_KEPT = 4096  # latest latencies, for percentiles


@dataclass(slots=True)
class Histogram:
    """Observations by bucket; the last bucket holds what is above all bounds."""

    bounds: tuple[float, ...] = BUCKETS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Histogram:
        """One that nobody changes."""
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment.

    Attributes:
        frames: By camera.
        decisions: By (camera, decision).
        causes: UNKNOWN answers by (camera, cause); a dropped frame has the cause `dropped`.
        grabbed_bad: Incomplete frames by camera.
        missed: Messages that a sink never delivered, by sink.
        stages: Latency histogram by stage.
        scores: Histogram of score / threshold by camera.
        drifts: By camera, see `Metrics.drift`.
        queues: Depth by queue.
        latest_ms: Latencies from grab to answer of the latest parts, oldest first.
    """

    frames: dict[str, int]
    decisions: dict[tuple[str, str], int]
    causes: dict[tuple[str, str], int]
    grabbed_bad: dict[str, int]
    missed: dict[str, int]
    stages: dict[str, Histogram]
    scores: dict[str, Histogram]
    drifts: dict[str, float]
    queues: dict[str, int]
    latest_ms: list[float]


class Metrics:
    """Counters that threads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: Counter[str] = Counter()
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._causes: Counter[tuple[str, str]] = Counter()
        self._bad: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._stages: dict[str, Histogram] = {}
        self._scores: dict[str, Histogram] = {}
        self._drifts: dict[str, float] = {}
        self._latest_ms: deque[float] = deque(maxlen=_KEPT)
        self._queues: dict[str, Sized] = {}

    def watch_queue(self, name: str, queue: Sized) -> None:
        """Report the depth of a queue from now on."""
        with self._lock:
            self._queues[name] = queue

    def grabbed(self, camera: str, *, complete: bool) -> None:
        """Count a frame as it comes."""
        with self._lock:
            self._frames[camera] += 1
            self._bad[camera] += not complete

    def answered(self, camera: str, *, decision: str, cause: str, latency_ms: float | None) -> None:
        """Count an answer as it leaves."""
        with self._lock:
            self._decisions[camera, decision] += 1
            if decision == "UNKNOWN":
                self._causes[camera, cause] += 1
            if latency_ms is not None:
                self._latest_ms.append(latency_ms)
                self._stages.setdefault("total", Histogram()).add(latency_ms / 1000)

    def stage(self, name: str, seconds: float) -> None:
        """Count the time that one frame, or one batch, spent in a stage."""
        with self._lock:
            self._stages.setdefault(name, Histogram()).add(seconds)

    def scored(self, camera: str, ratio: float) -> None:
        """Count a score as a multiple of the threshold."""
        with self._lock:
            self._scores.setdefault(camera, Histogram(BUCKETS_SCORE)).add(ratio)

    def drift(self, camera: str, value: float | None) -> None:
        """Where the median of late scores lies: 0 is the mean of held-out good images, -1 and 1 are the limits."""
        with self._lock:
            if value is None:
                self._drifts.pop(camera, None)
            else:
                self._drifts[camera] = value

    def missed(self, sink: str, count: int = 1) -> None:
        """Count messages that a sink will never deliver."""
        with self._lock:
            self._missed[sink] += count

    def snapshot(self) -> Snapshot:
        """A copy that nobody changes."""
        with self._lock:
            queues = dict(self._queues)
            found = Snapshot(
                frames=dict(self._frames),
                decisions=dict(self._decisions),
                causes=dict(self._causes),
                grabbed_bad=dict(self._bad),
                missed=dict(self._missed),
                stages={name: item.copy() for name, item in self._stages.items()},
                scores={name: item.copy() for name, item in self._scores.items()},
                drifts=dict(self._drifts),
                queues={},
                latest_ms=list(self._latest_ms),
            )
        found.queues.update({name: len(queue) for name, queue in queues.items()})  # their locks, not under ours
        return found
