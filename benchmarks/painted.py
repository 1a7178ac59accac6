"""Defects painted on real pictures, and small data sets of painted pictures in MVTec AD's layout.

The pictures are real, the defects are not: every result that uses them says so. Crops of one photograph overlap: they
are not independent, as parts on a line would be. Sizes are shares of a picture's shorter side, so that a defect is as
large for the network whatever the picture's resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = Literal["brick", "gravel", "grass"]
"""Photographs of 512 x 512 that travel with scikit-image."""
Defect = Literal["scratch", "stain", "hole", "misplaced", "bent"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Painted = tuple[Picture, Mask]
"""A picture with a defect, and where it is."""
Shot = Callable[[], Picture]
"""Takes another picture."""
Range = tuple[float, float]

LARGE: Range = (0.045, 0.125)
"""Radii that a person sees at once, as shares of the picture's shorter side."""
SMALL: Range = (0.015, 0.08)
"""Radii of 4 to 20 px at the graph's 256 px: from half a place of the map to a few."""
LEAST_CHANGE = 8.0
"""Grey levels by which a defect changes its place on average; fainter ones are painted again elsewhere."""
TRIES = 100
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


def paint(
    picture: Picture,
    defect: Defect,
    *,
    random: np.random.Generator,
    radii: Range,
    where: Mask | None = None,
) -> Painted | None:
    """A defect of random place, size and strength on a copy of a picture, and its mask.

    Args:
        picture: (H, W) or (H, W, 3).
        defect: Its kind.
        random: Every draw comes from it.
        radii: Its smallest and largest radius, as shares of the shorter side.
        where: (H, W), where its middle may lie; none: anywhere.

    Returns:
        None where it cannot be seen: nothing bends on a smooth surface.
    """
    side = min(picture.shape[:2])
    places = None if where is None else np.argwhere(where)
    for _ in range(TRIES):
        if places is None:
            middle = random.uniform(0.03, 0.97, 2) * picture.shape[:2]
        else:
            middle = places[random.integers(len(places))].astype(float)
        draw = _scratch if defect == "scratch" else _blob
        area = draw(picture.shape[:2], side, middle, radii, random)
        changed = _changed(picture, defect, area, side, random)
        painted: Picture = np.clip(np.round(changed), 0, 255).astype(np.uint8)
        mask: Mask = area > 0.5
        change = np.abs(painted.astype(float) - picture).reshape(*mask.shape, -1).mean(2)
        if mask.sum() >= 4 and change[mask].mean() >= LEAST_CHANGE:
            return painted, mask
    return None


def part_of(picture: Picture) -> Mask:
    """(H, W), where a picture has edges: the part on a plain background (Otsu's threshold of the local deviation)."""
    grey = (picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).astype(np.float32)
    sigma = min(grey.shape) / 40
    mean = cv2.GaussianBlur(grey, (0, 0), sigma)
    deviation = np.sqrt(np.clip(cv2.GaussianBlur(grey * grey, (0, 0), sigma) - mean * mean, 0, None))
    scaled = np.clip(deviation / deviation.max() * 255, 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    return np.asarray(scaled > limit)


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


def _changed(
    picture: Picture, defect: Defect, area: NDArray[np.float64], side: int, random: np.random.Generator
) -> NDArray[np.float64]:
    shape = area if picture.ndim == 2 else area[:, :, None]
    before = picture.astype(np.float64)
    if defect == "scratch":
        return before + shape * random.choice([-1, 1]) * random.uniform(25, 80)
    if defect == "stain":
        return before * (1 - shape * random.uniform(0.15, 0.45))
    if defect == "hole":
        return before * (1 - shape) + shape * random.uniform(10, 60)
    if defect == "misplaced":
        moved = np.roll(before, random.integers(int(0.15 * side), int(0.5 * side), 2), (0, 1))[::-1, ::-1]
        return before * (1 - shape) + shape * moved
    return _bent(picture, area, side, random)


def _bent(picture: Picture, area: NDArray[np.float64], side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """What lies in the area pushed aside by 1 to 3 % of the side."""
    angle, distance_px = random.uniform(0, 2 * np.pi), random.uniform(0.01, 0.03) * side
    pushed = cv2.GaussianBlur(area.astype(np.float32), (0, 0), 0.012 * side) * distance_px
    rows, columns = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]].astype(np.float32)
    source = (columns - pushed * np.cos(angle)).astype(np.float32), (rows - pushed * np.sin(angle)).astype(np.float32)
    return cv2.remap(picture, *source, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101).astype(np.float64)


def _scratch(
    shape: tuple[int, ...], side: int, middle: NDArray[np.float64], radii: Range, random: np.random.Generator
) -> NDArray[np.float64]:
    """A bent line about as long as the largest defect is wide, 0..1 with soft edges."""
    length = random.uniform(0.75, 3.75) * radii[1] * side
    angle, bend = random.uniform(0, np.pi), random.uniform(-0.06, 0.06) * side
    along = np.linspace(-0.5, 0.5, 24)
    points = np.stack([middle[1] + along * length * np.cos(angle), middle[0] + along * length * np.sin(angle)], 1)
    points += (bend * (0.25 - along**2) * 4)[:, None] * np.array([-np.sin(angle), np.cos(angle)])
    finer = 4  # drawn larger and averaged, so that a line may be thinner than a pixel
    canvas = np.zeros((shape[0] * finer, shape[1] * finer), np.uint8)
    fixed = np.round(points * finer * 16).astype(np.int32)  # 4 bits of fraction
    thickness = max(1, round(random.uniform(0.005, 0.015) * side * finer))
    cv2.polylines(canvas, [fixed], False, 255, thickness=thickness, lineType=cv2.LINE_AA, shift=4)
    return cv2.resize(canvas, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) / 255.0


def _blob(
    shape: tuple[int, ...], side: int, middle: NDArray[np.float64], radii: Range, random: np.random.Generator
) -> NDArray[np.float64]:
    """An uneven ellipse, 0..1 with soft edges; small ones are as likely as large ones."""
    axes = np.exp(random.uniform(*np.log(radii))) * side * np.exp(random.uniform(-0.3, 0.3, 2))
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    angle = np.arctan2(rows - middle[0], columns - middle[1])
    wobble = 1 + 0.25 * np.sin(3 * angle + random.uniform(0, 6)) + 0.15 * np.sin(5 * angle + random.uniform(0, 6))
    distance = np.hypot((rows - middle[0]) / axes[0], (columns - middle[1]) / axes[1]) / wobble
    return np.clip((1.15 - distance) / 0.3, 0, 1)
