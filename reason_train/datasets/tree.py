"""How a folder tree becomes samples: the rules that all layouts share.

- A file is an image by its suffix; other files (notes, licences) and hidden ones are passed over.
- A folder that must hold images and holds none is an error that names what was found there.
- A mask carries its image's name with or without `_mask`, any image suffix, at the same place below its own folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from reason_runtime.errors import DataError
from reason_runtime.image import SUFFIXES, list_images
from reason_runtime.labelled_folders import GOOD, require_defect
from reason_train.datasets.masks import check_mask_size
from reason_train.datasets.samples import Sample


def require_folder(folder: Path, *, expected: str) -> Path:
    """The folder itself.

    Raises:
        DataError: There is no such folder, or it may not be read.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; expected {expected}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"{folder}: cannot be listed (no permission); expected {expected}")
    return folder


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly inside, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def refuse_loose(folder: Path, *, expected: str) -> None:
    """Refuse images directly in a folder whose sub-folders are read: nobody would look at them.

    Raises:
        DataError: There is one.
    """
    loose = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if loose:
        raise DataError(f"{loose[0]}: lies beside the folders; expected every image {expected}")


def images_in(folder: Path, *, expected: str) -> list[Path]:
    """Every image below a folder, sorted, at least one.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    images = list_images(require_folder(folder, expected=expected))
    if not images:
        others = sorted(path.name for path in folder.iterdir())
        found = f"no image among {len(others)} entries ({others[0]}, ...)" if others else "the folder is empty"
        raise DataError(f"{folder}: {found}; expected {expected} as png, jpg, jpeg, bmp, tif, tiff or webp")
    return images


def good_samples(folder: Path, *, expected: str = "good images", grouped: bool = False) -> list[Sample]:
    """Samples of a folder of good images; `grouped` takes the group from the first folder below it.

    Raises:
        DataError: The folder is missing or empty, or an image lies outside the groups.
    """
    return [
        Sample(path=path, anomalous=False, defect=GOOD, group=_group(path, folder) if grouped else None)
        for path in images_in(folder, expected=expected)
    ]


def defect_samples(folder: Path, *, masks: Path | None, grouped: bool = False) -> list[Sample]:
    """Samples of a folder of defective images, whose name is the defect, with their masks.

    Args:
        folder: Holds the images.
        masks: Holds one mask per image; None for a data set without masks.
        grouped: Take the group from the first folder below `folder`.

    Raises:
        DataError: A folder is missing or empty or cannot be a defect's, or images and masks do not pair one to one at
            equal sizes.
    """
    require_defect(folder)
    images = images_in(folder, expected=f"images of the defect {folder.name!r}")
    paired = pair_masks(images, folder=folder, masks=masks) if masks is not None else {}
    return [
        Sample(
            path=path,
            anomalous=True,
            defect=folder.name,
            mask_path=paired.get(path),
            group=_group(path, folder) if grouped else None,
        )
        for path in images
    ]


def pair_masks(images: Iterable[Path], *, folder: Path, masks: Path) -> dict[Path, Path]:
    """The mask of each image.

    Args:
        images: Paths below `folder`.
        folder: Root of the images.
        masks: Root of their masks; the mask of `<folder>/a/7.png` is `<masks>/a/7_mask.png` or `<masks>/a/7.png`.

    Raises:
        DataError: An image without a mask, a mask without an image, two masks of one image, or unequal sizes.
    """
    found = images_in(masks, expected=f"one mask for each image of {folder}")
    by_place: dict[Path, list[Path]] = {}
    for mask in found:
        by_place.setdefault(mask.relative_to(masks).with_suffix(""), []).append(mask)
    paired: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for image in images:
        place = image.relative_to(folder).with_suffix("")
        candidates = by_place.get(place.with_name(f"{place.name}_mask"), []) + by_place.get(place, [])
        if len(candidates) != 1:
            problem = "has no mask" if not candidates else f"has {len(candidates)} masks, of which one must go"
            wanted = masks / place.with_name(f"{place.name}_mask.png")
            raise DataError(f"{image}: the defective image {problem}; expected exactly one, such as {wanted}")
        if candidates[0] in owners:
            raise DataError(
                f"{candidates[0]}: is the mask of both {owners[candidates[0]]} and {image}; rename one image"
            )
        paired[image] = candidates[0]
        owners[candidates[0]] = image
    orphans = [mask for mask in found if mask not in owners]
    if orphans:
        raise DataError(
            f"{orphans[0]}: mask without an image ({len(orphans)} such); expected its image in {folder}; "
            f"remove the mask or add the image"
        )
    for image, mask in paired.items():
        check_mask_size(mask, image_path=image)
    return paired


def check_mask_folders(masks: Path, *, defects: Iterable[str]) -> None:
    """Refuse mask folders that no defect folder stands beside.

    Raises:
        DataError: A folder of masks whose defect has no images, or masks of good images.
    """
    known = sorted(defects)
    for folder in subfolders(masks):
        if folder.name not in known and list_images(folder):
            listed = ", ".join(known) or "none"
            raise DataError(f"{folder}: masks without images; expected masks of the defect folders only ({listed})")


def _group(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    if len(parts) < 2:
        raise DataError(f"{path}: lies directly in {folder}; expected a folder per group between them")
    return parts[0]
