"""Masks: which pixels of a defective image belong to the defect.

A mask has its image's size and is black where the part is good. The defect is either white (a mask with any pixel of
128 or more is read as grey levels and cut at one half) or small class numbers (VisA: 1, 2, ...; a mask that stays below
128), where every pixel but 0 is defective. A colour counts as its strongest channel, so that red is no darker than
yellow; transparent pixels are black.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from reason_runtime.errors import DataError, ImageError
from reason_runtime.image import Crop, read_image, resize_image, square_format
from reason_train.datasets.samples import Sample

ORIENTATION_TAG, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF
HALF = 128  # the first of 256 levels above 0.5
# only levels matter here: class numbers in 16 bits keep their value, 65535 is white
MASK_FORMAT = replace(square_format(256), white_level=255)


def read_mask(
    path: Path, *, size_px: int, resize_px: int | None = None, crop_px: Crop | None = None
) -> NDArray[np.bool_]:
    """The defective pixels at the size of the anomaly map: bilinear resize of the mask, then > 0.5.

    Args:
        path: The mask file.
        size_px: Side of the anomaly map.
        resize_px: Side of the image before the centre crop to `size_px`; None without a crop.
        crop_px: Part of the image that is looked at; None for all of it.

    Returns:
        (size_px, size_px), True where defective.

    Raises:
        ImageError: The file cannot be read as an image, or is too small.
    """
    mask_format = square_format(size_px, channels=1, resize_px=resize_px)
    levels = read_mask_levels(path, crop_px=crop_px)
    mask: NDArray[np.bool_] = resize_image(levels, input_format=mask_format)[:, :, 0] >= HALF
    return mask


def read_mask_levels(path: Path, *, crop_px: Crop | None = None) -> NDArray[np.uint8]:
    """The mask in its own size, 0 where good and 255 where defective.

    Args:
        path: The mask file; white or class numbers, as all of it says.
        crop_px: Part of it that is wanted; None for all of it.

    Returns:
        (H, W, 1), levels between the two only where the file has grey edges.

    Raises:
        ImageError: The file cannot be read as an image, or is too small.
    """
    levels: NDArray[np.uint8] = read_image(path, input_format=MASK_FORMAT).max(axis=2, keepdims=True)
    if levels.max() < HALF:
        levels = np.where(levels > 0, 255, 0).astype(np.uint8)
    try:
        rows, columns = replace(MASK_FORMAT, crop_px=crop_px).looked_at(
            height_px=levels.shape[0], width_px=levels.shape[1]
        )
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return levels[rows, columns]


def read_masks(
    samples: Sequence[Sample], *, size_px: int, resize_px: int | None = None, crop_px: Crop | None = None
) -> NDArray[np.bool_] | None:
    """Masks of all samples, empty for good images; None for a data set without masks.

    Args:
        samples: N samples.
        size_px: Side of the anomaly maps.
        resize_px: Side of the image before the centre crop to `size_px`; None without a crop.
        crop_px: Part of the images that is looked at; None for all of it.

    Returns:
        (N, size_px, size_px), True where defective.

    Raises:
        DataError: Some defective images have a mask and others none.
        ImageError: A mask cannot be read.
    """
    if not any(sample.mask_path for sample in samples):
        return None
    masks = np.zeros((len(samples), size_px, size_px), np.bool_)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.mask_path is not None:
            mask[:] = read_mask(sample.mask_path, size_px=size_px, resize_px=resize_px, crop_px=crop_px)
        elif sample.anomalous:
            raise DataError(f"{sample.path}: the defective image has no mask while others have one; add it")
    return masks


def read_masks_as_drawn(samples: Sequence[Sample], *, crop_px: Crop | None = None) -> NDArray[np.bool_] | None:
    """Masks in the images' own size, for maps that are not resized; None for a data set without masks.

    Args:
        samples: N samples.
        crop_px: Part of the images that is looked at; None for all of it, of images of one size.

    Returns:
        (N, H, W), True where defective.

    Raises:
        DataError: Some defective images have a mask and others none, or the images differ in size.
        ImageError: A mask cannot be read.
    """
    if not any(sample.mask_path for sample in samples):
        return None
    if crop_px is not None:
        _, _, width, height = crop_px
    else:
        width, height = picture_size_of_all(
            [sample.path for sample in samples],
            needed="figures of pixels in tiles need images of one size: crop them, or take the masks away for figures "
            "of images alone",
        )
    masks = np.zeros((len(samples), height, width), np.bool_)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.mask_path is not None:
            mask[:] = read_mask_levels(sample.mask_path, crop_px=crop_px)[:, :, 0] >= HALF
        elif sample.anomalous:
            raise DataError(f"{sample.path}: the defective image has no mask while others have one; add it")
    return masks


def picture_size_of_all(paths: Sequence[Path], *, needed: str) -> tuple[int, int]:
    """Width and height that all pictures have, from their headers.

    Args:
        paths: One or more.
        needed: What needs one size, and what to do where there are several.

    Raises:
        DataError: They differ, or one is not an image.
    """
    sizes = {picture_size(path): path for path in paths}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(f"{first} is {one[0]} x {one[1]} pixels and {second} {other[0]} x {other[1]}; {needed}")
    (size,) = sizes
    return size


def check_mask_size(mask_path: Path, *, image_path: Path) -> None:
    """Refuse a mask that was not drawn on this image. Reads the two files' headers only.

    Raises:
        DataError: The sizes differ, or one of the files is not an image.
    """
    mask = picture_size(mask_path)
    image = picture_size(image_path)
    if mask != image:
        raise DataError(
            f"{mask_path}: the mask is {mask[0]} x {mask[1]} pixels and its image {image_path} is "
            f"{image[0]} x {image[1]} pixels; expected equal sizes"
        )


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture the right way up, from its header.

    Raises:
        DataError: It is not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # only the header is read
            with Image.open(path) as image:
                return (image.height, image.width) if _lies_on_its_side(image) else image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _lies_on_its_side(image: Image.Image) -> bool:
    # Pillow turns TIFF sizes itself, and would decode a whole PNG in search of an EXIF chunk behind the pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    return image.getexif().get(ORIENTATION_TAG, 1) in ON_ITS_SIDE
