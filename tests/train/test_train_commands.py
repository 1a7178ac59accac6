from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from reason_runtime.alone import alone_in
from reason_train.calibrate import read_held_out, read_threshold
from reason_train.run import CALIBRATION, RUN, THRESHOLD
from tests.commands import Done, call
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.pictures import good_parts, good_picture, save

SMALL = ("--steps", 1, "--batch-size", 2, "--image-size", 64, "--device", "cpu")


def fit(data: Path, out: Path, *more: object) -> Done:
    return call("reason-train", "fit", "--data", data, "--out", out, *SMALL, *more)


def fit_run(data: Path, out: Path) -> str:
    """What `run.json` says of such a training."""
    assert fit(data, out).status == 0
    return (out / RUN).read_text()


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run_copy"))


def test_fit_prints_what_it_made(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=5)
    done = fit(data, tmp_path / "run")
    assert done.status == 0, done.log
    assert f"{tmp_path / 'run'}: 1 steps on 4 good images in " in done.output
    assert "1.00 x median); whether it is far above the rest takes 8 images that differ" in done.output
    assert "false rejects: at most 95.00% with 95 % confidence; promising 1.00% takes 299 good images" in done.output


def test_fit_prints_json(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=5)
    done = fit(data, tmp_path / "run", "--json")
    facts = json.loads(done.output)
    assert (facts["run"], facts["images"], facts["held_out"], facts["steps"]) == (str(tmp_path / "run"), 4, 1, 1)
    assert facts["threshold"]["images"] == 1
    assert len(facts["highest_held_out"]["images"]) == 1
    assert facts["highest_held_out"]["mads_above_median"] is None


def test_fit_says_how_to_get_a_threshold_where_nothing_was_held_out(tmp_path: Path) -> None:
    done = fit(good_parts(tmp_path / "stripes", images=4), tmp_path / "run", "--held-out", 0)
    assert "no threshold: set one with reason-train calibrate RUN --data DIR" in done.output


def test_fit_with_the_papers_preset_says_that_the_teacher_is_another(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=4)
    done = fit(data, tmp_path / "run", "--preset", "paper", "--teacher", "efficientnet_lite0")
    assert done.status == 0, done.log
    assert "not the published method: teacher efficientnet_lite0 in place of wide_resnet50_2" in done.log
    departures = json.loads((tmp_path / "run" / RUN).read_text())["config"]["departures"]
    assert "teacher efficientnet_lite0 in place of wide_resnet50_2" in departures


def test_a_category_is_chosen_inside_a_root_of_several(tmp_path: Path) -> None:
    for name in ("bottle", "screw"):
        good_parts(tmp_path / "root" / name, images=4)
    done = fit(tmp_path / "root", tmp_path / "run", "--category", "screw")
    assert done.status == 0, done.log
    assert json.loads((tmp_path / "run" / RUN).read_text())["dataset"].endswith("screw")


def test_a_missing_choice_of_category_names_those_there_are(tmp_path: Path) -> None:
    for name in ("bottle", "screw"):
        good_parts(tmp_path / "root" / name, images=2)
    for more in ((), ("--category", "nut")):
        error = fit(tmp_path / "root", tmp_path / "run", *more).error
        assert "bottle" in error
        assert "screw" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folders", [(), ("train/good",), ("train",), ("test/good", "train/good")])
