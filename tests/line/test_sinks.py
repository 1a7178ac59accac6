from __future__ import annotations

import dataclasses
import errno
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.image import decode_file
from reason_runtime.line.frame import Frame, Grab
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Answer, Beat, Event, Message, Picture
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.line.models import Models
from reason_runtime.line.publisher import Publisher
from reason_runtime.line.sinks.bounded_folder import file_name
from reason_runtime.line.sinks.frames import FramesSink
from reason_runtime.line.sinks.jsonl import JsonlSink, StdoutSink
from reason_runtime.line.sinks.opcua import OpcUaSink
from reason_runtime.line.sinks.open import open_sink
from reason_runtime.line.sinks.pictures import PicturesSink
from reason_runtime.line.sinks.plc import PlcState
from reason_runtime.line.sinks.sink import Sink
from reason_runtime.line.sources.open import open_source
from tests.line.disks import NEEDS_MOUNT, enlarge, small_disk
from tests.line.models import line_bundle, part
from tests.line.ports import free_port
from tests.line.stations import ListSink


def answer(number: int, decision: str = "OK", *, picture: bool = False) -> Answer:
    return Answer(
        camera="top",
        number=number,
        key=f"key-{number:04}",
        part_id=f"part-{number:04}",
        decision=decision,  # type: ignore[arg-type]
        cause="judged" if decision != "UNKNOWN" else "deadline",
        score=None if decision == "UNKNOWN" else number / 8,
        threshold=0.5,
        grabbed="2026-01-01T00:00:00.000+00:00",
        latency_ms=12.5,
        picture=Picture(image=part(250), anomaly_map=np.ones((32, 32), np.float32)) if picture else None,
    )


def beat(count: int, *, healthy: bool = True) -> Beat:
    return Beat(count=count, healthy=healthy, faults={} if healthy else {"camera top": "lost"}, busy=False)


EVENT = Event(level="fault", name="camera top", text="lost", at="2026-01-01T00:00:00.000+00:00")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LineModel:
    return LineModel(load(line_bundle(tmp_path_factory.mktemp("b") / "line").path, threads=1))


@contextmanager
def opened(text: str, model: LineModel, metrics: Metrics | None = None) -> Iterator[Sink]:
    sink = open_sink(text, models=Models({"top": model}), metrics=metrics or Metrics())
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


def part_ids(*paths: Path) -> list[str]:
    return [json.loads(line).get("part_id") for path in paths for line in path.read_text().splitlines()]


def test_lines_of_json_hold_answers_and_events_and_no_heartbeat(model: LineModel, tmp_path: Path) -> None:
    messages: list[Message] = [answer(1), beat(1), EVENT, answer(2, "UNKNOWN")]
    with opened(f"jsonl:{tmp_path}/a/b.jsonl?fsync=always", model) as sink:
        sink.deliver(messages)
    lines = [json.loads(line) for line in (tmp_path / "a" / "b.jsonl").read_text().splitlines()]
    assert lines == [messages[0].line(), EVENT.line(), messages[3].line()]
    assert lines[2]["score"] is None
    assert [line["kind"] for line in lines] == ["result", "event", "result"]


def test_files_are_rotated_and_the_oldest_removed(tmp_path: Path) -> None:
    one = len(json.dumps(answer(13).line())) + 1
    path = tmp_path / "r.jsonl"
    sink = JsonlSink(path, max_bytes=3 * one, keep=2, fsync="never")
    sink.open()
    for number in range(14):
        sink.deliver([answer(number)])
    sink.close()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.1", "r.jsonl.2"]
    expected = [f"part-{number:04}" for number in range(6, 14)]
    assert part_ids(path.with_name("r.jsonl.2"), path.with_name("r.jsonl.1"), path) == expected


def test_a_line_that_a_kill_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"kind": "result", "par')
    sink = JsonlSink(path, max_bytes=10**6, keep=2, fsync="never")
    sink.open()
    sink.deliver([answer(3)])
    sink.close()
    assert json.loads(path.read_text().splitlines()[1])["part_id"] == "part-0003"


@pytest.mark.parametrize("away", ["removed", "moved", "replaced", "folder removed"])
def test_lines_are_where_the_path_says_though_somebody_took_the_file_away(tmp_path: Path, away: str) -> None:
    path = tmp_path / "a" / "r.jsonl"
    sink = JsonlSink(path, max_bytes=10**6, keep=2, fsync="never")
    sink.open()
    sink.deliver([answer(1)])
    if away == "removed":
        path.unlink()
    elif away == "moved":
        path.rename(tmp_path / "old.jsonl")
    elif away == "replaced":
        (tmp_path / "other").write_text("")
        (tmp_path / "other").replace(path)
    else:
        shutil.rmtree(path.parent)
    sink.deliver([answer(2)])
    sink.deliver([answer(3)])
    sink.close()
    assert part_ids(path) == ["part-0002", "part-0003"]


# Opens a sink, hands on two answers for each line of standard input, and says so.
WRITER = """
import sys
from pathlib import Path
from reason_runtime.errors import ReasonError
from reason_runtime.line.sinks.jsonl import JsonlSink
from tests.line.test_sinks import answer
sink = JsonlSink(Path(sys.argv[1]), max_bytes=1500, keep=20, fsync="never")
try:
    sink.open()
    for line in sys.stdin:
        sink.deliver([answer(2 * int(line)), answer(2 * int(line) + 1)])
        print("written", flush=True)
except ReasonError as error:
    sys.exit(str(error))
"""


def writer(path: Path) -> subprocess.Popen[str]:
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(path)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=root)


def test_a_second_process_is_refused_a_file_of_lines_until_the_first_one_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = writer(path)
    assert first.stdin
    assert first.stdout
    for number in range(10):  # through rotations
        first.stdin.write(f"{number}\n")
        first.stdin.flush()
        assert first.stdout.readline() == "written\n"
    second = writer(path)
    assert second.communicate("10\n") == ("", f"{path}: another process writes there; give each station its own file\n")
    assert second.returncode == 1
    sink = JsonlSink(path, max_bytes=10**6, keep=2, fsync="never")
    with pytest.raises(ConfigurationError, match="another process writes there"):
        Publisher(metrics=Metrics(), journal=None).start([sink])
    first.kill()
    first.communicate()
    sink.open()
    sink.close()
    files = sorted(tmp_path.iterdir(), key=lambda item: -int(item.suffix[1:] if item != path else 0))
    assert part_ids(*files) == [f"part-{number:04}" for number in range(20)]


