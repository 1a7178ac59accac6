from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.image import decode_file
from reason_runtime.line.messages import Event
from reason_runtime.line.recorder import Recorder, RecordSettings
from tests.commands import call
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.line.stations import Given, ListSource, interrupted_everywhere
from tests.line.test_aravis import needs_aravis

ROOT = Path(__file__).parents[2]


def pictures(folder: Path) -> list[Path]:
    """In the order of their names; fails where anything else is there."""
    found = sorted(folder.iterdir())
    assert all(re.fullmatch(r"\d{8}-\d{8}T\d{6}Z\.png", path.name) for path in found), found
    return found


def pixels(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    decoded = decode_file(path)
    assert decoded.alpha is None
    return decoded.colour


def noise(number: int, *shape: int, kind: type = np.uint8) -> NDArray[np.uint8] | NDArray[np.uint16]:
    return np.random.default_rng(number).integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def png(path: Path, image: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1] if image.ndim == 3 else image)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from reason_runtime.commands import main; main()", "record", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def web(folder: Path, *, options: str = "lines_per_s=3200", lines: int = 320) -> str:
    """A simulated 16-bit mono camera with blocks of 32 lines."""
    np.save(folder / "web.npy", noise(1, lines, 40, kind=np.uint16))
    return f"linescan:{folder / 'web.npy'}?block_lines=32&{options}"


def recorder(folder: Path, *items: Given, told: list[Event] | None = None, **options: object) -> Recorder:
    settings = RecordSettings(**{name: options.pop(name) for name in ("every", "count", "seconds") if name in options})  # type: ignore[arg-type]
    source = ListSource(items, live=True, **options)  # type: ignore[arg-type]
    return Recorder(source, folder=folder, settings=settings, tell=[].append if told is None else told.append)


def test_files_of_a_folder_are_recorded_pixel_for_pixel_and_broken_ones_counted(tmp_path: Path) -> None:
    given = [
        noise(0, 20, 30),
        noise(1, 20, 30, 3),
        noise(2, 20, 30, kind=np.uint16),
        noise(3, 20, 30, 3, kind=np.uint16),
    ]
    for number, image in enumerate(given):
        png(tmp_path / "in" / f"{number}.png", image)
    (tmp_path / "in" / "4.png").write_text("text")
    Image.fromarray(noise(5, 20, 30, 4)).save(tmp_path / "in" / "5.png")
    done = call("reason-run", "record", "--source", tmp_path / "in", "--out", tmp_path / "a" / "out")
    assert (done.status, done.output) == (0, "")
    found = [pixels(path) for path in pictures(tmp_path / "a" / "out")]
    assert [(image.dtype, image.shape) for image in found] == [(image.dtype, image.shape) for image in given]
    for image, expected in zip(found, given, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert re.search(
        r"^4 pictures in .*/a/out, 00000001-.*; 4 frames in .* s; 2 skipped, the last one: .*5\.png: is trans", done.log
    )


@pytest.mark.parametrize("out", ["in", "in/new", "link"])
def test_pictures_are_not_recorded_among_those_that_are_read(tmp_path: Path, out: str) -> None:
    png(tmp_path / "in" / "a.png", noise(0, 20, 30))
    (tmp_path / "link").symlink_to("in")
    before = sorted(tmp_path.rglob("*"))
    done = call("reason-run", "record", "--source", tmp_path / "in", "--out", tmp_path / out)
    assert f"{tmp_path / out}: puts pictures into {tmp_path / 'in'}, where they would be taken for images" in done.error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_later_recording_goes_on_behind_the_earlier_ones(tmp_path: Path) -> None:
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for value in range(0, 250, 25):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    out = tmp_path / "out"
    png(out / "007.png", noise(7, 20, 20))  # somebody else's
    arguments = ("record", "--source", video, "--out", out, "--every", 3, "--json")
    first = json.loads(call("reason-run", *arguments).output)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    second = json.loads(call("reason-run", *arguments, "--count", 2).output)
    assert (first["pictures"], first["frames"], first["skipped"], second["pictures"]) == (4, 10, 0, 2)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name in kept} == kept
    (out / "007.png").unlink()
    names = [path.name for path in pictures(out)]
    assert [int(name[:8]) for name in names] == [1, 2, 3, 4, 5, 6]
    assert (first["first"], first["last"], second["first"], second["last"]) == (names[0], names[3], names[4], names[5])
    assert [round(pixels(path).mean() / 25) for path in pictures(out)] == [0, 3, 6, 9, 0, 3]
    (out / names[0]).unlink()  # a gap is not filled
    assert int(json.loads(call("reason-run", *arguments, "--count", 1).output)["first"][:8]) == 7


