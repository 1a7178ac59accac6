"""A whole run in this process."""

from __future__ import annotations

import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.errors import SinkError
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Answer, Event
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.line.models import Models
from reason_runtime.line.publisher import Publisher
from reason_runtime.line.run import LineRun
from reason_runtime.line.sinks.open import open_sink
from reason_runtime.line.station import CameraPlan, ModelPlan, Station
from tests.line.models import line_bundle, part, trips_of
from tests.line.ports import free_port
from tests.line.stations import ListSink, camera, interrupted_everywhere, running
from tests.line.test_inspect_command import endless, results, wait_for
from tests.line.test_journal import frame
from tests.line.test_post import listens, send
from tests.runtime.bundles import SIZE_PX


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelPlan:
    return ModelPlan(bundle=line_bundle(tmp_path_factory.mktemp("b") / "line").path, threads=1)


def test_a_file_waits_for_a_sink_that_is_slower(model: ModelPlan) -> None:
    slow = ListSink(keeps=False, wants_pictures=True, pause_s=0.1)  # of its kind, a buffer holds 16
    with running(model.bundle, camera(*[part(250)] * 60), sink=slow) as line:
        line.finish()
    assert len(slow.answers) == 60
    assert line.metrics.snapshot().missed.get("list", 0) == 0


def test_more_files_than_a_buffer_holds_messages_are_read(model: ModelPlan) -> None:
    slow = ListSink(wants_pictures=True, pause_s=0.01)
    with running(model.bundle, *[camera(part(250), name=f"c{number}") for number in range(20)], sink=slow) as line:
        assert line.finish() == "ended"
    assert len(slow.answers) == 20


def test_a_file_waits_for_no_sink_that_is_down(model: ModelPlan) -> None:
    down = ListSink(keeps=False, wants_pictures=True, down=True)
    with running(model.bundle, camera(*[part(250)] * 60), sink=down) as line:
        assert line.finish() == "ended"
    assert line.metrics.snapshot().missed["list"] >= 60


def test_a_run_over_files_ends_when_its_sinks_have_everything(
    model: ModelPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.run._DELIVER_S", 0.05)
    (tmp_path / "parts").mkdir()
    for number in range(200):  # more lines than a pipe holds
        Image.fromarray(part(130)).save(tmp_path / "parts" / f"{number:03}.bmp")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)
    read = bytearray()

    def late() -> None:
        time.sleep(1.0)
        while read.count(b"\n") < 200:
            read.extend(os.read(reader, 1 << 16))

    thread = threading.Thread(target=late)
    thread.start()
    plan = CameraPlan(name="top", source=str(tmp_path / "parts"), model=model)
    summary = LineRun(Station(cameras=(plan,), sinks=(f"jsonl:{tmp_path}/pipe",))).run()
    thread.join(5)
    os.close(reader)
    assert (summary.outcome, sum(summary.metrics.missed.values())) == ("ended", 0)
    assert read.count(b'"kind": "result"') == 200


def test_a_signal_while_sinks_are_waited_for_ends_the_run(model: ModelPlan, tmp_path: Path) -> None:
    Image.fromarray(part(250)).save(tmp_path / "0.png")
    os.mkfifo(tmp_path / "pipe")
    unread = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(unread, bytes(4096))
    plan = CameraPlan(name="top", source=f"{tmp_path}/0.png", model=model)
    line = LineRun(Station(cameras=(plan,), sinks=(f"jsonl:{tmp_path}/pipe",)))
    started_s = time.monotonic()
    interrupted_everywhere(line.run, line.stop, within="_wait_for_sinks")
    assert time.monotonic() - started_s < 4  # else a sink that delivers nothing has 5 s
    os.close(unread)


