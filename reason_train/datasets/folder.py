"""Plain folders, for images that come in no published layout.

There are two forms:

1. Good images only: `<root>/*.png`. All are trained on; there is nothing to evaluate.
2. `<root>/good` and any number of `<root>/<defect>` folders. Without defect folders all good images are trained on.
   With them, a fixed fifth of the good images is kept out of training and tested beside the defects; which ones is
   decided by a hash of each file's name, so that new images never move old ones from one side to the other.

Masks, if there are any, lie in `<root>/masks/<defect>` or `<root>/ground_truth/<defect>` under the image's name, with
or without `_mask`. Sub-folders inside `good` and the defect folders are read too.
"""

import hashlib
from pathlib import Path

from reason_runtime.errors import DataError
from reason_runtime.image import list_images
from reason_runtime.labelled_folders import GOOD, MASK_FOLDERS
from reason_train.datasets.samples import DataSet, Sample
from reason_train.datasets.tree import (
    check_mask_folders,
    defect_samples,
    good_samples,
    refuse_loose,
    require_folder,
    subfolders,
)

TEST_SHARE = 0.2  # of the good images, where there are defects to test against


def load_folder(root: Path) -> DataSet:
    """Read a plain folder.

    Raises:
        DataError: The folder is not laid out as described at the top of this module.
    """
    require_folder(root, expected="a folder of good images")
    above = root.resolve().parent
    if root.resolve().name == "test" and (above / "train" / GOOD).is_dir():
        raise DataError(f"{root}: is the test part of a data set; give all of it, {above}")
    if (root / GOOD).is_dir():
        train, test = _good_and_defects(root)
    else:
        train, test = _good_only(root), []
    return DataSet(
        name=root.resolve().name, root=root, layout="folder", category=None, train=tuple(train), test=tuple(test)
    )


def _good_only(root: Path) -> list[Sample]:
    nested = [path for path in subfolders(root) if list_images(path)]
    names = [path.name for path in subfolders(root)]
    if "train" in names or "test" in names:
        raise DataError(f"{root}: has no folder train/good; expected the good training images there")
    if nested:
        raise DataError(
            f"{root}: images in {nested[0].name!r} and no folder 'good'; expected good images directly here, "
            f"or in 'good' with each kind of defect in a folder beside it"
        )
    return good_samples(root)


def _good_and_defects(root: Path) -> tuple[list[Sample], list[Sample]]:
    refuse_loose(root, expected="in 'good' or in a defect's folder")
    good = good_samples(root / GOOD)
    defects = [path for path in subfolders(root) if path.name not in (GOOD, *MASK_FOLDERS)]
    masks = _mask_folder(root)
    if masks is not None:
        check_mask_folders(masks, defects=[path.name for path in defects])
    if not defects:
        return good, []
    train, held_out = _split(good, root)
    defective: list[Sample] = []
    for path in defects:
        defective += defect_samples(path, masks=masks / path.name if masks is not None else None)
    return train, held_out + defective


def _mask_folder(root: Path) -> Path | None:
    found = [root / name for name in MASK_FOLDERS if (root / name).is_dir()]
    if len(found) > 1:
        raise DataError(f"{root}: has both {found[0].name} and {found[1].name}; expected one folder of masks")
    return found[0] if found else None


def _split(good: list[Sample], root: Path) -> tuple[list[Sample], list[Sample]]:
    """Training and test part; each gets at least one image."""
    if len(good) < 2:
        raise DataError(f"{root / GOOD}: one good image; expected at least two, one to train on and one to test with")
    place = {sample.path: _hash_fraction(sample.path.relative_to(root).as_posix()) for sample in good}
    held_out = {path for path, fraction in place.items() if fraction < TEST_SHARE}
    if not held_out:
        held_out = {min(place, key=place.__getitem__)}
    elif len(held_out) == len(good):
        held_out.remove(max(place, key=place.__getitem__))
    return [s for s in good if s.path not in held_out], [s for s in good if s.path in held_out]


def _hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name only."""
    content = name.encode(errors="surrogateescape")  # it may be no UTF-8
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2.0**64
