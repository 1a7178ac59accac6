"""Images as the graph takes them: one rule for every kind of file, one resize for training, export and the line.

| in the file | becomes |
|---|---|
| 8 bits a channel | taken as it is |
| 16 bits a channel | one fixed straight line: black_level -> 0, white_level -> 255; never a stretch per image |
| 1 bit | 0 and 255 |
| palette, CMYK, YCbCr | converted to RGB (no colour profile is applied) |
| alpha | composited over black, so that what a transparent pixel hides can never show |
| EXIF (or TIFF) orientation | applied |
| mono, where the graph takes RGB | the one channel three times |
| colour, where the graph takes mono | luma, (299 R + 587 G + 114 B) / 1000 |
| float, 32-bit or signed pixels; several pages or frames | refused |

Arrays follow the same rules and are RGB, not OpenCV's BGR. Where a part of the upright picture was chosen (`crop_px`),
that is cut out before the resize.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.atomic import reason
from reason_runtime.decode import Decoded, decode, decode_stream
from reason_runtime.digest import file_sha256
from reason_runtime.errors import ConfigurationError, DataError, ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SMALLEST_SIDE_PX = 16
LARGEST_PIXELS = 150_000_000


ResizeFilter = Literal["pillow-bilinear", "in-graph"]
RESIZE_FILTERS: tuple[ResizeFilter, ...] = get_args(ResizeFilter)
ColourOrder = Literal["RGB"]
COLOUR_ORDERS: tuple[ColourOrder, ...] = get_args(ColourOrder)
Crop = tuple[int, int, int, int]
"""Left, top, width, height in pixels of the picture the right way up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFormat:
    """What the graph takes and how an image becomes it; kept in the manifest.

    Attributes:
        height_px: Rows of the graph's input.
        width_px: Columns of the graph's input.
        channels: 3 for RGB, 1 for mono cameras.
        resize_height_px: Rows after the resize, before the centre crop; `height_px` where nothing is cropped.
        resize_width_px: Columns after the resize, before the centre crop; `width_px` where nothing is cropped.
        black_level: 16-bit value that becomes 0; everything below does too.
        white_level: 16-bit value that becomes 255; everything above does too (4095 for a 12-bit camera).
        colour_order: Of the channels; without meaning where there is one.
        resize_filter: Pillow's bilinear filter with antialiasing before the graph, or the same filter inside a graph
            that takes frames of one camera size; other frames are then refused.
        crop_px: The part of every picture that is looked at, cut out before the resize; None: all of it.

    Raises:
        ConfigurationError: A size is not positive, the centre crop is larger than the resized image, something is to be
            resized both before and in the graph, the levels are not 0 <= black < white <= 65535, or the part that is
            looked at is none, or is to be cropped once more.
    """

    height_px: int
    width_px: int
    channels: Literal[1, 3] = 3
    resize_height_px: int
    resize_width_px: int
    black_level: int = 0
    white_level: int = 65535
    colour_order: ColourOrder = "RGB"
    resize_filter: ResizeFilter = "pillow-bilinear"
    crop_px: Crop | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ConfigurationError(f"an input has 1 or 3 channels, not {self.channels}")
        if not (0 < self.height_px <= self.resize_height_px and 0 < self.width_px <= self.resize_width_px):
            raise ConfigurationError(
                f"an input of {self.height_px} x {self.width_px} pixels cannot be cropped from an image resized to "
                f"{self.resize_height_px} x {self.resize_width_px}"
            )
        resized = (self.resize_height_px, self.resize_width_px)
        if self.resize_filter == "in-graph" and resized != (self.height_px, self.width_px):
            raise ConfigurationError(f"a graph that resizes takes frames as they are, not resized to {resized}")
        if not 0 <= self.black_level < self.white_level <= 65535:
            raise ConfigurationError(
                f"black level {self.black_level} and white level {self.white_level} are not 0 <= black < white <= 65535"
            )
        if self.crop_px is not None:
            self._check_crop(self.crop_px)

    def _check_crop(self, crop_px: Crop) -> None:
        left, top, width, height = crop_px
        if not (min(left, top) >= 0 and min(width, height) >= SMALLEST_SIDE_PX):
            raise ConfigurationError(
                f"crop {crop_text(crop_px)}: expected LEFT,TOP,WIDTH,HEIGHT in pixels, LEFT and TOP 0 or more, WIDTH "
                f"and HEIGHT {SMALLEST_SIDE_PX} or more"
            )
        resized = (self.resize_height_px, self.resize_width_px)
        if resized != (self.height_px, self.width_px):
            raise ConfigurationError(f"crop {crop_text(crop_px)}: is not cropped once more, from {resized}")
        if self.resize_filter == "in-graph" and (height, width) != resized:
            raise ConfigurationError(f"crop {crop_text(crop_px)}: the graph takes {resized} pixels")

    @property
    def picture_px(self) -> tuple[int, int]:
        """Height and width of a picture that is taken with as little resize as there can be."""
        if self.crop_px is None:
            return self.resize_height_px, self.resize_width_px
        left, top, width, height = self.crop_px
        return top + height, left + width

    def looked_at(self, *, height_px: int, width_px: int) -> tuple[slice, slice]:
        """Rows and columns of a picture of this size that are looked at.

        Raises:
            ImageError: The rectangle does not lie within the picture.
        """
        if self.crop_px is None:
            return slice(0, height_px), slice(0, width_px)
        left, top, width, height = self.crop_px
        if left + width > width_px or top + height > height_px:
            raise ImageError(
                f"{width_px} x {height_px} pixels; the part that is looked at (--crop {crop_text(self.crop_px)}) does "
                "not lie within them"
            )
        return slice(top, top + height), slice(left, left + width)


