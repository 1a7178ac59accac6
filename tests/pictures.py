"""Small generated pictures of good and defective parts, in MVTec AD's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE_PX = 64


def good_picture(number: int, *, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """(S, S, 3): stripes whose phase and noise depend on the number, so that no two are alike."""
    random = np.random.default_rng(number)
    columns = np.mgrid[0:size_px, 0:size_px][1]
    stripes = 127 + 60 * np.sin(columns / 3 + number)
    return np.clip(stripes[..., None] + random.normal(0, 8, (size_px, size_px, 3)), 0, 255).astype(np.uint8)


def save(path: Path, picture: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def good_parts(root: Path, *, images: int) -> Path:
    """A category with good training images only."""
    for number in range(images):
        save(root / "train" / "good" / f"{number:03}.png", good_picture(number))
    return root


def parts_with_defects(root: Path, *, images: int) -> Path:
    """A category with four good and four defective test images, their defect painted black, and its masks."""
    good_parts(root, images=images)
    mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask[20:40, 24:44] = 255
    for number in range(4):
        save(root / "test" / "good" / f"{number:03}.png", good_picture(1000 + number))
        defective = good_picture(2000 + number)
        defective[mask > 0] = 0
        save(root / "test" / "hole" / f"{number:03}.png", defective)
        save(root / "ground_truth" / "hole" / f"{number:03}_mask.png", mask)
    return root
