"""Defects painted on real pictures: what a precision must answer as the trained model does, where no defect is at hand.

Sizes are shares of a picture's shorter side, so that a defect is as large for the network whatever the picture's
resolution.
"""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Defect = Literal["scratch", "stain", "hole", "misplaced", "bent"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Painted = tuple[Picture, Mask]
"""A picture with a defect, and where it is."""
Range = tuple[float, float]

LARGE: Range = (0.045, 0.125)
"""Radii that a person sees at once, as shares of the picture's shorter side."""
LEAST_CHANGE = 8.0
"""Grey levels by which a defect changes its place on average; fainter ones are painted again elsewhere."""
TRIES = 100
RUST: tuple[float, float, float] = (0.7, 1.0, 1.3)
"""How much of a golden defect's change each of red, green and blue gets; all different, so that channels in another
order give another picture where photographs are grey."""
COLOURED: tuple[Defect, ...] = ("scratch", "stain")
MOST_GOLDEN, GOLDEN_TRIES, GOLDEN_SEED = 10, 10, 20251


def painted_golden(images: NDArray[np.uint8], *, counts: Mask | None = None) -> NDArray[np.uint8]:
    """Ten pictures with a defect each, every kind twice; fewer where a kind cannot be seen on its picture.

    The first scratch and the first stain have a colour where pictures have three channels; on grey parts colour is easy
    to find, so that the second ones have none.

    Args:
        images: (N, H, W, C) of good parts, as the graph takes them; each is used once where there are ten.
        counts: (H, W), where defects count: the middle of each lies there. None: everywhere.

    Returns:
        (M, H, W, C).
    """
    random = np.random.default_rng(GOLDEN_SEED)
    found = []
    for index in range(MOST_GOLDEN):
        picture = images[index % len(images)]
        shown = picture if picture.shape[2] == 3 else picture[:, :, 0]
        kind = DEFECTS[index % len(DEFECTS)]
        is_coloured = kind in COLOURED and index < len(DEFECTS)
        where = part_of(shown)
        if counts is not None:
            where = where & counts if (where & counts).any() else counts
        painted = paint(shown, kind, random=random, radii=LARGE, where=where, tries=GOLDEN_TRIES)
        if painted is not None:
            defect = painted[0].reshape(picture.shape)
            found.append(_rusty(picture, defect) if is_coloured and picture.shape[2] == 3 else defect)
    return np.stack(found) if found else images[:0]


def _rusty(picture: Picture, painted: Picture) -> Picture:
    before = picture.astype(np.float64)
    coloured: Picture = np.clip(np.round(before + (painted - before) * RUST), 0, 255).astype(np.uint8)
    return coloured


def paint(
    picture: Picture,
    defect: Defect,
    *,
    random: np.random.Generator,
    radii: Range,
    where: Mask | None = None,
    tries: int = TRIES,
) -> Painted | None:
    """A defect of random place, size and strength on a copy of a picture, and its mask.

    Args:
        picture: (H, W) or (H, W, 3).
        defect: Its kind.
        random: Every draw comes from it.
        radii: Its smallest and largest radius, as shares of the shorter side.
        where: (H, W), where its middle may lie; none: anywhere.
        tries: How often it is painted anew, at most, where it cannot be seen.

    Returns:
        None where it cannot be seen: nothing bends on a smooth surface.
    """
    side = min(picture.shape[:2])
    places = None if where is None else np.argwhere(where)
    for _ in range(tries):
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
    """(H, W), where a picture has edges: the part on a plain background (Otsu's threshold of the local deviation).

    All of a picture that is alike everywhere.
    """
    grey = (picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).astype(np.float32)
    sigma = min(grey.shape) / 40
    mean = cv2.GaussianBlur(grey, (0, 0), sigma)
    deviation = np.sqrt(np.clip(cv2.GaussianBlur(grey * grey, (0, 0), sigma) - mean * mean, 0, None))
    scaled = np.clip(deviation / max(deviation.max(), 1e-6) * 255, 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    part: Mask = scaled > limit
    return part if part.any() else np.ones_like(part)


def _changed(
    picture: Picture, defect: Defect, area: NDArray[np.float64], side: int, random: np.random.Generator
) -> NDArray[np.float64]:
    shape = area if picture.ndim == 2 else area[:, :, None]
    before = picture.astype(np.float64)
    if defect == "scratch":
        return before + shape * float(random.choice([-1, 1]) * random.uniform(25, 80))
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
    moved = cv2.remap(picture, *source, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float64)


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
    return np.asarray(cv2.resize(canvas, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.float64) / 255.0


def _blob(
    shape: tuple[int, ...], side: int, middle: NDArray[np.float64], radii: Range, random: np.random.Generator
) -> NDArray[np.float64]:
    """An uneven ellipse, 0..1 with soft edges; small ones are as likely as large ones."""
    axes = np.exp(random.uniform(*np.log(radii))) * side * np.exp(random.uniform(-0.3, 0.3, 2))
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    angle = np.arctan2(rows - middle[0], columns - middle[1])
    wobble = 1 + 0.25 * np.sin(3 * angle + random.uniform(0, 6)) + 0.15 * np.sin(5 * angle + random.uniform(0, 6))
    distance = np.hypot((rows - middle[0]) / axes[0], (columns - middle[1]) / axes[1]) / wobble
    return np.asarray(np.clip((1.15 - distance) / 0.3, 0, 1), np.float64)
