from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.soak import soak
from benchmarks.soak_check import Verdict, broken, check
from benchmarks.soak_station import Broker

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root"),
    pytest.mark.skipif(
        shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="mosquitto is not installed"
    ),
]


@pytest.mark.slow
def test_no_part_is_lost_no_defect_passes_and_memory_stays_flat_in_a_soak_of_minutes(tmp_path: Path) -> None:
    found = soak(tmp_path, seconds=170)
    assert broken(found) == []
    loads = found["loads"]
    assert set(loads) == {"0.8", "1.5"}
    for report in loads.values():
        assert report["processes"] >= 2
        assert report["parts"] > 50
        assert report["decisions"]["NG"] > 0
        assert report["heard"] > 0
        assert "camera web" in report["events"]  # unplugged on purpose
        assert report["rss_mib"][1] < report["rss_mib"][0] + 40  # where the machine is too slow for a slope
    assert found["faults"]["killed and restarted"] >= 2


def test_a_soak_that_lost_a_part_or_grows_is_told() -> None:
    good = {
        **dict.fromkeys(("lost", "contradicted", "passed_defects", "late"), 0),
        "threads": [9, 10],
        "descriptors": [9, 9],
        "rss_slope_mib_per_10000_frames": 0.2,
    }
    assert broken({"loads": {"0.8": good}}) == []
    bad = {**good, "lost": 2, "threads": [9, 12], "rss_slope_mib_per_10000_frames": 1.5}
    found = broken({"loads": {"0.8": good, "1.5": bad}})
    assert found == [
        "lost is 2 at load 1.5, expected 0",
        "threads grew from 9 to 12 at load 1.5",
        "memory grows by 1.50 MiB per 10,000 frames at load 1.5, at most 1",
    ]


def _checked(files: list[Path], *, kept_files: int = 1, spots: Sequence[tuple[int, int]] = ()) -> Verdict:
    return check(
        files,
        {},
        spots=spots,
        web_lines=1000,
        frame_lines=64,
        overlap_lines=16,
        deadline_ms=250,
        kept_files=kept_files,
    )


def _write_results(path: Path, run: str, numbers: range, *, last_valid_lines: int = 64) -> Path:
    """Frames of 64 lines that share 16, all OK."""
    line = {"kind": "result", "decision": "OK", "cause": "judged", "latency_ms": 9.0}
    results = [
        {**line, "part_id": f"{run}-{n:08}", "frame": n, "encoder_count": 48 * n, "valid_lines": 64} for n in numbers
    ]
    results[-1]["valid_lines"] = last_valid_lines
    path.write_text("".join(json.dumps(result) + "\n" for result in results))
    return path


def test_parts_whose_results_the_sink_has_removed_are_not_lost_ones(tmp_path: Path) -> None:
    files = [
        _write_results(tmp_path / "results.jsonl.1", "web-a", range(500, 600)),
        _write_results(tmp_path / "results.jsonl", "web-b", range(50)),
    ]
    assert _checked(files, kept_files=1).lost == 0
    assert _checked(files, kept_files=2).lost == 500  # nothing can have been removed yet
    _write_results(files[0], "web-a", range(500, 600, 2))
    _write_results(files[1], "web-b", range(3, 50))
    assert _checked(files, kept_files=1).lost == 49 + 3


@pytest.mark.parametrize(
    ("row", "passed"),
    [(0, 1), (7, 1), (55, 1), (56, 1), (103, 1), (104, 1), (127, 1), (128, 0), (152, 0)],
)
def test_a_defect_passes_where_the_one_frame_that_owns_its_line_is_ok(tmp_path: Path, row: int, passed: int) -> None:
    files = [_write_results(tmp_path / "results.jsonl", "web-a", range(3), last_valid_lines=32)]  # lines 96 to 127
    assert _checked(files, spots=[(row, 1)]).passed_defects == passed


def test_after_a_break_the_first_lines_are_owned_too(tmp_path: Path) -> None:
    before = _write_results(tmp_path / "before", "web-a", range(3), last_valid_lines=32)
    after = _write_results(tmp_path / "after", "web-a", range(3, 5))
    whole = tmp_path / "results.jsonl"
    whole.write_bytes(before.read_bytes() + after.read_bytes())
    assert _checked([whole], spots=[(3 * 48 + 2, 1)]).passed_defects == 1


def test_a_broker_that_is_slow_to_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin"
    slow = tmp_path / "mosquitto"
    slow.write_text(f'#!/bin/sh\nsleep 1.5\nexec {shutil.which("mosquitto", path=path)} "$@"\n')
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    Broker(tmp_path).close()
