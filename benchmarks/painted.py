"""Small data sets of real pictures with painted defects (`reason_export/painted.py`), in MVTec AD's layout.

The pictures are real, the defects are not: every result that uses them says so. Crops of one photograph overlap: they
are not independent, as parts on a line would be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from reason_export.painted import DEFECTS, LARGE, Painted, Picture, Range, paint, part_of

Texture = Literal["brick", "gravel", "grass"]
"""Photographs of 512 x 512 that travel with scikit-image."""
Shot = Callable[[], Picture]
"""Takes another picture."""
SMALL: Range = (0.015, 0.08)
"""Radii of 4 to 20 px at the graph's 256 px: from half a place of the map to a few."""
TRAIN_SHARE = 0.62
"""Share of a photograph's width that training crops come from."""
TEST_SHARE = 0.6
"""Share of the height of the rest that test crops come from, where calibration crops come from below."""
CROP_PX = 160


def write_dataset(
    folder: Path,
    texture: Texture,
    *,
    train: int = 80,
    good: int = 24,
    per_defect: int = 10,
    calibration: Path | None = None,
    seed: int = 0,
) -> None:
    """Crops of a photograph of scikit-image, with large defects.

    Args:
        folder: Category folder to make.
        texture: Which photograph.
        train: Good crops to train on.
        good: Good crops to test on.
        per_defect: Defective crops of each kind.
        calibration: Folder for as many good crops as there are to train on, from below the test crops.
        seed: Of positions and defects.
    """
    from skimage import data

    photograph: Picture = getattr(data, texture)()
    random = np.random.default_rng(seed)
    left, right = halves(photograph)
    if calibration is not None:
        lower = int(TEST_SHARE * photograph.shape[0])
        right, below = right[:lower], right[lower:]
        for k in range(train):
            write(calibration / f"{k:03}.png", crop(below, random))
    write_pictures(
        folder,
        train=(lambda: crop(left, random), train),
        test=(lambda: crop(right, random), good),
        per_defect=per_defect,
        radii=LARGE,
        random=random,
    )


def write_pictures(
    folder: Path,
    *,
    train: tuple[Shot, int],
    test: tuple[Shot, int],
    per_defect: int,
    radii: Range,
    random: np.random.Generator,
    on_parts: bool = False,
) -> None:
    """A category folder of pictures as they are, and of others with painted defects.

    Args:
        folder: To make.
        train: Takes a training picture, and how many.
        test: Takes a test picture, and how many good ones.
        per_defect: Defective test pictures of each kind; fewer where that kind cannot be seen on them.
        radii: Of defects.
        random: Of defects.
        on_parts: Whether defects lie on the part that a picture shows, not on its background.
    """
    for k in range(train[1]):
        write(folder / "train" / "good" / f"{k:03}.png", train[0]())
    for k in range(test[1]):
        write(folder / "test" / "good" / f"{k:03}.png", test[0]())
    for defect in DEFECTS:
        for k in range(per_defect):
            picture = test[0]()
            where = part_of(picture) if on_parts else None
            if (painted := paint(picture, defect, random=random, radii=radii, where=where)) is not None:
                name = f"{defect}/{k:03}"
                write_painted(painted, folder / "test" / f"{name}.png", folder / "ground_truth" / f"{name}_mask.png")


def halves(photograph: Picture) -> tuple[Picture, Picture]:
    """The left part, for training crops, and the rest, for test crops."""
    border = int(TRAIN_SHARE * photograph.shape[1])
    return photograph[:, :border], photograph[:, border:]


def crop(area: Picture, random: np.random.Generator, *, side_px: int = CROP_PX) -> Picture:
    """A square of random place, mirrored half of the time."""
    top = random.integers(0, area.shape[0] - side_px + 1)
    left = random.integers(0, area.shape[1] - side_px + 1)
    cut = area[top : top + side_px, left : left + side_px]
    return np.ascontiguousarray(cut[:, ::-1] if random.random() < 0.5 else cut)


def write_painted(painted: Painted, path: Path, mask_path: Path) -> None:
    """The picture, and its mask as 0 and 255."""
    write(path, painted[0])
    write(mask_path, np.where(painted[1], 255, 0).astype(np.uint8))


def write(path: Path, picture: Picture) -> None:
    """As PNG, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), shown):
        raise OSError(f"{path}: could not be written")