def test_who_begins_a_new_file_while_the_old_one_is_moved_away_keeps_it_and_the_other_keeps_its_answers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.jsonl"
    first, second = (JsonlSink(path, max_bytes=10**6, keep=2, fsync="never") for _ in range(2))
    metrics = Metrics()
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([first])
    path.rename(tmp_path / "old.jsonl")
    second.open()
    publisher.publish(answer(1))
    deadline_s = time.monotonic() + 5
    while not publisher.health.faults and time.monotonic() < deadline_s:
        time.sleep(0.01)
    told = f"{path}: another process writes there; give each station its own file"
    assert publisher.health.faults == {f"sink jsonl {path}": told}
    second.deliver([answer(2)])
    second.close()
    deadline_s = time.monotonic() + 5
    while publisher.health.faults and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert publisher.finish(5) == 0
    written = [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == "result"]
    assert sorted(line["part_id"] for line in written) == ["part-0001", "part-0002"]


def test_what_is_no_file_of_its_own_may_be_shared(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    first, second = (JsonlSink(tmp_path / "pipe", max_bytes=10**6, keep=2, fsync="never") for _ in range(2))
    first.open()
    second.open()
    second.deliver([answer(1)])
    first.close()
    second.close()


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_lines_go_to_standard_output_by_its_path(to: str, tmp_path: Path) -> None:
    script = WRITER.replace('print("written", flush=True)', "pass")
    command = [sys.executable, "-c", script, "/dev/stdout"]
    with (tmp_path / "out").open("w+") as file:
        done = subprocess.run(
            command,
            input="0\n1\n",
            text=True,
            stdout=file if to == "file" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "out").read_text() if to == "file" else done.stdout
    assert [json.loads(line)["part_id"] for line in text.splitlines()] == [f"part-000{number}" for number in range(4)]


@NEEDS_MOUNT
def test_a_full_disk_loses_no_line_and_leaves_no_half_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="64k") as disk:
        metrics = Metrics()
        publisher = Publisher(metrics=metrics, journal=None)
        publisher.start([JsonlSink(disk / "r.jsonl", max_bytes=10**7, keep=1, fsync="never")])
        (disk / "filler").write_bytes(bytes(40_000))
        for number in range(300):
            publisher.publish(answer(number))
        deadline_s = time.monotonic() + 5
        while not publisher.health.faults and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert "No space left" in str(publisher.health.faults) or "full" in str(publisher.health.faults)
        assert (disk / "r.jsonl").read_bytes()[-1:] in (b"\n", b"")
        (disk / "filler").unlink()
        enlarge(disk, size="4m")
        assert publisher.finish(10) == 0
        assert [item for item in part_ids(disk / "r.jsonl") if item] == [f"part-{number:04}" for number in range(300)]
        assert metrics.snapshot().missed.get(f"jsonl {disk / 'r.jsonl'}", 0) == 0


class OnceBroken(StdoutSink):
    """A sink whose library fails at first in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.opened = 0
        self.got: list[Message] = []

    def open(self) -> None:
        self.opened += 1
        if self.opened == 1:
            raise KeyError("unforeseen")

    def deliver(self, messages: Sequence[Message]) -> None:
        self.got += messages


def test_a_sink_that_fails_at_the_start_in_whatever_way_is_down_and_tried_again() -> None:
    publisher, sink = Publisher(metrics=Metrics(), journal=None), OnceBroken()
    publisher.start([sink])
    publisher.publish(answer(1))
    assert publisher.finish(30) == 0
    assert answer(1).part_id in [item.part_id for item in sink.got if isinstance(item, Answer)]
    told = [(item.level, item.text) for item in sink.got if isinstance(item, Event)]
    assert told[0] == ("fault", "KeyError: 'unforeseen'")
    assert publisher.health.faults == {}


def wait_until(done: Callable[[], bool], *, seconds: float = 5) -> None:
    until_s = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until_s
        time.sleep(0.01)


class HungSink(ListSink):
    """Its medium takes messages and never says that it has them, until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def deliver(self, messages: Sequence[Message]) -> None:
        self.entered.set()
        self.gate.wait(10)
        super().deliver(messages)


class NeverCloses(ListSink):
    """A medium that refuses even to be closed, as a disk does whose quota is used up."""

    def close(self) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_sink_that_cannot_be_closed_is_a_fault_and_tried_again() -> None:
    told: list[Event] = []
    publisher = Publisher(metrics=Metrics(), journal=None, tell=told.append)
    plc = NeverCloses(keeps=False, drives_line=True)
    publisher.start([plc])
    plc.down = True
    publisher.publish(answer(1))
    wait_until(lambda: not publisher.health.beat(busy=False).healthy)
    plc.down = False
    wait_until(lambda: publisher.health.beat(busy=False).healthy)
    publisher.publish(answer(2))
    assert publisher.finish(5) == 0
    assert [item.number for item in plc.answers] == [2]
    assert [(item.level, item.text) for item in told] == [
        ("fault", "the list is away"),
        ("info", "well again; was: the list is away"),
    ]


def test_lines_that_wait_outlive_a_file_that_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, system_close = tmp_path / "r.jsonl", os.close

    def refuse(file: int) -> None:
        system_close(file)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    publisher = Publisher(metrics=Metrics(), journal=None)
    publisher.start([JsonlSink(path, max_bytes=10**6, keep=1, fsync="never")])
    publisher.publish(answer(1))
    wait_until(lambda: part_ids(path) == ["part-0001"])
    with monkeypatch.context() as disk:
        disk.setattr("os.close", refuse)
        path.unlink()
        publisher.publish(answer(2))
        wait_until(lambda: bool(publisher.health.faults))
    publisher.publish(answer(3))
    assert publisher.finish(5) == 0
    assert [name for name in part_ids(path) if name] == ["part-0002", "part-0003"]
    assert publisher.health.faults == {}


def test_a_sink_that_is_down_is_opened_again_though_no_message_comes() -> None:
    publisher, plc = Publisher(metrics=Metrics(), journal=None), ListSink(down=True, keeps=False, drives_line=True)
    publisher.start([plc])
    time.sleep(0.3)  # two tries, and the event of the fault has had its turn
    assert not publisher.health.beat(busy=False).healthy
    plc.down = False
    wait_until(lambda: publisher.health.beat(busy=False).healthy)
    publisher.finish(1)


def test_the_heartbeat_stands_still_for_a_plc_that_is_down_and_not_for_a_broker() -> None:
    publisher = Publisher(metrics=Metrics(), journal=None)
    assert publisher.health.beat(busy=True) == Beat(count=1, healthy=True, faults={}, busy=True)
    publisher.start([ListSink(name="broker", down=True)])
    beat = publisher.health.beat(busy=False)
    assert beat == Beat(count=2, healthy=True, faults={"sink broker": "the list is away"}, busy=False)
    publisher.start([ListSink(name="plc", down=True, drives_line=True)])
    beat = publisher.health.beat(busy=False)
    assert (beat.count, beat.healthy, set(beat.faults)) == (2, False, {"sink broker", "sink plc"})
    publisher.health.clear("sink plc")
    assert publisher.health.beat(busy=False).count == 3
    publisher.finish(0)


