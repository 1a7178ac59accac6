"""How folders say what their images show: `good`, a folder for each kind of defect beside it, and folders of masks."""

from __future__ import annotations

import os
from pathlib import Path

from reason_runtime.errors import DataError

GOOD = "good"
MASK_FOLDERS = ("masks", "ground_truth")
"""Beside it; they hold no pictures of parts."""
NO_DEFECTS = ("train", "test", "validation", "val", "mask", "groundtruth", GOOD)


def require_defect(folder: Path) -> None:
    """Refuse what is named like a part of another layout, or like masks: its pictures would count as defective.

    Raises:
        DataError: It is.
    """
    if folder.name.lower() in (*NO_DEFECTS, *MASK_FOLDERS):
        raise DataError(
            f"{folder}: lies beside 'good' as a defect's folder does and is named like none; expected another "
            "name, or masks in ground_truth/DEFECT beside train/good, test/good and test/DEFECT, or in masks/DEFECT "
            "beside good and DEFECT"
        )
    if os.path.isdir(folder / GOOD):
        raise DataError(f"{folder / GOOD}: lies in a defect's folder, whose pictures are all defective; move it out")
