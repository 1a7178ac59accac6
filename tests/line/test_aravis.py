from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.line.frame import Grab
from reason_runtime.line.grabber import Camera
from reason_runtime.line.pipeline import PipelineSettings
from reason_runtime.line.sources import aravis
from reason_runtime.line.sources.aravis import AravisSettings, AravisSource, age_of, decode_pixels, lost_between
from tests.line.models import line_bundle
from tests.line.stations import running

CAMERA = "arv-fake-gv-camera-0.8"
SPACE = "reasoncam"
OURS, THEIRS = "10.77.31.1", "10.77.31.2"


def has_aravis() -> bool:
    try:
        import gi

        gi.require_version("Aravis", "0.8")
    except (ImportError, ValueError):
        return False
    return True


needs_aravis = pytest.mark.skipif(not has_aravis(), reason="gir1.2-aravis-0.8 and pygobject are not installed")
needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which(CAMERA) is None or shutil.which("ip") is None,
    reason="a camera in a network namespace needs root, iproute2 and aravis-tools",
)


def frames(source: AravisSource, count: int) -> list[Grab]:
    found: list[Grab] = []
    until_s = time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < until_s, found
        item = source.read()
        if isinstance(item, Grab):
            found.append(item)
    return found


@needs_aravis
@pytest.mark.parametrize(
    ("pixel_format", "kind", "channels"),
    [("Mono8", "uint8", 1), ("Mono16", "uint16", 1), ("BayerRG8", "uint8", 3), ("RGB8", "uint8", 3)],
)
def test_the_camera_within_the_process_gives_its_formats(pixel_format: str, kind: str, channels: int) -> None:
    source = AravisSource("Fake_1", settings=AravisSettings(fake=True, pixel_format=pixel_format, frame_rate=50))
    source.open()
    found = frames(source, 3)
    source.close()
    for item in found:
        assert item.image is not None
        assert item.image.dtype == kind
        assert item.image.shape == ((512, 512) if channels == 1 else (512, 512, 3))
        assert int(item.image.max()) > int(item.image.min())


@needs_aravis
def test_a_frame_that_lay_in_the_stream_is_as_old_as_it_is() -> None:
    source = AravisSource("Fake_1", settings=AravisSettings(fake=True, pixel_format="Mono8", frame_rate=20))
    source.open()
    time.sleep(1.0)  # as if the line stood still; the stream keeps frames meanwhile
    found = frames(source, 1)[0]
    age_s = (time.monotonic_ns() - found.grabbed_ns) / 1e9
    assert 0.3 < age_s < 3
    times = [item.grabbed_ns for item in (found, *frames(source, 20))]
    assert times == sorted(times)
    assert time.monotonic_ns() - times[-1] < 0.3e9
    source.close()


@pytest.mark.parametrize(
    ("stamped", "age"),
    [(900, 100), (1000, 0), (1500, 0), (0, 0)],
    ids=["waited", "just came", "the clock was stepped back since", "not stamped"],
)
def test_the_age_of_a_frame_by_its_stamp(stamped: int, age: int) -> None:
    assert age_of(stamped, now_ns=1000) == age


@needs_aravis
def test_a_camera_that_is_not_there_is_lost_and_not_the_end() -> None:
    source = AravisSource("10.255.0.99", settings=AravisSettings())
    with pytest.raises(SourceError, match=r"aravis:10\.255\.0\.99"):
        source.open()
    with pytest.raises(SourceError, match="connection lost"):
        source.read()
    source.close()


def test_without_aravis_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "gi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(ConfigurationError, match=r"apt install gir1\.2-aravis-0\.8 .*reason-edge\[camera\]"):
        AravisSource("x", settings=AravisSettings()).open()


def test_without_aravis_the_line_ends_with_that_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "gi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gi", None)
    top = Camera(name="top", source=AravisSource("x", settings=AravisSettings()))
    with running(line_bundle(tmp_path / "line").path, top) as line:
        assert line.pipeline.wait(5)
        with pytest.raises(ConfigurationError, match=r"apt install gir1\.2-aravis-0\.8"):
            line.close()


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (7, 8, 0),
        (7, 10, 2),
        (65535, 1, 0),  # GigE Vision has no frame 0
        (65534, 3, 3),
        (65536, 2, 0),  # a frame of id 1 that arrived incomplete was counted on
        (65535, 65536, 0),  # 64 bits
        (2**40, 2**40 + 4, 3),
        (0, 3, 2),  # USB3 Vision begins at 0
        (0, 0, 0),
    ],
)
def test_frames_between_two_ids_by_hand(before: int, after: int, lost: int) -> None:
    assert lost_between(before, after) == lost


