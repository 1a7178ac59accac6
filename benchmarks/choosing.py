"""The data that settings are chosen on: none of it is in the final tables.

Painted defects (`painted.py`) on held-out good images of screw and alien; on crops of scikit-image's photographs; on
crops of photographed surfaces and on pictures of single parts from two Debian packages; and the half of screw's test
images whose name has an even CRC-32. The packages are unpacked, not installed, and nothing of them is kept here:

    apt-get download supertuxkart-data tuxpaint-stamps-default
    for package in *.deb; do dpkg -x $package PHOTOGRAPHS; done

A part is one picture, shown again and again: turned (some by a few degrees, some freely), shifted, zoomed, lit from
another side, with noise, and with a surface that differs a little from specimen to specimen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from painted import CROP_PX, SMALL, Shot, crop, halves, write_painted, write_pictures
from PIL import Image

from reason_export.painted import DEFECTS, Picture, paint, part_of
from reason_train.datasets import DataSet, Sample, load_dataset
from reason_train.plan import split

ChoosingSet = tuple[DataSet, tuple[Sample, ...]]
"""What is trained on, and what is judged."""

TRAIN, GOOD, PER_DEFECT = 80, 30, 8
LARGE_CROP_PX = 288
"""Of photographs larger than 512 px."""
PHOTOGRAPHS = ("brick", "gravel", "grass")
"""Of scikit-image."""
SURFACES = {
    "wood": "textures/stktex_generic_WoodG.png",
    "bark": "textures/hd_palmTreeBark_a_Albedo.png",
    "rust": "textures/stkt_rustedMetal_a.png",
    "cobble": "textures/stktex_generic_cobbleStoneA.png",
    "pebbles": "textures/stktex_generic_gravelA.png",
    "fabric": "textures/stk_generic_plasticFabric_a.png",
    "tiles": "textures/bow_tile.jpg",
    "concrete": "tracks/stk_enterprise/concrete_plain.png",
    "plaster": "tracks/lighthouse/lighthouseWall_diff.png",
}
"""Below `SURFACE_FOLDER`."""
SURFACE_FOLDER = Path("usr/share/games/supertuxkart/data")
PARTS = {
    "bulb": ("household/Lightbulb.png", 4),
    "wheel": ("vehicles/wheel_tractor.png", 180),
    "clock": ("symbols/clockface.png", 4),
    "pizza": ("food/pizza.png", 180),
    "mixer": ("household/tools/cementmixer.png", 4),
}
"""Below `PART_FOLDER`, and by how many degrees each is turned at most."""
PART_FOLDER = Path("usr/share/tuxpaint/stamps")
PART_PX, PART_SHARE = 384, 0.72
"""Side of a picture of a part, and the part's share of it."""


def choosing_sets(data: Path, photographs: Path | None, folder: Path) -> dict[str, Callable[[], ChoosingSet]]:
    """What makes each set, by its name.

    Args:
        data: Folder with `screw` and `alien`.
        photographs: Where the packages were unpacked; none: without their sets.
        folder: To write pictures into.
    """
    sets: dict[str, Callable[[], ChoosingSet]] = {
        "alien, painted": partial(_painted_held_out, data / "alien", folder / "alien"),
        "screw, painted": partial(_painted_held_out, data / "screw", folder / "screw"),
        "screw, choosing half": partial(_choosing_half, data / "screw"),
    }
    for name in PHOTOGRAPHS:
        sets[name] = partial(_surface, getattr(skimage.data, name), folder / name)
    if photographs is not None:
        for name, path in SURFACES.items():
            sets[name] = partial(_surface, partial(_read, photographs / SURFACE_FOLDER / path, "RGB"), folder / name)
        for name, (path, turn) in PARTS.items():
            read = partial(_read, photographs / PART_FOLDER / path, "RGBA")
            sets[name] = partial(_part, read, folder / name, turn=turn)
    return sets


def _read(path: Path, mode: str) -> Picture:
    return np.asarray(Image.open(path).convert(mode))


