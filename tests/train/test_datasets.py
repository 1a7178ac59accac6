"""Every documented layout is read as documented, and recognised without being named."""

from collections import Counter
from pathlib import Path

import pytest

from reason_runtime.errors import ConfigurationError, DataError
from reason_train.config import Layout
from reason_train.datasets import DataSet, categories, detect_layout, load_dataset, require_test
from tests.train import trees

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def kinds(dataset: DataSet) -> Counter[tuple[str, str | None]]:
    return Counter((sample.defect, sample.group) for sample in dataset.test)


def test_an_mvtec_category_pairs_every_defective_image_with_its_mask(tmp_path: Path) -> None:
    root = trees.mvtec(tmp_path / "bolt")
    dataset = load_dataset(root)
    assert (dataset.name, dataset.layout, dataset.category) == ("bolt", "mvtec", None)
    assert [sample.path.name for sample in dataset.train] == ["000.png", "001.png", "002.png"]
    assert kinds(dataset) == {("good", None): 2, ("crack", None): 2, ("dent", None): 2}
    for sample in dataset.test:
        assert sample.anomalous == (sample.defect != "good")
        expected = root / "ground_truth" / sample.defect / f"{sample.path.stem}_mask.png"
        assert sample.mask_path == (expected if sample.anomalous else None)


def test_a_category_without_ground_truth_is_read_without_masks(tmp_path: Path) -> None:
    dataset = load_dataset(trees.mvtec(tmp_path / "bolt", masks=False))
    assert sum(sample.anomalous for sample in dataset.test) == 4
    assert all(sample.mask_path is None for sample in dataset.test)


def test_a_root_of_categories_is_read_by_category(tmp_path: Path) -> None:
    names = [f"category{number:02}" for number in range(15)]
    for name in reversed(names):
        trees.mvtec(tmp_path / name)
    (tmp_path / "readme.txt").write_text("not a category")
    (tmp_path / "empty").mkdir()
    assert categories(tmp_path) == names
    dataset = load_dataset(tmp_path, category="category03")
    assert (dataset.name, dataset.category, dataset.root) == ("category03", "category03", tmp_path / "category03")


def test_a_category_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    trees.mvtec(tmp_path / "bolt")
    trees.mvtec(tmp_path / "nut")
    with pytest.raises(ConfigurationError, match=r"no category 'screw'; found there: bolt, nut"):
        load_dataset(tmp_path, category="screw")
    with pytest.raises(ConfigurationError, match=r"holds the categories bolt, nut; choose one with --category"):
        load_dataset(tmp_path)
    with pytest.raises(ConfigurationError, match=r"is itself a category folder, not one that holds 'nut'"):
        load_dataset(tmp_path / "bolt", category="nut")
    with pytest.raises(ConfigurationError, match=r"none \(no folder here has train/good inside\)"):
        load_dataset(tmp_path / "bolt" / "test", layout="mvtec", category="bolt")


def test_a_category_without_test_images_can_be_trained_on_and_not_evaluated(tmp_path: Path) -> None:
    trees.picture(tmp_path / "train" / "good" / "1.png")
    dataset = load_dataset(tmp_path)
    assert len(dataset.train) == 1
    assert dataset.test == ()
    with pytest.raises(DataError, match="0 good and 0 defective, an evaluation needs both"):
        require_test(dataset)


def test_require_test_gives_the_samples_where_both_kinds_are_there(tmp_path: Path) -> None:
    dataset = load_dataset(trees.mvtec(tmp_path))
    assert require_test(dataset) == dataset.test


def test_oct2017_trains_on_normal_and_tests_it_against_the_rest(tmp_path: Path) -> None:
    dataset = load_dataset(trees.oct2017(tmp_path))
    assert dataset.layout == "oct2017"
    assert {sample.path.parent.name for sample in dataset.train} == {"NORMAL"}
    assert kinds(dataset) == {("good", None): 2, ("CNV", None): 2, ("DME", None): 2, ("DRUSEN", None): 2}
    assert all(sample.mask_path is None for sample in dataset.test)


@pytest.mark.parametrize("inside", [False, True], ids=["root", "the AeBAD_S folder itself"])
def test_aebad_s_has_a_domain_and_a_mask_per_defective_image(tmp_path: Path, inside: bool) -> None:
    root = trees.aebad_s(tmp_path)
    dataset = load_dataset(root / "AeBAD_S" if inside else root)
    assert dataset.layout == "aebad-s"
    assert {sample.group for sample in dataset.train} == {"background", "illumination", "view"}
    assert set(kinds(dataset).values()) == {1}
    assert {group for _, group in kinds(dataset)} == {"same", "background", "illumination", "view"}
    for sample in dataset.test:
        assert sample.anomalous == (sample.mask_path is not None)
        if sample.mask_path is not None:
            assert sample.mask_path.parts[-3:] == sample.path.parts[-3:]


def test_aebad_v_has_a_video_per_frame_and_no_masks(tmp_path: Path) -> None:
    dataset = load_dataset(trees.aebad_v(tmp_path))
    assert dataset.layout == "aebad-v"
    videos = ("video1", "video2", "video3")
    assert kinds(dataset) == {(kind, video): 1 for kind in ("good", "ablation", "fracture") for video in videos}
    assert len(dataset.train) == 2
    assert all(sample.mask_path is None for sample in dataset.test)


