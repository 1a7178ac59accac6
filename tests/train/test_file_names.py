"""Names that are no UTF-8, as older systems and cameras write them: Linux has any bytes in them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from reason_runtime.errors import RunError
from reason_train.datasets import load_dataset
from reason_train.run import read_run
from tests.commands import call
from tests.pictures import good_picture, parts_with_defects, save
from tests.train.trainings import small_training

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
LATIN = os.fsdecode("schön.png".encode("latin-1"))


def test_such_images_are_trained_on_and_judged(tmp_path: Path) -> None:
    data = parts_with_defects(tmp_path / "stripes", images=5)
    for folder in ("train/good", "test/good", "test/hole"):
        (data / folder / "000.png").rename(data / folder / LATIN)
    (data / "ground_truth" / "hole" / "000_mask.png").rename(data / "ground_truth" / "hole" / LATIN)
    run = small_training(data, tmp_path / "run", steps=1, held_out_share=0.0).run
    assert f"train/good/{LATIN}" in {entry.name for entry in run.train}
    lines = b"".join(f"{entry.sha256}  ".encode() + os.fsencode(entry.name) + b"\n" for entry in run.train)
    assert read_run(tmp_path / "run").images_sha256 == hashlib.sha256(lines).hexdigest()
    arguments = (tmp_path / "run", "--data", data, "--device", "cpu", "--report", tmp_path / "report", "--json")
    done = call("reason-train", "evaluate", *arguments)
    assert json.loads(done.output)["defective"] == 4
    assert "sch" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_root_of_such_a_name_has_its_index(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode("Räder".encode("latin-1"))
    parts_with_defects(root / "stripes", images=5)
    small_training(root / "stripes", tmp_path / "runs" / "stripes", steps=1, held_out_share=0.0)
    arguments = (tmp_path / "runs", "--data", root, "--category", "all", "--device", "cpu")
    done = call("reason-train", "evaluate", *arguments, "--report", tmp_path / "report")
    assert done.status == 0, done.log
    assert "<h1>R\\udce4der</h1>" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_such_images_of_a_plain_folder_fall_on_a_side_by_their_name(tmp_path: Path) -> None:
    for number in range(8):
        save(tmp_path / "good" / f"{number}{LATIN}", good_picture(number))
    save(tmp_path / "hole" / LATIN, good_picture(9))
    dataset = load_dataset(tmp_path)
    assert (len(dataset.train) + len(dataset.test), load_dataset(tmp_path)) == (9, dataset)


def test_the_hash_of_a_list_of_other_names_is_that_of_their_utf_8(finished_run: Path) -> None:
    run = read_run(finished_run)
    lines = "".join(f"{entry.sha256}  {entry.name}\n" for entry in run.train)
    assert run.images_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_a_run_folder_of_such_a_name_is_refused_before_training(tmp_path: Path) -> None:
    data = parts_with_defects(tmp_path / "stripes", images=3)
    with pytest.raises(RunError, match="its name is no UTF-8; choose another --out"):
        small_training(data, tmp_path / LATIN)
    assert not (tmp_path / LATIN).exists()