def _random(name: str) -> np.random.Generator:
    """Other defects for every set."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def _choosing_half(root: Path) -> ChoosingSet:
    dataset = load_dataset(root)
    return dataset, tuple(sample for sample in dataset.test if zlib.crc32(sample.path.name.encode()) % 2 == 0)


def _painted_held_out(root: Path, folder: Path) -> ChoosingSet:
    """Held-out good images as they are, and each with every kind of defect."""
    dataset, random, samples = load_dataset(root), _random(root.name), []
    for path in split(dataset, held_out_share=0.2, seed=0).held_out:
        samples.append(Sample(path=path, anomalous=False, defect="good"))
        image = Image.open(path)
        picture = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        for defect in DEFECTS:
            if (painted := paint(picture, defect, random=random, radii=SMALL, where=part_of(picture))) is None:
                continue
            paths = folder / f"{path.stem}_{defect}.png", folder / f"{path.stem}_{defect}_mask.png"
            write_painted(painted, *paths)
            samples.append(Sample(path=paths[0], anomalous=True, defect=defect, mask_path=paths[1]))
    return dataset, tuple(samples)


def _surface(read: Callable[[], Picture], folder: Path) -> ChoosingSet:
    photograph, random = read(), _random(folder.name)
    left, right = halves(photograph)
    side_px = CROP_PX if min(photograph.shape[:2]) <= 512 else LARGE_CROP_PX
    train, test = (partial(crop, area, random, side_px=side_px) for area in (left, right))
    return _of_shots(folder, train=train, test=test, random=random, on_parts=False)


def _part(read: Callable[[], Picture], folder: Path, *, turn: float) -> ChoosingSet:
    random = _random(folder.name)
    shot = partial(_shot, read(), turn=turn, random=random)
    return _of_shots(folder, train=shot, test=shot, random=random, on_parts=True)


def _of_shots(folder: Path, *, train: Shot, test: Shot, random: np.random.Generator, on_parts: bool) -> ChoosingSet:
    write_pictures(
        folder,
        train=(train, TRAIN),
        test=(test, GOOD),
        per_defect=PER_DEFECT,
        radii=SMALL,
        random=random,
        on_parts=on_parts,
    )
    dataset = load_dataset(folder)
    return dataset, dataset.test


def _shot(cut_out: Picture, *, turn: float, random: np.random.Generator) -> Picture:
    """The part (H, W, 4) as a camera would see another one of its kind."""
    height, width = cut_out.shape[:2]
    zoom = PART_SHARE * PART_PX / max(height, width) * random.uniform(0.98, 1.02)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-turn, turn), zoom)
    matrix[:, 2] += PART_PX / 2 - np.array([width, height]) / 2 + random.uniform(-0.03, 0.03, 2) * PART_PX
    opaque = cut_out[:, :, 3:].astype(np.float32) / 255
    layers = np.concatenate([cut_out[:, :, :3] * opaque, opaque], axis=2)
    moved = cv2.warpAffine(layers, matrix, (PART_PX, PART_PX), flags=cv2.INTER_AREA)
    picture = moved[:, :, :3] + (1 - moved[:, :, 3:]) * (165 + random.uniform(-6, 6))
    rows, columns = np.mgrid[0:PART_PX, 0:PART_PX] / PART_PX - 0.5
    across, down = random.uniform(-0.1, 0.1, 2)
    light = random.uniform(0.92, 1.08) * (1 + across * columns + down * rows)
    cells = random.normal(0, 0.03, (24, 24)).astype(np.float32)
    surface = 1 + cv2.resize(cells, (PART_PX, PART_PX), interpolation=cv2.INTER_CUBIC) * moved[:, :, 3]
    lit = picture * (light * surface)[:, :, None] * random.uniform(0.98, 1.02, 3)
    seen = cv2.GaussianBlur(lit, (0, 0), random.uniform(0.4, 0.8)) + random.normal(0, 2.5, lit.shape)
    shown: Picture = np.clip(np.round(seen), 0, 255).astype(np.uint8)
    return shown