def test_a_plc_hears_no_answer_of_the_time_it_was_not_served() -> None:
    metrics, plc = Metrics(), ListSink(down=True, keeps=False, drives_line=True)
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([plc])
    for number in range(200):
        publisher.publish(answer(number))
    plc.down = False
    wait_until(lambda: not publisher.health.faults)
    publisher.publish(answer(200))
    assert publisher.finish(5) == 0
    assert [item.number for item in plc.answers] == [200]
    assert metrics.snapshot().missed == {"list": 200}


def test_after_a_restart_a_plc_hears_of_parts_in_flight_only_and_keeping_sinks_of_all(tmp_path: Path) -> None:
    old = [answer(number) for number in range(3)]
    for sinks in ([ListSink(keeps=False, drives_line=True), ListSink(name="broker")], [ListSink(keeps=False)]):
        journal = Journal(tmp_path / "journal")
        for item in old:
            journal.answered(item)
        journal.taken(in_flight(3))
        publisher = Publisher(metrics=Metrics(), journal=journal)
        publisher.start(sinks)
        for item in journal.recovered():
            publisher.hand_on(item)
        assert publisher.finish(5) == 0
        assert [item.number for item in sinks[0].answers] == [3] * sinks[0].drives_line
        assert [item.number for sink in sinks[1:] for item in sink.answers] == [0, 1, 2, 3][: 4 * len(sinks[1:])]
        journal.close()
        again = Journal(tmp_path / "journal")
        assert again.recovered() == []
        again.close()


def test_a_plc_hears_of_a_part_in_flight_once_though_a_broker_is_down_for_many_restarts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.taken(in_flight(3))
    journal.close()
    heard = []
    for down in (True, True, False):
        plc, broker = ListSink("plc", keeps=False, drives_line=True), ListSink("broker", down=down)
        journal = Journal(path)
        publisher = Publisher(metrics=Metrics(), journal=journal)
        publisher.start([plc, broker])
        for item in journal.recovered():
            publisher.hand_on(item)
        publisher.finish(0.1)
        journal.close()
        heard.append((plc.causes, broker.causes))
    assert heard == [(["restart"], []), ([], []), ([], ["restart"])]


def in_flight(number: int) -> Frame:
    """A part that nobody had answered when the process was killed."""
    grab = Grab(grabbed_ns=0)
    name = f"top-{number}"
    return Frame(camera="top", number=number, key=name, part_id=name, grab=grab, deadline_ns=None, grabbed_at=0.0)


def test_what_a_sink_has_in_hand_at_the_end_counts_as_lost() -> None:
    metrics, sink = Metrics(), HungSink()
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([sink])
    publisher.publish(answer(0))
    assert sink.entered.wait(5)
    publisher.publish(answer(1))
    assert publisher.finish(0.1) == 2
    assert metrics.snapshot().missed == {"list": 2}
    sink.gate.set()


@pytest.mark.parametrize(("buffer", "text"), [(10, "has not returned for more than"), (2, "its buffer is full")])
def test_a_sink_that_hangs_or_loses_messages_is_a_fault_until_it_delivers(
    monkeypatch: pytest.MonkeyPatch, buffer: int, text: str
) -> None:
    monkeypatch.setattr("reason_runtime.line.publisher._BUFFER", buffer)
    monkeypatch.setattr("reason_runtime.line.sinks.runner._HANGS_S", 0.1 if buffer > 2 else 60)
    told: list[Event] = []
    hung = HungSink()
    publisher = Publisher(metrics=Metrics(), journal=None, tell=told.append)
    publisher.start([hung])
    publisher.publish(answer(0))
    assert hung.entered.wait(5)
    publisher.publish(publisher.health.beat(busy=False))
    assert told == []
    for number in range(1, 4):
        publisher.publish(answer(number))
    time.sleep(0.15)
    publisher.publish(publisher.health.beat(busy=False))
    assert [(event.level, text in event.text) for event in told] == [("fault", True)]
    assert publisher.health.beat(busy=False).healthy  # a log or a broker: no decision depends on it
    hung.gate.set()
    assert publisher.finish(5) == 0
    assert [event.level for event in told] == ["fault", "info"]


def test_a_sink_that_hangs_at_the_end_takes_no_time_of_the_others() -> None:
    hung = [HungSink() for _ in range(3)]
    for number, sink in enumerate(hung):
        sink.name = f"hung {number}"
    slow = ListSink(name="slow", pause_s=0.2)
    publisher = Publisher(metrics=Metrics(), journal=None)
    publisher.start([*hung, slow])
    publisher.publish(answer(0))
    started_s = time.monotonic()
    assert publisher.finish(0.5) == 3
    assert 0.4 < time.monotonic() - started_s < 0.8
    assert len(slow.answers) == 1
    for sink in hung:
        sink.gate.set()


def test_what_fails_for_the_last_time_at_the_end_counts_as_lost() -> None:
    metrics, sink = Metrics(), HungSink()
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([sink])
    publisher.publish(answer(0))
    assert sink.entered.wait(5)
    sink.down = True
    threading.Timer(0.2, sink.gate.set).start()
    assert publisher.finish(0.3) == 2  # with the event that says so
    assert metrics.snapshot().missed == {"list": 2}


def test_heartbeats_that_wait_push_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reason_runtime.line.publisher._BUFFER", 5)
    metrics, sink = Metrics(), HungSink()
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([sink])
    publisher.publish(beat(1))
    assert sink.entered.wait(5)
    for number in range(5):
        publisher.publish(answer(number))
        publisher.publish(beat(number + 2))
    sink.gate.set()
    assert publisher.finish(5) == 0
    assert [item.number for item in sink.answers] == list(range(5))
    assert [item.count for item in sink.beats] == [1, 6]
    assert metrics.snapshot().missed == {"list": 0}


def test_what_a_bounded_buffer_pushes_out_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reason_runtime.line.publisher._BUFFER", 5)
    (tmp_path / "in the way").write_text("a file")
    metrics = Metrics()
    publisher = Publisher(metrics=metrics, journal=None)
    sink = JsonlSink(tmp_path / "in the way" / "r.jsonl", max_bytes=10**6, keep=1, fsync="never")
    publisher.start([sink])
    for number in range(12):
        publisher.publish(answer(number))
    (tmp_path / "in the way").unlink()
    publisher.finish(10)
    missed = metrics.snapshot().missed[sink.name]
    kept = [item for item in part_ids(tmp_path / "in the way" / "r.jsonl") if item]
    assert missed + len(kept) >= 12
    assert kept == [f"part-{number:04}" for number in range(12 - len(kept), 12)]


