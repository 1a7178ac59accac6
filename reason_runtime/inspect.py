"""Frames of a folder or a video file, judged one after the other as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from reason_runtime.detector import Detector, Pixels
from reason_runtime.errors import DataError
from reason_runtime.predict import Judgement, expand, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a run was.

    Attributes:
        frames: Judged or not.
        failed: Of these, how many got no score.
        fps: Frames per second of the whole run, reading and decoding included.
        p50_ms: Median latency from the frame in memory to the decision; None where no frame was judged.
        p99_ms: The latency that 99 % of the frames stay within.
    """

    frames: int
    failed: int
    fps: float
    p50_ms: float | None
    p99_ms: float | None


class PaceMeter:
    """Counts frames and keeps their latencies; the clock starts when it is made."""

    def __init__(self) -> None:
        self._started_ns = time.perf_counter_ns()
        self._latencies_ms: list[float] = []
        self._frames = 0
        self._failed = 0

    def add(self, judgement: Judgement) -> None:
        """Count one frame."""
        self._frames += 1
        self._failed += judgement.failure is not None
        if judgement.result is not None:
            self._latencies_ms.append(judgement.result.latency_ms)

    def pace(self) -> Pace:
        """How fast it was up to now."""
        seconds = (time.perf_counter_ns() - self._started_ns) / 1e9
        p50_ms, p99_ms = np.percentile(self._latencies_ms, (50, 99)) if self._latencies_ms else (None, None)
        return Pace(
            frames=self._frames,
            failed=self._failed,
            fps=self._frames / seconds,
            p50_ms=None if p50_ms is None else float(p50_ms),
            p99_ms=None if p99_ms is None else float(p99_ms),
        )


def inspect(detector: Detector, source: str | Path) -> Iterator[Judgement]:
    """Judge every frame of a source, in order.

    Args:
        detector: From `load`.
        source: A folder of images or a video file.

    Raises:
        DataError: The source does not exist, holds no frame, or is of another kind.
        BackendError: The inference library failed.
    """
    for frame in frames(source):
        yield judge(detector, frame)


def frames(source: str | Path) -> Iterator[Path | Pixels]:
    """The images of a folder as paths, or the frames of a video as (H, W, 3) RGB.

    Raises:
        DataError: See `inspect`.
    """
    path = Path(source)
    if path.is_dir():
        yield from expand([path])
        return
    if not path.is_file():
        raise DataError(f"{source}: does not exist; expected a folder of images or a video file")
    video = cv2.VideoCapture(str(path))
    try:
        count = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            count += 1
            yield np.ascontiguousarray(frame[:, :, ::-1], dtype=np.uint8)
        if count == 0:
            raise DataError(f"{path}: holds no frame that can be read; expected a folder of images or a video file")
    finally:
        video.release()
