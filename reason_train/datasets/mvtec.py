"""MVTec AD: `<root>/<category>/{train/good, test/<good or defect>, ground_truth/<defect>/<name>_mask.png}`.

The root of several categories is read with the category's name, a category folder without one. Data sets without any
`ground_truth` folder are evaluated at image level; where it exists, every defective image needs its mask. A category
without a `test` folder can be trained on and not evaluated.
"""

import os
from pathlib import Path

from reason_runtime.errors import ConfigurationError, DataError
from reason_runtime.labelled_folders import GOOD
from reason_train.datasets.samples import DataSet, Sample
from reason_train.datasets.tree import (
    check_mask_folders,
    defect_samples,
    good_samples,
    refuse_loose,
    require_folder,
    subfolders,
)


def is_category(folder: Path) -> bool:
    """Whether a folder is laid out as one category."""
    return os.path.isdir(folder / "train" / GOOD)  # False too where it may not be entered, as a disk's lost+found


def mvtec_categories(root: Path) -> list[str]:
    """Names of the categories inside a root, sorted; empty if there are none."""
    return [folder.name for folder in subfolders(root) if is_category(folder)]


def category_folder(root: Path, category: str | None) -> Path:
    """The folder of one category.

    Raises:
        ConfigurationError: A category is missing, unknown, or does not fit the folder.
    """
    if is_category(root):
        if category not in (None, root.resolve().name):
            raise ConfigurationError(
                f"{root}: is itself a category folder, not one that holds {category!r}; leave --category out"
            )
        return root
    known = mvtec_categories(root)
    if category is None and known:
        raise ConfigurationError(f"{root}: holds the categories {', '.join(known)}; choose one with --category")
    if category is not None and category not in known:
        listed = ", ".join(known) or "none (no folder here has train/good inside)"
        raise ConfigurationError(f"{root}: no category {category!r}; found there: {listed}")
    return root if category is None else root / category


def load_mvtec(root: Path, *, category: str | None) -> DataSet:
    """Read one category.

    Raises:
        ConfigurationError: The category is unknown.
        DataError: The folder is not laid out as described at the top of this module.
    """
    folder = category_folder(require_folder(root, expected="a category in MVTec AD layout"), category)
    train = good_samples(folder / "train" / GOOD, expected="the good training images")
    refuse_loose(folder / "train", expected="in train/good")
    strangers = [path for path in subfolders(folder / "train") if path.name != GOOD]
    if strangers:
        raise DataError(f"{strangers[0]}: unexpected; only train/good is trained on, move other images below test")
    return DataSet(
        name=folder.resolve().name,
        root=folder,
        layout="mvtec",
        category=category,
        train=tuple(train),
        test=tuple(read_test(folder)),
    )


def read_test(folder: Path, *, grouped: bool = False) -> list[Sample]:
    """Samples of `<folder>/test/<good or defect>` with the masks of `<folder>/ground_truth/<defect>`.

    Args:
        folder: Holds `test` and, for data sets with masks, `ground_truth`.
        grouped: A folder per group lies between the defect folder and its images.

    Raises:
        DataError: Images outside a defect folder, empty folders, or masks that do not fit.
    """
    test = folder / "test"
    masks = folder / "ground_truth"
    if not test.is_dir():
        if masks.is_dir():
            raise DataError(f"{test}: no such folder; expected the images that the masks in {masks} belong to")
        return []
    folders = subfolders(test)
    if not folders:
        raise DataError(f"{test}: no folder inside; expected test/good and test/<defect>")
    refuse_loose(test, expected="in test/good or in a defect's folder")
    defects = [path.name for path in folders if path.name != GOOD]
    if masks.is_dir():
        refuse_loose(masks, expected="in the folder of its defect")
        check_mask_folders(masks, defects=defects)
    samples: list[Sample] = []
    for path in folders:
        if path.name == GOOD:
            samples += good_samples(path, grouped=grouped)
        else:
            samples += defect_samples(path, masks=masks / path.name if masks.is_dir() else None, grouped=grouped)
    return samples
