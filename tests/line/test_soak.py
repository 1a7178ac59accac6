from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from benchmarks.soak import soak

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root"),
    pytest.mark.skipif(
        shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="mosquitto is not installed"
    ),
]


def hold(found: dict[str, object]) -> None:
    loads = found["loads"]
    assert isinstance(loads, dict)
    assert set(loads) == {"0.8", "1.5"}
    for report in loads.values():
        for name in ("lost", "contradicted", "passed_defects", "late"):
            assert report[name] == 0, (name, report)
        assert report["processes"] >= 2
        assert report["parts"] > 50
        assert report["decisions"]["NG"] > 0
        assert report["heard"] > 0
        first, last = report["threads"]
        assert last <= first + 1
        first, last = report["descriptors"]
        assert last <= first + 3
        if report["frames_behind_slope"] > 10_000:
            assert report["rss_slope_mib_per_10000_frames"] < 1


def test_no_part_is_lost_and_no_defect_passes_in_a_short_soak(tmp_path: Path) -> None:
    hold(soak(tmp_path, seconds=8))


@pytest.mark.slow
def test_no_part_is_lost_and_memory_stays_flat_in_a_long_soak(tmp_path: Path) -> None:
    hold(soak(tmp_path, seconds=900))