def crop_text(crop_px: Crop) -> str:
    """`LEFT,TOP,WIDTH,HEIGHT`, as it is given."""
    return ",".join(map(str, crop_px))


def square_format(size_px: int, *, channels: Literal[1, 3] = 3, resize_px: int | None = None) -> InputFormat:
    """A square input of `size_px`, cropped from the centre of a square of `resize_px` where that is given.

    Raises:
        ConfigurationError: See `InputFormat`.
    """
    resized = size_px if resize_px is None else resize_px
    return InputFormat(
        height_px=size_px, width_px=size_px, channels=channels, resize_height_px=resized, resize_width_px=resized
    )


def covered(shape: tuple[int, ...], *, input_format: InputFormat) -> tuple[slice, slice]:
    """Rows and columns that a graph's input, and so its map, covers in a picture of this shape, rows first.

    Raises:
        ImageError: See `InputFormat.looked_at`.
    """
    if input_format.crop_px is not None:
        return input_format.looked_at(height_px=shape[0], width_px=shape[1])
    return (
        _centred(shape[0], part=input_format.height_px, whole=input_format.resize_height_px),
        _centred(shape[1], part=input_format.width_px, whole=input_format.resize_width_px),
    )


def read_image(path: str | Path, *, input_format: InputFormat) -> NDArray[np.uint8]:
    """The image in its own size by the rules at the top of this module.

    Returns:
        (H, W, C) RGB or mono, 0..255.

    Raises:
        ImageError: The file cannot be read, is not one of the known formats, is cut off, has a side shorter than 16
            pixels or more than 150 million pixels, several pages, or pixels of a kind that is refused.
    """
    return image_of(decode_file(path), input_format=input_format)


def read_part(path: str | Path, *, input_format: InputFormat) -> NDArray[np.uint8]:
    """The part of an image that is looked at, otherwise as `read_image` gives it.

    Raises:
        ImageError: See `read_image`; or the part does not lie within the image.
    """
    decoded = decode_part(path, input_format=input_format)
    try:
        return image_of(decoded, input_format=input_format)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def decode_part(path: str | Path, *, input_format: InputFormat) -> Decoded:
    """What `decode_file` gives of the part of an image that is looked at.

    Raises:
        ImageError: See `read_part`.
    """
    decoded = decode_file(path)
    if input_format.crop_px is None:
        return decoded
    height, width = decoded.colour.shape[:2]
    try:
        rows, columns = input_format.looked_at(height_px=height, width_px=width)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    # copies: a view would keep the rest in memory
    alpha = None if decoded.alpha is None else decoded.alpha[rows, columns].copy()
    return Decoded(colour=decoded.colour[rows, columns].copy(), alpha=alpha)


def decode_file(path: str | Path) -> Decoded:
    """The image as it is in the file, 8 or 16 bits a channel.

    Raises:
        ImageError: See `read_image`.
    """
    return decode(Path(path), check_size=check_size)


def decode_bytes(content: bytes, *, name: str) -> Decoded:
    """What `decode_file` gives, of a file's bytes; `name` is what messages call it.

    Raises:
        ImageError: See `read_image`.
    """
    return decode_stream(io.BytesIO(content), name=name, check_size=check_size)


