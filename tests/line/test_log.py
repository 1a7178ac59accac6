from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from reason_runtime.line.log import Log
from tests.line.disks import NEEDS_MOUNT, enlarge, small_disk


def test_lines_are_written_in_order_to_a_file_and_to_a_stream_that_is_none(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        log = Log(stream)
        for number in range(500):
            log.say(f"line {number} \udcff")
        assert log.finish(5)
    assert (tmp_path / "log").read_text().splitlines() == [rf"line {number} \udcff" for number in range(500)]
    text = io.StringIO()
    log = Log(text)
    log.say("here")
    assert log.finish(5)
    assert text.getvalue() == "here\n"
    log = Log(None)
    log.say("nowhere")
    assert log.finish(5)


def test_a_pipe_that_nobody_empties_delays_nobody() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as stream:
        log = Log(stream)
        started_s = time.monotonic()
        for _ in range(2_000):
            log.say("x" * 1000)
        assert time.monotonic() - started_s < 1
        assert not log.finish(0.1)
        while len(os.read(reader, 1 << 20)) == 1 << 16:  # let its thread end
            time.sleep(0.01)


@NEEDS_MOUNT
def test_a_full_disk_delays_nobody_and_has_the_lines_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.log._PAUSE_S", 0.02)
    with small_disk(tmp_path / "disk", size="16k") as disk:
        (disk / "filler").write_bytes(bytes(12_000))
        with (disk / "log").open("w") as stream:
            log = Log(stream)
            for number in range(100):
                log.say(f"{number:0100}")
            time.sleep(0.1)
            assert (disk / "log").stat().st_size == 4096
            (disk / "filler").unlink()
            enlarge(disk, size="1m")
            until_s = time.monotonic() + 5
            while (disk / "log").stat().st_size < 100 * 101 and time.monotonic() < until_s:
                time.sleep(0.01)
            assert log.finish(5)
        assert (disk / "log").read_text().splitlines() == [f"{number:0100}" for number in range(100)]


def test_a_log_that_fails_until_the_end_ends_nevertheless() -> None:
    with open("/dev/full", "w") as stream:
        log = Log(stream)
        log.say("one")
        log.say("two")
        assert log.finish(2)
