"""Where the time of a training goes: waiting for images, the teacher's features, the student's steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from reason_train.checkpoint import read_log

T = TypeVar("T")
IN_A_ROW = 8
"""Steps that a time is a mean of: whole groups of what `teacher_views` computes at once, whatever the batch size."""
Phase = Literal["reading", "teacher", "student"]


class PhaseClock:
    """Seconds since the last `take`, by phase.

    Args:
        wait: Called at the end of a phase: a GPU works on after its commands were given.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self._wait = wait
        self._seconds: dict[Phase, float] = {"reading": 0.0, "teacher": 0.0, "student": 0.0}

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Count the time inside."""
        started = time.perf_counter()
        yield
        self._wait()
        self._seconds[phase] += time.perf_counter() - started

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the time that each was waited for counted as reading."""
        waiting = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(waiting, None)
            self._seconds["reading"] += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def take(self) -> dict[Phase, float]:
        """Seconds by phase, and start again from zero."""
        taken = {phase: round(seconds, 6) for phase, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time of a whole training went, over all its resumptions; calibration is not in it."""

    reading_s: float
    """Waiting for images to be read and decoded; what is read ahead costs nothing."""
    teacher_s: float
    """The frozen teacher, its kept features and the latent noise."""
    student_s: float
    """Suppression, bottleneck, student, loss, gradients and optimiser."""
    ms_per_step: float
    """Median over rows of 8 steps of a row's mean, of everything a step does; what is done once before the first is not
    in it, in trainings of some rows."""

    def text(self) -> str:
        """One line."""
        return (
            f"time: reading {self.reading_s:.1f} s, teacher {self.teacher_s:.1f} s, student {self.student_s:.1f} s; "
            f"{self.ms_per_step:.1f} ms a step"
        )


def read_timing(log: Path) -> Timing | None:
    """The timing of a finished training, from the lines of its log that can be read; None where there is none."""
    names = ("reading_s", "teacher_s", "student_s")
    lines = [line for line in read_log(log) if line.keys() >= set(names)]
    if not lines:
        return None
    phases = {name: [line[name] for line in lines] for name in names}
    steps = [sum(each) for each in zip(*phases.values(), strict=True)]
    rows = [steps[i : i + IN_A_ROW] for i in range(0, max(1, len(steps) - IN_A_ROW + 1), IN_A_ROW)]
    return Timing(
        reading_s=round(sum(phases["reading_s"]), 3),
        teacher_s=round(sum(phases["teacher_s"]), 3),
        student_s=round(sum(phases["student_s"]), 3),
        ms_per_step=round(1000 * statistics.median(map(statistics.mean, rows)), 3),
    )
