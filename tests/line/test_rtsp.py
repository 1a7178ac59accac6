"""A real RTSP server on the loopback interface: its pictures are judged, its loss is a fault, its return is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.image import square_format
from reason_runtime.line.grabber import Camera
from reason_runtime.line.sources.open import open_source
from tests.line.models import line_bundle
from tests.line.ports import free_port
from tests.line.stations import ListSink, running

SERVER = Path(__file__).with_name("rtsp_server.py")
SIZE_PX = 64  # of the pictures


def has_server() -> bool:
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); gi.require_version('Gst', '1.0')"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0:
        return False
    inspect = shutil.which("gst-inspect-1.0")
    return inspect is None or subprocess.run([inspect, "rtpjpegpay"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not has_server(), reason="gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and pygobject are not installed"
)


class RtspCamera:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        random = np.random.default_rng(0)
        for number, level in enumerate((125, 131, 250, 128)):  # the third one is bad
            noise = random.integers(-4, 5, (SIZE_PX, SIZE_PX, 3))
            pixels = np.clip(level + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "GST_REGISTRY": str(self._folder / "registry")}
        command = [sys.executable, str(SERVER), str(self.port), str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def levels(sink: ListSink) -> list[str]:
    return [event.level for event in sink.events if event.name == "camera top"]


def test_an_rtsp_camera_is_judged_lost_and_judged_again(tmp_path: Path) -> None:
    bundle = line_bundle(tmp_path / "line").path
    (tmp_path / "pictures").mkdir()
    camera = RtspCamera(tmp_path / "pictures")
    source = open_source(f"rtsp://127.0.0.1:{camera.port}/parts", input_format=load(bundle).bundle.manifest.input)
    sink = ListSink()
    try:
        with running(bundle, Camera(name="top", source=source), sink=sink) as line:
            sink.wait(lambda: len(sink.answers) >= 12, 60)
            assert {"OK", "NG"} <= set(sink.decisions)
            camera.stop()
            sink.wait(lambda: levels(sink) == ["fault"], 60)
            camera.start()
            sink.wait(lambda: levels(sink) == ["fault", "info"], 60)  # what was grabbed before the loss is answered too
            before = len(sink.answers)
            sink.wait(lambda: len(sink.answers) >= before + 8, 60)
            assert line.close() == "stopped"
    finally:
        camera.stop()
    assert levels(sink) == ["fault", "info"]
    assert "next try in" in next(event.text for event in sink.events if event.name == "camera top")
    assert {"OK", "NG"} <= set(sink.decisions[before:])
    assert [answer.number for answer in sink.answers] == list(range(len(sink.answers)))


def test_an_rtsp_camera_that_is_not_there_is_lost_and_not_the_end() -> None:
    from reason_runtime.errors import SourceError

    source = open_source(f"rtsp://127.0.0.1:{free_port()}/parts", input_format=square_format(32))
    assert source.live
    started_s = time.monotonic()
    with pytest.raises(SourceError, match="is not there, or gives no picture"):
        source.open()
    assert time.monotonic() - started_s < 60
