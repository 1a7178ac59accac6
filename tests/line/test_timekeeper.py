from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reason_runtime.line.journal import Journal
from reason_runtime.line.ledger import Ledger
from reason_runtime.line.messages import Message
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.pipeline import PipelineSettings
from reason_runtime.line.publisher import Publisher
from reason_runtime.line.stage import Desk
from reason_runtime.line.timekeeper import Timekeeper
from reason_runtime.line.watch import Watch
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.line.models import line_bundle, part
from tests.line.stations import ListSink, camera, running


def clock_of(
    ledger: Ledger, publisher: Publisher, metrics: Metrics, *, heartbeat_s: float, publish: Callable[[Message], None]
) -> Timekeeper:
    return Timekeeper(
        desk=Desk(ledger=ledger, health=publisher.health, metrics=metrics, watch=Watch()),
        grabbers=[],
        journal=None,
        hang_s=10,
        heartbeat_s=heartbeat_s,
        publish=publish,
        hung=lambda *_: None,
    )


def test_the_clock_goes_on_after_a_turn_that_failed_and_says_so() -> None:
    metrics, sink = Metrics(), ListSink()
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([sink])
    ledger = Ledger(publish=publisher.publish, journal=None, metrics=metrics, journal_failed=lambda _: None)
    left = [MemoryError("no room"), MemoryError("no room")]

    def publish(message: Message) -> None:
        if left:
            raise left.pop()
        publisher.publish(message)

    clock = clock_of(ledger, publisher, metrics, heartbeat_s=0.02, publish=publish)
    clock.thread.start()
    sink.wait(lambda: any(beat.healthy for beat in sink.beats))
    clock.stop()
    ledger.wake()
    clock.thread.join(5)
    publisher.finish(1)
    assert [event.level for event in sink.events if event.name == "timekeeper"] == ["fault", "info"]
    assert "MemoryError: no room" in sink.events[0].text


def test_a_pause_of_the_whole_process_is_followed_by_no_burst_of_heartbeats() -> None:
    beats_s: list[float] = []
    metrics = Metrics()
    publisher = Publisher(metrics=metrics, journal=None)
    ledger = Ledger(publish=publisher.publish, journal=None, metrics=metrics, journal_failed=lambda _: None)

    def publish(_: Message) -> None:
        beats_s.append(time.monotonic())
        if len(beats_s) == 1:
            time.sleep(0.5)

    clock = clock_of(ledger, publisher, metrics, heartbeat_s=0.05, publish=publish)
    clock.thread.start()
    until_s = time.monotonic() + 10
    while len(beats_s) < 10 and time.monotonic() < until_s:
        time.sleep(0.01)
    clock.stop()
    ledger.wake()
    clock.thread.join(5)
    assert beats_s[9] - beats_s[1] > 0.2  # those that fell into the pause are left out


def test_a_clock_that_waits_for_a_disk_for_a_moment_is_no_end_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_disk, stalls = os.fdatasync, [0.5]

    def slow(descriptor: int) -> None:
        time.sleep(stalls.pop() if stalls else 0)
        to_disk(descriptor)

    journal = Journal(tmp_path / "journal", sync=True)
    monkeypatch.setattr("os.fdatasync", slow)
    settings = PipelineSettings(hang_s=0.2, heartbeat_s=0.02)
    parts = camera(part(130), *[0.05] * 60, live=True)
    with running(line_bundle(tmp_path / "line").path, parts, journal=journal, settings=settings) as line:
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:  # longer than the clock may take for a turn
            assert not line.pipeline.wait(0.02)
        assert line.close() == "stopped"
    assert line.sink.causes == ["judged"]
    journal.close()


def test_a_line_that_waits_for_its_camera_takes_no_processor_time(tmp_path: Path) -> None:
    with running(line_bundle(tmp_path / "line").path, camera(*[0.1] * 10, live=True)) as line:
        time.sleep(0.2)
        used_s, started_s = time.process_time(), time.monotonic()
        time.sleep(0.6)
        assert time.process_time() - used_s < (time.monotonic() - started_s) / 4
        line.close()


def test_a_journal_whose_disk_fails_stops_the_heartbeat_until_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", sync=True)
    to_disk, failing = os.fdatasync, threading.Event()

    def fails(descriptor: int) -> None:
        if failing.is_set():
            raise OSError(errno.EIO, "Input/output error")
        to_disk(descriptor)

    monkeypatch.setattr("os.fdatasync", fails)
    failing.set()
    parts = camera(part(130), *[0.05] * 60, live=True)
    settings = PipelineSettings(heartbeat_s=0.02)
    sink = ListSink(down=True)  # else what it delivers is recorded too, and says that the disk fails
    with running(line_bundle(tmp_path / "line").path, parts, journal=journal, settings=settings, sink=sink) as line:
        health, until_s = line.publisher.health, time.monotonic() + 5
        while health.beat(busy=False).healthy:
            assert time.monotonic() < until_s
            time.sleep(0.005)
        failing.clear()
        while not health.beat(busy=False).healthy:
            assert time.monotonic() < until_s
            time.sleep(0.005)
        sink.down = False
        line.close()
    assert sink.causes == ["journal"]
    assert [event.level for event in sink.events if event.name == "journal"] == ["fault", "info"]
    journal.close()


@NEEDS_MOUNT
def test_a_journal_whose_disk_was_freed_is_well_before_a_part_comes(tmp_path: Path) -> None:
    bundle = line_bundle(tmp_path / "line").path
    with small_disk(tmp_path / "disk", size="16k") as disk:
        journal = Journal(disk / "journal")
        (disk / "filler").write_bytes(bytes(16_384))
        settings = PipelineSettings(heartbeat_s=0.05)
        parts = camera(part(130), *[0.05] * 60, live=True)
        with running(bundle, parts, journal=journal, settings=settings) as line:
            line.sink.wait(lambda: any(not beat.healthy for beat in line.sink.beats), 5)
            time.sleep(0.2)
            assert not line.sink.beats[-1].healthy
            (disk / "filler").unlink()
            line.sink.wait(lambda: line.sink.beats[-1].healthy, 2)
            line.close()
        assert line.sink.causes == ["journal"]
        assert [event.level for event in line.sink.events if event.name == "journal"] == ["fault", "info"]
        journal.close()
