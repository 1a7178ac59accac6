"""AeBAD, turbine blades under changing conditions; results are reported per group and as their mean.

- AeBAD-S: `<root>/AeBAD_S/train/good/<group>/*.png`, `test/<good or defect>/<domain>/*.png`,
  `ground_truth/<defect>/<domain>/<same file name>.png`; domains `same`, `background`, `illumination`, `view`.
- AeBAD-V: `<root>/AeBAD_V/train/good/<group>/*.jpg`, `test/<video>/<good or defect>/*.jpg`; no masks.

The root may also be the `AeBAD_S` or `AeBAD_V` folder itself. Training uses every group.
"""

from dataclasses import replace
from pathlib import Path

from reason_runtime.errors import DataError
from reason_runtime.labelled_folders import GOOD
from reason_train.datasets.mvtec import read_test
from reason_train.datasets.samples import DataSet, Sample
from reason_train.datasets.tree import defect_samples, good_samples, require_folder, subfolders

FOLDER_S = "AeBAD_S"
FOLDER_V = "AeBAD_V"


def load_aebad_s(root: Path) -> DataSet:
    """Read the single-image part; a sample's group is its domain.

    Raises:
        DataError: The folder is not laid out as described at the top of this module.
    """
    folder = _part(root, FOLDER_S)
    train = _train(folder)
    test = read_test(folder, grouped=True)
    if not test:
        raise DataError(f"{folder / 'test'}: no such folder; expected test/<good or defect>/<domain> of AeBAD-S")
    return DataSet(name=FOLDER_S, root=folder, layout="aebad-s", category=None, train=train, test=tuple(test))


def load_aebad_v(root: Path) -> DataSet:
    """Read the video part; a sample's group is its video.

    Raises:
        DataError: The folder is not laid out as described at the top of this module.
    """
    folder = _part(root, FOLDER_V)
    train = _train(folder)
    videos = subfolders(require_folder(folder / "test", expected="test/<video>/<good or defect> of AeBAD-V"))
    if not videos:
        raise DataError(f"{folder / 'test'}: no folder inside; expected one per video of AeBAD-V")
    test: list[Sample] = []
    for video in videos:
        kinds = subfolders(video)
        if not kinds:
            raise DataError(f"{video}: no folder inside; expected good and defect folders of this video")
        for path in kinds:
            frames = good_samples(path) if path.name == GOOD else defect_samples(path, masks=None)
            test += [replace(frame, group=video.name) for frame in frames]
    return DataSet(name=FOLDER_V, root=folder, layout="aebad-v", category=None, train=train, test=tuple(test))


def _part(root: Path, name: str) -> Path:
    if root.resolve().name == name:
        return require_folder(root, expected=f"the {name} folder")
    return require_folder(root / name, expected=f"the {name} folder of AeBAD")


def _train(folder: Path) -> tuple[Sample, ...]:
    expected = "train/good/<group> folders with good images"
    return tuple(good_samples(folder / "train" / GOOD, expected=expected, grouped=True))
