from __future__ import annotations

import dataclasses
import http.server
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.image import InputFormat, square_format
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.linescan import LineScanSource, Motion, read_faults
from reason_runtime.line.sources.open import gives_files, open_source
from reason_runtime.line.sources.opencv import has_gstreamer, pixels_of_frame
from reason_runtime.line.sources.source import Source

FORM = square_format(32)


def grabs(source: Source, *, most: int = 1000) -> list[Grab]:
    source.open()
    try:
        found: list[Grab] = []
        while len(found) < most and (item := source.read()) != "end":
            if item != "idle":
                found.append(item)
        return found
    finally:
        source.close()


def read_on(source: Source, found: list[Grab]) -> None:
    while (item := source.read()) != "end":
        if item != "idle":
            found.append(item)


def write_video(path: Path, *, frames_rgb: list[tuple[int, int, int]]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for colour in frames_rgb:
        writer.write(np.full((48, 64, 3), colour[::-1], dtype=np.uint8))
    writer.release()
    return path


def test_a_folder_gives_images_by_name_and_unreadable_ones_without_pixels(tmp_path: Path) -> None:
    for name, value in (("b.png", 2), ("a.png", 1)):
        Image.new("RGB", (40, 30), (value, value, value)).save(tmp_path / name)
    (tmp_path / "c.png").write_text("text")
    found = grabs(open_source(str(tmp_path), input_format=FORM))
    assert [Path(item.path or "").name for item in found] == ["a.png", "b.png", "c.png"]
    assert [item.image is None for item in found] == [False, False, True]
    assert "is not an image" in (found[2].failure or "")
    assert found[0].image is not None
    assert found[0].image[0, 0, 0] == 1


@pytest.mark.parametrize("kind", ["", "video:", "folder:"])
@pytest.mark.parametrize("form", [dataclasses.replace(FORM, white_level=4095), None])
def test_a_picture_that_is_named_is_read_as_one_of_a_folder_and_no_video(
    tmp_path: Path, form: InputFormat | None, kind: str
) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    pixels = np.random.default_rng(1).integers(0, 4096, (30, 40), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "part.PNG", exif=turned)
    (one,) = grabs(open_source(f"{kind}{tmp_path}/part.PNG", input_format=form))
    (other,) = grabs(open_source(str(tmp_path), input_format=form))
    assert one.path == str(tmp_path / "part.PNG") == other.path
    assert one.image is not None
    assert other.image is not None
    assert one.image.shape[:2] == (40, 30)
    np.testing.assert_array_equal(one.image, other.image)
    assert gives_files(f"{kind}{tmp_path}/part.PNG")


def test_frames_of_a_video_are_rgb(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", frames_rgb=[(250, 10, 10), (10, 10, 250)])
    first, second = grabs(open_source(f"video:{path}", input_format=FORM))
    assert first.image is not None
    assert second.image is not None
    np.testing.assert_allclose(first.image.mean(axis=(0, 1)), (250, 10, 10), atol=5)  # JPEG's loss
    np.testing.assert_allclose(second.image.mean(axis=(0, 1)), (10, 10, 250), atol=5)


def test_frames_of_16_bits_stay_16_bits_and_others_are_refused() -> None:
    frame = np.arange(3 * 4 * 3, dtype=np.uint16).reshape(3, 4, 3) * 1800
    np.testing.assert_array_equal(pixels_of_frame(frame), frame[:, :, ::-1])
    np.testing.assert_array_equal(pixels_of_frame(frame[:, :, 0]), frame[:, :, 0])
    assert pixels_of_frame(frame).dtype == np.uint16
    with pytest.raises(SourceError, match="pixels of the type float32; expected 8 or 16 bits"):
        pixels_of_frame(frame.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("video.avi", r"is cut off or damaged: \d+ of 40 frames could be read"),
        ("video.mkv", r"is cut off or damaged: \d\.\d of 4\.0 s could"),
    ],
)
def test_a_video_that_is_cut_off_gives_what_it_has_and_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    path = write_video(tmp_path / name, frames_rgb=[(6 * number, 90, 10) for number in range(40)])
    assert len(grabs(open_source(str(path), input_format=FORM))) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source, found = open_source(str(path), input_format=FORM), []
    source.open()
    with pytest.raises(SourceError, match=message):
        read_on(source, found)
    source.close()
    assert 5 < len(found) < 30


@pytest.mark.parametrize("place", ["nowhere", "empty", "text.avi"])
def test_a_file_that_gives_no_frame_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("text")
    with pytest.raises(SourceError, match=place):
        grabs(open_source(str(tmp_path / place), input_format=FORM))


def test_a_gstreamer_pipeline_is_refused_with_where_to_get_a_build_that_has_it() -> None:
    with pytest.raises(ConfigurationError, match="python3-opencv of Debian or of JetPack"):
        open_source("opencv:v4l2src ! appsink", input_format=FORM)
    with pytest.raises(ConfigurationError, match="python3-opencv of Debian or of JetPack"):
        open_source("rtspsrc location=rtsp://10.0.0.1/x ! decodebin ! appsink", input_format=FORM)
    assert has_gstreamer("  Video I/O:\n    GStreamer:                   YES (1.22.0)\n")
    assert not has_gstreamer("  Video I/O:\n    GStreamer:                   NO\n")
    with pytest.raises(ConfigurationError, match="opencv:0"):
        open_source("opencv:front", input_format=FORM)


def test_a_camera_that_is_not_there_is_lost_and_not_the_end() -> None:
    source = open_source("opencv:97", input_format=FORM)
    assert source.live
    with pytest.raises(SourceError, match="is not there"):
        source.open()


class Camera(http.server.BaseHTTPRequestHandler):
    """A network camera: motion JPEG over HTTP, which ends after some frames as if the cable were pulled."""

    def __init__(self, frames: int, *arguments: object) -> None:
        self.frames = frames
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(self.frames):
            _, content = cv2.imencode(".jpg", np.full((48, 64, 3), 40 + number, np.uint8))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            self.wfile.write(head.encode() + content.tobytes() + b"\r\n")
            time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def network_camera() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Camera, 12))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/stream.mjpg?user=x"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_stream_over_the_network_is_read_lost_and_read_again(network_camera: str) -> None:
    source = open_source(network_camera, input_format=FORM)
    assert source.live
    assert source.checks_freezing
    for _ in range(2):
        source.open()
        found: list[Grab] = []
        with pytest.raises(SourceError, match="the stream ended"):
            read_on(source, found)
        source.close()
        assert len(found) >= 10


