from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reason_runtime.detector import Decision
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.frame import Frame, Grab
from reason_runtime.line.journal import Journal
from reason_runtime.line.ledger import Ledger, blank
from reason_runtime.line.messages import Answer, Defect
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.publisher import Publisher
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.line.stations import ListSink


def frame(number: int, *, camera: str = "top", deadline_s: float | None = None) -> Frame:
    now_ns = time.monotonic_ns()
    return Frame(
        camera=camera,
        number=number,
        key=f"{camera}-{number}",
        part_id=f"{camera}-{number}",
        grab=Grab(grabbed_ns=now_ns),
        deadline_ns=None if deadline_s is None else now_ns + int(deadline_s * 1e9),
        grabbed_at=1_700_000_000.25,
    )


def passed(item: Frame) -> Answer:
    return dataclasses.replace(blank(item), decision="OK", cause="judged", score=0.25, threshold=0.5)


def test_parts_in_flight_at_a_kill_are_unknown_and_answers_not_handed_on_come_again_unchanged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    defect = Defect(x_px=1, width_px=2, first_line=3, lines=4, peak=0.5, lane=1)
    answers = {}
    for number in range(4):
        journal.taken(frame(number))
    for number in (1, 2):
        answers[number] = dataclasses.replace(passed(frame(number)), defects=(defect,), latency_ms=3.25)
        journal.answered(answers[number])
    journal.delivered("top-1")
    journal.close()  # the file of a killed process looks the same: every record was written at once
    again = Journal(tmp_path / "journal")
    recovered = {answer.part_id: answer for answer in again.recovered()}
    assert sorted(recovered) == ["top-0", "top-2", "top-3"]
    assert recovered["top-2"].line() == answers[2].line()
    assert (recovered["top-0"].decision, recovered["top-0"].cause) == ("UNKNOWN", "restart")
    assert recovered["top-0"].reason == "the process ended before this part was judged"
    assert (recovered["top-3"].camera, recovered["top-3"].number) == ("top", 3)
    assert recovered["top-0"].grabbed == "2023-11-14T22:13:20.250+00:00"
    again.close()
    third = Journal(tmp_path / "journal")
    assert {answer.part_id: answer.line() for answer in third.recovered()} == {
        part_id: answer.line() for part_id, answer in recovered.items()
    }
    for part_id in recovered:
        third.delivered(part_id)
    third.close()
    assert Journal(tmp_path / "journal").recovered() == []


def test_a_record_that_the_kill_cut_off_is_as_if_never_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.taken(frame(0))
    journal.answered(passed(frame(0)))
    journal.close()
    content = (tmp_path / "journal").read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in range(len(lines[0]), len(content) - 1):
        (tmp_path / "journal").write_bytes(content[:cut])
        again = Journal(tmp_path / "journal")
        (answer,) = again.recovered()
        again.close()
        assert answer.decision == "UNKNOWN"


@NEEDS_MOUNT
def test_a_full_disk_at_the_restart_neither_stops_the_line_nor_spoils_a_record(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="16k") as disk:
        path = disk / "journal"
        journal = Journal(path)
        journal.taken(frame(0))
        journal.close()
        with path.open("ab") as stream:
            stream.write(b'{"answer": {"kind": "resu')  # what a kill cut off
        (disk / "filler").write_bytes(bytes(12_288))  # and the journal has a page; nothing is left for a new one
        again = Journal(path)
        (unknown,) = again.recovered()
        assert (unknown.part_id, unknown.cause) == ("top-0", "restart")
        again.taken(frame(1))  # there is room in the journal's own page
        again.close()
        last = Journal(path)
        assert {"top-0", "top-1"} == {answer.part_id for answer in last.recovered()}
        last.close()


def test_a_journal_belongs_to_one_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(ConfigurationError, match="another process"):
        Journal(tmp_path / "journal")
    journal.close()
    Journal(tmp_path / "journal").close()