def test_a_folder_without_good_images_is_one_clear_line(folders: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
    assert str(tmp_path / "data") in fit(tmp_path / "data", tmp_path / "run").error
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none'}" in fit(tmp_path / "none", tmp_path / "run").error


def test_an_unreadable_image_is_one_clear_line(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=4)
    (data / "train" / "good" / "zzz.png").write_text("not an image")
    assert "zzz.png" in fit(data, tmp_path / "run", "--held-out", 0).error


def test_a_folder_in_use_is_kept(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "exists and is not a run; choose another --out" in fit(data, tmp_path / "run").error
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert "exists and is not a run" in fit(data, tmp_path / "file").error


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert fit(good_parts(tmp_path / "stripes", images=4), tmp_path / "run").status == 0


def test_a_run_is_not_overwritten(finished_run: Path, parts: Path) -> None:
    assert "a run is there already; continue it with --resume" in fit(parts, finished_run).error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 1), "--epochs and --steps are both given; choose one"),
        (("--image-size", 100), "image size 100 px is not a multiple of 32"),
        (("--learning-rate", -1), "learning rate -1.0 is not positive"),
        (("--held-out", 2), "held-out share 2.0 is not in [0, 0.5]"),
        (("--noise-std", 0), "noise deviation 0.0 is not positive"),
        (("--crop-from", 32), "crop from 32 px is smaller than the image size 64 px"),
        (("--seed", 10**20 - 1), "seed 99999999999999999999 is not between 0 and 18446744073709551615"),
        (("--teacher-weights", "none.pth"), "none.pth: no such file"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(
    options: tuple[object, ...], message: str, parts: Path, tmp_path: Path
) -> None:
    assert message in fit(parts, tmp_path / "run", *options).error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--teacher", "vgg"), ("--steps", 0), ("--batch-size", 1), ("--device", "tpu")])
def test_wrong_usage_is_status_2(options: tuple[object, ...], parts: Path, tmp_path: Path) -> None:
    assert fit(parts, tmp_path / "run", *options).status == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", ["fit", "evaluate", "calibrate"])
def test_cuda_without_a_gpu_is_one_clear_line(command: str, finished_run: Path, parts: Path, tmp_path: Path) -> None:
    place = ("--out", tmp_path / "run") if command == "fit" else (finished_run,)
    done = call("reason-train", command, *place, "--data", parts, "--device", "cuda")
    assert "--device cuda: PyTorch finds no CUDA GPU" in done.error
    assert not (tmp_path / "run").exists()


def test_evaluate_prints_every_figure(finished_run: Path, parts: Path) -> None:
    done = call("reason-train", "evaluate", finished_run, "--data", parts, "--device", "cpu", "--json")
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    for name in ("image_auroc", "pixel_auroc", "aupro", "aupro_per_image", "f1_max"):
        assert 0 <= facts[name] <= 1
    assert (facts["good"], facts["defective"], set(facts["per_defect"])) == (4, 4, {"hole"})
    assert facts["image_auroc"] > 0.9  # black holes in stripes: anything that learned at all sees them


def test_evaluate_counts_wrong_decisions_at_the_runs_threshold(run_copy: Path, parts: Path) -> None:
    arguments = ("reason-train", "evaluate", run_copy, "--data", parts, "--device", "cpu")
    facts = json.loads(call(*arguments, "--json").output)
    threshold = read_threshold(run_copy)
    assert threshold is not None
    assert facts["threshold"] == threshold.value
    told = call(*arguments).output
    rejected, passed = facts["good_rejected"], facts["defective_passed"]
    assert f"{rejected} of 4 good images rejected, {passed} of 4 defective ones passed, at the run's threshold" in told
    (run_copy / THRESHOLD).unlink()
    facts = json.loads(call(*arguments, "--json").output)
    assert [facts[key] for key in ("threshold", "good_rejected", "defective_passed")] == [None] * 3
    assert "no threshold: nothing is rejected or passed; set one with reason-train calibrate" in call(*arguments).output


def test_evaluate_says_which_good_images_drew_the_threshold_by_their_content(
    run_copy: Path, parts: Path, tmp_path: Path
) -> None:
    def evaluated(*more: object) -> Done:
        return call("reason-train", "evaluate", run_copy, "--data", parts, "--device", "cpu", *more)

    assert json.loads(evaluated("--json").output)["good_of_threshold"] == 0
    assert "drew the threshold" not in evaluated().output
    more = good_parts(tmp_path / "more", images=0)
    folder = more / "train" / "good"
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((parts / "test" / "good").iterdir())[:3]):
        shutil.copy(path, folder / f"copy_{number}.png")
    shutil.copy(next((parts / "test" / "hole").iterdir()), folder / "hole.png")
    assert calibrate(run_copy, more).status == 0
    facts = json.loads(evaluated("--json").output)
    assert (facts["good_of_threshold"], facts["good"], facts["good_rejected"]) == (3, 4, 0)
    told = "3 of the 4 good test images drew the threshold: how many of them it rejects says nothing of other parts"
    assert told in evaluated("--report", tmp_path / "report").output.splitlines()
    assert told in (tmp_path / "report" / "report.html").read_text()
    (run_copy / THRESHOLD).unlink()  # nothing is rejected then
    assert json.loads(evaluated("--json").output)["good_of_threshold"] == 0


