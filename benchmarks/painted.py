"""Photographs that travel with scikit-image, cut into a small data set, with defects painted on the test crops.

The textures (`brick`, `gravel`, `grass`) are real 512 x 512 photographs; the defects are not: they are painted here and
every result that uses them says so. Training crops come from the left of a texture, test crops from the right, and the
two parts do not overlap. Crops of one part do overlap: they are not independent, as parts on a line would be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

Texture = Literal["brick", "gravel", "grass"]
Defect = Literal["scratch", "stain", "hole", "misplaced"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)

CROP_PX = 160
TRAIN_SHARE = 0.62
"""Share of a texture's width that training crops come from."""
TEST_SHARE = 0.6
"""Share of the height of the rest that test crops come from, where calibration crops come from below."""

Grey = NDArray[np.uint8]
Picture = NDArray[np.uint8]


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
    """Write a data set in MVTec AD's layout.

    Args:
        folder: Category folder to make.
        texture: Which photograph.
        train: Good crops to train on.
        good: Good crops to test on.
        per_defect: Defective crops of each kind.
        calibration: Folder for as many good crops as there are to train on, from below the test crops.
        seed: Of positions and defects.
    """
    photograph: Grey = getattr(skimage.data, texture)()
    border = int(TRAIN_SHARE * photograph.shape[1])
    left, right = photograph[:, :border], photograph[:, border:]
    random = np.random.default_rng(seed)
    for k in range(train):
        _write(folder / "train" / "good" / f"{k:03}.png", _crop(left, random))
    if calibration is not None:
        lower = int(TEST_SHARE * photograph.shape[0])
        right, below = right[:lower], right[lower:]
        for k in range(train):
            _write(calibration / f"{k:03}.png", _crop(below, random))
    for k in range(good):
        _write(folder / "test" / "good" / f"{k:03}.png", _crop(right, random))
    for defect in DEFECTS:
        for k in range(per_defect):
            painted, mask = paint(_crop(right, random), defect, random=random)
            _write(folder / "test" / defect / f"{k:03}.png", painted)
            _write(folder / "ground_truth" / defect / f"{k:03}_mask.png", np.where(mask, 255, 0).astype(np.uint8))


def paint(image: Picture, defect: Defect, *, random: np.random.Generator) -> tuple[Picture, NDArray[np.bool_]]:
    """A defect of random place, size and strength on a copy of an image, (H, W) or (H, W, 3), and its mask (H, W)."""
    area = _scratch(image.shape, random) if defect == "scratch" else _blob(image.shape, random)
    shape = area if image.ndim == 2 else area[:, :, None]
    picture = image.astype(np.float64)
    if defect == "scratch":
        painted = picture + shape * random.choice([-1, 1]) * random.uniform(40, 90)
    elif defect == "stain":
        painted = picture * (1 - shape * random.uniform(0.25, 0.5))
    elif defect == "hole":
        painted = picture * (1 - shape) + shape * random.uniform(10, 40)
    else:
        moved = np.roll(picture, random.integers(30, 90, 2), (0, 1))[::-1, ::-1]
        painted = picture * (1 - shape) + shape * moved
    return np.clip(np.round(painted), 0, 255).astype(np.uint8), area > 0.5


def _crop(area: Grey, random: np.random.Generator) -> Grey:
    top = random.integers(0, area.shape[0] - CROP_PX + 1)
    left = random.integers(0, area.shape[1] - CROP_PX + 1)
    crop = area[top : top + CROP_PX, left : left + CROP_PX]
    return np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)


def _scratch(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """A bent line, 0..1 with soft edges."""
    middle = random.uniform(0.25, 0.75, 2) * shape[:2]
    angle, length, bend = random.uniform(0, np.pi), random.uniform(25, 60), random.uniform(-12, 12)
    along = np.linspace(-0.5, 0.5, 24)
    points = np.stack([middle[1] + along * length * np.cos(angle), middle[0] + along * length * np.sin(angle)], 1)
    points += (bend * (0.25 - along**2) * 4)[:, None] * np.array([-np.sin(angle), np.cos(angle)])
    canvas = np.zeros(shape[:2], np.uint8)
    fixed = np.round(points * 16).astype(np.int32)  # 4 bits of fraction
    cv2.polylines(canvas, [fixed], False, 255, thickness=int(random.integers(1, 4)), lineType=cv2.LINE_AA, shift=4)
    return canvas / 255.0


def _blob(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """An uneven ellipse, 0..1 with soft edges."""
    middle = random.uniform(0.25, 0.75, 2) * shape[:2]
    axes = random.uniform(7, 20, 2)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    angle = np.arctan2(rows - middle[0], columns - middle[1])
    wobble = 1 + 0.25 * np.sin(3 * angle + random.uniform(0, 6)) + 0.15 * np.sin(5 * angle + random.uniform(0, 6))
    distance = np.hypot((rows - middle[0]) / axes[0], (columns - middle[1]) / axes[1]) / wobble
    return np.clip((1.15 - distance) / 0.3, 0, 1)


def _write(path: Path, image: Grey) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"{path}: could not be written")
