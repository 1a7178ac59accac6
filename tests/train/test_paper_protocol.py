"""`--paper-protocol`: the epoch with the best figures on the test set, said wherever the run is spoken of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reason_runtime.bundle import open_bundle
from reason_runtime.errors import ConfigurationError, DataError, RunError
from reason_runtime.image import image_sha256
from reason_train.checkpoint import State, StepReport
from reason_train.config import PAPER_PROTOCOL_NOTE
from reason_train.datasets import DataSet, load_dataset
from reason_train.paper_protocol import EpochChoice, EpochFigures, described_protocol
from reason_train.presets import resolve
from reason_train.run import MODEL, PAPER_PROTOCOL, RUN, read_run
from reason_train.trained import load_run
from tests.commands import call
from tests.pictures import good_parts, good_picture, parts_with_defects, save
from tests.train.trainings import CPU, assert_same_training, model_tensors, small_choices, small_training

EPOCHS = 4
PROTOCOL = {
    **{
        "preset": "paper",
        "teacher": "efficientnet_lite0",
        "paper_protocol": True,
        "steps": None,
        "epochs": EPOCHS,
        "batch_size": 4,
    },
    **{"suppression_layers": None, "method": None, "held_out_share": 0.2},
}


class Stopped(Exception):
    """What ends a training in these tests, as Ctrl-C would."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts_with_defects(tmp_path_factory.mktemp("protocol") / "stripes", images=10)


@pytest.fixture(scope="module")
def chosen(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chosen") / "run"
    small_training(data, out, **PROTOCOL)
    return out


def protocol(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / PAPER_PROTOCOL).read_text())
    return content


def test_every_second_epoch_is_judged_and_the_best_one_reported(chosen: Path, data: Path) -> None:
    found = protocol(chosen)
    assert [row["epoch"] for row in found["epochs"]] == [2, 4]  # type: ignore[attr-defined]
    assert found["criterion"] == "mean of image AUROC, pixel AUROC and AUPRO per image"
    best = max((EpochFigures(**row) for row in found["epochs"]), key=lambda row: row.merit)  # type: ignore[attr-defined]
    assert found["chosen_epoch"] == best.epoch
    facts = json.loads(call("reason-train", "evaluate", chosen, "--data", data, "--device", "cpu", "--json").output)
    assert facts["image_auroc"] == pytest.approx(best.image_auroc)
    assert facts["pixel_auroc"] == pytest.approx(best.pixel_auroc, abs=1e-3)
    assert facts["aupro_per_image"] == pytest.approx(best.aupro_per_image, abs=1e-2)


def test_the_merit_is_the_mean_of_three_or_image_auroc_alone() -> None:
    three = EpochFigures(epoch=2, image_auroc=0.9, pixel_auroc=0.6, aupro_per_image=0.3)
    assert three.merit == pytest.approx(0.6)
    assert EpochFigures(epoch=2, image_auroc=0.9, pixel_auroc=None, aupro_per_image=None).merit == 0.9


def oct2017(root: Path) -> DataSet:
    for split, start in (("train", 0), ("test", 100)):
        for number in range(4):
            save(root / split / "NORMAL" / f"{number}.jpeg", good_picture(start + number))
            for name in ("CNV", "DME", "DRUSEN"):
                save(root / split / name / f"{number}.jpeg", 255 - good_picture(start + number))
    return load_dataset(root)


def test_oct2017_judges_every_epoch_by_image_auroc(tmp_path: Path) -> None:
    config = resolve(small_choices(**PROTOCOL), dataset="oct2017", bf16_is_fast=False)
    choice = EpochChoice(oct2017(tmp_path), config, device=CPU)
    assert [step for step in range(1, 13) if choice.is_due(step, 3)] == [3, 6, 9, 12]
    choice.epochs = [EpochFigures(epoch=1, image_auroc=0.8, pixel_auroc=None, aupro_per_image=None)]
    choice.finish(torch.nn.Module(), tmp_path)  # type: ignore[arg-type]
    assert (protocol(tmp_path)["criterion"], protocol(tmp_path)["chosen_epoch"]) == ("image AUROC", 1)


def test_the_first_of_equally_good_epochs_is_kept_and_a_checkpoint_knows_it(data: Path, chosen: Path) -> None:
    run, model = load_run(chosen)
    choice = EpochChoice(load_dataset(data), run.config, device=CPU)
    for epoch in (2, 4):
        choice.judge(model, epoch=epoch)
    assert model.training
    assert choice.best.epoch == 2
    kept = choice.state()
    again = EpochChoice(load_dataset(data), run.config, device=CPU)
    again.restore(kept)
    assert again.epochs == choice.epochs
    with torch.no_grad():
        for weight in model.student.parameters():
            weight.zero_()
    again.finish(model, chosen.parent)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in model_tensors(chosen).items())
    again.restore(State())
    assert again.epochs == []


@pytest.mark.parametrize("step", [3, 5])
def test_a_stopped_training_chooses_the_same_epoch(step: int, data: Path, chosen: Path, tmp_path: Path) -> None:
    def report(line: StepReport) -> None:
        if line.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        small_training(data, tmp_path / "run", **PROTOCOL, checkpoint_seconds=0.0, report=report)
    small_training(data, tmp_path / "run", **PROTOCOL, resume=True)
    assert_same_training(tmp_path / "run", chosen)
    assert protocol(tmp_path / "run") == protocol(chosen)


