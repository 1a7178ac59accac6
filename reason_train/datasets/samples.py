from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from reason_runtime.errors import DataError
from reason_runtime.image import image_sha256
from reason_train.config import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of a data set and what is known about it.

    Attributes:
        path: The image file.
        anomalous: Whether the part is defective; comes from the folder (or the split file), never from the mask.
        defect: Name of the defect type, `good` for a normal image.
        mask_path: Mask of the defect, None for normal images and for data sets without masks.
        group: Domain or video of AeBAD, None elsewhere.
    """

    path: Path
    anomalous: bool
    defect: str
    mask_path: Path | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The images to train on (all good) and the images to test on.

    Attributes:
        name: The category, or the folder's name.
        root: Folder that the images lie in, for messages.
        layout: How the folder was read.
        category: Category inside a root of several, None where there is none.
        train: Good images only, at least one.
        test: Good and defective images; empty where the folder has none.
    """

    name: str
    root: Path
    layout: Layout
    category: str | None
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def good_among(samples: Sequence[Sample], sha256: Collection[str]) -> int:
    """How many of them are good and have a file whose SHA-256 is among these.

    Raises:
        ImageError: A file cannot be read.
    """
    if not sha256:
        return 0
    return sum(not sample.anomalous and image_sha256(sample.path) in sha256 for sample in samples)


def require_test(dataset: DataSet) -> tuple[Sample, ...]:
    """The test samples, checked to hold good and defective images.

    Raises:
        DataError: One of the two kinds is missing, so that nothing can be evaluated.
    """
    defective = sum(sample.anomalous for sample in dataset.test)
    good = len(dataset.test) - defective
    if not good or not defective:
        raise DataError(
            f"{dataset.root}: the test images are {good} good and {defective} defective, an evaluation needs both; "
            f"add test/good and test/<defect> folders"
        )
    return dataset.test