def test_evaluate_without_masks_says_so(finished_run: Path, parts: Path, tmp_path: Path) -> None:
    data = shutil.copytree(parts, tmp_path / "stripes", ignore=shutil.ignore_patterns("ground_truth"))
    done = call("reason-train", "evaluate", finished_run, "--data", data, "--device", "cpu")
    assert "pixel AUROC          no masks" in done.output
    assert "defect hole" in done.output


def test_evaluate_writes_a_page(finished_run: Path, parts: Path, tmp_path: Path) -> None:
    arguments = (finished_run, "--data", parts, "--device", "cpu", "--report", tmp_path / "report", "--json")
    done = call("reason-train", "evaluate", *arguments)
    page = Path(json.loads(done.output)["report"]).read_text(encoding="utf-8")
    assert ">whitening_power</th><td>0.2<" in page  # measured; stripes have little in common from place to place


def test_a_file_in_the_reports_way_is_met_before_an_image_is_read(
    finished_run: Path, parts: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "stripes"))
    (data / "test" / "good" / "000.png").write_text("not an image")
    report = data / "test" / "hole" / "000.png"
    done = call("reason-train", "evaluate", finished_run, "--data", data, "--device", "cpu", "--report", report)
    assert f"{report}: is a file; expected a folder for the report" in done.error


@NEEDS_MOUNT
def test_a_report_where_nothing_may_be_written_is_met_before_an_image_is_read(
    finished_run: Path, parts: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "stripes"))
    (data / "test" / "good" / "000.png").write_text("not an image")
    with small_disk(tmp_path / "disk", size="1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        report = disk / "new" / "report"
        done = call("reason-train", "evaluate", finished_run, "--data", data, "--device", "cpu", "--report", report)
    assert f"{disk}: may not be written to; expected a folder for the report" in done.error


@NEEDS_MOUNT
def test_a_full_disk_costs_the_page_and_not_the_figures(finished_run: Path, parts: Path, tmp_path: Path) -> None:
    arguments = ("reason-train", "evaluate", finished_run, "--data", parts, "--device", "cpu", "--report")
    with small_disk(tmp_path / "disk", size="16k") as disk:
        done = call(*arguments, disk / "report")
        facts = call(*arguments, disk / "report", "--json")
    assert (done.status, facts.status) == (1, 1)
    assert "image AUROC" in done.output
    assert "report: " not in done.output
    assert json.loads(facts.output)["good"] == 4
    assert f"{disk / 'report'}" in done.error


@pytest.mark.parametrize(
    ("value", "told"),
    [("null", "value: found null, expected a finite number"), ("NaN", "holds NaN, which is not JSON")],
)
def test_a_threshold_of_no_number_is_refused_before_a_report_is_begun(
    value: str, told: str, run_copy: Path, parts: Path, tmp_path: Path
) -> None:
    facts = json.loads((run_copy / THRESHOLD).read_text())
    (run_copy / THRESHOLD).write_text(json.dumps(facts).replace(str(facts["value"]), value))
    data = Path(shutil.copytree(parts, tmp_path / "stripes"))
    (data / "test" / "hole" / "000.png").write_bytes((data / "test" / "hole" / "000.png").read_bytes()[:200])
    arguments = (run_copy, "--data", data, "--device", "cpu", "--report", tmp_path / "report")
    error = call("reason-train", "evaluate", *arguments).error
    assert f"{run_copy / THRESHOLD}: is not a threshold of this version" in error
    assert told in error
    assert not (tmp_path / "report").exists()


def test_evaluate_without_defective_images_is_one_clear_line(finished_run: Path, tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=3)
    assert "test" in call("reason-train", "evaluate", finished_run, "--data", data).error


def test_evaluate_refuses_images_that_were_trained_on(finished_run: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "stripes"))
    for number, entry in enumerate(json.loads((finished_run / RUN).read_text())["train"][:3]):
        shutil.copy(data / entry["name"], data / "test" / "good" / f"copy{number}.png")
    error = call("reason-train", "evaluate", finished_run, "--data", data).error
    assert f"{data}: {finished_run} was trained on 3 of the 11 test images (test/good/copy0.png, ...)" in error


