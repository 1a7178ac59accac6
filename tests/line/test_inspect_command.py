from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime.bundle import open_bundle
from reason_runtime.errors import ConfigurationError
from reason_runtime.line.run import LineRun
from reason_runtime.line.station import CameraPlan, ModelPlan, Station
from reason_runtime.line.station_file import read_station
from tests.commands import call
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.line.models import HANG, line_bundle, part, trips_of
from tests.line.ports import free_port
from tests.runtime.bundles import SIZE_PX

ROOT = Path(__file__).parents[2]


def start(*arguments: object, log: int = subprocess.PIPE, first: str = "") -> subprocess.Popen[str]:
    """Run `inspect`, after a line of Python."""
    code = f"{first}\nfrom reason_runtime.commands import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "inspect", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )


def results(path: Path) -> list[dict[str, object]]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    return [line for line in lines if line["kind"] == "result"]


def wait_for(path: Path, count: int, *, seconds: float = 20) -> list[dict[str, object]]:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        found = results(path)
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{len(results(path))} results, expected {count}")


def terminated(process: subprocess.Popen[str]) -> str:
    """What a line wrote to stderr that had 5 s to end well after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    started_s = time.monotonic()
    _, log = process.communicate(timeout=10)
    assert time.monotonic() - started_s < 5
    assert process.returncode == 0, log
    return log


def wait_for_text(path: Path, text: str) -> None:
    until_s = time.monotonic() + 10
    while text not in path.read_text():
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("b") / "line").path


def endless(folder: Path, *, lines_per_s: int = 3200, faults: str = "") -> str:
    """A simulated camera whose blocks of 32 lines are parts: two good ones, then a bad one."""
    path = folder / "web.npy"
    np.save(path, np.concatenate([part(130), part(120), part(250)]))
    options = f"lines_per_s={lines_per_s}&block_lines=32"
    return f"linescan:{path}?{options}&faults={faults}" if faults else f"linescan:{path}?{options}"


def test_sigterm_drains_and_exits_0_within_five_seconds(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    process = start(bundle, "--source", endless(tmp_path), "--sink", f"jsonl:{out}", "--journal", tmp_path / "journal")
    wait_for(out, 50)
    log = terminated(process)
    found = results(out)
    assert [line["frame"] for line in found] == list(range(len(found)))
    assert [line["decision"] for line in found[:6]] == ["OK", "OK", "NG"] * 2
    assert f"{len(found)} frames: " in log
    assert "no check of drift: the bundle has no scores of 8 held-out good images or more" in log
    assert (tmp_path / "journal").read_text().count('"delivered"') >= len(found)


def test_signals_that_come_again_and_again_until_the_end_change_nothing(bundle: Path, tmp_path: Path) -> None:
    process = start(bundle, "--source", endless(tmp_path), "--sink", f"jsonl:{tmp_path}/r.jsonl", "--threads", 1)
    wait_for(tmp_path / "r.jsonl", 3)
    until_s = time.monotonic() + 5
    while process.poll() is None and time.monotonic() < until_s:
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.001)
    _, log = process.communicate(timeout=5)
    assert process.returncode == 0, log
    assert " frames: " in log


def test_sigterm_judges_the_lines_of_a_web_that_fill_no_frame(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    np.save(tmp_path / "web.npy", part(130))
    web = f"linescan:{tmp_path / 'web.npy'}?lines_per_s=16000&block_lines=32&frame_lines=6400"
    process = start(bundle, "--source", web, "--sink", f"jsonl:{out}", "--journal", tmp_path / "journal")
    wait_for(out, 1)
    terminated(process)
    last = results(out)[-1]
    assert last["decision"] == "OK"
    assert 0 < int(str(last["valid_lines"])) < 6400


@NEEDS_MOUNT
def test_answers_that_a_full_disk_did_not_take_are_an_error(bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        Image.fromarray(part(120 + number % 4)).save(images / f"{number:02}.png")
    with small_disk(tmp_path / "disk", size="4k") as disk:
        process = start(bundle, "--source", images, "--sink", f"jsonl:{disk / 'r.jsonl'}", "--sink", "jsonl:-")
        out, log = process.communicate(timeout=30)
        assert process.returncode == 1, log
        assert len([line for line in out.splitlines() if '"kind": "result"' in line]) == 40
        assert 0 < len(results(disk / "r.jsonl")) < 40
    assert f"fault sink jsonl {disk / 'r.jsonl'}: {disk / 'r.jsonl'}: the disk is full" in log
    assert re.search(rf"^error: \d+ messages were lost: jsonl {disk / 'r.jsonl'}$", log, re.M)


@pytest.mark.parametrize("kind", ["full disk", "pipe that nobody empties"])
def test_a_log_that_cannot_be_written_decides_nothing(bundle: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "r.jsonl"
    source = endless(tmp_path, lines_per_s=640, faults="unplug@6-9")
    with log_of(kind) as log:
        process = start(bundle, "--source", source, "--sink", f"jsonl:{out}", "--journal", tmp_path / "j", log=log)
        wait_for(out, 20)  # the camera was lost, which was said, and came back
        assert "connection lost" in out.read_text()
        terminated(process)


@contextmanager
def log_of(kind: str) -> Iterator[int]:
    if kind == "full disk":
        log = os.open("/dev/full", os.O_WRONLY)
        yield log
        os.close(log)
        return
    reader, log = os.pipe()
    os.set_blocking(log, False)
    with suppress(BlockingIOError):
        while True:
            os.write(log, bytes(1024))
    os.set_blocking(log, True)
    yield log
    os.close(log)
    os.close(reader)


def test_parts_in_flight_at_a_kill_are_answered_unknown_after_the_restart(bundle: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "r.jsonl", tmp_path / "journal"
    for _ in range(3):
        arguments = (bundle, "--source", endless(tmp_path), "--sink", f"jsonl:{out}", "--journal", journal)
        process = start(*arguments)
        wait_for(out, len(results(out)) + 40)
        process.kill()
        process.communicate(timeout=10)
    process = start(*arguments)
    wait_for(out, len(results(out)) + 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    answers: dict[str, set[str]] = {}
    for line in results(out):
        answers.setdefault(str(line["part_id"]), set()).add(str(line["decision"]))
    assert all(len(decisions) == 1 for decisions in answers.values())
    runs: dict[str, list[int]] = {}
    for part_id in answers:
        run, _, number = part_id.rpartition("-")
        runs.setdefault(run, []).append(int(number))
    assert len(runs) == 4
    for numbers in runs.values():
        assert sorted(numbers) == list(range(len(numbers)))  # none is missing
    taken = {json.loads(line)["taken"] for line in journal.read_text().splitlines() if line.startswith('{"taken"')}
    assert taken <= set(answers)


def test_a_hanging_native_call_is_answered_and_the_process_exits_for_its_supervisor(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    for number, code in enumerate((0, HANG, 0)):
        Image.fromarray(part(130, code=code)).save(tmp_path / "parts" / f"{number}.png")
    (tmp_path / "station.toml").write_text(
        f'bundle = "{bundle}"\nhang_s = 0.5\nthreads = 1\nsinks = ["jsonl:{tmp_path}/r.jsonl"]\n'
        f'[[camera]]\nname = "top"\nsource = "{tmp_path}/parts"\n'
    )
    process = start("--config", tmp_path / "station.toml")
    _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "a stage hangs" in log
    assert [line["cause"] for line in results(tmp_path / "r.jsonl")] == ["judged", "hung", "hung"]
    assert [line["decision"] for line in results(tmp_path / "r.jsonl")] == ["OK", "UNKNOWN", "UNKNOWN"]


def test_sigterm_during_a_hanging_call_answers_and_still_exits_0_within_five_seconds(
    bundle: Path, tmp_path: Path
) -> None:
    web = tmp_path / "web.npy"
    np.save(web, np.concatenate([part(130)] * 20 + [part(130, code=HANG)] + [part(130)] * 1000))
    out = tmp_path / "r.jsonl"
    source = f"linescan:{web}?lines_per_s=1600&block_lines=32"
    process = start(bundle, "--source", source, "--sink", f"jsonl:{out}", "--deadline-ms", 300)
    wait_for(out, 30)
    terminated(process)
    found = results(out)
    assert [line["frame"] for line in found] == list(range(len(found)))
    assert {line["decision"] for line in found[20:]} == {"UNKNOWN"}


def test_a_disk_that_never_answers_the_journal_ends_the_process_and_sigterm_still_does(
    bundle: Path, tmp_path: Path
) -> None:
    dead = f"""