def test_visa_is_read_from_its_split_file(tmp_path: Path) -> None:
    root = trees.visa(tmp_path)
    assert categories(root) == ["candle", "pcb1"]
    dataset = load_dataset(root, category="pcb1")
    assert (dataset.layout, dataset.name) == ("visa", "pcb1")
    assert [sample.path.name for sample in dataset.train] == ["0000.JPG", "0001.JPG"]
    assert [(sample.anomalous, sample.path.name) for sample in dataset.test] == [(False, "0002.JPG"), (True, "000.JPG")]
    assert dataset.test[1].mask_path == root / "pcb1" / "Data" / "Masks" / "Anomaly" / "000.png"
    with pytest.raises(ConfigurationError, match="no category 'fryum'; found there: candle, pcb1"):
        load_dataset(root, category="fryum")
    with pytest.raises(ConfigurationError, match="choose one with --category"):
        load_dataset(root)


@pytest.mark.parametrize("layout", ["oct2017", "aebad-s", "aebad-v", "folder"])
def test_layouts_without_categories_refuse_one(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match=f"layout {layout} has no categories; leave --category out"):
        load_dataset(tmp_path, layout=layout, category="screw")


def test_the_test_part_of_a_data_set_is_not_taken_for_one(tmp_path: Path) -> None:
    trees.mvtec(tmp_path / "parts")
    with pytest.raises(DataError, match=f"is the test part of a data set; give all of it, {tmp_path / 'parts'}"):
        load_dataset(tmp_path / "parts" / "test")


def test_two_layouts_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    trees.aebad_s(tmp_path)
    trees.aebad_v(tmp_path)
    with pytest.raises(DataError, match="fits the layouts aebad-s and aebad-v; choose one with --dataset"):
        detect_layout(tmp_path)
    assert load_dataset(tmp_path, layout="aebad-v").layout == "aebad-v"


def test_a_plain_folder_of_images_is_all_good_and_nothing_to_test(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "c.bmp"):
        trees.picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("photographed on Monday")
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "folder"
    assert [sample.path.name for sample in dataset.train] == ["a.png", "b.jpg", "c.bmp"]
    assert dataset.test == ()


def plain(root: Path, *, good: int = 30) -> Path:
    for number in range(good):
        trees.picture(root / "good" / f"{number:03}.png")
    for number in range(3):
        trees.picture(root / "scratch" / f"{number}.jpg")
    return root


def test_a_plain_folder_keeps_a_fifth_of_its_good_images_for_testing(tmp_path: Path) -> None:
    dataset = load_dataset(plain(tmp_path, good=200))
    tested = [sample for sample in dataset.test if not sample.anomalous]
    assert len(dataset.train) + len(tested) == 200
    assert 20 <= len(tested) <= 60  # binomial with n = 200, p = 0.2: five standard deviations are 28
    assert not {sample.path for sample in dataset.train} & {sample.path for sample in tested}
    assert sum(sample.defect == "scratch" for sample in dataset.test) == 3


def test_new_good_images_never_move_old_ones_between_training_and_test(tmp_path: Path) -> None:
    before = load_dataset(plain(tmp_path))
    for number in range(500, 600):
        trees.picture(tmp_path / "good" / f"{number}.png")
    after = load_dataset(tmp_path)
    assert {sample.path for sample in before.train} <= {sample.path for sample in after.train}
    assert {sample.path for sample in before.test} <= {sample.path for sample in after.test}


def test_two_good_images_are_one_to_train_on_and_one_to_test_with(tmp_path: Path) -> None:
    dataset = load_dataset(plain(tmp_path, good=2))
    assert len(dataset.train) == 1
    assert sum(not sample.anomalous for sample in dataset.test) == 1


def test_good_without_defect_folders_is_all_trained_on(tmp_path: Path) -> None:
    trees.picture(tmp_path / "good" / "monday" / "1.png")
    trees.picture(tmp_path / "good" / "tuesday" / "1.png")
    assert len(load_dataset(tmp_path).train) == 2


@pytest.mark.parametrize(("folder", "suffix"), [("masks", ""), ("masks", "_mask"), ("ground_truth", "_mask")])
def test_a_plain_folder_may_have_masks(tmp_path: Path, folder: str, suffix: str) -> None:
    plain(tmp_path)
    for number in range(3):
        trees.mask(tmp_path / folder / "scratch" / f"{number}{suffix}.png")
    defective = [sample for sample in load_dataset(tmp_path).test if sample.anomalous]
    assert [sample.mask_path for sample in defective] == [
        tmp_path / folder / "scratch" / f"{number}{suffix}.png" for number in range(3)
    ]


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
@pytest.mark.parametrize(
    ("name", "counts", "masks"), [("screw", (320, 41, 119), 119), ("alien", (46, 12, 60), 0)], ids=["screw", "alien"]
)
def test_real_data_sets_have_the_published_counts(name: str, counts: tuple[int, int, int], masks: int) -> None:
    dataset = load_dataset(REAL, category=name)
    defective = sum(sample.anomalous for sample in dataset.test)
    assert (len(dataset.train), len(dataset.test) - defective, defective) == counts
    assert sum(sample.mask_path is not None for sample in dataset.test) == masks