def test_ids_that_begin_anew_or_jump_are_no_number_of_frames() -> None:
    for before, after in ((500, 3), (500, 500), (2**40, 1), (3, 2**40)):
        assert not 0 <= lost_between(before, after) <= 1000


@needs_aravis
def test_the_camera_within_the_process_counts_past_16_bits_without_a_loss() -> None:
    source = AravisSource("Fake_1", settings=AravisSettings(fake=True, frame_rate=300))
    source.open()
    found = frames(source, 160)  # its ids begin at 65401
    source.close()
    assert all(item.failure is None for item in found)


def test_pixels_of_each_format_by_hand() -> None:
    np.testing.assert_array_equal(decode_pixels(bytes([1, 2, 3, 4, 99]), "Mono8", shape=(2, 2)), [[1, 2], [3, 4]])
    ten = np.array([0, 1, 512, 1023, 2000], "<u2").tobytes()
    np.testing.assert_array_equal(decode_pixels(ten, "Mono10", shape=(1, 5)), [[0, 64, 32800, 65535, 65535]])
    twelve = np.array([0, 1, 2048, 4095], "<u2").tobytes()
    np.testing.assert_array_equal(decode_pixels(twelve, "Mono12", shape=(1, 4)), [[0, 16, 32776, 65535]])
    sixteen = np.array([0, 1, 65535], "<u2").tobytes()
    np.testing.assert_array_equal(decode_pixels(sixteen, "Mono16", shape=(1, 3)), [[0, 1, 65535]])
    rgb = decode_pixels(bytes(range(12)), "RGB8", shape=(2, 2))
    assert rgb.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    with pytest.raises(SourceError, match="has 3 bytes, not 4"):
        decode_pixels(bytes(3), "Mono8", shape=(2, 2))


