"""Data sets: folders on disk become samples with labels, defect types and masks. No torch here."""

from reason_runtime.labelled_folders import GOOD
from reason_train.datasets.loading import categories, detect_layout, load_dataset
from reason_train.datasets.masks import read_mask, read_masks, read_masks_as_drawn
from reason_train.datasets.samples import DataSet, Sample, good_among, require_test

__all__ = [
    "GOOD",
    "DataSet",
    "Sample",
    "categories",
    "detect_layout",
    "good_among",
    "load_dataset",
    "read_mask",
    "read_masks",
    "read_masks_as_drawn",
    "require_test",
]