@contextmanager
def silent_brokers(count: int) -> Iterator[list[str]]:
    """Addresses of brokers that take a connection and say nothing."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield [f"mqtt://127.0.0.1:{each.getsockname()[1]}/line" for each in listening]
    finally:
        for each in listening:
            each.close()


def test_brokers_that_do_not_answer_delay_the_start_no_longer_than_one_does(
    model: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.sinks.mqtt._CONNECT_S", 0.5)
    events: list[Event] = []
    publisher = Publisher(metrics=Metrics(), journal=None, tell=events.append)
    models = Models({"top": LineModel(load(model.bundle, threads=1))})
    with silent_brokers(4) as addresses:
        began_s = time.monotonic()
        publisher.start([open_sink(text, models=models, metrics=Metrics()) for text in addresses])
        assert 0.4 < time.monotonic() - began_s < 1.5  # one after the other, 2 s
        assert len({event.name for event in events if "did not accept us" in event.text}) == 4
        publisher.finish(0.1)


def test_a_connection_that_a_broker_did_not_accept_leaves_no_descriptor(
    model: ModelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.sinks.mqtt._CONNECT_S", 0.1)
    models = Models({"top": LineModel(load(model.bundle, threads=1))})
    gc.collect()
    with silent_brokers(1) as (address,):
        sink = open_sink(address, models=models, metrics=Metrics())
        before = len(os.listdir("/proc/self/fd"))
        gc.disable()
        try:
            for _ in range(3):
                with pytest.raises(SinkError, match="did not accept us"):
                    sink.open()
            assert len(os.listdir("/proc/self/fd")) == before
        finally:
            gc.enable()


def test_a_signal_while_sinks_open_ends_the_run_and_keeps_what_the_process_before_left(
    model: ModelPlan, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    journal.taken(frame(7))
    journal.close()
    plan = CameraPlan(name="top", source=endless(tmp_path), model=model)
    with silent_brokers(2) as addresses:
        line = LineRun(Station(cameras=(plan,), sinks=tuple(addresses), journal=tmp_path / "journal"))
        threading.Timer(0.3, line.stop).start()
        began_s = time.monotonic()
        summary = line.run()
        assert time.monotonic() - began_s < 4.5  # a broker has 5 s to accept us
    assert summary.outcome == "stopped"
    assert "top-7" in [answer.part_id for answer in Journal(tmp_path / "journal").recovered()]


def test_a_plc_is_shown_no_result_of_the_process_before(model: ModelPlan, tmp_path: Path) -> None:
    from pymodbus.client import ModbusTcpClient

    journal = Journal(tmp_path / "journal")
    for number in range(300):
        journal.answered(
            Answer(
                camera="top",
                number=number,
                key=f"old-{number}",
                part_id=f"old-{number}",
                decision="OK",
                cause="judged",
                grabbed="x",
            )
        )
    journal.close()
    station = Station(
        cameras=(CameraPlan(name="top", source=endless(tmp_path, lines_per_s=640), model=model),),
        sinks=(f"jsonl:{tmp_path}/r.jsonl", f"modbus://127.0.0.1:{(port := free_port())}"),
        journal=tmp_path / "journal",
    )
    line = LineRun(station)
    thread = threading.Thread(target=line.run)
    thread.start()
    try:
        wait_for(tmp_path / "r.jsonl", 303)
        client = ModbusTcpClient("127.0.0.1", port=port)
        assert client.connect()
        words = client.read_input_registers(0, count=40).registers
        _, _, count, _, _, part_id = struct.unpack(">HHIIf64s", struct.pack(">40H", *words))
        client.close()
    finally:
        line.stop()
        thread.join(10)
    assert 0 < count < 300
    assert part_id.startswith(b"top-")
    assert {item["part_id"] for item in results(tmp_path / "r.jsonl")} >= {f"old-{number}" for number in range(300)}


def test_files_are_judged_by_no_bundle_that_reads_them_otherwise_than_the_one_at_the_start(tmp_path: Path) -> None:
    image = np.full((SIZE_PX, SIZE_PX), 32896, np.uint16)
    content = cv2.imencode(".png", image)[1].tobytes()
    first = line_bundle(tmp_path / "first")
    line_bundle(tmp_path / "brighter", white_level=36_000)
    larger = line_bundle(tmp_path / "larger", size_px=2 * SIZE_PX)
    port = free_port()
    with inspecting(tmp_path, source=f"post://127.0.0.1:{port}", bundle="first") as (line, told):
        wait_until(lambda: listens(port))
        put(tmp_path, "brighter")
        line.swap()
        wait_until(lambda: len(told) == 1)
        assert send(port, content)[1]["score"] == load(first.path)(image).score
        put(tmp_path, "larger")
        line.swap()
        wait_until(lambda: len(told) == 2)
        assert send(port, content)[1]["bundle"] == larger.manifest.content_sha256[:12]
    assert "the old one stays: post://127.0.0.1" in told[0]


def test_pixels_of_a_camera_are_read_by_the_bundle_that_judges_them(tmp_path: Path) -> None:
    image = np.full((SIZE_PX, SIZE_PX), 32896, np.uint16)
    np.save(tmp_path / "web.npy", image)
    line_bundle(tmp_path / "first")
    brighter = line_bundle(tmp_path / "brighter", white_level=36_000)
    source = f"linescan:{tmp_path / 'web.npy'}?lines_per_s=3200&block_lines={SIZE_PX}"
    with inspecting(tmp_path, source=source, bundle="first") as (line, told):
        put(tmp_path, "brighter")
        line.swap()
        wait_until(lambda: len(told) == 1)
        wait_for(tmp_path / "r.jsonl", len(results(tmp_path / "r.jsonl")) + 10)
    last = results(tmp_path / "r.jsonl")[-1]
    assert (last["bundle"], last["score"]) == (
        brighter.manifest.content_sha256[:12],
        load(brighter.path)(image).score,
    )


def test_a_threshold_given_by_hand_is_never_compared_with_another_bundles_scores(tmp_path: Path) -> None:
    first = line_bundle(tmp_path / "first").manifest.content_sha256[:12]
    line_bundle(tmp_path / "other", threshold=0.001)
    with inspecting(tmp_path, source=endless(tmp_path), bundle="first", threshold=0.7) as (line, told):
        line.swap()
        wait_until(lambda: len(told) == 1)
        put(tmp_path, "other")
        line.swap()
        wait_until(lambda: len(told) == 2)
        wait_for(tmp_path / "r.jsonl", len(results(tmp_path / "r.jsonl")) + 10)
    assert "from now on" in told[0]  # the same bundle, loaded again
    assert "the old one stays" in told[1]
    assert "given by hand, 0.7, is of the scores of bundle " + first in told[1]
    judged = [item for item in results(tmp_path / "r.jsonl") if item["cause"] == "judged"]
    assert {(item["bundle"], item["threshold"]) for item in judged} == {(first, 0.7)}


def test_going_back_while_a_bundle_loads_ends_on_the_one_before_it(tmp_path: Path) -> None:
    first = line_bundle(tmp_path / "first").manifest.content_sha256[:12]
    slow = line_bundle(tmp_path / "slow", trips=trips_of(0.2)).manifest.content_sha256[
        :12
    ]  # a run, of three at the start
    with inspecting(tmp_path, source=endless(tmp_path, lines_per_s=64), bundle="first") as (line, told):
        put(tmp_path, "slow")
        line.swap()
        line.swap_back()
        wait_until(lambda: len(told) == 2)
        assert line.models.of("top").content == first
    assert told[0] == f"judging with bundle {slow} at threshold 0.5 from now on"
    assert told[1] == f"back to bundle {first} at threshold 0.5"


def test_a_bundle_that_still_loads_at_the_end_is_a_thread_around_which_the_process_must_end(tmp_path: Path) -> None:
    line_bundle(tmp_path / "first")
    line_bundle(tmp_path / "slow", trips=trips_of(0.7))  # a run, of three at the start
    put(tmp_path, "first")
    plan = CameraPlan(name="top", source=endless(tmp_path), model=ModelPlan(bundle=tmp_path / "current", threads=1))
    line = LineRun(Station(cameras=(plan,), sinks=(f"jsonl:{tmp_path}/r.jsonl",)))
    put(tmp_path, "slow")
    line.swap()
    line.stop()
    assert line.run().is_stuck
    for thread in threading.enumerate():
        if thread.name == "change":
            thread.join(20)


def test_a_bundle_that_takes_more_memory_than_there_is_leaves_the_old_one(tmp_path: Path) -> None:
    first = line_bundle(tmp_path / "first").manifest.content_sha256[:12]
    other = line_bundle(tmp_path / "other", threshold=0.2)
    os.truncate(other.path / "manifest.json", 2**43)  # takes no room on the disk
    with inspecting(tmp_path, source=endless(tmp_path), bundle="first") as (line, told):
        put(tmp_path, "other")
        line.swap()
        wait_until(lambda: len(told) == 1)
        put(tmp_path, "first")
        line.swap()
        wait_until(lambda: len(told) == 2)
    assert told == [
        "the new bundle is refused, the old one stays: MemoryError()",
        f"judging with bundle {first} at threshold 0.5 from now on",
    ]


def put(folder: Path, bundle: str) -> None:
    """Let the link `current` name another bundle."""
    (folder / "new").symlink_to(bundle)
    os.replace(folder / "new", folder / "current")


def wait_until(is_so: Callable[[], bool], *, seconds: float = 20) -> None:
    until_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.02)


@contextmanager
def inspecting(
    folder: Path, *, source: str, bundle: str, threshold: float | None = None
) -> Iterator[tuple[LineRun, list[str]]]:
    """A line that judges by what the link `current` names, and what it says of its bundles."""
    put(folder, bundle)
    model = ModelPlan(bundle=folder / "current", threads=1, threshold=threshold)
    station = Station(
        cameras=(CameraPlan(name="top", source=source, model=model),), sinks=(f"jsonl:{folder / 'r.jsonl'}",)
    )
    told: list[str] = []
    line = LineRun(station, tell=lambda event: told.append(event.text) if event.name == "bundle" else None)
    runner = threading.Thread(target=line.run)
    runner.start()
    try:
        yield line, told
    finally:
        line.stop()
        runner.join(10)
