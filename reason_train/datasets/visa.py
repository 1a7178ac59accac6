"""VisA as published: `<root>/split_csv/1cls.csv` names every image, its split, label and mask.

Columns `object,split,label,image,mask`; paths are relative to the root, such as
`candle/Data/Images/Anomaly/000.JPG` and `candle/Data/Masks/Anomaly/000.png`. The objects are the categories.
"""

import csv
import os
from pathlib import Path

from reason_runtime.errors import ConfigurationError, DataError
from reason_runtime.labelled_folders import GOOD
from reason_train.datasets.masks import check_mask_size
from reason_train.datasets.samples import DataSet, Sample
from reason_train.datasets.tree import require_folder

SPLIT_FILE = Path("split_csv") / "1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
DEFECT = "anomaly"  # VisA's split names no defect types


def is_visa(root: Path) -> bool:
    """Whether a folder is laid out as VisA."""
    return os.path.isfile(root / SPLIT_FILE)  # False too where it may not be entered


def visa_categories(root: Path) -> list[str]:
    """Names of the objects in the split file, sorted.

    Raises:
        DataError: The split file is missing or malformed.
    """
    return sorted({row["object"] for row in _rows(root)})


def load_visa(root: Path, *, category: str | None) -> DataSet:
    """Read one object.

    Raises:
        ConfigurationError: The category is missing or unknown.
        DataError: The split file is malformed, or names a file that is not there.
    """
    require_folder(root, expected="the root of VisA")
    rows = _rows(root)
    known = sorted({row["object"] for row in rows})
    if category is None:
        raise ConfigurationError(f"{root}: holds the categories {', '.join(known)}; choose one with --category")
    if category not in known:
        raise ConfigurationError(f"{root}: no category {category!r}; found there: {', '.join(known)}")
    train: list[Sample] = []
    test: list[Sample] = []
    for row in rows:
        if row["object"] == category:
            (train if row["split"] == "train" else test).append(_sample(root, row))
    bad = [sample.path for sample in train if sample.anomalous]
    if bad:
        raise DataError(
            f"{bad[0]}: a defective image in the training split of {root / SPLIT_FILE}; expected good ones only"
        )
    if not train:
        raise DataError(f"{root / SPLIT_FILE}: no good training images of {category!r}; expected rows with split train")
    return DataSet(name=category, root=root, layout="visa", category=category, train=tuple(train), test=tuple(test))


def _rows(root: Path) -> list[dict[str, str]]:
    path = root / SPLIT_FILE
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}; expected {','.join(COLUMNS)}")
            rows = [{name: (row[name] or "").strip() for name in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable ({error}); expected VisA's split file") from error
    if not rows:
        raise DataError(f"{path}: no rows; expected one per image of VisA")
    for line, row in enumerate(rows, start=2):
        for name, allowed in (("split", ("train", "test")), ("label", ("normal", "anomaly"))):
            if row[name] not in allowed:
                raise DataError(f"{path}: line {line} has {name} {row[name]!r}; expected {' or '.join(allowed)}")
    return rows


def _sample(root: Path, row: dict[str, str]) -> Sample:
    image = _existing(root, row["image"])
    if row["label"] == "normal":
        return Sample(path=image, anomalous=False, defect=GOOD)
    if not row["mask"]:
        raise DataError(f"{image}: the defective image has no mask in {root / SPLIT_FILE}; expected its path there")
    mask = _existing(root, row["mask"])
    check_mask_size(mask, image_path=image)
    return Sample(path=image, anomalous=True, defect=DEFECT, mask_path=mask)


def _existing(root: Path, name: str) -> Path:
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{root / SPLIT_FILE}: names {name}, which lies elsewhere; expected paths below {root}")
    if not name or not path.is_file():
        raise DataError(f"{path}: no such file; {root / SPLIT_FILE} names it, expected the images of VisA beside it")
    return path