def test_a_long_run_keeps_the_journal_short_and_what_is_open_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.journal._COMPACT_BYTES", 2000)
    journal = Journal(tmp_path / "journal")
    journal.taken(frame(0, camera="left"))
    for number in range(200):
        journal.taken(frame(number))
        journal.answered(passed(frame(number)))
        journal.delivered(f"top-{number}")
    assert (tmp_path / "journal").stat().st_size < 4000
    journal.close()
    assert [answer.part_id for answer in Journal(tmp_path / "journal").recovered()] == ["left-0"]


def test_much_that_is_open_is_not_written_again_with_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.journal._COMPACT_BYTES", 2000)
    path = tmp_path / "journal"
    journal = Journal(path)
    files = [path.stat().st_ino]
    for number in range(300):  # a sink is down, and from 200 parts on each pushes the oldest out of its buffer
        journal.taken(frame(number))
        journal.answered(passed(frame(number)))
        if number >= 200:
            journal.delivered(f"top-{number - 200}")
            files.append(path.stat().st_ino)
    assert sum(before != after for before, after in zip(files, files[1:], strict=False)) <= 2
    journal.close()
    assert [answer.part_id for answer in Journal(path).recovered()] == [f"top-{number}" for number in range(100, 300)]


def test_no_descriptor_at_the_moment_of_making_it_short_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.journal._COMPACT_BYTES", 0)
    path = tmp_path / "journal"
    journal = Journal(path)
    system_open = os.open
    refused: set[os.PathLike[str]] = set()

    def none_left(name: os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        if name in refused:
            raise OSError(errno.EMFILE, "Too many open files")
        return system_open(name, flags, mode)

    monkeypatch.setattr("os.open", none_left)
    for number, name in enumerate((path, path.with_name("journal.new"))):
        refused = {name}
        journal.taken(frame(number))
        journal.answered(passed(frame(number)))
        journal.delivered(f"top-{number}")
        journal.taken(frame(number, camera="left"))
    refused = set()
    journal.close()
    assert [answer.part_id for answer in Journal(path).recovered()] == ["left-0", "left-1"]


def test_a_record_that_did_not_reach_the_disk_is_not_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", sync=True)
    book = Book(journal)
    first, second = frame(0), frame(1)
    for item in (first, second):
        book.ledger.take(item)

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr("os.fdatasync", fails)
        book.ledger.answer(first, passed(first))
    book.ledger.answer(second, passed(second))
    journal.close()
    told = {answer.part_id: answer.decision for answer in book.published}
    assert told == {"top-0": "UNKNOWN", "top-1": "OK"}
    assert {answer.part_id: answer.decision for answer in Journal(tmp_path / "journal").recovered()} == told


def test_a_part_that_the_disk_did_not_take_is_unknown_though_it_takes_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", sync=True)
    book = Book(journal)
    to_disk, failures = os.fdatasync, [OSError(errno.EIO, "Input/output error")]

    def fails_once(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        to_disk(descriptor)

    monkeypatch.setattr("os.fdatasync", fails_once)
    assert not book.ledger.take(frame(0))
    assert not book.ledger.is_open(frame(0))
    (told,) = book.published
    assert (told.decision, told.cause) == ("UNKNOWN", "journal")
    (failure,) = book.failures
    assert "Input/output error" in failure
    journal.close()
    again = Journal(tmp_path / "journal")
    assert [answer.line() for answer in again.recovered()] == [told.line()]
    again.close()


def test_a_record_after_a_check_is_found_again_whatever_came_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"answer": {"kind": "resu')  # what a kill cut off
    system_open = os.open

    def full(name: os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        if name == path.with_name("journal.new"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return system_open(name, flags, mode)

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.open", full)
    journal = Journal(path, sync=True)
    journal.check()
    journal.taken(frame(0))
    journal.check()
    with monkeypatch.context() as disk:
        disk.setattr("os.fdatasync", fails)
        with pytest.raises(SinkError, match="cannot be written"):
            journal.taken(frame(1))
    journal.taken(frame(2))
    journal.close()
    assert [answer.part_id for answer in Journal(path).recovered()] == ["top-0", "top-2"]


def test_without_sync_no_record_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fdatasync", pytest.fail)
    journal = Journal(tmp_path / "journal")
    journal.taken(frame(0))
    journal.answered(passed(frame(0)))
    journal.close()


def test_a_journal_that_cannot_be_made_short_leaves_nothing_behind_and_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("reason_runtime.line.journal._COMPACT_BYTES", 0)
    journal = Journal(tmp_path / "journal")
    open_before = os.listdir("/proc/self/fd")
    monkeypatch.setattr("os.replace", fails)
    journal.taken(frame(0))
    journal.delivered("top-0")
    assert os.listdir("/proc/self/fd") == open_before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["journal", "journal.lock"]
    journal.close()


@pytest.mark.parametrize(
    "line", ['{"answer": {"part_id": "top-0"}}', '{"taken": "top-0"}', "3", '{"answer": 1}', '{"kind": "result"}']
)
def test_records_of_another_version_are_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal"
    path.write_text(f'{{"delivered": "top-9"}}\n{line}\n')
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="does not read .*move the file away"):
            Journal(path)
    path.unlink()
    Journal(path).close()


@NEEDS_MOUNT
def test_a_journal_on_a_full_disk_can_be_asked_whether_it_works_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="16k") as disk:
        journal = Journal(disk / "journal")
        journal.taken(frame(0))
        before = (disk / "journal").read_bytes()
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(bytes(32_000))
        with pytest.raises(SinkError, match="cannot be written"):
            journal.check()
        (disk / "filler").unlink()
        journal.check()
        assert (disk / "journal").read_bytes() == before
        journal.close()


def test_what_can_be_no_journal_and_a_folder_that_cannot_be_made_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match="cannot be opened"):
        Journal(tmp_path / "file" / "journal")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    for _ in range(2):  # nothing of the first try holds the lock
        with pytest.raises(ConfigurationError, match="is no journal"):
            Journal(tmp_path / "socket")


@pytest.mark.parametrize(
    "content", [b'{"kind": "result", "part_id": "A17"}\n', b"part,decision\nA17,OK\n", b"\x89PNG\r\n\x1a\n\0\0", b"\nx"]
)
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="mine: is no journal, and would be written anew"):
        Journal(path)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == {"mine": content}


@pytest.mark.parametrize("content", [b"", b"\n", b" " * 4095, b"\0" * 4096 + b'rt": 3}\n', b'{"', b"[" * 100_000])
def test_what_a_kill_or_a_power_cut_leaves_is_a_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"delivered": "top-9"}\n' * content.startswith(b"[") + content)
    Journal(path).close()
    assert path.read_bytes() == b""