def test_a_web_is_recorded_in_16_bits_while_faults_are_waited_for(tmp_path: Path) -> None:
    source = web(tmp_path, options="lines_per_s=1600&loops=2&faults=corrupt@2,unplug@5-8&frame_lines=64")
    done = call("reason-run", "record", "--source", source, "--out", tmp_path / "out")
    assert done.status == 0, done.log
    found = [pixels(path) for path in pictures(tmp_path / "out")]
    assert {(image.dtype, image.shape) for image in found} == {(np.dtype(np.uint16), (64, 40))}
    np.testing.assert_array_equal(found[0], np.load(tmp_path / "web.npy")[:64])
    assert (
        len(re.findall(r" fault camera: .*web\.npy.*connection lost; tried again until it is back$", done.log, re.M))
        == 1
    )
    assert len(re.findall(r" info camera: well again", done.log)) == 1
    assert re.search(
        rf"^{len(found)} pictures in .*; {len(found)} frames in .*; [1-9] skipped, the last one: ", done.log, re.M
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_kept(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    process = start("--source", web(tmp_path), "--out", out)
    until_s = time.monotonic() + 20
    while not (out.exists() and len(list(out.glob("*.png"))) > 5):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    other = call("reason-run", "record", "--source", tmp_path / "web.npy", "--out", out)
    assert "another recording writes there" in other.error
    while process.poll() is None:  # again and again: those that come while it ends change nothing
        process.send_signal(number)
        time.sleep(0.001)
    output, log = process.communicate(timeout=10)
    assert (process.returncode, output) == (0, "")
    assert log.startswith(f"{len(pictures(out))} pictures in {out}, 00000001-")
    assert {pixels(path).shape for path in pictures(out)} == {(32, 40)}


def test_a_signal_while_a_lost_camera_is_waited_for_ends_it(tmp_path: Path) -> None:
    lost = recorder(tmp_path / "out", noise(1, 32, 40), OSError("gone"))
    threading.Timer(0.1, lost.stop).start()
    interrupted_everywhere(lost.run, lost.stop, within="wait")
    assert lost.pictures == 1


def test_it_ends_after_its_seconds_though_the_camera_is_away(tmp_path: Path) -> None:
    began_s = time.monotonic()
    done = call(
        "reason-run", "record", "--source", web(tmp_path, options="faults=unplug@0-9999&lines_per_s=320"),
        "--out", tmp_path / "out", "--seconds", 1, "--json",
    )  # fmt: skip
    assert 1 <= time.monotonic() - began_s < 5
    assert done.error == "error: no picture was recorded"
    assert json.loads(done.output)["pictures"] == 0
    assert done.log.count("fault camera") == 1


@NEEDS_MOUNT
def test_a_full_disk_is_one_line_and_keeps_whole_pictures(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="64k") as disk:
        done = call("reason-run", "record", "--source", web(tmp_path), "--out", disk / "out", "--json")
        assert "No space left on device" in done.error
        kept = pictures(disk / "out")
        assert len(kept) == json.loads(done.output)["pictures"] > 3
        assert {pixels(path).shape for path in kept} == {(32, 40)}


def test_a_frozen_camera_is_not_recorded_again_and_again(tmp_path: Path) -> None:
    one, other = noise(1, 20, 20), noise(2, 20, 20)
    run = recorder(tmp_path, one, one, other, other.copy(), "lost", one, checks_freezing=True)
    run.run()
    assert (run.pictures, run.frames, run.skipped) == (3, 3, 3)
    assert run.skipped_reason == "lost"


def test_whatever_a_camera_fails_of_it_is_opened_again(tmp_path: Path) -> None:
    told: list[Event] = []
    failures = (SourceError("gone"), ZeroDivisionError("odd"), noise(1, 20, 20), SourceError("gone"), noise(2, 20, 20))
    run = recorder(tmp_path, *failures, told=told)
    run.run()
    assert run.pictures == 2
    assert [(event.level, event.name) for event in told] == [("fault", "camera"), ("info", "camera")] * 2
    with pytest.raises(ConfigurationError, match="wrong"):
        recorder(tmp_path, ConfigurationError("wrong")).run()


def test_frames_without_pixels_alone_are_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no picture was recorded; 2 frames were skipped, the last one: packets"):
        recorder(tmp_path, "lines", "packets").run()


@needs_aravis
def test_a_gige_camera_keeps_its_bits(tmp_path: Path) -> None:
    source = "aravis:Fake_1?fake=yes&pixel_format=Mono16&frame_rate=50"
    done = call("reason-run", "record", "--source", source, "--out", tmp_path, "--count", 3)
    assert done.status == 0, done.log
    assert [(pixels(path).dtype, pixels(path).shape) for path in pictures(tmp_path)] == [("uint16", (512, 512))] * 3


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", [], "nowhere: does not exist"),
        ("aravis:x?speed=1", [], "unknown option speed"),
        ("opencv:0", ["--seconds", "0"], "is not a positive time"),
        ("opencv:0", ["--seconds", "nan"], "is not a positive time"),
        ("opencv:x", [], "expected a camera's number"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, source: str, options: list[str], message: str) -> None:
    assert message in call("reason-run", "record", "--source", source, "--out", tmp_path / "out", *options).error