import os, time
to_disk = os.fdatasync
def fdatasync(descriptor):
    while os.path.exists({str(tmp_path / "dead")!r}):
        time.sleep(0.01)
    to_disk(descriptor)
os.fdatasync = fdatasync
"""
    processes, source = [], endless(tmp_path)
    for name, hang_s in (("left alone", 0.3), ("told to end", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "station.toml").write_text(
            f'bundle = "{bundle}"\nhang_s = {hang_s}\nthreads = 1\nsinks = ["jsonl:{tmp_path}/{name}/r.jsonl"]\n'
            f'journal = "{tmp_path}/{name}/journal"\njournal_sync = true\n'
            f'[[camera]]\nname = "top"\nsource = "{source}"\n'
        )
        processes.append(start("--config", tmp_path / name / "station.toml", first=dead))
        wait_for(tmp_path / name / "r.jsonl", 3)
    (tmp_path / "dead").touch()
    time.sleep(0.2)  # a part is being written
    processes[1].send_signal(signal.SIGTERM)
    signalled_s = time.monotonic()
    try:
        for process in reversed(processes):
            _, log = process.communicate(timeout=10)
            if process is processes[1]:
                assert time.monotonic() - signalled_s < 5
            assert process.returncode == 1, log
            assert "error: a stage hangs, or the disk of the journal; the process ends" in log
    finally:
        for process in processes:
            process.kill()


def test_sighup_takes_the_bundle_that_a_link_names_and_sigusr1_goes_back(tmp_path: Path) -> None:
    line_bundle(tmp_path / "loose", threshold=0.5)
    line_bundle(tmp_path / "strict", threshold=0.001)
    link, out = tmp_path / "current", tmp_path / "r.jsonl"
    link.symlink_to("loose")
    process = start(link, "--source", endless(tmp_path), "--sink", f"jsonl:{out}", "--threads", 1)

    def wait_for_bundle(count: int) -> None:
        until_s = time.monotonic() + 15
        while len({line["bundle"] for line in results(out)}) != count or results(out)[-1]["bundle"] == before:
            assert time.monotonic() < until_s
            time.sleep(0.05)

    before = None
    wait_for(out, 20)
    before = results(out)[-1]["bundle"]
    (tmp_path / "new").symlink_to("strict")
    os.replace(tmp_path / "new", link)
    process.send_signal(signal.SIGHUP)
    wait_for_bundle(2)
    before = results(out)[-1]["bundle"]
    process.send_signal(signal.SIGUSR1)
    wait_for_bundle(2)
    (tmp_path / "strict" / "model.onnx").write_bytes(b"broken")
    process.send_signal(signal.SIGHUP)
    wait_for_text(out, "the new bundle is refused")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0, log
    found = results(out)
    assert [line["frame"] for line in found] == list(range(len(found)))
    good = [line for line in found if line["frame"] % 3 != 2 and line["cause"] == "judged"]  # type: ignore[operator]
    first = found[0]["bundle"]
    assert {line["decision"] for line in good if line["bundle"] == first} == {"OK"}
    assert {line["decision"] for line in good if line["bundle"] != first} == {"NG"}
    assert found[-1]["bundle"] == first


def test_a_station_of_several_bundles_changes_all_of_them_or_none(tmp_path: Path) -> None:
    for name, threshold in (("top", 0.5), ("side", 0.9), ("strict", 0.001)):
        line_bundle(tmp_path / name, threshold=threshold, size_px=48 if name == "side" else SIZE_PX)
    line_bundle(tmp_path / "untaught", threshold=None)
    for camera, name in (("first", "top"), ("second", "side")):
        (tmp_path / camera).symlink_to(name)
    out, config = tmp_path / "r.jsonl", tmp_path / "station.toml"
    config.write_text(
        f"""
        threads = 1
        sinks = ["jsonl:{out}"]
        camera = [
            {{ name = "first", source = "{endless(tmp_path)}", bundle = "{tmp_path}/first" }},
            {{ name = "second", source = "{endless(tmp_path)}", bundle = "{tmp_path}/second" }},
            {{ name = "third", source = "{endless(tmp_path)}", bundle = "{tmp_path}/untaught" }},
        ]
        """
    )
    process = start("--config", config)
    wait_for(out, 30)
    for camera, name in (("first", "strict"), ("second", "nowhere")):
        (tmp_path / "new").symlink_to(name)
        os.replace(tmp_path / "new", tmp_path / camera)
    process.send_signal(signal.SIGHUP)
    wait_for_text(out, "the new bundle is refused, the old one stays")
    before = len(results(out))
    wait_for(out, before + 30)
    (tmp_path / "second").unlink()
    (tmp_path / "second").symlink_to("side")
    process.send_signal(signal.SIGHUP)
    wait_for_text(out, "from now on")
    wait_for(out, len(results(out)) + 30)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0, log
    bundles = {name: open_bundle(tmp_path / name).manifest.content_sha256[:12] for name in ("top", "side", "strict")}
    found = [line for line in results(out) if line["cause"] in ("judged", "no-threshold")]
    early = [line for line in results(out)[:before] if line["cause"] == "judged"]
    assert {line["bundle"] for line in early if line["camera"] == "first"} == {bundles["top"]}
    judged_by = {name: {line["bundle"] for line in found if line["camera"] == name} for name in ("first", "second")}
    assert judged_by == {"first": {bundles["top"], bundles["strict"]}, "second": {bundles["side"]}}
    assert {line["cause"] for line in found if line["camera"] == "third"} == {"no-threshold"}
    (told,) = {line for line in log.splitlines() if line.startswith("every decision is UNKNOWN")}
    assert told.endswith("(third)")


def test_cameras_of_the_same_bundle_share_it(bundle: Path, tmp_path: Path) -> None:
    plan = ModelPlan(bundle=bundle, threads=1)
    plans = {"a": plan, "b": replace(plan), "c": replace(plan, threshold=0.7)}
    cameras = tuple(CameraPlan(name=name, source=endless(tmp_path), model=model) for name, model in plans.items())
    models = LineRun(Station(cameras=cameras)).models
    assert models.of("a") is models.of("b")
    assert [models.of(name).detector.limit.value for name in plans] == [0.5, 0.5, 0.7]


def test_a_plc_server_that_mixes_cameras_is_named(bundle: Path, tmp_path: Path) -> None:
    cameras = tuple(CameraPlan(name=name, source=endless(tmp_path), model=ModelPlan(bundle=bundle)) for name in "ab")
    mixed, own = free_port(), free_port()
    told: list[tuple[str, str]] = []

    def run(cameras: tuple[CameraPlan, ...]) -> None:
        sinks = (f"modbus://127.0.0.1:{mixed}", f"modbus://127.0.0.1:{own}?camera=a", f"jsonl:{tmp_path / 'r.jsonl'}")
        line = LineRun(Station(cameras=cameras, sinks=sinks), tell=lambda event: told.append((event.name, event.text)))
        line.stop()
        line.run()

    run(cameras)
    assert [name for name, text in told if "replaces another camera's" in text] == [f"sink modbus 127.0.0.1:{mixed}"]
    told.clear()
    run(cameras[:1])
    assert not [text for _, text in told if "replaces" in text]


def test_a_bundle_asked_for_while_another_loads_is_loaded_after_it(tmp_path: Path) -> None:
    line_bundle(tmp_path / "first")
    line_bundle(tmp_path / "slow", trips=trips_of(0.2))  # a run, of three at the start
    last = line_bundle(tmp_path / "last", threshold=0.2)
    link, out = tmp_path / "current", tmp_path / "r.jsonl"
    link.symlink_to("first")
    line = LineRun(
        Station(
            cameras=(CameraPlan(name="top", source=endless(tmp_path), model=ModelPlan(bundle=link, threads=1)),),
            sinks=(f"jsonl:{out}",),
        )
    )
    runner = threading.Thread(target=line.run)
    runner.start()
    try:
        wait_for(out, 1)
        for name in ("slow", "last"):
            (tmp_path / "new").symlink_to(name)
            os.replace(tmp_path / "new", link)
            line.swap()
            time.sleep(0.3)
        until_s = time.monotonic() + 10
        while last.manifest.content_sha256[:12] not in {item["bundle"] for item in results(out)}:
            assert time.monotonic() < until_s
            time.sleep(0.05)
    finally:
        line.stop()
        runner.join()


@pytest.mark.parametrize(
    ("number", "text"),
    [(signal.SIGHUP, "judging with bundle LAST at threshold 0.2"), (signal.SIGUSR1, "there is none to go back to")],
)
def test_a_signal_that_comes_while_the_first_bundle_loads_is_heard(tmp_path: Path, number: int, text: str) -> None:
    line_bundle(tmp_path / "slow", trips=trips_of(0.7))  # a run, of three at the start
    last = line_bundle(tmp_path / "last", threshold=0.2)
    link, out = tmp_path / "current", tmp_path / "r.jsonl"
    link.symlink_to("slow")
    process = start(link, "--source", endless(tmp_path, lines_per_s=64), "--sink", f"jsonl:{out}", "--threads", 1)
    wait_for_text(Path(f"/proc/{process.pid}/maps"), "onnxruntime")
    time.sleep(0.5)  # the link has been read
    (tmp_path / "new").symlink_to("last")
    os.replace(tmp_path / "new", link)
    process.send_signal(number)
    wait_for(out, 1)
    wait_for_text(out, text.replace("LAST", last.manifest.content_sha256[:12]))
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0, log


def test_frames_for_the_next_training_are_kept_while_the_line_runs(bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    values = (128, 190, 186, 250, 129, 191, 128)  # scores of 0, 0.48, 0.45, 0.95, ...; the threshold is 0.5
    for number, value in enumerate(values):
        Image.fromarray(part(value)).save(images / f"{number}.png")
    (images / "9.png").write_text("text")
    out = tmp_path / "r.jsonl"
    sinks = (
        "--sink",
        f"jsonl:{out}",
        "--sink",
        f"frames:{tmp_path / 'frames'}?good=0",
        "--sink",
        f"pictures:{tmp_path}/p",
    )
    process = start(bundle, "--source", images, *sinks, "--journal", tmp_path / "journal")
    _, log = process.communicate(timeout=30)
    assert "8 frames: 6 OK, 1 NG, 1 UNKNOWN" in log
    assert "never reached their sink" not in log
    found = sorted((tmp_path / "frames").iterdir())
    kept = [result for result in results(out) if result["score"] is not None and float(str(result["score"])) >= 0.45]
    assert len(kept) == 4
    assert {path.name for path in found} == {
        f"{result['decision']}_{result['score']:.6f}_{result['part_id']}.png" for result in kept
    }
    for path in found:
        np.testing.assert_array_equal(np.asarray(Image.open(path)), part(values[int(path.stem[-1])]))
    assert [path.suffix for path in (tmp_path / "p").iterdir()] == [".jpg"]
    taken = (tmp_path / "journal").read_text()
    assert taken.count('"delivered"') == taken.count('"taken"')


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("images", "frames:images"),
        ("folder:images", "pictures:images/new"),
        ("folder:images?frame_lines=64", "frames:link/new?good=1"),
        ("link", "pictures:images/../images"),
        (".", "frames:elsewhere"),
    ],
)
def test_pictures_are_not_put_among_those_that_are_judged(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sink: str
) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(part(250)).save(tmp_path / "images" / "a.png")
    (tmp_path / "link").symlink_to("images")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    station = Station(cameras=(CameraPlan(name="top", source=source, model=ModelPlan(bundle=bundle)),), sinks=(sink,))
    with pytest.raises(ConfigurationError, match=r"puts pictures into .*, where they would be taken for images the ne"):
        LineRun(station).run()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("sink", ["jsonl:journal", "jsonl:link/journal?keep=3"])
def test_results_are_not_written_into_the_journal(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    Image.fromarray(part(130)).save(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    camera = CameraPlan(name="top", source="a.png", model=ModelPlan(bundle=bundle))
    station = Station(cameras=(camera,), sinks=(sink,), journal=tmp_path / "journal")
    with pytest.raises(ConfigurationError, match="is the journal, which keeps open parts alone"):
        LineRun(station).run()
    assert (tmp_path / "journal").read_bytes() == b""


@pytest.mark.parametrize("place", ["jsonl:{}/results.jsonl", "pictures:{}/rejects", "frames:{}", "journal"])
def test_nothing_is_written_into_a_bundle(bundle: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(bundle)
    camera = CameraPlan(name="top", source="post://127.0.0.1:0", model=ModelPlan(bundle=bundle))
    journal = tmp_path / "link" / "journal" if place == "journal" else None
    sinks = () if journal else (place.format(tmp_path / "link"),)
    before = sorted(bundle.rglob("*"))
    with pytest.raises(ConfigurationError, match=f"lies in bundle {bundle}, which does not open with files"):
        LineRun(Station(cameras=(camera,), sinks=sinks, journal=journal)).run()
    assert sorted(bundle.rglob("*")) == before


def test_supervisor_hears_ready_alive_and_stopping(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        process = start(bundle, "--source", endless(tmp_path), "--sink", f"jsonl:{tmp_path}/r.jsonl")
        assert supervisor.recv(100) == b"READY=1"
        assert supervisor.recv(100) == b"WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        heard = b""
        while heard != b"STOPPING=1":
            heard = supervisor.recv(100)
        process.communicate(timeout=10)


def test_the_dashboard_answers_while_the_line_runs(bundle: Path, tmp_path: Path) -> None:
    import urllib.request

    port = free_port()
    arguments = ("--sink", f"jsonl:{tmp_path}/r.jsonl", "--dashboard", f"127.0.0.1:{port}")
    process = start(bundle, "--source", endless(tmp_path), *arguments)
    wait_for(tmp_path / "r.jsonl", 30)
    state = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/state.json", timeout=5).read())
    reject = urllib.request.urlopen(f"http://127.0.0.1:{port}/reject.jpg", timeout=5).read()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert state["beat"]["healthy"]
    assert state["decisions"]["NG"] > 5
    assert state["p99_ms"] > 0
    assert reject.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--config", "y"], 1, "y: cannot be read"),
        (["BUNDLE", "--config", "y"], 2, "--config holds bundle, sources and sinks"),
        (["--config", "y", "--threshold", "0.5"], 2, "write --threshold there"),
        (["--batch", "1", "--config", "y", "--cuda-graph", "BUNDLE"], 2, "write BUNDLE, --batch, --cuda-graph there"),
        (["BUNDLE", "--source", "nowhere"], 1, "nowhere: does not exist"),
        (["BUNDLE", "--source", "aravis:x?speed=1"], 1, "unknown option speed"),
        (["BUNDLE", "--source", "opencv:0", "--sink", "tape:x"], 1, "tape:x: is no sink"),
        (["BUNDLE", "--source", "opencv:0", "--dashboard", "8080"], 1, "expected HOST:PORT"),
        (["BUNDLE", "--source", "opencv:0", "--tile-overlap-px", "8"], 1, "trained on whole parts"),
        (["BUNDLE", "--source", "opencv:0", "--deadline-ms", "0"], 1, "not a positive time"),
        (["BUNDLE", "--source", "opencv:0", "--drift-parts", "99"], 1, "looks back on 100 parts or more, 0 for none"),
    ],
)
def test_wrong_options_are_one_line(bundle: Path, arguments: list[str], status: int, message: str) -> None:
    done = call("reason-run", "inspect", *[bundle if item == "BUNDLE" else item for item in arguments])
    assert "Traceback" not in done.log
    assert done.status == status, done.log
    assert message in " ".join(done.log.split())
    assert (re.search(r"^error: ", done.log, re.M) is not None) == (status == 1)


@pytest.mark.parametrize(
    "options",
    [
        ["--backend", "tensorrt"],
        ["--backend", "tensorrt_rtx", "--precision", "bf16"],
        ["--backend", "auto"],
        ["--backend", "auto", "--device", "cuda"],
        ["--provider", "cuda", "--backend", "openvino"],
        ["--cuda-graph"],
        ["--device", "cuda", "--backend", "openvino"],
        ["--precision", "int8"],
    ],
)
def test_the_line_opens_a_model_as_other_commands_do(bundle: Path, tmp_path: Path, options: list[str]) -> None:
    # what is refused everywhere, whether there is a GPU or not, and with the same words
    picture = tmp_path / "part.png"
    Image.fromarray(part(130)).save(picture)
    inspected = call("reason-run", "inspect", bundle, "--source", tmp_path, *options)
    predicted = call("reason-run", "predict", bundle, picture, *options)
    assert (inspected.status, predicted.status) == (1, 1)
    assert inspected.log.strip() == predicted.error


STATION = """
bundle = "b"
backend = "tensorrt"
precision = "int8"
device = "cuda"
cuda_graph = true
deadline_ms = 200
back_pressure = "drop-oldest"
drift_parts = 0
journal = "/var/lib/j"
sinks = ["jsonl:-"]
[[camera]]
name = "top"
source = "opencv:0"
stall_s = 2.5
[web]
lanes = 3
pixel_mm = 0.1
"""


def test_a_station_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "station.toml"
    path.write_text(STATION)
    station = read_station(path)
    path.write_text(STATION, encoding="utf-8-sig")
    assert read_station(path) == station
    model = ModelPlan(bundle=Path("b"), backend="tensorrt", precision="int8", device="cuda", cuda_graph=True)
    assert station.cameras == (CameraPlan(name="top", source="opencv:0", stall_s=2.5, model=model),)
    assert (station.deadline_ms, station.back_pressure, station.journal) == (200, "drop-oldest", Path("/var/lib/j"))
    assert station.drift_parts == 0
    assert station.web is not None
    assert (station.web.lanes, station.web.pixel_mm, station.web.line_mm) == (3, 0.1, None)


def test_a_camera_may_have_a_bundle_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "station.toml"
    path.write_text(
        """
        bundle = "b"
        precision = "fp32"
        threshold = 3.0
        camera = [
            { name = "as all", source = "1" },
            { name = "own", source = "2", bundle = "c" },
            { name = "own too", source = "3", bundle = "c", threshold = 0.0, precision = "int8" },
            { name = "other limit", source = "4", threshold = 2 },
            { name = "as all, too", source = "5", bundle = "./b" },
        ]
        """
    )
    plans = {camera.name: camera.model for camera in read_station(path).cameras}
    assert plans == {
        "as all": ModelPlan(bundle=Path("b"), precision="fp32", threshold=3.0),
        "own": ModelPlan(bundle=Path("c"), precision="fp32"),  # a threshold is of one bundle's scores
        "own too": ModelPlan(bundle=Path("c"), precision="int8", threshold=0.0),
        "other limit": ModelPlan(bundle=Path("b"), precision="fp32", threshold=2.0),
        "as all, too": ModelPlan(bundle=Path("b"), precision="fp32", threshold=3.0),
    }
    path.write_text('threshold = 3.0\ncamera = [{ name = "own", source = "2", bundle = "c" }]')
    with pytest.raises(ConfigurationError, match=r"station.toml: threshold: is of no bundle"):
        read_station(path)


def test_the_example_station_file_is_valid_and_knows_every_key(tmp_path: Path) -> None:
    example = (ROOT / "docs" / "station.toml").read_text()
    path = tmp_path / "station.toml"
    path.write_text(re.sub(r"^# (?=\w+ = |\[)", "", example, flags=re.M))  # what is commented out, too
    read_station(path)
    written = set(re.findall(r"^(\w+) = ", path.read_text(), re.M))
    path.write_text(path.read_text().replace("bundle = ", "x = 1\nbundle = ", 1))
    with pytest.raises(ConfigurationError, match="x: unknown key") as refused:
        read_station(path)
    known = set(str(refused.value).partition("expected ")[2].split(", ")) - {"camera", "web"}
    assert known <= written


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("deadline_ms", "deadline", r"station.toml: deadline: unknown key; expected bundle, backend"),
        ("stall_s", "stall", r"station.toml: camera\[0\]\.stall: unknown key; expected bundle, threshold"),
        ("lanes", "lane", r"station.toml: web\.lane: unknown key"),
        ('"tensorrt"', '"tensort"', r"station.toml: backend: found 'tensort', expected one of auto, onnxruntime"),
        ("lanes = 3", "lanes = 0", r"station.toml: web\.lanes: found '0', expected a whole number, 1 or more"),
        ("stall_s = 2.5", 'stall_s = "2"', r"camera\[0\]\.stall_s: found '2', expected a number"),
        ('bundle = "b"', "", r"station.toml: camera\[0\]\.bundle: missing key"),
        ("[[camera]]", "[camera]", r"station.toml: camera: found .*, expected a list"),
        ("lanes = 3", "lanes =", r"station.toml: is not TOML"),
        ('"/var/lib/j"', '""', r"station.toml: journal: found '', expected a string that is not empty"),
        ('"opencv:0"', '""', r"station.toml: camera\[0\]\.source: found '', expected a string that is not empty"),
        ('backend = "tensorrt"', "batch = 17", r"station.toml: batch: found '17', expected a whole number, 1 to 16"),
        ('sinks = ["jsonl:-"]', "sinks = [3]", r"station.toml: sinks: found '3', expected strings"),
    ],
)
def test_whatever_is_wrong_in_a_station_file_is_said_with_its_path(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    path = tmp_path / "station.toml"
    path.write_text(STATION.replace(before, after))
    with pytest.raises(ConfigurationError, match=message):
        read_station(path)