def test_a_pipe_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open one waits for its writer, without end
    with pytest.raises(ConfigurationError, match="is no journal"):
        Journal(tmp_path / "pipe")


def test_a_link_to_a_journal_stays_one_and_is_that_journal(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "link", tmp_path / "disk" / "journal"
    link.symlink_to(file)
    journal = Journal(link)
    journal.taken(frame(0))
    with pytest.raises(ConfigurationError, match="another process uses this journal"):
        Journal(file)
    journal.close()
    assert link.is_symlink()
    assert [answer.part_id for answer in Journal(file).recovered()] == ["top-0"]


def test_the_folders_of_a_journal_are_made(tmp_path: Path) -> None:
    Journal(tmp_path / "line" / "3" / "journal").close()
    Journal(tmp_path / "line" / "3" / "another").close()


@pytest.mark.parametrize("place", ["", ".", "/", "..", "images", "images/", "new/.."])
def test_a_journal_that_is_a_folder_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "work" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match="is a folder; expected a file for the journal, such as .*journal$"):
        Journal(Path(place))
    assert sorted(tmp_path.rglob("*")) == before


class Book:
    """A ledger and what it published."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.published: list[Answer] = []
        self.failures: list[str] = []
        self.metrics = Metrics()
        self.ledger = Ledger(
            publish=self.published.append, journal=journal, metrics=self.metrics, journal_failed=self.failures.append
        )


def test_answers_leave_in_order_per_camera_and_only_once() -> None:
    book = Book()
    frames = [frame(number) for number in range(3)]
    other = frame(0, camera="left")
    for item in (*frames, other):
        assert book.ledger.take(item)
    assert book.ledger.answer(frames[2], passed(frames[2]))
    assert book.ledger.answer(frames[1], passed(frames[1]))
    assert book.published == []
    assert book.ledger.answer(other, passed(other))
    assert [answer.part_id for answer in book.published] == ["left-0"]
    assert book.ledger.refuse(frames[0], "dropped", "x")
    assert not book.ledger.answer(frames[0], passed(frames[0]))
    assert [answer.part_id for answer in book.published] == ["left-0", "top-0", "top-1", "top-2"]
    assert [answer.decision for answer in book.published] == ["OK", "UNKNOWN", "OK", "OK"]
    assert len(book.ledger) == 0


def test_an_answer_after_the_deadline_is_unknown_even_before_the_clock_noticed() -> None:
    book = Book()
    late = frame(0, deadline_s=0.01)
    book.ledger.take(late)
    time.sleep(0.02)
    assert not book.ledger.answer(late, passed(late))
    assert [answer.cause for answer in book.published] == ["deadline"]


def test_an_answer_that_a_slow_disk_makes_late_is_unknown_in_the_journal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, sync=True)
    book = Book(journal)
    good = frame(0, deadline_s=0.1)
    assert book.ledger.take(good)
    to_disk, stalls = os.fdatasync, [0.15]

    def slow(descriptor: int) -> None:
        time.sleep(stalls.pop() if stalls else 0)
        to_disk(descriptor)

    monkeypatch.setattr("os.fdatasync", slow)
    assert not book.ledger.answer(good, passed(good))
    (told,) = book.published
    assert (told.decision, told.cause) == ("UNKNOWN", "deadline")
    assert told.latency_ms is not None
    assert told.latency_ms > 150
    journal.close()
    again = Journal(path)
    assert [answer.line() for answer in again.recovered()] == [told.line()]
    again.close()


def test_an_ok_that_a_slow_disk_makes_late_is_not_found_again_where_its_unknown_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, sync=True)
    book = Book(journal)
    good, next_one = frame(0, deadline_s=0.1), frame(1)
    assert book.ledger.take(good)
    to_disk, disk = os.fdatasync, ["stalls", "fails"]

    def bad(descriptor: int) -> None:
        state = disk.pop(0) if disk else "well"
        time.sleep(0.15 if state == "stalls" else 0)
        if state == "fails":
            raise OSError(errno.EIO, "Input/output error")
        to_disk(descriptor)

    monkeypatch.setattr("os.fdatasync", bad)
    assert not book.ledger.answer(good, passed(good))
    assert [(answer.decision, answer.cause) for answer in book.published] == [("UNKNOWN", "journal")]
    assert not journal.has_answer(good.key)
    assert book.ledger.take(next_one)
    assert book.ledger.answer(next_one, passed(next_one))
    journal.close()
    again = Journal(path)
    found = {answer.part_id: answer.decision for answer in again.recovered()}
    assert found == {"top-0": "UNKNOWN", "top-1": "OK"}
    again.close()


def test_an_answer_that_waits_for_the_part_before_outlives_its_deadline_and_is_recorded_once(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    book = Book(journal)
    late, judged = frame(0, deadline_s=0.02), frame(1, deadline_s=0.02)
    for item in (late, judged):
        assert book.ledger.take(item)
    assert book.ledger.answer(judged, passed(judged))
    time.sleep(0.03)
    book.ledger.expire()
    assert [(answer.part_id, answer.cause) for answer in book.published] == [("top-0", "deadline"), ("top-1", "judged")]
    journal.close()
    again = Journal(path)
    assert [answer.line() for answer in again.recovered()] == [answer.line() for answer in book.published]
    again.close()


def test_a_deadline_holds_behind_a_part_whose_own_comes_later() -> None:
    book = Book()
    patient, hurried = frame(0, deadline_s=60), frame(1, deadline_s=0.01)
    for item in (patient, hurried):
        assert book.ledger.take(item)
    time.sleep(0.02)
    book.ledger.expire()
    assert book.ledger.is_open(patient)
    assert not book.ledger.is_open(hurried)
    started_s = time.monotonic()
    book.ledger.sleep(time.monotonic_ns() + 50_000_000)  # not at once: the one that waits has its answer
    assert time.monotonic() - started_s >= 0.05
    assert book.ledger.answer(patient, passed(patient))
    assert [answer.cause for answer in book.published] == ["judged", "deadline"]


def test_a_part_of_an_id_that_came_before_is_answered_at_once_and_the_first_one_is_still_judged() -> None:
    book = Book()
    first = frame(0)
    assert book.ledger.take(first)
    second = dataclasses.replace(first, number=1, key="top-1")
    assert not book.ledger.take(second)
    assert not book.ledger.answer(second, passed(second))
    assert not book.ledger.is_open(second)
    assert book.ledger.answer(first, passed(first))
    assert [(answer.part_id, answer.cause) for answer in book.published] == [
        ("top-0", "judged"),
        ("top-0#top-1", "repeated"),
    ]


def test_a_part_that_was_answered_after_a_kill_keeps_that_answer_when_it_comes_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    killed = Book(journal)
    in_flight, judged, delivered = (frame(number) for number in range(3))
    for item in (in_flight, judged, delivered):
        assert killed.ledger.take(item)
    journal.answered(passed(judged))
    journal.delivered(delivered.part_id)
    journal.close()
    again = Journal(tmp_path / "journal")
    book = Book(again)
    told = {item.part_id: item.decision for item in again.recovered()}
    for item in (in_flight, judged):
        assert not book.ledger.take(dataclasses.replace(item, number=7, key=f"again {item.key}"))
    again.close()
    assert [(answer.part_id, answer.cause) for answer in book.published] == [
        ("top-0#top-7", "repeated"),
        ("top-1#top-7", "repeated"),
    ]
    found = Journal(tmp_path / "journal")
    assert told == {"top-0": "UNKNOWN", "top-1": "OK"}
    assert {item.part_id: item.decision for item in found.recovered()} == {
        **told,
        "top-0#top-7": "UNKNOWN",
        "top-1#top-7": "UNKNOWN",
    }
    found.close()


def test_a_pallet_that_comes_again_takes_nothing_from_its_first_answer_which_still_waits_for_a_broker(
    tmp_path: Path,
) -> None:
    path, killed, broker = tmp_path / "journal", tmp_path / "killed", ListSink(down=True)
    journal = Journal(path)
    publisher = Publisher(metrics=Metrics(), journal=journal)
    publisher.start([broker])
    ledger = Ledger(publish=publisher.publish, journal=journal, metrics=Metrics(), journal_failed=pytest.fail)

    def judge(number: int, part_id: str, decision: Decision) -> None:
        item = dataclasses.replace(frame(number), part_id=part_id)
        assert ledger.take(item)
        assert ledger.answer(item, dataclasses.replace(passed(item), decision=decision))

    judge(0, "pallet 7", "NG")
    for number in range(1, 1002):
        judge(number, f"other {number}", "OK")
    judge(1002, "pallet 7", "OK")
    shutil.copy(path, killed)
    again = Journal(killed)
    broker.down = False
    assert publisher.finish(10) == 0
    for answers in (again.recovered(), broker.answers):
        told = [(item.number, item.decision) for item in answers if item.part_id == "pallet 7"]
        assert told == [(0, "NG"), (1002, "OK")]
    again.close()
    journal.close()
    assert Journal(path).recovered() == []


def test_the_journal_forgets_a_part_once_every_sink_has_it_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    publisher = Publisher(metrics=Metrics(), journal=journal)
    item = frame(0)
    journal.answered(passed(item))
    publisher.publish(passed(item))  # there is no sink that could miss it
    assert journal.recovered() == []
    sinks = [ListSink("first"), ListSink("second"), ListSink("broker", down=True)]
    publisher.start(sinks)
    item = frame(1)
    journal.answered(passed(item))
    publisher.publish(passed(item))
    for sink in sinks[:2]:
        sink.wait(lambda sink=sink: len(sink.answers) == 1)  # type: ignore[misc]
    time.sleep(0.05)  # the publisher hears of it just after
    assert [answer.part_id for answer in journal.recovered()] == ["top-1"]
    sinks[2].down = False
    assert publisher.finish(10) == 0
    assert journal.recovered() == []
    journal.close()


@pytest.mark.parametrize("deadline_s", [None, 60.0, 0.05])
def test_the_clock_sleeps_as_long_as_it_was_told_or_until_the_first_deadline(deadline_s: float | None) -> None:
    ledger = Book().ledger
    ledger.take(frame(0, deadline_s=deadline_s))
    started_s = time.monotonic()
    ledger.sleep(time.monotonic_ns() + (100_000_000 if deadline_s != 0.05 else 60_000_000_000))
    slept_s = time.monotonic() - started_s
    assert 0.04 < slept_s < 30


def test_the_clock_that_sleeps_is_woken_by_an_earlier_deadline_and_when_told() -> None:
    ledger = Book().ledger
    with ThreadPoolExecutor(1) as pool:
        sleeps = pool.submit(ledger.sleep, time.monotonic_ns() + 20_000_000_000)
        time.sleep(0.05)
        assert ledger.take(frame(0, deadline_s=0.1))
        sleeps.result(10)
        assert ledger.refuse_all("stopped", "x") == 1
        sleeps = pool.submit(ledger.sleep, time.monotonic_ns() + 20_000_000_000)
        until_s = time.monotonic() + 10
        while not sleeps.done() and time.monotonic() < until_s:
            ledger.wake()
            time.sleep(0.01)
        assert sleeps.done()


def test_who_waits_for_the_last_part_to_leave_is_told_at_once() -> None:
    book = Book()
    item = frame(0)
    assert book.ledger.take(item)
    assert not book.ledger.wait_empty(0.01)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(book.ledger.wait_empty, 20)
        time.sleep(0.05)
        assert not waits.done()
        assert book.ledger.answer(item, passed(item))
        assert waits.result(10)


def test_a_stop_refuses_what_is_open_and_changes_no_answer_that_waits_for_the_part_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    book = Book(journal)
    frames = [frame(number) for number in range(3)]
    for item in frames:
        assert book.ledger.take(item)
    assert book.ledger.answer(frames[1], passed(frames[1]))
    assert book.ledger.refuse_all("stopped", "x") == 2
    told = [(answer.part_id, answer.cause) for answer in book.published]
    assert told == [("top-0", "stopped"), ("top-1", "judged"), ("top-2", "stopped")]
    assert not any(book.ledger.is_open(item) for item in frames)
    journal.close()
    again = Journal(tmp_path / "journal")
    assert [(answer.part_id, answer.cause) for answer in again.recovered()] == told
    again.close()


def test_an_answer_says_how_long_it_took_since_the_grab() -> None:
    book = Book()
    item = frame(0)
    item = dataclasses.replace(item, grab=Grab(grabbed_ns=item.grab.grabbed_ns - 3_000_000_000))
    assert book.ledger.take(item)
    assert book.ledger.answer(item, passed(item))
    (answer,) = book.published
    assert answer.latency_ms is not None
    assert 3000 <= answer.latency_ms < 30_000
    (counted_ms,) = book.metrics.snapshot().latest_ms
    assert answer.latency_ms <= counted_ms < 30_000


def test_an_answer_that_the_journal_cannot_hold_is_unknown(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    book = Book(journal)
    first, second = frame(0), frame(1)
    book.ledger.take(first)
    journal.close()  # from here on every write fails
    assert not book.ledger.answer(first, passed(first))
    assert len(book.failures) == 1
    assert not book.ledger.take(second)
    assert len(book.failures) == 3  # neither that it came nor its answer could be written
    assert [(answer.decision, answer.cause) for answer in book.published] == [("UNKNOWN", "journal")] * 2
    assert all("cannot be written" in text for text in book.failures)
    assert json.dumps(book.published[0].line())
