"""Image files to arrays of 8 or 16 bits, every kind of pixel either converted on purpose or refused.

Pillow decodes; OpenCV decodes 16-bit PNG and 16-bit colour, of which Pillow would keep the upper 8 bits only.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from reason_runtime.errors import ImageError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_DIRECT_MODES = ("L", "RGB", "I;16", "I;16B", "I;16L")
_CONVERTED_MODES = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB"}
_ALPHA_MODES = ("LA", "RGBA", "PA", "La", "RGBa")
# TIFF tags, and the values that OpenCV reads as Pillow does
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA_SAMPLES = 258, 262, 277, 284, 338
_SAMPLE_FORMAT, _IMAGE_DEPTH = 339, 32997
_WHITE_IS_ZERO, _RGB, _INTERLEAVED, _PLAIN_ALPHA, _SIGNED = 0, 2, 1, 2, 2
_PNG_SIGNATURE_BYTES = 8
_WARNINGS_LOCK = threading.Lock()  # the list of warning filters belongs to the whole process


class SizeCheck(Protocol):
    """Raises ImageError for a size that is refused."""

    def __call__(self, *, width_px: int, height_px: int) -> None: ...  # noqa: D102 - said by the class


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Pixels of one file, upright.

    Attributes:
        colour: (H, W) or (H, W, 3) RGB, uint8 or uint16.
        alpha: (H, W) uint8, 255 = opaque; None where the file has no transparency.
    """

    colour: NDArray[np.uint8] | NDArray[np.uint16]
    alpha: NDArray[np.uint8] | None


def decode(path: Path, *, check_size: SizeCheck) -> Decoded:
    """The pixels of a file; the size is checked before anything is decoded.

    Raises:
        ImageError: With the path, for everything that can be wrong with the file.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            os.set_blocking(file.fileno(), True)
            stream: BinaryIO = file if file.seekable() else io.BytesIO(file.read())
            return decode_stream(stream, name=str(path), check_size=check_size)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error


def _without_waiting(path: str, flags: int) -> int:
    """Opens at once a pipe that nobody writes to, which is empty then; otherwise that waits without end."""
    return os.open(path, flags | os.O_NONBLOCK)


def decode_stream(stream: BinaryIO, *, name: str, check_size: SizeCheck) -> Decoded:
    """What `decode` gives, of a stream that can be sought in.

    Raises:
        ImageError: With the name, for everything that can be wrong with the picture.
    """
    try:
        image = _open(stream)
        check_size(width_px=image.width, height_px=image.height)
        _refuse_damaged_png(stream, image)
        _refuse_several_frames(image)
        _refuse_odd_tiff(image)
        _refuse_transparent_grey(image)
        if _needs_opencv(image):
            return _decode_16_bit(stream, image)
        return _pixels(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not an image in one of the formats {', '.join(FORMATS)}") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # Pillow's readers let anything through that damaged headers and chunks lead them to
        raise ImageError(f"{name}: is damaged ({error or type(error).__name__})") from error


def _open(stream: BinaryIO) -> Image.Image:
    with _WARNINGS_LOCK, warnings.catch_warnings():
        # Pillow warns at 89 and refuses at 179 megapixels; the limit here is checked next and lies between the two
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("error", UserWarning)  # a header that Pillow would read in part
        try:
            return Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ImageError("more than 150 megapixels, the largest image allowed") from error


def _refuse_damaged_png(stream: BinaryIO, image: Image.Image) -> None:
    """A chunk that its checksum does not fit, or no end; Pillow and OpenCV decode such a file into another picture."""
    if image.format != "PNG":
        return
    here = stream.tell()
    stream.seek(_PNG_SIGNATURE_BYTES)
    kind = b""
    while kind != b"IEND":
        length, kind = int.from_bytes(stream.read(4), "big"), stream.read(4)
        content, checksum = stream.read(length), stream.read(4)
        if len(checksum) < 4:
            raise ImageError("is damaged (it is cut off)")
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise ImageError(f"is damaged (the checksum of its chunk {kind!r} is another)")
    stream.seek(here)


def _refuse_several_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    # a multi-picture JPEG from a phone holds previews behind its one real picture
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"holds {frames} pages or frames; expected one image a file")


def _refuse_odd_tiff(image: Image.Image) -> None:
    """What Pillow reads otherwise than it is meant."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # turned round in 8 bits only
        raise ImageError("is a 16-bit TIFF whose highest value is black; save it as a mono PNG")
    # 8 bits with a sign are read as if they had none; more have a mode of their own
    if not image.mode.startswith("I") and _SIGNED in _as_tuple(tags.get(_SAMPLE_FORMAT)):
        raise ImageError("is a TIFF whose pixels have a sign; expected 8 or 16 bits a channel without sign")
    if max(_as_tuple(tags.get(_IMAGE_DEPTH)), default=1) > 1:  # its first slice would be read
        raise ImageError("is a TIFF of a volume; expected one image a file")