def test_pictures_are_drawn_with_the_colours_of_the_bundle_in_use(model: LineModel, tmp_path: Path) -> None:
    other = LineModel(load(line_bundle(tmp_path / "other", threshold=4.0).path, threads=1))
    in_use = Models({"top": model})
    sink = PicturesSink(tmp_path / "pictures", max_bytes=10**6, models=in_use)
    sink.open()
    sink.deliver([answer(1, "NG", picture=True)])
    in_use.swap({"top": other})
    sink.deliver([answer(2, "NG", picture=True)])
    first, second = sorted((tmp_path / "pictures").iterdir())
    assert first.read_bytes() != second.read_bytes()


def test_pictures_are_of_rejects_only_and_never_outgrow_their_limit(model: LineModel, tmp_path: Path) -> None:
    sink = PicturesSink(tmp_path, max_bytes=6000, models=Models({"top": model}))
    sink.open()
    sink.deliver([answer(0, picture=True), EVENT, beat(1)])
    assert list(tmp_path.iterdir()) == []
    for number in range(1, 30):
        sink.deliver([answer(number, "NG", picture=True)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert 0 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 6000
    assert names == [f"part-{number:04}.NG.jpg" for number in range(30 - len(names), 30)]
    with Image.open(tmp_path / names[0]) as picture:
        assert picture.size == (32, 32)
    again = PicturesSink(
        tmp_path, max_bytes=sum(p.stat().st_size for p in tmp_path.iterdir()) // 2, models=Models({"top": model})
    )
    again.open()
    assert len(list(tmp_path.iterdir())) <= len(names) // 2 + 1
    odd = Answer(
        **{**{name: getattr(answer(1, "NG", picture=True), name) for name in Answer.__slots__}, "part_id": "../../x y"}
    )
    again.deliver([odd])
    assert len(list(tmp_path.glob(".._.._x_y-????????.NG.jpg"))) == 1


@pytest.mark.parametrize("sink", ["pictures", "frames"])
def test_each_part_has_its_own_picture_whatever_its_id(model: LineModel, tmp_path: Path, sink: str) -> None:
    ids = ["A/1", "A_1", "A 1", "щ" * 122, "щ" * 121 + "ш", "x" * 150, "x" * 151, "\udcff", "../../x y"]
    parts = [dataclasses.replace(answer(1, "NG", picture=True), part_id=part_id) for part_id in ids]
    with opened(f"{sink}:{tmp_path / 'a' / 'b'}", model) as opened_sink:
        opened_sink.deliver(parts)
    names = [path.name for path in (tmp_path / "a" / "b").iterdir()]
    assert len(names) == len(ids)
    assert [name for name in names if "A_1." in name] == ["A_1.NG.jpg" if sink == "pictures" else "NG_0.125000_A_1.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("sink", ["pictures", "frames"])
def test_the_picture_of_an_id_that_comes_again_is_counted_once(model: LineModel, tmp_path: Path, sink: str) -> None:
    shape = (1000, 1000) if sink == "pictures" else (600, 1000)  # more than half a MiB of JPEG or PNG
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    again = dataclasses.replace(answer(1, "NG"), picture=Picture(image=noise, anomaly_map=None))
    with opened(f"{sink}:{tmp_path}?max_mib=1", model) as opened_sink:
        for _ in range(3):
            opened_sink.deliver([again])
            (path,) = tmp_path.iterdir()
            assert 2**19 < path.stat().st_size < 2**20


def test_a_reject_of_a_camera_that_is_no_more_has_no_picture_and_harms_nothing(
    model: LineModel, tmp_path: Path
) -> None:
    sink = PicturesSink(tmp_path, max_bytes=10**6, models=Models({"top": model}))
    sink.open()
    gone = dataclasses.replace(answer(1, "UNKNOWN"), camera="gone")  # from the journal: the station was changed since
    sink.deliver([gone, answer(2, "NG", picture=True)])
    assert [path.name for path in tmp_path.iterdir()] == ["part-0002.NG.jpg"]


def test_pictures_of_others_are_left_alone(model: LineModel, tmp_path: Path) -> None:
    for name in ("holiday.jpg", "OK.png", "00000001-20260101T000000Z.png"):
        (tmp_path / name).write_bytes(bytes(3 * 2**20))
    (tmp_path / ".part-0001.NG.0123abcd.jpg").write_bytes(bytes(2**20))  # what a kill left
    (tmp_path / ".NG_0.5_part-0001.0123abcd.png").write_bytes(bytes(2**20))
    for sink in ("pictures", "frames"):
        with opened(f"{sink}:{tmp_path}?max_mib=1", model) as opened_sink:
            opened_sink.deliver([answer(2, "NG", picture=True)])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "holiday.jpg", "OK.png", "00000001-20260101T000000Z.png", "part-0002.NG.jpg", "NG_0.250000_part-0002.png"
    }  # fmt: skip


def test_frames_are_kept_as_grabbed_and_say_where_to_sort_them(model: LineModel, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (3, 40, 24), np.uint16)
    mono, colour = noise[0], np.moveaxis(noise, 0, 2)
    as_rgb = np.broadcast_to((mono >> 8).astype(np.uint8)[:, :, None], (40, 24, 3))
    shown = [
        (answer(4, "NG"), mono),
        (dataclasses.replace(answer(5, "UNKNOWN"), cause="not-finite"), colour),
        (dataclasses.replace(answer(6, "NG"), part_id="../x y"), as_rgb),
        (dataclasses.replace(answer(7, "NG"), valid_lines=30), mono),
    ]
    kept = [dataclasses.replace(item, picture=Picture(image=image, anomaly_map=None)) for item, image in shown]
    with opened(f"frames:{tmp_path / 'a' / 'b'}", model) as sink:
        sink.deliver([answer(1), EVENT, *kept, beat(1), answer(8, "UNKNOWN"), answer(9, "NG")])
    found = {path.name: decode_file(path).colour for path in (tmp_path / "a" / "b").iterdir()}
    expected = {
        "NG_0.500000_part-0004.png": mono,
        "UNKNOWN_none_part-0005.png": colour,
        f"NG_0.750000_{file_name('../x y')}.png": as_rgb[:, :, 0],
        "NG_0.875000_part-0007.png": mono[:30],
    }
    assert found.keys() == expected.keys()
    for name, image in expected.items():
        assert found[name].dtype == image.dtype
        np.testing.assert_array_equal(found[name], image)


def test_of_ok_parts_those_near_the_threshold_and_a_share_of_the_others_are_kept(tmp_path: Path) -> None:
    def scored(number: int, score: float) -> Answer:
        return dataclasses.replace(answer(number), score=score)

    sink = FramesSink(tmp_path, max_bytes=2**20, near=0.8, good=0.1)
    assert sink.wants(scored(0, 0.4))
    others = [number for number in range(20_000) if sink.wants(scored(number, 0.39))]
    assert len(others) == pytest.approx(2000, abs=4 * (20_000 * 0.1 * 0.9) ** 0.5)
    again = FramesSink(tmp_path, max_bytes=2**20, near=2, good=0.1)
    assert others == [number for number in range(20_000) if again.wants(scored(number, 0.49))]
    for good, expected in ((0.0, 0), (1.0, 100)):
        every = FramesSink(tmp_path, max_bytes=2**20, near=0.8, good=good)
        assert sum(every.wants(scored(number, 0.1)) for number in range(100)) == expected
        assert every.wants(answer(1, "NG", picture=True))
        assert not every.wants(answer(1, "UNKNOWN"))


def test_frames_never_outgrow_their_limit_nor_after_a_restart(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)  # a kilobyte that PNG cannot shrink

    def deliver(numbers: range) -> list[str]:
        sink = FramesSink(tmp_path, max_bytes=5500, near=0.9, good=0.0)
        sink.open()
        for number in numbers:
            picture = Picture(image=noise, anomaly_map=None)
            sink.deliver([dataclasses.replace(answer(number, "NG"), score=1 / (1 + number), picture=picture)])
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5500
        return sorted(path.stem[-4:] for path in tmp_path.iterdir())

    assert deliver(range(12)) == ["0008", "0009", "0010", "0011"]
    assert deliver(range(12, 14)) == ["0010", "0011", "0012", "0013"]


def test_what_a_slow_sink_does_not_want_pushes_out_nothing(tmp_path: Path) -> None:
    metrics, chooses, shows = Metrics(), HungSink(), HungSink()
    for name, sink in (("chooses", chooses), ("shows", shows)):
        sink.name, sink.wants_pictures = name, True
    chooses.wants = FramesSink(tmp_path, max_bytes=2**20, near=0.9, good=0.0).wants
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([chooses, shows])
    wanted = dataclasses.replace(answer(3, picture=True), score=0.46)
    publisher.publish(wanted)
    assert chooses.entered.wait(5)
    assert shows.entered.wait(5)
    for number in range(10, 18):
        publisher.publish(answer(number, "NG", picture=True))
        for other in range(200):
            publisher.publish(dataclasses.replace(answer(1000 * number + other), score=0.1))
    chooses.gate.set()
    shows.gate.set()
    publisher.finish(5)
    assert [item.number for item in chooses.answers] == [3, *range(10, 18)]
    assert all(item.picture is not None for item in chooses.answers)
    assert metrics.snapshot().missed["chooses"] == 0
    assert publisher.wants_picture(wanted.without_picture())
    assert shows.answers[0].number == 3
    assert {item.picture for item in shows.answers if not item.is_reject} == {None}


@NEEDS_MOUNT
def test_frames_on_a_full_disk_are_whole_or_not_there(model: LineModel, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)
    with small_disk(tmp_path / "disk", size="64k") as disk, opened(f"frames:{disk / 'f'}", model) as sink:
        ng = [
            dataclasses.replace(answer(number, "NG"), picture=Picture(image=noise, anomaly_map=None))
            for number in range(9)
        ]
        with pytest.raises(SinkError, match="No space left on device"):
            sink.deliver(ng)
        found = list((disk / "f").iterdir())
        assert len(found) > 2
        for path in found:
            np.testing.assert_array_equal(decode_file(path).colour, noise)


@contextmanager
def broker(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Debian's mosquitto."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    configuration = folder / f"mosquitto-{port}.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield process
    finally:
        process.terminate()
        process.wait(5)


def wait_for_port(port: int) -> None:
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}")


class Listener:
    """A real MQTT client that subscribes to everything of the station."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.heard: list[tuple[str, str]] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("plant/line1/#", qos=1)
        self.client.on_message = lambda _client, _data, item: self.heard.append((item.topic, item.payload.decode()))
        listens = threading.Event()  # what is published before is for nobody
        self.client.on_subscribe = lambda *_: listens.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert listens.wait(10)

    def wait(self, topic: str, count: int = 1) -> list[str]:
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            found = [content for name, content in self.heard if name == f"plant/line1/{topic}"]
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(self.heard)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_a_real_broker_gets_answers_events_heartbeats_and_the_state(model: LineModel, tmp_path: Path) -> None:
    port = free_port()
    with broker(port, tmp_path):
        listener = Listener(port)
        with opened(f"mqtt://127.0.0.1:{port}/plant/line1", model) as sink:
            sink.deliver([answer(1), EVENT, beat(7), answer(2, "NG")])
            results = [json.loads(item) for item in listener.wait("result", 2)]
            assert results == [answer(1).line(), answer(2, "NG").line()]
            assert json.loads(listener.wait("event")[0])["name"] == "camera top"
            assert json.loads(listener.wait("beat")[0])["count"] == 7
            assert listener.wait("status") == ["online"]
        assert listener.wait("status", 2)[-1] == "offline"
        listener.close()


def test_the_broker_says_offline_when_the_process_is_killed(tmp_path: Path) -> None:
    port = free_port()
    with broker(port, tmp_path):
        listener = Listener(port)
        script = (
            "import sys,time; from reason_runtime.line.sinks.mqtt import MqttSink\n"
            f"s=MqttSink('127.0.0.1',{port},topic='plant/line1',client_id='x',login=None,tls=False); s.open()\n"
            "time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", script])
        listener.wait("status")
        process.kill()
        process.wait()
        assert listener.wait("status", 2)[-1] == "offline"
        listener.close()


class Cable:
    """Between a client and a broker: it can hold back what the broker says, and be cut."""

    def __init__(self, broker_port: int) -> None:
        self._broker = ("127.0.0.1", broker_port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.silent = threading.Event()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._server.accept()[0]
                broker = socket.create_connection(self._broker)
                self._ends += [client, broker]
                threading.Thread(target=self._carry, args=(client, broker, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(broker, client, True), daemon=True).start()

    def _carry(self, start: socket.socket, end: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while content := start.recv(4096):
                if not (answers and self.silent.is_set()):
                    end.sendall(content)

    def cut(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()


def test_a_line_whose_connection_was_lost_for_a_moment_is_online_again(model: LineModel, tmp_path: Path) -> None:
    port = free_port()
    with broker(port, tmp_path):
        listener, cable = Listener(port), Cable(port)
        with opened(f"mqtt://127.0.0.1:{cable.port}/plant/line1", model) as sink:
            listener.wait("status")
            cable.silent.set()  # so that the result is in flight
            delivery = threading.Thread(target=sink.deliver, args=([answer(1)],))
            delivery.start()
            listener.wait("result")
            cable.silent.clear()
            cable.cut()
            assert listener.wait("status", 3) == ["online", "offline", "online"]
            delivery.join(10)
            sink.deliver([answer(2)])
        assert listener.wait("status", 4)[-1] == "offline"
        cable.close()
        listener.close()


def test_a_broker_that_restarts_gets_what_it_missed(model: LineModel, tmp_path: Path) -> None:
    port = free_port()
    metrics = Metrics()
    publisher = Publisher(metrics=metrics, journal=None)
    publisher.start([open_sink(f"mqtt://127.0.0.1:{port}/plant/line1", models=Models({"top": model}), metrics=metrics)])
    publisher.publish(answer(0))  # before there is a broker at all
    with broker(port, tmp_path):
        listener = Listener(port)
        assert json.loads(listener.wait("result")[0])["part_id"] == "part-0000"
        listener.close()
    for number in range(1, 6):
        publisher.publish(answer(number))
    with broker(port, tmp_path):
        listener = Listener(port)
        heard = {json.loads(item)["part_id"] for item in listener.wait("result", 5)}
        assert heard >= {f"part-{number:04}" for number in range(1, 6)}
        assert publisher.finish(5) == 0
        listener.close()
    assert metrics.snapshot().missed[f"mqtt 127.0.0.1:{port}/plant/line1"] == 0


def test_an_opc_ua_client_sees_each_result_and_cannot_write(model: LineModel) -> None:
    import asyncio

    from asyncua import Client, ua

    port = free_port()

    async def look() -> None:
        async with Client(f"opc.tcp://127.0.0.1:{port}/") as client:
            space = await client.get_namespace_index("urn:reason-edge:inspection")

            async def value(name: str) -> object:
                return await client.get_node(f"ns={space};s=Inspection.{name}").read_value()

            names = ("Ready", "Busy", "ResultValid", "Pass", "ResultCode", "PartId", "Heartbeat", "Fault")
            before = [await value(name) for name in names]
            assert before == [False, False, False, False, 0, "", 0, False]
            sink.deliver([beat(3), dataclasses.replace(answer(2), bundle="0123456789ab")])
            assert [await value(name) for name in names] == [True, False, True, True, 1, "part-0002", 3, False]
            assert [await value(name) for name in ("Score", "Threshold", "Bundle")] == [0.25, 0.5, "0123456789ab"]
            assert await value("Faults") == ""
            sink.deliver([dataclasses.replace(answer(3, "UNKNOWN"), threshold=None), beat(3, healthy=False)])
            assert await value("Bundle") == ""
            assert np.isnan(await value("Threshold"))  # type: ignore[call-overload]
            assert await value("Faults") == "camera top: lost"
            assert [await value(name) for name in names] == [False, False, True, False, 3, "part-0003", 3, True]
            assert np.isnan(await value("Score"))  # type: ignore[call-overload]
            with pytest.raises(ua.UaStatusCodeError):
                await client.get_node(f"ns={space};s=Inspection.Pass").write_value(True)

    with opened(f"opcua://127.0.0.1:{port}", model) as sink:
        asyncio.run(look())


def test_no_opc_ua_client_can_write_or_delete_whatever_it_calls_itself(model: LineModel) -> None:
    import asyncio

    from asyncua import Client, ua

    port = free_port()

    async def attack(user: str) -> None:
        async with Client(f"opc.tcp://{user}@127.0.0.1:{port}/") as client:
            space = await client.get_namespace_index("urn:reason-edge:inspection")
            passed, beats = (client.get_node(f"ns={space};s=Inspection.{name}") for name in ("Pass", "Heartbeat"))
            with pytest.raises(ua.UaStatusCodeError):
                await passed.write_value(True)
            with pytest.raises(ua.UaStatusCodeError):
                await beats.write_value(ua.DataValue(ua.Variant(7, ua.VariantType.UInt32)))
            with pytest.raises(ua.UaStatusCodeError):
                await client.delete_nodes([passed])
            assert (await passed.read_value(), await beats.read_value()) == (False, 0)

    with opened(f"opcua://127.0.0.1:{port}", model):
        for user in ("admin", "root"):
            asyncio.run(attack(user))


def test_an_opc_ua_server_ends_though_it_cannot_say_so(model: LineModel) -> None:
    port = free_port()
    with opened(f"opcua://127.0.0.1:{port}", model) as sink:
        assert isinstance(sink, OpcUaSink)
        assert sink._loop is not None
        assert sink._server is not None
        sink._loop.call(sink._server.delete_nodes([sink._nodes["Faults"]]), timeout_s=5)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


def test_a_modbus_client_reads_each_result_in_one_request_and_cannot_write(model: LineModel) -> None:
    from pymodbus.client import ModbusTcpClient

    port = free_port()
    with opened(f"modbus://127.0.0.1:{port}", model) as sink:
        client = ModbusTcpClient("127.0.0.1", port=port)
        assert client.connect()

        def registers() -> tuple[int, int, int, int, float, str, float, str]:
            words = client.read_input_registers(0, count=48).registers
            *numbers, part_id, threshold, bundle = struct.unpack(">HHIIf64sf12s", struct.pack(">48H", *words))
            return (*numbers, part_id.rstrip(b"\0").decode(), threshold, bundle.rstrip(b"\0").decode())  # type: ignore[return-value]

        assert registers()[:4] == (0, 0, 0, 0)
        assert np.isnan(registers()[4])
        assert np.isnan(registers()[6])
        sink.deliver([beat(70_000), dataclasses.replace(answer(2), bundle="0123456789ab")])
        assert registers() == (0b01101, 1, 3, 70_000, 0.25, "part-0002", 0.5, "0123456789ab")
        assert client.read_discrete_inputs(0, count=5).bits[:5] == [True, False, True, True, False]
        sink.deliver([answer(3, "NG"), beat(70_000, healthy=False)])
        assert registers() == (0b10100, 2, 4, 70_000, 0.375, "part-0003", 0.5, "")
        sink.deliver([answer(4, "UNKNOWN")])
        assert registers()[1] == 3
        assert np.isnan(registers()[4])
        assert client.write_coil(3, True).isError() or client.read_discrete_inputs(3, count=1).bits[0] is False
        client.close()


def test_a_plc_may_be_told_of_one_camera_alone(model: LineModel) -> None:
    import asyncio

    from asyncua import Client
    from pymodbus.client import ModbusTcpClient

    metrics, models = Metrics(), Models({"top": model, "far side": model})
    publisher, ports = Publisher(metrics=metrics, journal=None), [free_port() for _ in range(3)]
    addresses = (f"modbus://127.0.0.1:{ports[0]}?camera=top", f"modbus://127.0.0.1:{ports[1]}?camera=far+side")
    publisher.start(
        [
            open_sink(text, models=models, metrics=metrics)
            for text in (*addresses, f"opcua://127.0.0.1:{ports[2]}?camera=far+side")
        ]
    )
    for number in range(7):
        publisher.publish(answer(number))
    publisher.publish(dataclasses.replace(answer(7, "NG"), camera="far side", number=0))
    publisher.publish(beat(12))

    async def seen() -> list[object]:
        async with Client(f"opc.tcp://127.0.0.1:{ports[2]}/") as client:
            space = await client.get_namespace_index("urn:reason-edge:inspection")
            names = ("Pass", "ResultCount", "PartId", "Heartbeat")
            return [await client.get_node(f"ns={space};s=Inspection.{name}").read_value() for name in names]

    def shown(port: int) -> tuple[int, int, str]:
        with ModbusTcpClient("127.0.0.1", port=port) as client:
            wait_until(lambda: client.read_input_registers(5, count=1).registers == [12])
            words = client.read_input_registers(0, count=40).registers
        _, code, count, _, _, part_id = struct.unpack(">HHIIf64s", struct.pack(">40H", *words))
        return code, count, part_id.rstrip(b"\0").decode()

    assert [shown(port) for port in ports[:2]] == [(1, 7, "part-0006"), (2, 1, "part-0007")]
    wait_until(lambda: asyncio.run(seen()) == [False, 1, "part-0007", 12])
    assert not publisher.wants_picture(answer(3))
    assert publisher.finish(5) == 0
    assert not any(metrics.snapshot().missed.values())


def shown_to_a_plc(kind: str, port: int) -> tuple[bool, bool, int, int]:
    """ResultValid, Pass, ResultCode and ResultCount, as a client reads them."""
    import asyncio

    from asyncua import Client
    from pymodbus.client import ModbusTcpClient

    async def values() -> list[object]:
        async with Client(f"opc.tcp://127.0.0.1:{port}/") as client:
            space = await client.get_namespace_index("urn:reason-edge:inspection")
            names = ("ResultValid", "Pass", "ResultCode", "ResultCount")
            return [await client.get_node(f"ns={space};s=Inspection.{name}").read_value() for name in names]

    if kind == "opcua":
        return tuple(asyncio.run(values()))  # type: ignore[return-value]
    with ModbusTcpClient("127.0.0.1", port=port) as client:
        bits = client.read_discrete_inputs(0, count=5).bits
        words = client.read_input_registers(0, count=4).registers
    flags, code, count = struct.unpack(">HHI", struct.pack(">4H", *words))
    assert [bool(flags >> place & 1) for place in range(5)] == bits[:5]
    return bits[2], bits[3], code, count


@pytest.mark.parametrize("kind", ["modbus", "opcua"])
def test_a_plc_server_that_is_opened_again_shows_no_old_result_and_counts_what_it_missed(
    model: LineModel, kind: str
) -> None:
    port = free_port()
    with opened(f"{kind}://127.0.0.1:{port}", model) as sink:
        sink.deliver([beat(1), answer(0)])
        assert shown_to_a_plc(kind, port) == (True, True, 1, 1)
        sink.close()
        sink.open()  # the results of parts 1 to 4 came while it was closed
        assert shown_to_a_plc(kind, port) == (False, False, 0, 1)
        sink.deliver([beat(2)])
        assert shown_to_a_plc(kind, port) == (False, False, 0, 1)
        sink.deliver([answer(5)])
        assert shown_to_a_plc(kind, port) == (True, True, 1, 6)
        sink.deliver([answer(6, "NG"), dataclasses.replace(answer(2), camera="side")])
        assert shown_to_a_plc(kind, port) == (True, True, 1, 10)
        sink.deliver([dataclasses.replace(answer(0, "UNKNOWN"), cause="restart")])
        assert shown_to_a_plc(kind, port) == (True, False, 3, 11)


@pytest.mark.parametrize("kind", ["modbus", "opcua"])
def test_two_plc_servers_at_one_address_are_refused_before_any_listens(model: LineModel, kind: str) -> None:
    metrics, models, port = Metrics(), Models({"top": model, "side": model}), free_port()
    publisher = Publisher(metrics=metrics, journal=None)
    texts = [f"{kind}://127.0.0.1:{port}?camera={name}" for name in models.now]
    with pytest.raises(ConfigurationError, match=rf"{kind} 127\.0\.0\.1:{port}: two sinks have this address"):
        publisher.start([open_sink(text, models=models, metrics=metrics) for text in texts])
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


def test_two_topics_of_one_broker_are_two_sinks(model: LineModel) -> None:
    models, metrics = Models({"top": model}), Metrics()
    publisher = Publisher(metrics=metrics, journal=None)
    port = free_port()
    publisher.start([open_sink(f"mqtt://127.0.0.1:{port}/{topic}", models=models, metrics=metrics) for topic in "ab"])
    assert set(publisher.health.faults) == {f"sink mqtt 127.0.0.1:{port}/{topic}" for topic in "ab"}
    publisher.finish(1)


def test_prometheus_scrapes_every_metric(model: LineModel) -> None:
    metrics = Metrics()
    port = free_port()
    metrics.grabbed("top", complete=True)
    metrics.grabbed("top", complete=False)
    metrics.answered("top", decision="UNKNOWN", cause="deadline", latency_ms=120.0)
    metrics.answered("top", decision="UNKNOWN", cause="dropped", latency_ms=1.0)
    metrics.answered("top", decision="OK", cause="judged", latency_ms=30.0)
    metrics.stage("infer", 0.004)
    metrics.missed("mqtt x", 3)
    metrics.watch_queue("infer", [1, 2])
    metrics.scored("top", 0.87)
    metrics.drift("top", -0.25)
    with opened(f"prometheus://127.0.0.1:{port}", model, metrics) as sink:
        sink.deliver([beat(1)])
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    for line in (
        'reason_frames_total{camera="top"} 2.0',
        'reason_frames_incomplete_total{camera="top"} 1.0',
        'reason_decisions_total{camera="top",decision="UNKNOWN"} 2.0',
        'reason_unknown_total{camera="top",reason="deadline"} 1.0',
        'reason_unknown_total{camera="top",reason="dropped"} 1.0',
        'reason_sink_missed_total{sink="mqtt x"} 3.0',
        'reason_stage_seconds_bucket{le="0.005",stage="infer"} 1.0',
        'reason_stage_seconds_bucket{le="+Inf",stage="total"} 3.0',
        'reason_stage_seconds_bucket{le="0.05",stage="total"} 2.0',
        'reason_score_ratio_bucket{camera="top",le="0.85"} 0.0',
        'reason_score_ratio_bucket{camera="top",le="0.9"} 1.0',
        'reason_score_ratio_sum{camera="top"} 0.87',
        'reason_drift{camera="top"} -0.25',
        'reason_queue_depth{queue="infer"} 2.0',
        "reason_healthy 1.0",
    ):
        assert line in text.splitlines(), text


def test_the_page_shows_counts_answers_events_and_the_latest_reject(model: LineModel, tmp_path: Path) -> None:
    from reason_runtime.line.sinks.dashboard import open_dashboard

    port = free_port()
    metrics = Metrics()
    metrics.answered("top", decision="NG", cause="judged", latency_ms=5.0)
    sink = open_dashboard(f"127.0.0.1:{port}", metrics=metrics, models=(models := Models({"top": model})))
    sink.open()
    try:
        sink.deliver([answer(1), answer(2, "NG", picture=True), EVENT, beat(4, healthy=False)])

        def get(path: str) -> bytes:
            content: bytes = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()
            return content

        assert b"<title>Inspection</title>" in get("/")
        state = json.loads(get("/state.json"))
        assert state["decisions"] == {"NG": 1}
        assert [item["part_id"] for item in state["answers"]] == ["part-0002", "part-0001"]
        assert state["beat"]["faults"] == {"camera top": "lost"}
        assert state["reject"] == "part-0002"
        assert state["bundle"] == f"{model.detector.bundle.manifest.name} {model.content}"
        other = LineModel(load(line_bundle(tmp_path / "other", threshold=0.25).path, threads=1))
        models.swap({"top": other, "side": model})
        name = model.detector.bundle.manifest.name
        assert (
            json.loads(get("/state.json"))["bundle"] == f"{name} {other.content} (top), {name} {model.content} (side)"
        )
        assert get("/reject.jpg").startswith(b"\xff\xd8")
        with pytest.raises(urllib.error.HTTPError) as refused:
            get("/etc/passwd")
        refused.value.close()
        assert refused.value.code == 404
    finally:
        sink.close()


@pytest.fixture
def ipv6_port() -> int:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            port: int = probe.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 here")
    return port


def test_the_page_metrics_and_sent_pictures_are_served_at_an_ipv6_address(model: LineModel, ipv6_port: int) -> None:
    from reason_runtime.line.sinks.dashboard import open_dashboard

    metrics, models = Metrics(), Models({"top": model})
    for path, served in (
        ("metrics", open_sink(f"prometheus://[::1]:{ipv6_port}", models=models, metrics=metrics)),
        ("state.json", open_dashboard(f"[::1]:{ipv6_port}", metrics=metrics, models=models)),
        ("judge", open_source(f"post://[::1]:{ipv6_port}", input_format=None)),
    ):
        served.open()
        client = http.client.HTTPConnection("::1", ipv6_port, timeout=5)
        client.request("GET", f"/{path}")
        assert client.getresponse().status == (501 if path == "judge" else 200)
        client.close()
        served.close()


def test_an_opc_ua_server_listens_at_an_ipv6_address(model: LineModel, ipv6_port: int) -> None:
    import asyncio

    from asyncua import Client

    async def space() -> int:
        async with Client(f"opc.tcp://[::1]:{ipv6_port}/") as client:
            return await client.get_namespace_index("urn:reason-edge:inspection")

    with opened(f"opcua://[::1]:{ipv6_port}", model):
        assert asyncio.run(space()) > 0


def test_a_connection_to_the_page_that_asks_nothing_is_closed(
    model: LineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reason_runtime.line.sinks import dashboard

    assert dashboard._Handler.timeout
    assert dashboard._Handler.timeout <= 10
    monkeypatch.setattr(dashboard._Handler, "timeout", 0.1)
    sink = dashboard.open_dashboard(
        f"127.0.0.1:{(port := free_port())}", metrics=Metrics(), models=Models({"top": model})
    )
    sink.open()
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as idle:
            assert idle.recv(1) == b""
    finally:
        sink.close()


def test_pass_is_true_for_ok_only_and_nothing_passes_after_the_end() -> None:
    state = PlcState()
    for decision, expected in (("OK", True), ("NG", False), ("OK", True), ("UNKNOWN", False)):
        state.take(answer(1, decision))
        assert state.passed is expected
    state.take(answer(1))
    state.stopped()
    assert (state.passed, state.ready, state.result_valid, state.fault) == (False, False, False, True)


@pytest.mark.parametrize("kind", ["opcua", "modbus", "prometheus"])
def test_a_port_that_is_taken_is_said_once_and_tried_again(
    model: LineModel, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("asyncua.server.server")  # that is no part of a try
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        sink = open_sink(
            f"{kind}://127.0.0.1:{other.getsockname()[1]}", models=Models({"top": model}), metrics=Metrics()
        )
        started_s = time.process_time()
        with pytest.raises(SinkError, match="cannot (start|listen)"):
            sink.open()
        tried_s = time.process_time() - started_s
    assert caplog.messages == []
    sink.open()
    sink.close()
    if kind == "opcua":  # whose server takes seconds to build
        assert tried_s < 0.2 * (time.process_time() - started_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("results.jsonl", "is no sink"),
        ("jsonl:", "expected jsonl:FILE"),
        ("jsonl:a?fsync=maybe", "expected one of never, always"),
        ("jsonl:a?kep=3", "unknown option kep; expected max_mib, keep, fsync"),
        ("frames:", "expected frames:DIR"),
        ("pictures:", "expected pictures:DIR"),
        ("jsonl:r?max_mib=0", "max_mib=0, expected a number, 1 or more"),
        ("frames:a?good=5", "good=5, expected a share, 1 or less"),
        ("frames:a?share=0.5", "unknown option share; expected max_mib, near, good"),
        ("jsonl:a?keep=1.5", "expected a whole number"),
        ("jsonl:a?keep", "name=value"),
        ("mqtt:broker", "expected mqtt://HOST:PORT"),
        ("mqtt://h:99999/x", "Port out of range"),
        ("mqtt://h/x?user=me&password_file=/nowhere", "/nowhere: cannot be read"),
        ("mqtt://h/x?password_file=/nowhere", "password_file without a user; add user=NAME"),
        ("mqtt://h/plant/+/x", r"topic plant/\+/x, expected one without \+ and #"),
        ("mqtt://h/plant/#", "topic plant/#, expected one without"),
        ("modbus://h:1?unit=-1", "0 or more"),
        ("modbus://h:1?unit=300", r"unit=300, expected 0, which answers to all, to 255"),
        ("opcua://h:1?camera=side", "camera=side, expected one of top"),
        ("modbus://h:1?camera=", r"modbus://h:1\?camera=: camera has no value"),
    ],
)
def test_wrong_addresses_are_refused_with_what_was_expected(model: LineModel, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_sink(text, models=Models({"top": model}), metrics=Metrics())


def test_a_password_that_is_no_utf_8_is_refused(model: LineModel, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes("schlüssel".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="password: is no text in UTF-8"):
        open_sink(
            f"mqtt://h/x?user=me&password_file={tmp_path}/password", models=Models({"top": model}), metrics=Metrics()
        )


@pytest.mark.parametrize(
    ("text", "module", "extra"),
    [
        ("mqtt://h/x", "paho", "mqtt"),
        ("opcua://h:1", "asyncua", "opcua"),
        ("modbus://h:1", "pymodbus", "modbus"),
        ("prometheus://h:1", "prometheus_client", "metrics"),
    ],
)
def test_a_missing_library_names_the_extra(
    model: LineModel, monkeypatch: pytest.MonkeyPatch, text: str, module: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    sink = open_sink(text, models=Models({"top": model}), metrics=Metrics())
    with pytest.raises(ConfigurationError, match=rf"reason-edge\[{extra}\]"):
        sink.open()