def image_of(decoded: Decoded, *, input_format: InputFormat) -> NDArray[np.uint8]:
    """What `read_image` gives, of a file that `decode_file` read.

    Raises:
        ImageError: See `read_image`.
    """
    image = as_image(decoded.colour, input_format=input_format)
    return image if decoded.alpha is None else _over_black(image, alpha=decoded.alpha)


def as_image(array: NDArray[np.uint8] | NDArray[np.uint16], *, input_format: InputFormat) -> NDArray[np.uint8]:
    """An array from a camera or another library by the same rules as a file.

    Args:
        array: (H, W), (H, W, 1) or (H, W, 3) RGB, uint8 or uint16.
        input_format: Says how many channels come out and how 16 bits become 8.

    Returns:
        (H, W, C), 0..255; the array itself where nothing had to change. A mono image taken as RGB is a read-only view
        of its one channel (stride 0), so that `once_if_mono` can work on that alone.

    Raises:
        ImageError: Another shape or type, or a size that is refused (see `read_image`).
    """
    _check_array(array)
    form = input_format
    # of a part that is looked at the size is right, whatever the whole has
    if form.resize_filter == "in-graph" and form.crop_px is None and array.shape[:2] != (form.height_px, form.width_px):
        raise ImageError(
            f"the image has {array.shape[0]} rows and {array.shape[1]} columns; this graph resizes by itself and takes "
            f"{form.height_px} x {form.width_px} only; export without --input-size for other sizes"
        )
    image: NDArray[np.uint8] = _to_8_bit(array, input_format=input_format)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == input_format.channels:
        return image
    if input_format.channels == 3:
        return np.broadcast_to(image, (*image.shape[:2], 3))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[:, :, None]


def reads_alike(one: InputFormat, other: InputFormat) -> bool:
    """Whether `as_image` gives, and refuses, the same by both, whatever the array."""
    return _reading(one) == _reading(other)


def _reading(form: InputFormat) -> tuple[object, ...]:
    """All that `as_image` takes from a format."""
    takes_one_size = form.resize_filter == "in-graph" and form.crop_px is None
    only = (form.height_px, form.width_px) if takes_one_size else None
    return form.channels, form.black_level, form.white_level, only


def part_of(array: NDArray[np.uint8] | NDArray[np.uint16], *, input_format: InputFormat) -> NDArray[np.uint8]:
    """What `as_image` gives of the part of an array that is looked at.

    Raises:
        ImageError: See `as_image`; or the part does not lie within the array.
    """
    _check_array(array)
    rows, columns = input_format.looked_at(height_px=array.shape[0], width_px=array.shape[1])
    return as_image(array[rows, columns], input_format=input_format)


