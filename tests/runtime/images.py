"""Image files of every kind, made here so that each pixel is known."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_bytes(
    *,
    width_px: int,
    height_px: int,
    bits: int,
    colour_type: int,
    rows: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG from its filtered rows; colour types: 0 mono, 2 RGB, 4 mono + alpha, 6 RGB + alpha."""
    header = struct.pack(">IIBBBBB", width_px, height_px, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def write_16_bit_png(path: Path, pixels: NDArray[np.uint16], *, orientation: int | None = None) -> None:
    """(H, W), (H, W, 2), (H, W, 3) or (H, W, 4), all 16 bits kept."""
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    tag = struct.pack(">2sHIHHHII", b"MM", 42, 8, 1, 0x0112, 3, 1, (orientation or 1) << 16) + b"\0\0\0\0"
    path.write_bytes(
        png_bytes(
            width_px=pixels.shape[1],
            height_px=pixels.shape[0],
            bits=16,
            colour_type=colour_type,
            rows=rows,
            extra=[] if orientation is None else [(b"eXIf", tag)],
        )
    )