def test_evaluate_of_no_run_is_one_clear_line(parts: Path, tmp_path: Path) -> None:
    error = call("reason-train", "evaluate", tmp_path, "--data", parts).error
    assert f"{tmp_path}: is not a run (no run.json in it)" in error


def calibrate(run: Path, data: Path, *more: object) -> Done:
    return call("reason-train", "calibrate", run, "--data", data, "--device", "cpu", *more)


def test_one_calibration_at_a_time_writes_a_run(run_copy: Path, parts: Path) -> None:
    before = {path.name: path.read_bytes() for path in run_copy.iterdir()}
    with alone_in(run_copy, otherwise="held already"):
        assert f"{run_copy}: another training or calibration writes there" in calibrate(run_copy, parts).error
    assert {path.name: path.read_bytes() for path in run_copy.iterdir()} == before
    assert calibrate(run_copy, parts).status == 0


def test_calibrate_leaves_out_what_was_trained_on_by_content(run_copy: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "renamed"))
    folder = data / "train" / "good"
    for path in list(folder.iterdir()):
        path.rename(folder / f"other_{path.name}")
    new = [save(folder / f"new_{i}.png", good_picture(500 + i)) for i in range(3)]
    done = calibrate(run_copy, data, "--json")
    assert done.status == 0, done.log
    assert json.loads(done.output)["images"] == 2 + len(new)  # two of the ten were held out of training
    held_out = read_held_out(run_copy)
    assert held_out is not None
    assert {f"train/good/{path.name}" for path in new} < set(held_out.names)


def test_calibrating_on_the_same_images_gives_the_threshold_of_fit(run_copy: Path, parts: Path) -> None:
    before = (run_copy / "calibration.json").read_text()
    assert calibrate(run_copy, parts).status == 0
    assert (run_copy / "calibration.json").read_text() == before


def test_the_highest_held_out_images_are_named_and_one_far_above_the_rest_is_called_so(
    run_copy: Path, tmp_path: Path
) -> None:
    data = good_parts(tmp_path / "more", images=0)
    folder = data / "train" / "good"
    for number in range(12):
        save(folder / f"{number:02}.png", good_picture(700 + number))
    told = calibrate(run_copy, data).output.splitlines()[-1]
    assert told.startswith("highest held-out: train/good/")
    assert told.count(" x threshold, ") == 3
    assert "FAR ABOVE" not in told
    hole = good_picture(800)
    hole[10:40, 10:40] = 0
    save(folder / "hole.png", hole)
    done = calibrate(run_copy, data)
    assert done.status == 0
    told = done.output.splitlines()[-1]
    assert told.startswith("highest held-out: train/good/hole.png (1.00 x threshold, ")
    assert told.endswith("MAD above the median, FAR ABOVE THE REST (limit 10): is it a good part?")
    facts = json.loads(calibrate(run_copy, data, "--json").output)["highest_held_out"]
    assert [len(facts["images"]), facts["images"][0]["name"], facts["far_above"]] == [3, "train/good/hole.png", True]
    assert facts["images"][0]["of_threshold"] == pytest.approx(1, abs=1e-5)


