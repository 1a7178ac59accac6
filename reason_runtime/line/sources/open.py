"""From an address to a source.

| address | frames |
|---|---|
| `DIR`, `folder:DIR` | images, by name |
| `FILE`, `video:FILE` | frames of a video; of a file that is called as a picture is, that |
| `opencv:0` | a camera that OpenCV opens by number |
| `rtsp://...`, `rtsps://...`, `http://...`, `https://...` | a stream, by FFmpeg |
| `aravis:`, `aravis:NAME` | a GigE Vision or USB3 Vision camera; the first, or by name, serial number or IP address |
| `linescan:IMAGE?lines_per_s=N` | a simulated line-scan camera |
| `post://HOST:PORT?max_mib=64` | pictures that other programs send, each answered with its decision |

A web is cut out of what a camera gives with `frame_lines=N`, `overlap_lines=M` and `counts_per_line=K`, wherever the
address begins with one of the words; a stream's query is the camera's own.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from reason_runtime.errors import ConfigurationError
from reason_runtime.image import SUFFIXES, InputFormat
from reason_runtime.line.address import Address, host_and_port, parse_address
from reason_runtime.line.sources.source import Source

_STREAMS = ("rtsp", "rtsps", "http", "https")
_KINDS = ("folder", "video", "opencv", "aravis", "linescan", "post")


def open_source(text: str, *, input_format: InputFormat | None) -> Source:
    """The source at an address, not yet opened.

    Args:
        text: The address.
        input_format: Of the bundle, for files of a folder; None, before there is one, takes their pixels as they are.

    Raises:
        ConfigurationError: The address is wrong.
        SourceError: A simulated camera's image cannot be read.
    """
    if text.partition(":")[0] in _STREAMS and "://" in text:
        try:
            query = urlsplit(text).query
        except ValueError as error:
            raise ConfigurationError(f"{text}: {error}") from error
        if "frame_lines" in dict(parse_qsl(query)):
            raise ConfigurationError(f"{text}: a stream cannot be cut into a web; frame_lines is of other sources")
        from reason_runtime.line.sources.opencv import OpenCvSource

        return OpenCvSource(text, kind="stream")  # all of its query belongs to the camera
    address = parse_address(text, kinds=_KINDS)
    counts_per_line = address.count("counts_per_line", 1, low=1)
    source = _plain(address, input_format, counts_per_line)
    frame_lines = address.count("frame_lines", 0)
    overlap_lines = address.count("overlap_lines", 0)
    address.finish()
    if frame_lines == 0:
        if overlap_lines:
            raise ConfigurationError(f"{text}: overlap_lines needs frame_lines")
        return source
    if address.kind == "post":
        raise ConfigurationError(f"{text}: pictures that are sent are whole parts; frame_lines is of other sources")
    from reason_runtime.line.sources.web import WebSource
    from reason_runtime.line.web.assemble import Assembler

    assembler = Assembler(frame_lines=frame_lines, overlap_lines=overlap_lines, counts_per_line=counts_per_line)
    return WebSource(source, assembler=assembler)


def gives_files(text: str) -> bool:
    """Whether picture files come from an address, which are read by the input format that it was opened with."""
    address = parse_address(text, kinds=_KINDS)
    return address.kind == "post" or _is_pictures(address)


def folder_of(text: str) -> Path | None:
    """The folder whose images come from an address; None of other sources, and where it does not exist."""
    address = parse_address(text, kinds=_KINDS)
    path = Path(address.place)
    return path if address.kind in ("", "folder") and path.is_dir() else None


def _is_pictures(address: Address) -> bool:
    """A folder of them, or one: OpenCV would read it as a video, without orientation and levels."""
    path = Path(address.place)
    if address.kind in ("", "video") and path.suffix.lower() in SUFFIXES:
        return True
    return address.kind == "folder" or (address.kind == "" and path.is_dir())


def _plain(address: Address, input_format: InputFormat | None, counts_per_line: int) -> Source:
    path = Path(address.place)
    if address.kind == "aravis":
        from reason_runtime.line.sources.aravis import AravisSource, aravis_settings

        return AravisSource(address.place, settings=aravis_settings(address))
    if address.kind == "linescan":
        from reason_runtime.line.sources.linescan import LineScanSource, Motion, read_faults, read_web

        loops = address.count("loops", 0)
        motion = Motion(
            lines_per_s=address.amount("lines_per_s", 1000),
            block_lines=address.count("block_lines", 64, low=1),
            counts_per_line=counts_per_line,
            jitter=address.amount("jitter", 0.0),
            loops=loops or None,
            buffer_blocks=address.count("buffer_blocks", 16, low=1),
            faults=read_faults(address.word("faults", "")),
            seed=address.count("seed", 0),
        )
        return LineScanSource(read_web(path), motion=motion, name=address.text)
    if address.kind == "post":
        from reason_runtime.line.sources.post import PostSource

        host, port = host_and_port(address, port=8000)
        return PostSource(host, port, max_bytes=address.mebibytes("max_mib", 64), input_format=input_format)
    if not address.place:
        raise ConfigurationError(
            f"source {address.text!r}: names nothing; expected a folder, a file or a camera's number"
        )
    if _is_pictures(address):
        from reason_runtime.line.sources.folder import FolderSource

        return FolderSource(path, input_format=input_format)
    from reason_runtime.line.sources.opencv import OpenCvSource

    return OpenCvSource(address.place, kind="camera" if address.kind == "opencv" else "file")
