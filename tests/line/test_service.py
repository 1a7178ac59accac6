"""The systemd unit in docs/, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "docs" / "reason-inspect.service"
ANALYZE = shutil.which("systemd-analyze")
pytestmark = pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")


def complaints(text: str, folder: Path) -> str:
    """What systemd says of a unit whose program is there."""
    assert ANALYZE
    program = folder / "reason-run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / UNIT.name
    unit.write_text(text.replace("/opt/reason/bin/reason-run", str(program)))
    done = subprocess.run([ANALYZE, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if UNIT.name in line)


def test_systemd_has_nothing_against_the_unit(tmp_path: Path) -> None:
    assert complaints(UNIT.read_text(), tmp_path) == ""


def test_systemd_tells_what_is_wrong_in_a_unit(tmp_path: Path) -> None:
    assert "WatchdogSecs" in complaints(UNIT.read_text().replace("WatchdogSec=", "WatchdogSecs="), tmp_path)


def test_the_unit_outlasts_the_drain_and_watches_the_heartbeat() -> None:
    settings = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line)
    assert settings["Type"] == "notify"
    assert settings["Restart"] == "always"
    assert float(settings["TimeoutStopSec"]) > 5  # what `inspect` promises after SIGTERM
    assert settings["ExecStart"].split()[1:] == ["inspect", "--config", "/etc/reason/station.toml"]
