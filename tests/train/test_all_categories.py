"""`--category all`: a model a category, one table with the mean, one page that leads to the others."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from reason_train.all_categories import category_table, mean_figures
from reason_train.run import LOG, MODEL
from tests.commands import Done, call
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.pictures import good_parts, parts_with_defects
from tests.train.trees import visa

SMALL = ("--steps", 2, "--batch-size", 2, "--image-size", 64, "--device", "cpu", "--category", "all")
NAMES = ("nut", "screw")


def fit(data: Path, out: Path, *more: object) -> Done:
    return call("reason-train", "fit", "--data", data, "--out", out, *SMALL, *more)


def evaluate(runs: Path, data: Path, *more: object) -> Done:
    return call("reason-train", "evaluate", runs, "--data", data, "--category", "all", "--device", "cpu", *more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mvtec") / "parts"
    for name in NAMES:
        parts_with_defects(root / name, images=5)
    return root


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("all") / "runs"
    done = fit(root, out, "--json")
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    assert [run["run"] for run in facts["runs"]] == [str(out / name) for name in NAMES]
    assert [run["steps"] for run in facts["runs"]] == [2, 2]
    return out


def test_each_category_has_its_run(runs: Path) -> None:
    assert sorted(path.name for path in runs.iterdir()) == list(NAMES)
    assert all((runs / name / MODEL).is_file() for name in NAMES)


def test_resume_leaves_finished_runs_and_makes_the_others(runs: Path, root: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(runs, tmp_path / "runs"))
    shutil.rmtree(again / "screw")
    before = {path.name: path.read_bytes() for path in (again / "nut").iterdir()}
    assert "a run is there already; continue it with --resume" in fit(root, again).error
    done = fit(root, again, "--resume")
    assert f"{again / 'nut'}: was finished before, left as it is" in done.output
    assert f"{again / 'screw'}: 2 steps on" in done.output
    assert {path.name: path.read_bytes() for path in (again / "nut").iterdir()} == before
    assert len((again / "screw" / LOG).read_text().splitlines()) == 2


def test_finished_runs_of_other_settings_are_not_left(runs: Path, root: Path) -> None:
    assert "was started with other settings" in fit(root, runs, "--resume", "--seed", 9).error


def test_evaluate_prints_a_row_a_category_and_the_mean(runs: Path, root: Path) -> None:
    facts = json.loads(evaluate(runs, root, "--json").output)
    assert list(facts["categories"]) == list(NAMES)
    for figure, mean in facts["mean"].items():
        assert mean == pytest.approx(sum(row[figure] for row in facts["categories"].values()) / 2)
    lines = evaluate(runs, root).output.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["%", "image AUROC", "pixel AUROC", "AUPRO", "AUPRO per image"]
    assert [line.split()[0] for line in lines[1:]] == [*NAMES, "mean"]
    assert lines[3].split()[1] == f"{100 * facts['mean']['image_auroc']:.2f}"


def test_the_page_leads_to_every_categorys(runs: Path, root: Path, tmp_path: Path) -> None:
    done = evaluate(runs, root, "--report", tmp_path / "report")
    assert f"report: {tmp_path / 'report' / 'index.html'}" in done.output
    page = (tmp_path / "report" / "index.html").read_text()
    links = re.findall(r'href="([^"]+html)"', page)
    assert links == [f"{name}/report.html" for name in NAMES]
    assert all((tmp_path / "report" / link).is_file() for link in links)
    assert page.count("<tr>") == 1 + len(NAMES) + 1


@NEEDS_MOUNT
def test_a_full_disk_costs_the_page_and_not_the_table(runs: Path, root: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="16k") as disk:
        done = evaluate(runs, root, "--report", disk / "report")
    assert done.status == 1
    assert [line.split()[0] for line in done.output.splitlines()[1:]] == [*NAMES, "mean"]
    assert str(disk / "report") in done.error


def test_a_missing_run_is_named(runs: Path, root: Path, tmp_path: Path) -> None:
    some = Path(shutil.copytree(runs, tmp_path / "runs"))
    shutil.rmtree(some / "screw")
    done = evaluate(some, root, "--report", tmp_path / "report")
    assert f"{some / 'screw'}: is not a run" in done.error
    assert not (tmp_path / "report").exists()  # before the first was judged


def test_a_broken_category_is_met_before_the_first_is_trained(root: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(root, tmp_path / "parts"))
    next((data / "screw" / "ground_truth" / "hole").iterdir()).unlink()
    assert "screw" in fit(data, tmp_path / "runs").error
    assert not (tmp_path / "runs").exists()


def test_a_category_of_one_image_is_met_before_the_first_is_trained(root: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(root, tmp_path / "parts"))
    for path in sorted((data / "screw" / "train" / "good").iterdir())[1:]:
        path.unlink()
    assert "1 good training image; expected at least 2" in fit(data, tmp_path / "runs").error
    assert not (tmp_path / "runs").exists()


def test_a_broken_image_is_met_before_the_first_is_trained(root: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(root, tmp_path / "parts"))
    path = data / "screw" / "train" / "good" / "002.png"
    path.write_bytes(path.read_bytes()[:400])
    assert f"{path}: " in fit(data, tmp_path / "runs").error
    assert not (tmp_path / "runs").exists()


def test_a_folder_in_the_way_is_met_before_the_first_is_trained(root: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "screw").mkdir(parents=True)
    (tmp_path / "runs" / "screw" / "notes.txt").write_text("mine")
    assert "screw: exists and is not a run" in fit(root, tmp_path / "runs").error
    assert not (tmp_path / "runs" / "nut").exists()


def test_a_category_folder_is_no_root_of_several(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=3)
    assert "no category found; expected folders with train/good inside" in fit(data, tmp_path / "runs").error


def test_a_layout_without_categories_is_refused(root: Path, tmp_path: Path) -> None:
    assert "has no categories" in fit(root, tmp_path / "runs", "--dataset", "folder").error


def test_visa_has_a_run_an_object(tmp_path: Path) -> None:
    data = visa(tmp_path / "visa")
    assert fit(data, tmp_path / "runs", "--held-out", 0).status == 0
    facts = json.loads(evaluate(tmp_path / "runs", data, "--json").output)
    assert list(facts["categories"]) == ["candle", "pcb1"]
    assert 0 <= facts["mean"]["aupro"] <= 1


def test_a_figure_that_a_category_lacks_has_no_mean() -> None:
    full = {"image_auroc": 0.5, "pixel_auroc": 0.75, "aupro": 0.25, "aupro_per_image": 1.0}
    rows = {"nut": full, "screw": {**full, "image_auroc": 1.0, "aupro": None}}
    assert mean_figures(rows) == {"image_auroc": 0.75, "pixel_auroc": 0.75, "aupro": None, "aupro_per_image": 1.0}
    assert category_table(rows).splitlines()[-1].split() == ["mean", "75.00", "75.00", "-", "100.00"]
