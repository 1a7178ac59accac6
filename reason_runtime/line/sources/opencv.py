"""Whatever OpenCV reads: video files, USB cameras by number, RTSP and HTTP streams, GStreamer where it is built in."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from reason_runtime.detector import Pixels
from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.source import Nothing

if TYPE_CHECKING:
    from cv2.typing import MatLike

_OPEN_MS = 5000
_READ_MS = 2000
_AVI, _MATROSKA = b"RIFF", b"\x1a\x45\xdf\xa3"  # a file's first bytes
_LATE_ENOUGH = 0.9  # of a Matroska file's length, which sound or the last frame's duration may draw out


class OpenCvSource:
    """See `Source`. A lost stream and a stream that gives nothing for two seconds count as lost cameras.

    Args:
        place: A file, a camera's number, or a stream's address.
        kind: Of these.

    Raises:
        ConfigurationError: A GStreamer pipeline, or a camera number that is none.
    """

    def __init__(self, place: str, *, kind: Literal["file", "camera", "stream"]) -> None:
        self._pipeline = "!" in place
        if self._pipeline and not has_gstreamer(cv2.getBuildInformation()):
            raise ConfigurationError(
                f"{place}: is a GStreamer pipeline, and PyPI's OpenCV is built without GStreamer; use python3-opencv "
                "of Debian or of JetPack, or give an rtsp:// address"
            )
        if self._pipeline:
            kind = "stream"
        if kind == "camera" and not place.isdecimal():
            raise ConfigurationError(f"opencv:{place}: expected a camera's number, for example opencv:0")
        self._place = place
        self._kind = kind
        self._video: cv2.VideoCapture | None = None
        self._count = 0
        self._last_ms = 0.0
        self.live = kind != "file"
        self.checks_freezing = kind != "file"

    def open(self) -> None:
        """See `Source.open`."""
        if self._kind == "file" and not Path(self._place).is_file():
            raise SourceError(f"{self._place}: does not exist; expected a folder of images or a video file")
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        try:
            if self._kind == "camera":
                video = cv2.VideoCapture(int(self._place))
            elif self._kind == "stream":
                maker = cv2.CAP_GSTREAMER if self._pipeline else cv2.CAP_FFMPEG
                video = cv2.VideoCapture(self._place, maker, [] if self._pipeline else limits)
            else:
                video = cv2.VideoCapture(self._place)
        except cv2.error as error:
            raise SourceError(f"{self._place}: cannot be opened ({error})") from error
        if not video.isOpened():
            video.release()
            what = "holds no frame that can be read" if self._kind == "file" else "is not there, or gives no picture"
            raise SourceError(f"{self._place}: {what}")
        self._video = video
        self._count = 0
        self._last_ms = 0.0

    def read(self) -> Grab | Nothing:
        """See `Source.read`."""
        if self._video is None:
            raise SourceError(f"{self._place}: is not open")
        there, frame = self._video.read()
        if there:
            self._count += 1
            self._last_ms = self._video.get(cv2.CAP_PROP_POS_MSEC)
            return Grab(grabbed_ns=time.monotonic_ns(), image=pixels_of_frame(frame))
        if self._kind != "file":
            raise SourceError(f"{self._place}: the stream ended, or gave nothing for {_READ_MS / 1000:g} s")
        if self._count == 0:
            raise SourceError(f"{self._place}: holds no frame that can be read")
        missing = self._missing(self._video)
        if missing is not None:
            raise SourceError(f"{self._place}: is cut off or damaged: {missing}")
        return "end"

    def _missing(self, video: cv2.VideoCapture) -> str | None:
        """What a file says that it holds and did not give; None where nothing is known to be missing.

        AVI files say how many frames they hold. For Matroska FFmpeg makes that number up from length and rate, so that
        only the length can be trusted; MP4's counts frames that were trimmed away, too.
        """
        with open(self._place, "rb") as file:
            head = file.read(4)
        stated, per_s = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
        if head == _AVI and self._count < stated:
            return f"{self._count} of {stated:g} frames could be read"
        if head == _MATROSKA and per_s > 0 and self._last_ms < _LATE_ENOUGH * 1000 * (stated - 1) / per_s:
            return f"{self._last_ms / 1000:.1f} of {stated / per_s:.1f} s could be read"
        return None

    def close(self) -> None:
        """See `Source.close`."""
        if self._video is not None:
            self._video.release()
            self._video = None


def pixels_of_frame(frame: MatLike) -> Pixels:
    """OpenCV's frame in RGB, or mono; 16 bits, which a GStreamer pipeline may give, stay 16 bits.

    Raises:
        SourceError: Another type of pixels.
    """
    rgb = frame if frame.ndim == 2 else np.ascontiguousarray(frame[:, :, ::-1])
    if rgb.dtype == np.uint16:
        return rgb.astype(np.uint16, copy=False)
    if rgb.dtype == np.uint8:
        return rgb.astype(np.uint8, copy=False)
    raise SourceError(f"the stream gives pixels of the type {rgb.dtype}; expected 8 or 16 bits without sign")


def has_gstreamer(build: str) -> bool:
    """Whether OpenCV's build information says that it reads GStreamer pipelines."""
    return re.search(r"^\s*GStreamer:\s*YES", build, re.MULTILINE) is not None