def _check_array(array: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in (np.uint8, np.uint16):
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ImageError(f"an image array is uint8 or uint16, not {found}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ImageError(f"an image array is (H, W), (H, W, 1) or (H, W, 3), not {array.shape}")
    check_size(width_px=array.shape[1], height_px=array.shape[0])


def resize_image(image: NDArray[np.uint8], *, input_format: InputFormat) -> NDArray[np.uint8]:
    """The image as the graph takes it: Pillow's antialiased bilinear filter, then the centre crop.

    The aspect ratio is not kept: all of the image is resized to `resize_height_px` x `resize_width_px`. Where the graph
    resizes, the image is given as it is.

    Args:
        image: (H, W, C), from `read_part` or `part_of`.
        input_format: The sizes.

    Returns:
        (height_px, width_px, C).

    Source: METHOD, forward pass; AeBAD's pipeline (MMR) for the crop.
    """
    if input_format.resize_filter == "in-graph":
        if is_one_channel(image):
            return np.repeat(image[:, :, :1], 3, axis=2)  # half the time of a copy of the view
        return np.ascontiguousarray(image)
    resized = resample(image, height_px=input_format.resize_height_px, width_px=input_format.resize_width_px)
    # torchvision's CenterCrop, with Python's rounding of halves to the even number
    top = round((input_format.resize_height_px - input_format.height_px) / 2)
    left = round((input_format.resize_width_px - input_format.width_px) / 2)
    cropped = resized[top : top + input_format.height_px, left : left + input_format.width_px]
    return np.ascontiguousarray(cropped).reshape(input_format.height_px, input_format.width_px, -1)


def resample(image: NDArray[np.uint8], *, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """(H, W, C) to another size by Pillow's antialiased bilinear filter; unchanged where the size is the same."""
    if image.shape[:2] == (height_px, width_px):  # the filter would give the same pixels, after two copies
        return image

    def filtered(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resized = np.asarray(as_pillow(image).resize((width_px, height_px), Image.Resampling.BILINEAR))
        return resized.reshape(height_px, width_px, -1)

    return once_if_mono(image, filtered)


def as_pillow(image: NDArray[np.uint8]) -> Image.Image:
    """(H, W, 1) or (H, W, 3) as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))


def is_one_channel(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bool:
    """Whether (H, W, 3) is the view of one channel that `as_image` makes of a mono image taken as RGB."""
    return image.shape[2] == 3 and image.strides[2] == 0


def once_if_mono(
    image: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """What a change that treats every channel alike makes of an image; of a mono image taken as RGB, done once.

    Args:
        image: (H, W, C).
        change: From (H, W, C) to (H', W', C), C being 1 or 3.

    Returns:
        (H', W', C); of a mono image taken as RGB again a view of one channel.
    """
    if not is_one_channel(image):
        return change(image)
    changed = change(image[:, :, :1])
    return np.broadcast_to(changed, (*changed.shape[:2], image.shape[2]))


def load_image(path: str | Path, *, input_format: InputFormat) -> NDArray[np.uint8]:
    """A file as the graph takes it: `resize_image(read_part(path))`.

    Returns:
        (height_px, width_px, C).

    Raises:
        ImageError: See `read_part`.
    """
    return resize_image(read_part(path, input_format=input_format), input_format=input_format)


def input_of(array: NDArray[np.uint8] | NDArray[np.uint16], *, input_format: InputFormat) -> NDArray[np.uint8]:
    """An array as the graph takes it: `resize_image(part_of(array))`.

    Returns:
        (height_px, width_px, C).

    Raises:
        ImageError: See `part_of`.
    """
    return resize_image(part_of(array, input_format=input_format), input_format=input_format)


def list_images(folder: str | Path) -> list[Path]:
    """Every image below a folder by suffix (png jpg jpeg bmp tif tiff webp), sorted; hidden ones and pipes are skipped.

    Links to folders are followed; a folder that is reached in two ways is listed once.

    Returns:
        Paths that begin with `folder`; an empty list where there is none.

    Raises:
        DataError: There is no such folder, or one in it cannot be read.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        found = "is not a folder" if os.path.exists(root) else "does not exist, or may not be entered"
        raise DataError(f"{root}: {found}; expected a folder with images")
    found_images: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (name for name in names if not name.startswith("."))
        named = (Path(parent, name) for name in visible if Path(name).suffix.lower() in SUFFIXES)
        found_images += [path for path in named if not _is_special(path)]
    return sorted(found_images)


def image_sha256(path: Path) -> str:
    """SHA-256 of an image file, hexadecimal.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({reason(error)})") from error


def check_size(*, width_px: int, height_px: int) -> None:
    """Refuse a size before memory is taken for it.

    Raises:
        ImageError: A side is too short, or the picture has too many pixels.
    """
    if min(width_px, height_px) < SMALLEST_SIDE_PX:
        raise ImageError(f"{width_px} x {height_px} pixels; the smallest side allowed is {SMALLEST_SIDE_PX} pixels")
    if width_px * height_px > LARGEST_PIXELS:
        raise ImageError(
            f"{width_px} x {height_px} pixels; the largest image allowed has {LARGEST_PIXELS // 1_000_000} megapixels"
        )


def _is_special(path: Path) -> bool:
    """A pipe, socket or device: one may wait for it without end. What cannot be looked at is not, and is said later."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error


@lru_cache(maxsize=8)
def _levels_table(black_level: int, white_level: int) -> NDArray[np.uint8]:
    values = np.clip(np.arange(65536), black_level, white_level) - black_level
    span = white_level - black_level
    return ((values * 510 + span) // (2 * span)).astype(np.uint8)  # v * 255 / span, halves rounded up


def _to_8_bit(array: NDArray[np.uint8] | NDArray[np.uint16], *, input_format: InputFormat) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    table = _levels_table(input_format.black_level, input_format.white_level)
    mapped: NDArray[np.uint8] = table[array]
    return mapped


def _over_black(image: NDArray[np.uint8], *, alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) times alpha (H, W) / 255, rounded."""
    picture = as_pillow(image)
    black = Image.new(picture.mode, picture.size)
    composited = Image.composite(picture, black, Image.fromarray(np.ascontiguousarray(alpha)))
    return np.asarray(composited).reshape(image.shape)


def _centred(length_px: int, *, part: int, whole: int) -> slice:
    """The pixels of a side that a centred crop of `part` out of `whole` covers."""
    first = round(length_px * (whole - part) / 2 / whole)
    return slice(first, max(first + 1, length_px - first))
