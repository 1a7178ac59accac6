from pathlib import Path

from reason_runtime.errors import ConfigurationError, DataError
from reason_train.config import Layout
from reason_train.datasets.aebad import FOLDER_S, FOLDER_V, load_aebad_s, load_aebad_v
from reason_train.datasets.folder import load_folder
from reason_train.datasets.mvtec import is_category, load_mvtec, mvtec_categories
from reason_train.datasets.oct2017 import is_oct2017, load_oct2017
from reason_train.datasets.samples import DataSet
from reason_train.datasets.tree import require_folder
from reason_train.datasets.visa import is_visa, load_visa, visa_categories


def load_dataset(root: Path, *, layout: Layout | None = None, category: str | None = None) -> DataSet:
    """Read a data set's folder and check it: every mask has its image and its size.

    Files are listed and the headers of masked images read; no pixel is decoded.

    Args:
        root: A category folder, or the root that the layout describes.
        layout: How the folder is laid out; None recognises it by `detect_layout`.
        category: Category inside a root of several (`mvtec`, `visa`).

    Raises:
        ConfigurationError: The category is missing, unknown, or given to a layout without categories.
        DataError: The folder is not laid out as its layout says; the message names the path and what was expected.
    """
    require_folder(root, expected="a folder with a data set")
    chosen = layout if layout is not None else detect_layout(root)
    if chosen == "mvtec":
        return load_mvtec(root, category=category)
    if chosen == "visa":
        return load_visa(root, category=category)
    if category is not None:
        raise ConfigurationError(f"{root}: a data set of layout {chosen} has no categories; leave --category out")
    if chosen == "oct2017":
        return load_oct2017(root)
    if chosen == "aebad-s":
        return load_aebad_s(root)
    if chosen == "aebad-v":
        return load_aebad_v(root)
    return load_folder(root)


def detect_layout(root: Path) -> Layout:
    """The layout that a folder has, by the names inside it.

    `split_csv/1cls.csv` is VisA, a folder `AeBAD_S` or `AeBAD_V` is AeBAD, `train/NORMAL` is OCT2017, `train/good` here
    or one level down is MVTec AD; anything else is a plain folder.

    Raises:
        DataError: Two layouts fit.
    """
    fits: list[Layout] = []
    if is_visa(root):
        fits.append("visa")
    names = (root.resolve().name, *(path.name for path in root.iterdir()))
    if FOLDER_S in names:
        fits.append("aebad-s")
    if FOLDER_V in names:
        fits.append("aebad-v")
    if is_oct2017(root):
        fits.append("oct2017")
    if len(fits) > 1:
        raise DataError(f"{root}: fits the layouts {' and '.join(fits)}; choose one with --dataset")
    if fits:
        return fits[0]
    return "mvtec" if is_category(root) or mvtec_categories(root) else "folder"


def categories(root: Path) -> list[str]:
    """Names of the categories in a root of MVTec AD (all 15, where they are there) or VisA, sorted.

    Raises:
        DataError: The folder is missing or holds no category.
    """
    require_folder(root, expected="a folder of categories")
    found = visa_categories(root) if is_visa(root) else mvtec_categories(root)
    if not found:
        raise DataError(f"{root}: no category found; expected folders with train/good inside, or split_csv/1cls.csv")
    return found