def test_calibrate_refuses_when_all_images_were_trained_on(run_copy: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "trained"))
    for entry in json.loads((run_copy / RUN).read_text())["held_out"]:
        (data / entry["name"]).unlink()
    before = (run_copy / "calibration.json").read_text()
    assert "all 8 good images were trained on" in calibrate(run_copy, data).error
    assert (run_copy / "calibration.json").read_text() == before


def test_a_bound_that_is_required_and_missed_changes_nothing(run_copy: Path, parts: Path) -> None:
    before = {name: (run_copy / name).read_bytes() for name in (CALIBRATION, THRESHOLD)}
    told = calibrate(run_copy, parts, "--false-reject-rate", 0.02, "--require-bound").error
    assert f"{run_copy}: left as it was; 2 good images promise at most 77.64% false rejects" in told
    assert "2.00% takes 149" in told
    assert {name: (run_copy / name).read_bytes() for name in (CALIBRATION, THRESHOLD)} == before
    done = calibrate(run_copy, parts, "--false-reject-rate", 0.9, "--require-bound", "--json")
    assert json.loads(done.output)["bound_kept"]
    assert (run_copy / THRESHOLD).read_bytes() != before[THRESHOLD]


@pytest.mark.parametrize("rate", [0, 1, -0.1, "nan"])
def test_a_rate_that_is_none_is_one_clear_line(rate: object, run_copy: Path, parts: Path) -> None:
    assert "expected between 0.000001 and 1" in calibrate(run_copy, parts, "--false-reject-rate", rate).error


@pytest.mark.parametrize(
    ("mark", "offset"), [(b"PK\x01\x02", 8), (b"PK\x01\x02", 10), (b"sha256.npyPK", 0)], ids=["flags", "method", "name"]
)
def test_a_changed_byte_of_the_archive_of_held_out_images_is_one_clear_line(
    mark: bytes, offset: int, run_copy: Path, tmp_path: Path
) -> None:
    path = run_copy / CALIBRATION
    changed = bytearray(path.read_bytes())
    changed[changed.index(mark) + offset] ^= 0x41
    path.write_bytes(changed)
    assert f"{path}: cannot be read" in call("reason-export", "onnx", run_copy, "--out", tmp_path / "bundle").error


@pytest.mark.parametrize("content", [b"", b"not an archive", None], ids=["empty", "text", "changed byte"])
def test_held_out_images_that_cannot_be_read_are_one_clear_line(
    content: bytes | None, run_copy: Path, tmp_path: Path
) -> None:
    path = run_copy / CALIBRATION
    if content is None:
        changed = bytearray(path.read_bytes())
        changed[len(changed) // 2] ^= 0xFF
        content = bytes(changed)
    path.write_bytes(content)
    done = call("reason-export", "onnx", run_copy, "--out", tmp_path / "bundle")
    assert f"{path}: cannot be read" in done.error
    assert "calibrate again" in done.error


def test_a_calibration_that_was_ended_between_its_files_is_noticed(run_copy: Path, tmp_path: Path) -> None:
    before = (run_copy / "calibration.json").read_bytes()
    data = tmp_path / "new"
    for number in range(2):  # as many as there were
        save(data / "train" / "good" / f"{number}.png", good_picture(800 + number))
    assert calibrate(run_copy, data).status == 0
    (run_copy / "calibration.json").write_bytes(before)
    done = call("reason-export", "onnx", run_copy, "--out", tmp_path / "bundle")
    assert "calibration.npz and calibration.json are of two calibrations; calibrate again" in done.error


def test_a_threshold_whose_held_out_images_are_gone_is_no_run_without_a_threshold(
    run_copy: Path, tmp_path: Path
) -> None:
    (run_copy / "calibration.npz").unlink()
    done = call("reason-export", "onnx", run_copy, "--out", tmp_path / "bundle")
    assert "calibration.json is there, but no calibration.npz of it; bring it back, or calibrate again" in done.error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"value": 1}'])
