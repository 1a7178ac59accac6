from __future__ import annotations

import json
import os
import shutil
import stat
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


def _checked(files: list[Path], *, kept_files: int) -> Verdict:
    return check(
        files,
        {},
        spots=[],
        web_lines=1000,
        frame_lines=64,
        overlap_lines=16,
        deadline_ms=250,
        kept_files=kept_files,
    )


def _write_results(path: Path, run: str, numbers: range) -> Path:
    line = {"kind": "result", "decision": "OK", "cause": "judged", "latency_ms": 9.0, "encoder_count": 0}
    path.write_text("".join(json.dumps({**line, "part_id": f"{run}-{number:08}"}) + "\n" for number in numbers))
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


def test_a_broker_that_is_slow_to_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin"
    slow = tmp_path / "mosquitto"
    slow.write_text(f'#!/bin/sh\nsleep 1.5\nexec {shutil.which("mosquitto", path=path)} "$@"\n')
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    Broker(tmp_path).close()
