"""GigE Vision and USB3 Vision cameras through Aravis.

| pixel format of the camera | becomes |
|---|---|
| Mono8 | (H, W) uint8 |
| Mono10, Mono12, Mono16 | (H, W) uint16, shifted so that full scale is 65535 |
| BayerRG8, BayerGB8, BayerGR8, BayerBG8 | (H, W, 3) RGB, demosaiced |
| RGB8 | (H, W, 3) |

Anything else is refused by name; nothing is converted in silence. Full scale is 65535 whatever the camera's bits, so
that the bundle's black and white level mean the same light for a 10-bit and a 12-bit camera. Packed formats are not
read: choose the unpacked one.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Pixels
from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.line.address import Address
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.source import Nothing

if TYPE_CHECKING:
    from gi.repository import Aravis

_BUFFERS = 8
_WAIT_US = 500_000
_LAST_16_BIT_ID = 65535  # of GigE Vision; 1 comes next, since 0 is reserved. USB3 Vision has 64 bits and begins at 0
_MOST_LOST = 1000  # frames with an answer each; after more, nobody can say how many they were
# GenICam's PFNC: bits of the unpacked mono formats
MONO_BITS = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono16": 16}
# OpenCV names a Bayer pattern by its second row's second and third pixel
_BAYER = {
    "BayerRG8": cv2.COLOR_BayerBG2RGB,
    "BayerGB8": cv2.COLOR_BayerGR2RGB,
    "BayerGR8": cv2.COLOR_BayerGB2RGB,
    "BayerBG8": cv2.COLOR_BayerRG2RGB,
}
FORMATS = (*MONO_BITS, *_BAYER, "RGB8")


@dataclass(frozen=True, slots=True, kw_only=True)
class AravisSettings:
    """What is set on the camera when it is opened; None leaves it as it is.

    Attributes:
        pixel_format: One of `FORMATS`.
        exposure_us: Exposure time.
        gain: In the camera's own unit.
        frame_rate: Frames per second, free running.
        trigger: Line that triggers, for example `Line1`; None runs free.
        packet_size: Bytes of a GigE packet; None lets Aravis find the largest that arrives.
        fake: Use Aravis' in-process camera, for tests without hardware.
    """

    pixel_format: str | None = None
    exposure_us: float | None = None
    gain: float | None = None
    frame_rate: float | None = None
    trigger: str | None = None
    packet_size: int | None = None
    fake: bool = False


def aravis_settings(address: Address) -> AravisSettings:
    """The options of an address `aravis:NAME?option=value`.

    Raises:
        ConfigurationError: A value that is wrong.
    """
    packet_size = address.count("packet_size", 0)
    return AravisSettings(
        pixel_format=address.word("pixel_format", "", among=("", *FORMATS)) or None,
        exposure_us=address.number("exposure_us", None),
        gain=address.number("gain", None),
        frame_rate=address.number("frame_rate", None),
        trigger=address.word("trigger", "") or None,
        packet_size=packet_size or None,
        fake=address.word("fake", "no", among=("yes", "no")) == "yes",
    )


class AravisSource:
    """See `Source`. A frame that arrives incomplete is one without pixels, and so is one that the host lost.

    Args:
        name: The camera's id, serial number or IP address; empty takes the first one found.
        settings: To set on it.
    """

    live = True

    def __init__(self, name: str, *, settings: AravisSettings) -> None:
        self.checks_freezing = not settings.fake  # its pattern has no noise
        self._name = name
        self._settings = settings
        self._camera: Aravis.Camera | None = None
        self._stream: Aravis.Stream | None = None
        self._lost = False
        self._format = ""
        self._last_id: int | None = None  # of the frame before
        self._ready: deque[Grab] = deque()
        self._last_arrived_ns = 0

    def open(self) -> None:
        """See `Source.open`."""
        aravis, failure = _library()
        if self._settings.fake:
            aravis.enable_interface("Fake")
        try:
            aravis.update_device_list()
            camera = aravis.Camera.new(self._name or None)
            if camera is None:
                raise SourceError(f"{self._label}: no camera found")
            self._configure(aravis, camera)
            stream = camera.create_stream(None, None)
            if stream is None:
                raise SourceError(f"{self._label}: another program holds the camera")
            payload = camera.get_payload()
            for _ in range(_BUFFERS):
                stream.push_buffer(aravis.Buffer.new_allocate(payload))
            self._lost = False
            self._last_id = None
            self._ready.clear()
            camera.get_device().connect("control-lost", self._control_lost)
            camera.start_acquisition()
        except failure as error:
            raise SourceError(f"{self._label}: {error}") from error
        self._camera, self._stream = camera, stream

    def read(self) -> Grab | Nothing:
        """See `Source.read`; frames that the camera sent and the host lost come first, each without pixels."""
        if self._ready:
            return self._ready.popleft()
        aravis, _ = _library()
        if self._stream is None or self._lost:
            raise SourceError(f"{self._label}: connection lost")
        buffer = self._stream.timeout_pop_buffer(_WAIT_US)
        if buffer is None:
            return "idle"
        try:
            status = buffer.get_status()
            if status != aravis.BufferStatus.SUCCESS:
                self._last_id = None if self._last_id is None else self._last_id + 1  # its own need not have arrived
                failure = f"the frame arrived incomplete ({status.value_nick})"
                return Grab(grabbed_ns=time.monotonic_ns(), failure=failure)  # its stamp may be of the frame before
            grabbed_ns = self._arrived_ns(buffer)
            shape = (buffer.get_image_height(), buffer.get_image_width())
            known = hasattr(buffer, "get_image_padding")  # older ones do not say
            padding = buffer.get_image_padding() if known else (0, 0)
            image = decode_pixels(bytes(buffer.get_data()), self._format, shape=shape, padding=padding)
            lost = self._lost_before(buffer.get_frame_id())
        finally:
            self._stream.push_buffer(buffer)
        self._ready.extend(Grab(grabbed_ns=grabbed_ns, failure="lost between camera and host") for _ in range(lost))
        self._ready.append(Grab(grabbed_ns=grabbed_ns, image=image))
        return self._ready.popleft()

    def close(self) -> None:
        """See `Source.close`."""
        camera, self._camera = self._camera, None
        self._stream = None
        if camera is not None:
            _, failure = _library()
            try:
                camera.stop_acquisition()
            except failure:  # a camera that is gone cannot be told to stop
                return

    @property
    def _label(self) -> str:
        return f"aravis:{self._name}"

    def _arrived_ns(self, buffer: Aravis.Buffer) -> int:
        """When a frame came, on the clock that is never stepped; one that lay in the stream meanwhile is old."""
        age_ns = age_of(buffer.get_system_timestamp(), now_ns=time.time_ns())
        self._last_arrived_ns = max(self._last_arrived_ns, time.monotonic_ns() - age_ns)
        return self._last_arrived_ns

    def _lost_before(self, frame_id: int) -> int:
        last, self._last_id = self._last_id, frame_id
        lost = 0 if last is None else lost_between(last, frame_id)
        if not 0 <= lost <= _MOST_LOST:
            raise SourceError(
                f"{self._label}: frame {frame_id} came after frame {last}; nobody can count those between"
            )
        return lost

    def _control_lost(self, _device: object) -> None:
        self._lost = True

    def _configure(self, aravis: type[Aravis], camera: Aravis.Camera) -> None:
        wanted = self._settings
        if wanted.pixel_format is not None:
            camera.set_pixel_format_from_string(wanted.pixel_format)
        self._format = camera.get_pixel_format_as_string()
        if self._format not in FORMATS:
            raise ConfigurationError(
                f"{self._label}: gives {self._format}, expected one of {', '.join(FORMATS)}; set pixel_format"
            )
        if wanted.exposure_us is not None:
            camera.set_exposure_time(wanted.exposure_us)
        if wanted.gain is not None:
            camera.set_gain(wanted.gain)
        if wanted.frame_rate is not None:
            camera.set_frame_rate(wanted.frame_rate)
        if wanted.trigger is not None:
            camera.set_trigger(wanted.trigger)
        if camera.is_gv_device():
            if wanted.packet_size is not None:
                camera.gv_set_packet_size(wanted.packet_size)
            else:
                camera.gv_auto_packet_size()
        camera.set_acquisition_mode(aravis.AcquisitionMode.CONTINUOUS)


def age_of(stamped_ns: int, *, now_ns: int) -> int:
    """How long ago the host stamped a frame by its system clock, when its first packet came, ns.

    0 where it did not, or the clock was stepped back since.
    """
    return max(0, now_ns - stamped_ns) if stamped_ns else 0


def lost_between(before: int, after: int) -> int:
    """How many frames are missing between two that came one after the other, by the ids that the camera gave them.

    0 where a camera does not count and all ids are 0; negative or absurdly large where it counts anew.
    """
    if after == 0:
        return 0
    lost = after - before - 1
    return lost if lost >= 0 else lost + _LAST_16_BIT_ID


def decode_pixels(
    content: bytes, pixel_format: str, *, shape: tuple[int, int], padding: tuple[int, int] = (0, 0)
) -> Pixels:
    """The image in a camera's buffer; see the table above.

    Args:
        content: At least as many bytes as the format needs.
        pixel_format: By its GenICam name.
        shape: Rows and columns.
        padding: Bytes that the camera says to have put behind each line, and behind the last.

    Raises:
        SourceError: Too few bytes, or lines that are padded.
    """
    if padding[0]:
        raise SourceError(
            f"the camera pads each line by {padding[0]} bytes, which would shear the picture; choose a width that it "
            "does not pad"
        )
    wide = MONO_BITS.get(pixel_format, 8) > 8
    channels = 3 if pixel_format == "RGB8" else 1
    needed = shape[0] * shape[1] * channels * (2 if wide else 1)
    if len(content) < needed:
        raise SourceError(f"a {pixel_format} frame of {shape[1]} x {shape[0]} has {len(content)} bytes, not {needed}")
    if wide:
        words: NDArray[np.uint16] = np.frombuffer(content[:needed], np.dtype("<u2")).astype(np.uint16).reshape(shape)
        return _full_scale(words, bits=MONO_BITS[pixel_format])
    octets: NDArray[np.uint8] = np.frombuffer(content[:needed], np.uint8).reshape(*shape, -1)
    if pixel_format in _BAYER:
        return np.asarray(cv2.cvtColor(octets[:, :, 0], _BAYER[pixel_format]), dtype=np.uint8)
    return octets[:, :, 0] if channels == 1 else octets


def _full_scale(words: NDArray[np.uint16], *, bits: int) -> NDArray[np.uint16]:
    """Shift up and repeat the highest bits below, so that the largest value becomes 65535."""
    if bits == 16:
        return words
    clipped = np.minimum(words, (1 << bits) - 1).astype(np.uint16)
    return ((clipped << (16 - bits)) | (clipped >> (2 * bits - 16))).astype(np.uint16)


def _library() -> tuple[type[Aravis], type[Exception]]:
    try:
        import gi

        gi.require_version("Aravis", "0.8")
        from gi.repository import Aravis, GLib
    except (ImportError, ValueError) as error:
        raise ConfigurationError(
            f"Aravis cannot be used ({error}); apt install gir1.2-aravis-0.8 aravis-tools libgirepository1.0-dev "
            'libcairo2-dev, then pip install "reason-edge[camera]"'
        ) from error
    return Aravis, GLib.Error