@pytest.mark.slow
def test_every_output_says_so(chosen: Path, data: Path, tmp_path: Path) -> None:
    note = described_protocol(chosen, read_run(chosen).config)
    assert note is not None
    assert note.startswith(PAPER_PROTOCOL_NOTE)
    assert f"epoch {protocol(chosen)['chosen_epoch']} of {EPOCHS}" in note
    assert json.loads((chosen / RUN).read_text())["config"]["paper_protocol"] is True
    arguments = ("evaluate", chosen, "--data", data, "--device", "cpu", "--report", tmp_path / "report")
    said = call("reason-train", *arguments)
    assert note in said.output
    assert (tmp_path / "report" / "report.html").read_text().count(PAPER_PROTOCOL_NOTE) == 2  # on top, and in settings
    assert json.loads(call("reason-train", *arguments, "--json").output)["paper_protocol"] == note
    assert call("reason-export", "onnx", chosen, "--out", tmp_path / "bundle").status == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.training.configuration["paper_protocol"] == note
    assert bundle.chosen_by() == {image_sha256(path) for path in (data / "test").rglob("*.png")}


def test_no_threshold_is_drawn_from_images_that_chose_the_epoch(chosen: Path, data: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(chosen, tmp_path / "run"))
    good = data / "test" / "good"
    told = call("reason-train", "calibrate", run, "--data", good, "--device", "cpu").error
    assert f"{good}: all 4 good images were trained on, or chose the epoch; a threshold needs good images" in told
    more = Path(shutil.copytree(good, tmp_path / "more"))
    save(more / "new.png", good_picture(900))
    assert "from 1 held-out good images" in call("reason-train", "calibrate", run, "--data", more).output


def test_a_training_does_not_go_on_with_other_test_images(chosen: Path, data: Path, tmp_path: Path) -> None:
    run, other = Path(shutil.copytree(chosen, tmp_path / "run")), Path(shutil.copytree(data, tmp_path / "stripes"))
    (run / MODEL).unlink()  # as if it had been stopped
    save(other / "test" / "good" / "new.png", good_picture(900))
    with pytest.raises(RunError, match="was started with other test images"):
        small_training(other, run, **PROTOCOL, resume=True)


def test_fit_says_so(data: Path, tmp_path: Path) -> None:
    arguments = ("--data", data, "--epochs", 2, "--batch-size", 8, "--image-size", 64, "--device", "cpu")
    more = ("--preset", "paper", "--teacher", "efficientnet_lite0", "--method", "rd4ad", "--paper-protocol")
    done = call("reason-train", "fit", *arguments, *more, "--out", tmp_path / "run", "--json")
    assert json.loads(done.output)["paper_protocol"] == PAPER_PROTOCOL_NOTE
    assert PAPER_PROTOCOL_NOTE in done.log


def test_other_runs_say_nothing(finished_run: Path, parts: Path) -> None:
    assert described_protocol(finished_run, read_run(finished_run).config) is None
    assert not (finished_run / PAPER_PROTOCOL).exists()
    done = call("reason-train", "evaluate", finished_run, "--data", parts, "--device", "cpu", "--json")
    assert json.loads(done.output)["paper_protocol"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "edge"}, "--paper-protocol chooses by test images; the preset edge never sees any, use paper"),
        ({"epochs": None, "steps": 5}, "--paper-protocol chooses an epoch; give --epochs in place of --steps"),
        ({"epochs": 1}, "--paper-protocol judges every 2 epochs, this run has 1; give more --epochs"),
    ],
)
def test_what_it_does_not_go_with_is_refused(
    changes: dict[str, object], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        small_training(data, tmp_path / "run", **{**PROTOCOL, **changes})
    assert not (tmp_path / "run").exists()


def test_a_set_without_test_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an evaluation needs both"):
        small_training(good_parts(tmp_path / "stripes", images=5), tmp_path / "run", **PROTOCOL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_run_that_lost_its_epoch_is_refused(content: str | None, chosen: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(chosen, tmp_path / "run"))
    (run / PAPER_PROTOCOL).unlink()
    if content is not None:
        (run / PAPER_PROTOCOL).write_text(content)
    with pytest.raises(RunError, match=r"paper_protocol.json: does not say which epoch was chosen .*; train again"):
        described_protocol(run, read_run(run).config)


def test_the_model_is_the_chosen_epochs(chosen: Path, data: Path, tmp_path: Path) -> None:
    """A run that ends at the chosen epoch, on the same steps, has the same tensors."""
    epoch = protocol(chosen)["chosen_epoch"]
    plain = {**PROTOCOL, "paper_protocol": False, "epochs": epoch}
    small_training(data, tmp_path / "run", **plain)
    assert (tmp_path / "run" / MODEL).is_file()
    ours, theirs = model_tensors(chosen), model_tensors(tmp_path / "run")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert np.isfinite(protocol(chosen)["epochs"][0]["image_auroc"])  # type: ignore[index]