def test_a_simulated_camera_keeps_its_pace_its_order_and_its_count() -> None:
    web = np.arange(1000, dtype=np.uint16)[:, None].repeat(5, axis=1)
    source = LineScanSource(web, motion=Motion(lines_per_s=5000, block_lines=50, counts_per_line=4, loops=2), name="x")
    started_ns = time.monotonic_ns()
    found = grabs(source)
    seconds = [(item.grabbed_ns - started_ns) / 1e9 for item in found]
    assert [item.encoder_count for item in found] == list(range(0, 8000, 200))
    np.testing.assert_allclose(np.diff(seconds), 0.01, atol=1e-6)  # exposed on time, however late we are
    assert 0.39 < (time.monotonic_ns() - started_ns) / 1e9 < 0.8
    np.testing.assert_array_equal(np.concatenate([item.image for item in found]), np.concatenate([web, web]))


def test_a_simulated_camera_fails_as_told() -> None:
    web = np.random.default_rng(0).integers(1, 255, (1000, 5), dtype=np.uint8)
    faults = read_faults("corrupt@2,black@4-6,freeze@7,unplug@9-12")
    source = LineScanSource(web, motion=Motion(lines_per_s=5000, block_lines=50, faults=faults, loops=1), name="x")
    source.open()
    found = [source.read() for _ in range(9)]
    assert all(isinstance(item, Grab) for item in found)
    assert [item.failure is not None for item in found] == [number == 2 for number in range(9)]  # type: ignore[union-attr]
    assert [not item.image.any() for item in found if item.image is not None] == [False] * 3 + [True] * 2 + [False] * 3  # type: ignore[union-attr]
    np.testing.assert_array_equal(found[7].image, found[6].image)  # type: ignore[union-attr]
    with pytest.raises(SourceError, match="connection lost"):
        source.read()
    with pytest.raises(SourceError, match="is not there"):
        source.open()
    time.sleep(0.05)
    source.open()
    again = source.read()
    assert isinstance(again, Grab)
    assert (again.encoder_count or 0) >= 12 * 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linescan:web.npy?lines_per_s=fast", "lines_per_s=fast, expected a number"),
        ("linescan:web.npy?speed=3", "unknown option speed; expected"),
        ("linescan:web.npy?faults=fire@3", "fault 'fire@3': expected unplug"),
        ("rtsp://user@[fe80::1/live", "rtsp://user@.fe80::1/live: Invalid IPv6 URL"),
        ("http://camera/live?frame_lines=1024", "a stream cannot be cut into a web"),
        ("linescan:web.npy?overlap_lines=3", "overlap_lines needs frame_lines"),
        ("linescan:web.npy?frame_lines=10&overlap_lines=9", "at most half"),
        ("folder:images?frames=3", "unknown option frames"),
        ("aravis:x?pixel_format=YUV422", "expected one of"),
        ("aravis:x?gain=1&gain=2", "occurs twice"),
        ("", "source '': names nothing; expected a folder, a file"),
        ("folder:", "source 'folder:': names nothing"),
        ("folder:?frame_lines=64", "names nothing"),
    ],
)
def test_wrong_addresses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("web.npy", np.zeros((200, 5), np.uint8))
    with pytest.raises(ConfigurationError, match=message):
        open_source(text, input_format=FORM)
