"""Small generated pictures of a web in MVTec AD's layout, larger than the tiles they are cut into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.pictures import save

TILE_PX = 64
WIDTH_PX = 112


def web_picture(number: int, *, rows: int = 100) -> NDArray[np.uint8]:
    """(rows, 112, 3): a woven texture with noise, its phase by the number."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[0:rows, 0:WIDTH_PX]
    woven = 127 + 50 * np.sin(x / 3 + number) + 20 * np.sin(y / 5)
    return np.clip(woven[..., None] + random.normal(0, 8, (rows, WIDTH_PX, 3)), 0, 255).astype(np.uint8)


def webs_with_defects(root: Path, *, pictures: int = 7) -> Path:
    """Good pictures to train on; two good and two defective ones to test, with their masks."""
    for number in range(pictures):
        save(root / "train" / "good" / f"{number}.png", web_picture(number))
    for number in range(2):
        save(root / "test" / "good" / f"{number}.png", web_picture(100 + number))
        defective, mask = web_picture(200 + number), np.zeros((100, WIDTH_PX), np.uint8)
        mask[45:57, 50 : 62 + number] = 255  # where tiles overlap
        defective[mask > 0] = 0
        save(root / "test" / "hole" / f"{number}.png", defective)
        save(root / "ground_truth" / "hole" / f"{number}_mask.png", mask)
    return root
