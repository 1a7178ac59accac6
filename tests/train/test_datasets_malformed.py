"""Every way of being malformed that users meet gives one line with the path and what was expected there."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reason_runtime.errors import DataError
from reason_train.config import Layout
from reason_train.datasets import categories, load_dataset
from tests.train import trees


def remove(*parts: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root.joinpath(*parts)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return change


def empty(*parts: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        shutil.rmtree(root.joinpath(*parts))
        root.joinpath(*parts).mkdir()

    return change


MVTEC: list[tuple[str, Callable[[Path], object], str]] = [
    ("no good training images", empty("train", "good"), r"train/good: the folder is empty; expected the good training"),
    (
        "text files only",
        lambda root: [empty("train", "good")(root), (root / "train" / "good" / "a.txt").write_text("x")],
        r"train/good: no image among 1 entries \(a\.txt, \.\.\.\); expected .* as png, jpg",
    ),
    ("stranger in train", lambda root: trees.picture(root / "train" / "bad" / "1.png"), r"train/bad: unexpected"),
    ("empty test", empty("test"), r"test: no folder inside; expected test/good and test/<defect>"),
    ("no test but masks", remove("test"), r"test: no such folder; expected the images that the masks"),
    (
        "empty defect folder",
        empty("test", "dent"),
        r"test/dent: the folder is empty; expected images of the defect 'dent'",
    ),
    (
        "mask without image",
        remove("test", "dent", "001.png"),
        r"dent/001_mask\.png: mask without an image \(1 such\); expected its image in .*test/dent",
    ),
    (
        "image without mask",
        remove("ground_truth", "dent", "001_mask.png"),
        r"dent/001\.png: the defective image has no mask; expected exactly one, such as .*dent/001_mask\.png",
    ),
    ("defect without masks", remove("ground_truth", "dent"), r"ground_truth/dent: .*no such folder; expected one mask"),
    (
        "masks of an unknown defect",
        lambda root: trees.mask(root / "ground_truth" / "hole" / "0_mask.png"),
        r"ground_truth/hole: masks without images; expected masks of the defect folders only \(crack, dent\)",
    ),
    (
        "masks of good images",
        lambda root: trees.mask(root / "ground_truth" / "good" / "000_mask.png"),
        r"ground_truth/good: masks without images",
    ),
    *(
        (
            f"an image beside the folders of {part}",
            lambda root, part=part: trees.picture(root / part / "stray.png"),
            rf"{part}/stray\.png: lies beside the folders; expected every image in ",
        )
        for part in ("train", "test", "ground_truth")
    ),
    (
        "two masks of one image",
        lambda root: trees.mask(root / "ground_truth" / "dent" / "000.png"),
        r"dent/000\.png: the defective image has 2 masks",
    ),
    (
        "two images of one mask",
        lambda root: trees.picture(root / "test" / "dent" / "000.jpg"),
        r"dent/000_mask\.png: is the mask of both .*000\.jpg and .*000\.png",
    ),
    (
        "mask of another size",
        lambda root: trees.mask(root / "ground_truth" / "dent" / "000_mask.png", size=(32, 40)),
        r"dent/000_mask\.png: the mask is 32 x 40 pixels and its image .*dent/000\.png is 40 x 32 pixels",
    ),
    (
        "text file called png",
        lambda root: (root / "test" / "dent" / "000.png").write_text("no image"),
        r"dent/000\.png: cannot be read as an image",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in MVTEC], ids=[case[0] for case in MVTEC])
def test_a_malformed_mvtec_category_is_refused_with_the_path(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    root = trees.mvtec(tmp_path)
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(root, layout="mvtec")
    assert str(caught.value).startswith(str(root))
    assert "\n" not in str(caught.value)


def test_a_test_folder_without_folders_is_refused(tmp_path: Path) -> None:
    root = trees.mvtec(tmp_path, masks=False)
    empty("test")(root)
    trees.picture(root / "test" / "1.png")
    with pytest.raises(DataError, match=r"test: no folder inside; expected test/good and test/<defect>"):
        load_dataset(root)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    root = trees.mvtec(tmp_path)
    before = load_dataset(root)
    (root / "test" / "license.txt").write_text("free")
    (root / "test" / "dent" / "Thumbs.db").write_text("windows")
    (root / "ground_truth" / "dent" / "readme.md").write_text("drawn by hand")
    (root / "test" / ".ipynb_checkpoints").mkdir()
    trees.picture(root / "train" / "good" / ".trash" / "9.png")
    assert load_dataset(root) == before


@pytest.mark.parametrize("layout", [None, "mvtec", "oct2017", "aebad-s", "aebad-v", "visa", "folder"])
def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path, layout: Layout | None) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'nowhere'}: no such folder; expected")):
        load_dataset(tmp_path / "nowhere", layout=layout)
    path = trees.picture(tmp_path / "file.png")
    with pytest.raises(DataError, match=r"file\.png: is a file; expected"):
        load_dataset(path, layout=layout)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (None, "the folder is empty; expected good images"),
        ("folder", "the folder is empty; expected good images"),
        ("mvtec", r"train/good: no such folder; expected the good training images"),
        ("oct2017", r"test: no such folder; expected test/\{NORMAL,CNV,DME,DRUSEN\}"),
        ("aebad-s", r"AeBAD_S: no such folder; expected the AeBAD_S folder"),
        ("aebad-v", r"AeBAD_V: no such folder; expected the AeBAD_V folder"),
    ],
)
def test_an_empty_folder_is_refused_by_every_layout(tmp_path: Path, layout: Layout | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path, layout=layout)


def test_a_root_without_categories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no category found; expected folders with train/good inside"):
        categories(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("train", "NORMAL"), r"train/NORMAL: no such folder; expected the normal training images"),
        (empty("test", "NORMAL"), r"test/NORMAL: the folder is empty"),
        (empty("test", "DME"), r"test/DME: the folder is empty; expected images of the defect 'DME'"),
        (
            lambda root: [shutil.rmtree(root / "test" / name) for name in ("CNV", "DME", "DRUSEN")],
            r"test: only NORMAL found; expected CNV, DME and DRUSEN beside it",
        ),
    ],
)
def test_a_malformed_oct2017_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = trees.oct2017(tmp_path)
    change(root)
    with pytest.raises(DataError, match=message):
        load_dataset(root, layout="oct2017")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("AeBAD_S", "test"), r"AeBAD_S/test: no such folder; expected"),
        (remove("AeBAD_S", "train", "good"), r"train/good: no such folder; expected train/good/<group>"),
        (
            lambda root: trees.picture(root / "AeBAD_S" / "test" / "good" / "loose.png"),
            r"good/loose\.png: lies directly in .*good; expected a folder per group",
        ),
        (
            remove("AeBAD_S", "ground_truth", "ablation", "view", "b.png"),
            r"ablation/view/b\.png: the defective image has no mask; .*ground_truth/ablation/view/b_mask\.png",
        ),
        (
            remove("AeBAD_S", "test", "ablation", "view", "b.png"),
            r"ground_truth/ablation/view/b\.png: mask without an image",
        ),
    ],
)
def test_a_malformed_aebad_s_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = trees.aebad_s(tmp_path)
    change(root)
    with pytest.raises(DataError, match=message):
        load_dataset(root, layout="aebad-s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (empty("AeBAD_V", "test"), r"test: no folder inside; expected one per video"),
        (empty("AeBAD_V", "test", "video2"), r"video2: no folder inside; expected good and defect folders"),
        (empty("AeBAD_V", "test", "video2", "good"), r"video2/good: the folder is empty"),
    ],
)
def test_a_malformed_aebad_v_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = trees.aebad_v(tmp_path)
    change(root)
    with pytest.raises(DataError, match=message):
        load_dataset(root, layout="aebad-v")


def edit(old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / "split_csv" / "1cls.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("split_csv", "1cls.csv"), r"1cls\.csv: not readable \(.*No such file.*\); expected VisA's split file"),
        (edit("object,split,label,image,mask", "object,split,label,image"), r"no column 'mask'; expected object,split"),
        (edit("train", "training"), r"1cls\.csv: line 2 has split 'training'; expected train or test"),
        (edit("normal", "fine"), r"1cls\.csv: line 2 has label 'fine'; expected normal or anomaly"),
        (edit("candle,test,anomaly", "candle,train,anomaly"), r"a defective image in the training split"),
        (edit("candle/Data/Images/Normal/0000.JPG", "/etc/0000.JPG"), r"names /etc/0000\.JPG, which lies elsewhere"),
        (
            edit("candle/Data/Images/Normal/0000.JPG", "candle/../../a.JPG"),
            r"names candle/\.\./\.\./a\.JPG, which lies",
        ),
        (edit("candle,train", "candle,test"), r"no good training images of 'candle'"),
        (edit(",candle/Data/Masks/Anomaly/000.png", ","), r"000\.JPG: the defective image has no mask in"),
        (remove("candle", "Data", "Images", "Normal", "0001.JPG"), r"0001\.JPG: no such file; .*1cls\.csv names it"),
        (remove("candle", "Data", "Masks", "Anomaly", "000.png"), r"000\.png: no such file; .*1cls\.csv names it"),
        (
            lambda root: trees.mask(root / "candle" / "Data" / "Masks" / "Anomaly" / "000.png", size=(20, 20)),
            r"000\.png: the mask is 20 x 20 pixels and its image .*000\.JPG is 40 x 32 pixels",
        ),
        (
            lambda root: (root / "split_csv" / "1cls.csv").write_text("object,split,label,image,mask\n"),
            r"1cls\.csv: no rows; expected one per image",
        ),
        (
            lambda root: (root / "split_csv" / "1cls.csv").write_bytes(b"\xff\xfe\x00"),
            r"1cls\.csv: not readable \(.*\); expected VisA's split file",
        ),
    ],
)
def test_a_malformed_visa_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = trees.visa(tmp_path)
    change(root)
    with pytest.raises(DataError, match=message):
        load_dataset(root, layout="visa", category="candle")


def test_a_plain_folder_of_folders_without_good_is_not_guessed_at(tmp_path: Path) -> None:
    trees.picture(tmp_path / "scratch" / "1.png")
    with pytest.raises(DataError, match="images in 'scratch' and no folder 'good'"):
        load_dataset(tmp_path)


def test_a_category_that_lost_its_good_images_is_told_what_is_missing(tmp_path: Path) -> None:
    trees.picture(tmp_path / "test" / "good" / "1.png")
    with pytest.raises(DataError, match=f"{tmp_path}: has no folder train/good; expected the good training images"):
        load_dataset(tmp_path)


def test_images_beside_the_good_folder_are_refused(tmp_path: Path) -> None:
    trees.picture(tmp_path / "good" / "1.png")
    trees.picture(tmp_path / "2.png")
    with pytest.raises(
        DataError, match=r"2\.png: lies beside the folders; expected every image in 'good' or in a defect's"
    ):
        load_dataset(tmp_path)


def test_one_good_image_cannot_both_train_and_test(tmp_path: Path) -> None:
    trees.picture(tmp_path / "good" / "1.png")
    trees.picture(tmp_path / "dent" / "1.png")
    with pytest.raises(DataError, match="one good image; expected at least two"):
        load_dataset(tmp_path)


def test_an_empty_good_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    trees.picture(tmp_path / "dent" / "1.png")
    with pytest.raises(DataError, match="good: the folder is empty; expected good images"):
        load_dataset(tmp_path)


def test_two_folders_of_masks_are_refused(tmp_path: Path) -> None:
    trees.picture(tmp_path / "good" / "1.png")
    trees.mask(tmp_path / "masks" / "dent" / "1.png")
    trees.mask(tmp_path / "ground_truth" / "dent" / "1.png")
    with pytest.raises(DataError, match="has both masks and ground_truth; expected one folder of masks"):
        load_dataset(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read every folder")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    root = trees.mvtec(tmp_path)
    (root / "test" / "dent").chmod(0)
    with pytest.raises(DataError, match="dent: cannot be listed"):
        load_dataset(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read every folder")
def test_a_folder_beside_the_categories_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    trees.mvtec(tmp_path / "screw")
    (tmp_path / "lost+found").mkdir(mode=0)
    assert categories(tmp_path) == ["screw"]
    assert load_dataset(tmp_path, category="screw").name == "screw"
    (tmp_path / "screw").chmod(0)
    with pytest.raises(DataError, match="screw: cannot be listed"):
        load_dataset(tmp_path / "screw")


@pytest.mark.parametrize("name", ["test", "Train", "masks", "Mask", "Ground_Truth", "Good"])
def test_a_plain_folder_takes_no_part_of_another_layout_for_a_defect(tmp_path: Path, name: str) -> None:
    for folder in ("good", "dent"):
        for number in range(3):
            trees.picture(tmp_path / folder / f"{number}.png")
    known = load_dataset(tmp_path)
    assert {sample.defect for sample in known.test} == {"good", "dent"}
    trees.picture(tmp_path / name / "dent" / "0.png")
    if name == "masks":
        trees.mask(tmp_path / "masks" / "dent" / "1.png")
        trees.mask(tmp_path / "masks" / "dent" / "2.png")
        assert len(load_dataset(tmp_path).test) == len(known.test)
    else:
        with pytest.raises(DataError, match=rf"{name}: lies beside 'good' as a defect's folder does"):
            load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["masks", "ground_truth", "Good", "val"])
def test_what_lies_in_test_and_is_no_defect_is_not_judged_as_one(tmp_path: Path, name: str) -> None:
    for masks in (True, False):
        root = trees.mvtec(tmp_path / str(masks), masks=masks)
        trees.mask(root / "test" / name / "crack" / "000.png")
        with pytest.raises(DataError, match=rf"test/{name}: lies beside 'good' as a defect's folder does"):
            load_dataset(root)


def test_good_images_in_a_defects_folder_of_test_are_refused(tmp_path: Path) -> None:
    trees.picture(trees.mvtec(tmp_path, masks=False) / "test" / "crack" / "good" / "002.png")
    with pytest.raises(DataError, match="test/crack/good: lies in a defect's folder"):
        load_dataset(tmp_path)


def test_a_folder_of_good_images_inside_a_defects_is_refused(tmp_path: Path) -> None:
    for name in ("good/0.png", "good/1.png", "set/good/2.png", "set/dent/3.png"):
        trees.picture(tmp_path / name)
    with pytest.raises(DataError, match="set/good: lies in a defect's folder"):
        load_dataset(tmp_path)
