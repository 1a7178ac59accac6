"""OCT2017: `<root>/{train,test}/{NORMAL,CNV,DME,DRUSEN}/*.jpeg`.

Trained on `train/NORMAL` only; tested NORMAL against the rest. There are no masks, so everything is at image level.
"""

import os
from pathlib import Path

from reason_runtime.errors import DataError
from reason_train.datasets.samples import DataSet, Sample
from reason_train.datasets.tree import defect_samples, good_samples, require_folder, subfolders

NORMAL = "NORMAL"


def is_oct2017(root: Path) -> bool:
    """Whether a folder is laid out as OCT2017."""
    return os.path.isdir(root / "train" / NORMAL)  # False too where it may not be entered


def load_oct2017(root: Path) -> DataSet:
    """Read the data set.

    Raises:
        DataError: The folder is not laid out as described at the top of this module.
    """
    test_folder = require_folder(root / "test", expected="test/{NORMAL,CNV,DME,DRUSEN} of OCT2017")
    train = good_samples(root / "train" / NORMAL, expected="the normal training images of OCT2017")
    test: list[Sample] = good_samples(test_folder / NORMAL, expected="the normal test images of OCT2017")
    diseases = [path for path in subfolders(test_folder) if path.name != NORMAL]
    if not diseases:
        raise DataError(f"{test_folder}: only {NORMAL} found; expected CNV, DME and DRUSEN beside it")
    for path in diseases:
        test += defect_samples(path, masks=None)
    return DataSet(
        name=root.resolve().name, root=root, layout="oct2017", category=None, train=tuple(train), test=tuple(test)
    )