def test_lines_that_are_padded_are_refused_and_what_follows_the_last_is_left_out() -> None:
    padded = bytes([1, 2, 0, 0, 3, 4, 0, 0])
    with pytest.raises(SourceError, match="the camera pads each line by 2 bytes"):
        decode_pixels(padded, "Mono8", shape=(2, 2), padding=(2, 0))
    behind = decode_pixels(bytes([1, 2, 3, 4, 0, 0]), "Mono8", shape=(2, 2), padding=(0, 2))
    np.testing.assert_array_equal(behind, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("pixel_format", "red_at"), [("BayerRG8", (0, 0)), ("BayerBG8", (1, 1)), ("BayerGR8", (0, 1)), ("BayerGB8", (1, 0))]
)
def test_a_red_part_is_red_in_every_bayer_pattern(pixel_format: str, red_at: tuple[int, int]) -> None:
    mosaic = np.zeros((16, 16), np.uint8)
    mosaic[red_at[0] :: 2, red_at[1] :: 2] = 200  # only red pixels see something
    image = decode_pixels(mosaic.tobytes(), pixel_format, shape=(16, 16))
    assert image[4:12, 4:12, 0].mean() > 190
    assert image[4:12, 4:12, 1:].max() == 0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class NetworkCamera:
    """Aravis' simulated GigE Vision camera in a network namespace of its own: real packets over a veth pair."""

    def __init__(self) -> None:
        ip("netns", "add", SPACE)
        ip("link", "add", "reason0", "type", "veth", "peer", "name", "reason1")
        ip("link", "set", "reason1", "netns", SPACE)
        ip("addr", "add", f"{OURS}/24", "dev", "reason0")
        ip("link", "set", "reason0", "up")
        ip("netns", "exec", SPACE, "ip", "addr", "add", f"{THEIRS}/24", "dev", "reason1")
        ip("netns", "exec", SPACE, "ip", "link", "set", "reason1", "up")
        ip("netns", "exec", SPACE, "ip", "link", "set", "lo", "up")
        self.process: subprocess.Popen[bytes] | None = None
        self.plug()

    def plug(self, *, lost_per_thousand: int = 0) -> None:
        command = ["ip", "netns", "exec", SPACE, CAMERA, "-i", "reason1", "-r", str(lost_per_thousand)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)

    def unplug(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.unplug()
        subprocess.run(["ip", "link", "del", "reason0"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", SPACE], check=False, capture_output=True)


@pytest.fixture
def network_camera() -> Iterator[NetworkCamera]:
    camera = NetworkCamera()
    yield camera
    camera.remove()


@needs_aravis
@needs_network
def test_a_gige_vision_camera_on_the_network_streams_is_lost_and_comes_back(
    network_camera: NetworkCamera, tmp_path: Path
) -> None:
    bundle = line_bundle(tmp_path / "line", threshold=0.99).path
    source = AravisSource(THEIRS, settings=AravisSettings(pixel_format="Mono8", frame_rate=20))
    source.checks_freezing = False  # its pattern repeats
    settings = PipelineSettings(deadline_s=1.0, when_full="drop-oldest", heartbeat_s=0.1)
    with running(bundle, Camera(name="top", source=source, stall_s=5), settings=settings) as line:
        line.sink.wait(lambda: len(line.sink.answers) >= 15, 20)
        before = len(line.sink.answers)
        network_camera.unplug()
        line.sink.wait(lambda: any(event.level == "fault" for event in line.sink.events), 20)
        assert "camera top" in line.publisher.health.faults
        network_camera.plug()
        line.sink.wait(lambda: len(line.sink.answers) >= before + 15, 30)
        line.close()
    assert [answer.number for answer in line.sink.answers] == list(range(len(line.sink.answers)))
    assert line.sink.causes.count("judged") >= 20
    assert any(event.level == "info" and event.name == "camera top" for event in line.sink.events)


@needs_aravis
@needs_network
def test_frames_with_missing_packets_are_incomplete_and_unknown(network_camera: NetworkCamera, tmp_path: Path) -> None:
    network_camera.unplug()
    network_camera.plug(lost_per_thousand=5)
    bundle = line_bundle(tmp_path / "line", threshold=0.99).path
    source = AravisSource(THEIRS, settings=AravisSettings(pixel_format="Mono8", frame_rate=20, packet_size=1400))
    source.checks_freezing = False
    with running(bundle, Camera(name="top", source=source), settings=PipelineSettings(deadline_s=1.0)) as line:
        line.sink.wait(lambda: line.sink.causes.count("incomplete") >= 3 and "judged" in line.sink.causes, 30)
        line.close()
    broken = [answer for answer in line.sink.answers if answer.cause == "incomplete"]
    assert all(answer.decision == "UNKNOWN" for answer in broken)
    assert all("arrived incomplete" in (answer.reason or "") for answer in broken)
    assert line.metrics.snapshot().grabbed_bad["top"] == len(broken)


@needs_aravis
@needs_network
def test_more_lost_frames_than_anybody_can_answer_are_a_lost_camera(
    network_camera: NetworkCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aravis, "_MOST_LOST", 10)
    source = AravisSource(THEIRS, settings=AravisSettings(pixel_format="Mono8", frame_rate=50))
    source.open()
    frames(source, 2)
    time.sleep(0.6)
    with pytest.raises(SourceError, match=r"frame \d+ came after frame \d+; nobody can count"):
        frames(source, 30)
    source.close()
    source.open()
    assert [item.failure for item in frames(source, 2)] == [None, None]
    source.close()


@needs_aravis
@needs_network
def test_each_frame_that_the_host_lost_is_incomplete_and_unknown(network_camera: NetworkCamera, tmp_path: Path) -> None:
    bundle = line_bundle(tmp_path / "line", threshold=0.99).path

    class Halting(AravisSource):
        halts = 0
        first_id: int | None = None

        def read(self):  # type: ignore[no-untyped-def]
            self.halts += 1
            if self.halts == 10:
                time.sleep(1.0)  # a process that stands still: 50 frames, and room for 8
            found = super().read()
            self.first_id = self._last_id if self.first_id is None else self.first_id
            return found

    source = Halting(THEIRS, settings=AravisSettings(pixel_format="Mono8", frame_rate=50))
    source.checks_freezing = False
    with running(bundle, Camera(name="top", source=source), settings=PipelineSettings(deadline_s=1.0)) as line:
        line.sink.wait(lambda: len(line.sink.answers) >= 80, 10)
        line.close()
    lost = [answer for answer in line.sink.answers if answer.reason == "lost between camera and host"]
    assert 20 <= len(lost) <= 50
    assert {(answer.decision, answer.cause) for answer in lost} == {("UNKNOWN", "incomplete")}
    assert [answer.number for answer in lost] == list(range(lost[0].number, lost[0].number + len(lost)))
    assert source.first_id is not None
    assert source._last_id is not None
    sent = source._last_id - source.first_id + 1 - len(source._ready)
    assert sent - len(line.sink.answers) in (0, 1)  # one may have come with the stop
    assert [event.name for event in line.sink.events] == ["line"]  # the stop