def test_a_threshold_that_cannot_be_read_is_one_clear_line(content: str, run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "calibration.json").write_text(content)
    done = call("reason-export", "onnx", run_copy, "--out", tmp_path / "bundle")
    assert "calibration.json: is not a threshold of this version" in done.error


def test_held_out_scores_are_those_of_the_model(finished_run: Path) -> None:
    from reason_train.trained import load_run

    held_out = read_held_out(finished_run)
    assert held_out is not None
    _, model = load_run(finished_run)
    with torch.no_grad():
        scores = model(torch.from_numpy(held_out.images))[1].numpy()
    np.testing.assert_allclose(scores, held_out.scores, rtol=1e-5)


def test_the_papers_preset_brings_the_papers_teacher(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=4)
    text = save(tmp_path / "weights.png", good_picture(0)).rename(tmp_path / "weights.pth")
    done = call(
        "reason-train", "fit", "--data", data, "--out", tmp_path / "run", "--preset", "paper", "--teacher-weights", text
    )
    assert "weights.pth: cannot be read as a PyTorch checkpoint" in done.error
    assert "training reason with wide_resnet50_2" in done.log
    assert not (tmp_path / "run").exists()


def test_a_download_that_fails_is_one_clear_line_and_nothing_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setattr(urllib.request, "_opener", None)  # an earlier one keeps the proxies of its time
    done = fit(good_parts(tmp_path / "stripes", images=4), tmp_path / "run", "--teacher", "resnet18", "--json")
    assert "could not be downloaded" in done.error
    assert "give it with --teacher-weights FILE" in done.error
    assert done.output == ""


def test_a_held_out_copy_of_a_training_image_is_left_out(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=5)
    original = data / "train" / "good" / "000.png"
    for copy in range(5):  # whichever is held out has its copies in training
        shutil.copy(original, data / "train" / "good" / f"copy{copy}.png")
    for other in range(1, 5):
        (data / "train" / "good" / f"{other:03}.png").unlink()
    done = fit(data, tmp_path / "run", "--json")
    assert json.loads(done.output)["held_out"] == 0
    assert json.loads(done.output)["threshold"] is None


def test_of_held_out_copies_one_is_kept(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=10)
    first, second = (entry["name"] for entry in json.loads(fit_run(data, tmp_path / "first"))["held_out"])
    shutil.copy(data / first, data / second)
    done = fit(data, tmp_path / "run")
    assert "8 good images in " in done.output
    assert ", 1 held out\n1 more were to be held out; they are copies of other images and were left out" in done.output
    assert [entry["name"] for entry in json.loads((tmp_path / "run" / RUN).read_text())["held_out"]] == [first]


def test_calibrate_counts_copies_once(run_copy: Path, tmp_path: Path) -> None:
    data = tmp_path / "new"
    for number in range(2):
        original = save(data / "train" / "good" / f"{number}.png", good_picture(600 + number))
        for copy in range(3):
            shutil.copy(original, original.with_name(f"{number}_{copy}.png"))
    assert "6 good images are copies of others and were left out" in calibrate(run_copy, data).output
    facts = json.loads(calibrate(run_copy, data, "--json").output)
    assert (facts["images"], facts["copies_left_out"]) == (2, 6)


def test_a_learning_rate_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=4)
    assert "learning rate 1e+39 is beyond float32" in fit(data, tmp_path / "run", "--learning-rate", "1e39").error