def _as_tuple(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _refuse_transparent_grey(image: Image.Image) -> None:
    """One grey value that is transparent: neither library finds it in 2, 4 and 16 bits."""
    if isinstance(image, PngImagePlugin.PngImageFile) and "transparency" in image.info:
        if any(str(tile[3]) in ("L;2", "L;4", "I;16B") for tile in image.tile):
            raise ImageError("is a mono PNG with a transparent grey value that is not of 8 bits; save it with an alpha")


def _needs_opencv(image: Image.Image) -> bool:
    """Whether the pixels have 16 bits that Pillow (or an older Pillow) would not keep."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return any(str(tile[3]).endswith(";16B") for tile in image.tile)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2  # some writers give the bits of all samples as one number
        return bool(tags.get(_SAMPLES, 1) > 1 and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8)
    return False


def _decode_16_bit(stream: BinaryIO, image: Image.Image) -> Decoded:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if image.format == "TIFF" and orientation != 1:
        # OpenCV's releases differ in whether they turn such a file
        raise ImageError(f"is a 16-bit colour TIFF with orientation {orientation}; save it upright, or as a PNG")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_odd_colour(image)
    stream.seek(0)
    content = np.frombuffer(stream.read(), dtype=np.uint8)
    image.load()  # raises on a file that is cut off
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ImageError("has 16 bits a channel in a form that is not supported; save it as an RGB or mono PNG")
    upright = _upright(pixels.astype(np.uint16, copy=False), orientation=orientation)
    if upright.ndim == 2:
        return Decoded(colour=upright, alpha=None)
    alpha = (upright[:, :, 3] >> 8).astype(np.uint8) if upright.shape[2] == 4 else None
    return Decoded(colour=upright[:, :, 2::-1], alpha=alpha)


def _refuse_odd_colour(image: TiffImagePlugin.TiffImageFile) -> None:
    """OpenCV mixes planes with what memory held before, and takes any fourth sample for an alpha."""
    tags = image.tag_v2
    found = None
    if tags.get(_PLANAR, _INTERLEAVED) != _INTERLEAVED:
        found = "each colour in a plane of its own"
    elif tags.get(_PHOTOMETRIC) != _RGB:
        found = "colours that are not RGB"
    elif any(kind != _PLAIN_ALPHA for kind in tags.get(_EXTRA_SAMPLES, ())):
        found = "a fourth sample that is no plain alpha"
    if found is not None:
        raise ImageError(f"is a 16-bit TIFF with {found}; save it as an RGB PNG")


def _upright(pixels: NDArray[np.uint16], *, orientation: int) -> NDArray[np.uint16]:
    """Undo an EXIF orientation: 2 to 4 mirror or turn by 180 degrees, 5 to 8 swap rows and columns too."""
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)  # by 90 degrees, counterclockwise
    turned = np.rot90(pixels, turns)
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def _pixels(image: Image.Image) -> Decoded:
    """What Pillow decoded, as RGB or mono and its transparency."""
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return Decoded(colour=rgba[:, :, :3], alpha=rgba[:, :, 3])
    if image.mode in _CONVERTED_MODES:
        image = image.convert(_CONVERTED_MODES[image.mode])
    elif image.mode not in _DIRECT_MODES:
        raise ImageError(f"has pixels of the kind {image.mode!r}; expected 8 or 16 bits a channel without sign")
    pixels = np.asarray(image)
    return Decoded(colour=pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16), alpha=None)
