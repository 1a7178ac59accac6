"""Where the time of a training goes, in the log, in JSON and in one line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reason_train.run import LOG
from reason_train.timing import PhaseClock, Timing, read_timing
from tests.commands import call
from tests.pictures import good_parts
from tests.train.trainings import small_training


def test_each_phase_is_counted_on_its_own_and_taken_once() -> None:
    def batches() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number

    clock, seen = PhaseClock(), []
    for batch in clock.reading(batches()):
        with clock.during("teacher"):
            time.sleep(0.01)
        with clock.during("student"):
            time.sleep(0.03)
        seen.append(batch)
    assert seen == [0, 1, 2]
    taken = clock.take()
    for phase, least in (("reading", 0.06), ("teacher", 0.03), ("student", 0.09)):
        assert least <= taken[phase] < least + 0.1  # type: ignore[index]
    assert clock.take() == {"reading": 0.0, "teacher": 0.0, "student": 0.0}


def test_the_timing_is_the_sum_over_steps_and_the_median_of_eight_in_a_row(tmp_path: Path) -> None:
    keeping = [(5.0, 20.0, 0.1), *[(0.0, 0.0, 0.1)] * 7]
    pairs = [(0.01, 0.07, 0.1), (0.0, 0.0, 0.1)] * 4  # the teacher sees the images of two steps at once: 140 ms
    slower = [(0.0, 0.1, 0.1)] * 8
    steps = [*keeping, *pairs, *pairs, *slower, *[(0.0, 5.0, 0.0)] * 3]  # the last are no whole row
    lines = [dict(zip(("reading_s", "teacher_s", "student_s"), step, strict=True)) for step in steps]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing = read_timing(tmp_path / LOG)
    assert timing is not None
    assert timing == Timing(reading_s=5.08, teacher_s=36.36, student_s=3.2, ms_per_step=170.0)
    assert timing.text() == "time: reading 5.1 s, teacher 36.4 s, student 3.2 s; 170.0 ms a step"


@pytest.mark.parametrize("content", [None, b"", b"\xff\n{", b'{"step": 1}\n', b"[]\n"])
def test_a_log_that_says_nothing_gives_no_timing(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / LOG).write_bytes(content)
    assert read_timing(tmp_path / LOG) is None


@pytest.mark.parametrize("cache_mib", [4096, 0], ids=["kept features", "images read again"])
def test_the_phases_of_a_training_fit_into_its_time(cache_mib: int, tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=6)
    started = time.perf_counter()
    timing = small_training(data, tmp_path / "run", cache_mib=cache_mib).timing
    seconds = time.perf_counter() - started
    assert timing is not None
    assert min(timing.reading_s, timing.teacher_s, timing.student_s) > 0
    assert timing.reading_s + timing.teacher_s + timing.student_s <= seconds
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert sum(line["student_s"] for line in lines) == pytest.approx(timing.student_s, abs=1e-3)


def test_fit_says_where_the_time_went(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=4)
    arguments = ("fit", "--data", data, "--steps", 2, "--batch-size", 2, "--image-size", 64, "--device", "cpu")
    said = call("reason-train", *arguments, "--out", tmp_path / "text").output
    timing = read_timing(tmp_path / "text" / LOG)
    assert timing is not None
    assert timing.text() in said.splitlines()
    facts = json.loads(call("reason-train", *arguments, "--out", tmp_path / "json", "--json").output)
    assert set(facts["timing"]) == {"reading_s", "teacher_s", "student_s", "ms_per_step"}
    assert facts["timing"]["ms_per_step"] > 0
