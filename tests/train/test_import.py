from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from reason_runtime.bundle import open_bundle
from reason_runtime.image import image_sha256
from reason_train.config import MethodConfig, TeacherName
from reason_train.model import build_model
from reason_train.trained import load_run
from tests.commands import call
from tests.filled_model import COMPONENTS, filled_state
from tests.golden_weights import GOLDEN, fill, image

TOLERANCE = 1e-4  # of the largest magnitude: float32 convolutions in another order of summation
Content = dict[str, dict[str, Tensor]]


def published(teacher: TeacherName) -> Content:
    """A checkpoint in the published form, with the memory banks that published files also carry."""
    model = build_model(MethodConfig(teacher=teacher))
    content = {
        COMPONENTS[part]: filled_state(model.get_submodule(part), COMPONENTS[part])
        for part in ("suppression", "bottleneck", "student")
    }
    content["lns_layer"]["memory"] = torch.zeros(3)
    content["bottleneck"]["bn_layer.memory_bank.0"] = torch.zeros(2, 2)
    content["decoder"]["decoder_memory"] = torch.full((2,), float("nan"))
    return content


def encoder(teacher: TeacherName) -> dict[str, Tensor]:
    """torchvision's whole state dict, with the stage and the classifier that the model has not."""
    with torch.device("meta"):
        shapes = torchvision.models.get_model(teacher, weights=None).state_dict()
    assert {"layer4.0.conv1.weight", "fc.bias"} < set(shapes)
    return {k: torch.from_numpy(np.asarray(fill("encoder", k, tuple(v.shape), 1))) for k, v in shapes.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    torch.save(published("resnet18"), folder / "reason.pth")
    torch.save(encoder("resnet18"), folder / "encoder.pth")
    return folder


def import_into(out: Path, checkpoint: Path, weights: Path, *, teacher: str = "resnet18", more: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    arguments = ("import", checkpoint, "--teacher", teacher, "--teacher-weights", weights, "--out", out, *more)
    return call("reason-train", *arguments)


@torch.no_grad()
def assert_golden(run_folder: Path, teacher: TeacherName) -> None:
    _, model = load_run(run_folder)
    images = torch.from_numpy(np.concatenate([image(1), image(2)]))  # normalised already
    features = model.stages(model.teacher.stem(images))
    anomaly_map, score = model.head(features, model.rebuild(model.suppress(features)))
    golden = np.load(GOLDEN / f"{teacher}_seed1.npz")
    for ours, expected in ((anomaly_map.numpy(), golden["anomaly_map"]), (score.numpy(), golden["score"])):
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_an_imported_checkpoint_gives_the_golden_maps(files: Path, tmp_path: Path) -> None:
    done = import_into(tmp_path / "run", files / "reason.pth", files / "encoder.pth")
    assert done.status == 0
    assert done.log.startswith(
        "what it was trained on is not known, so that no bound can be promised; --trained-on DIR"
    )
    assert "set a threshold with reason-train calibrate" in done.output
    assert_golden(tmp_path / "run", "resnet18")


@pytest.mark.slow
def test_an_imported_checkpoint_of_the_papers_teacher_gives_the_golden_maps(tmp_path: Path) -> None:
    torch.save(published("wide_resnet50_2"), tmp_path / "reason.pth")
    torch.save(encoder("wide_resnet50_2"), tmp_path / "encoder.pth")
    run = tmp_path / "run"
    done = import_into(run, tmp_path / "reason.pth", tmp_path / "encoder.pth", teacher="wide_resnet50_2")
    assert done.status == 0, done.log
    assert_golden(run, "wide_resnet50_2")
    assert load_run(run)[0].config.departures == ()


def test_an_imported_run_says_where_it_comes_from_and_has_no_threshold(files: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / os.fsdecode(b"caf\xe9.pth")  # no UTF-8
    shutil.copy(files / "reason.pth", checkpoint)
    done = import_into(tmp_path / "run", checkpoint, files / "encoder.pth", more=("--json",))
    assert json.loads(done.output) == {
        "run": str(tmp_path / "run"),
        "teacher": "resnet18",
        "threshold": None,
        "training_images": 0,
    }
    run, _ = load_run(tmp_path / "run")
    assert (run.imported_from, run.train, run.images_sha256) == ("caf?.pth", (), None)
    assert run.config.method.suppression_target == "student"
    assert run.config.departures == ("teacher resnet18 in place of wide_resnet50_2",)
    assert not (tmp_path / "run" / "calibration.json").exists()


@pytest.mark.slow
def test_an_imported_run_can_be_calibrated_and_exported(files: Path, parts: Path, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert import_into(run, files / "reason.pth", files / "encoder.pth").status == 0
    done = call("reason-train", "calibrate", run, "--data", parts, "--device", "cpu", "--json")
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    assert (facts["images"], facts["bound_kept"]) == (10, False)
    assert facts["source"] == "10 good images that may have been trained on"
    calibrated = (run / "calibration.json").read_bytes()
    refused = call("reason-train", "calibrate", run, "--data", parts, "--false-reject-rate", 0.9, "--require-bound")
    assert "left as it was; what the checkpoint was trained on is not known" in refused.error
    assert (run / "calibration.json").read_bytes() == calibrated
    told = call("reason-train", "evaluate", run, "--data", parts, "--report", tmp_path / "report").output
    assert "no bound is known to hold" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "what the checkpoint was trained on is not known: these images may be among it" in told
    done = call("reason-export", "onnx", run, "--out", bundle)
    assert done.status == 0, done.log
    described = json.loads((bundle / "manifest.json").read_text())
    assert described["training"]["seed"] is None
    assert described["training"]["configuration"]["imported_from"] == "reason.pth"
    assert open_bundle(bundle).trained_on() == frozenset()
    assert not open_bundle(bundle).manifest.training.images_known
    assert "no bound is known to hold" in call("reason-run", "info", bundle).output
    held_out = call("reason-export", "check", bundle, "--held-out", parts)
    assert held_out.status == 0, held_out.log
    assert "good images that may have been trained on, onnxruntime fp32 on this device" in held_out.output
    assert "false rejects: no bound is known to hold; import the checkpoint with --trained-on DIR" in held_out.output


@pytest.mark.slow
def test_an_imported_run_that_knows_its_images_is_calibrated_on_others(
    files: Path, parts: Path, tmp_path: Path
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    good = sorted((parts / "train" / "good").iterdir())
    (tmp_path / "seen").mkdir()
    for path in good[:4]:
        shutil.copy(path, tmp_path / "seen" / f"another {path.name}")
    more = ("--trained-on", str(tmp_path / "seen"))
    assert import_into(run, files / "reason.pth", files / "encoder.pth", more=more).status == 0
    arguments = ("--data", parts, "--false-reject-rate", 0.9, "--require-bound", "--json")
    done = call("reason-train", "calibrate", run, *arguments)
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    assert (facts["images"], facts["source"]) == (len(good) - 4, f"{len(good) - 4} held-out good images")
    assert call("reason-export", "onnx", run, "--out", bundle).status == 0
    assert open_bundle(bundle).trained_on() == {image_sha256(path) for path in good[:4]}
    assert open_bundle(bundle).manifest.training.images_known


def test_a_folder_without_the_images_of_a_checkpoint_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    more = ("--trained-on", str(tmp_path / "empty"))
    error = import_into(tmp_path / "run", files / "reason.pth", files / "encoder.pth", more=more).error
    assert f"{tmp_path / 'empty'}: holds no image" in error
    assert not (tmp_path / "run").exists()


def rename(content: Content) -> None:
    content["decoder"]["layer9.weight"] = content["decoder"].pop("layer1.0.conv1.weight")


def poison(content: Content) -> None:
    content["bottleneck"]["mmf.conv1.weight"][0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("bottleneck"), "has no bottleneck; expected a dict of lns_layer, bottleneck, dec"),
        (lambda content: content["lns_layer"].pop("proj_a.proj.0.bias"), "lns_layer: tensor proj_a.proj.0.bias is mis"),
        (rename, "decoder: tensor layer1.0.conv1.weight is missing; is it another teacher's checkpoint?"),
        (lambda content: content["decoder"].update(extra=torch.ones(1)), "decoder: has an unknown tensor extra"),
        (poison, "bottleneck: tensor mmf.conv1.weight holds values that are not finite"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_clear_line(
    change: Callable[[Content], object], message: str, files: Path, tmp_path: Path
) -> None:
    content: Content = torch.load(files / "reason.pth", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.pth")
    error = import_into(tmp_path / "run", tmp_path / "changed.pth", files / "encoder.pth").error
    assert str(tmp_path / "changed.pth") in error
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, I am a text file\n", "cannot be read as a PyTorch checkpoint of tensors"),
        (b"", "cannot be read as a PyTorch checkpoint of tensors"),
        (None, "no such file; expected a PyTorch checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_clear_line(
    content: bytes | None, message: str, files: Path, tmp_path: Path
) -> None:
    path = tmp_path / "reason.pth"
    if content is not None:
        path.write_bytes(content)
    assert f"{path}: {message}" in import_into(tmp_path / "run", path, files / "encoder.pth").error
    assert f"{path}: {message}" in import_into(tmp_path / "run", files / "reason.pth", path).error
    assert not (tmp_path / "run").exists()


def test_a_cut_file_is_one_clear_line(files: Path, tmp_path: Path) -> None:
    content = (files / "reason.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    assert "cut.pth: cannot be read" in import_into(tmp_path / "run", tmp_path / "cut.pth", files / "encoder.pth").error


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1)])
def test_something_else_than_a_dict_is_one_clear_line(content: object, files: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "list.pth")
    error = import_into(tmp_path / "run", tmp_path / "list.pth", files / "encoder.pth").error
    assert "expected a dict of tensors" in error


def test_code_in_a_checkpoint_is_not_run(files: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"lns_layer": Touch()}, tmp_path / "evil.pth")
    assert "evil.pth: cannot be read" in import_into(tmp_path / "r", tmp_path / "evil.pth", files / "encoder.pth").error
    assert not (tmp_path / "touched").exists()


def test_weights_of_another_teacher_are_refused(files: Path, tmp_path: Path) -> None:
    torch.save(encoder("resnet50"), tmp_path / "resnet50.pth")
    error = import_into(tmp_path / "run", files / "reason.pth", tmp_path / "resnet50.pth").error
    assert "resnet50.pth: " in error
    assert "another network's?" in error or "deeper network's?" in error


def test_a_checkpoint_of_another_teacher_is_refused(files: Path, tmp_path: Path) -> None:
    torch.save(encoder("resnet50"), tmp_path / "resnet50.pth")
    done = import_into(tmp_path / "run", files / "reason.pth", tmp_path / "resnet50.pth", teacher="resnet50")
    assert "is it another teacher's checkpoint?" in done.error


def test_no_published_checkpoint_has_a_lite_teacher(files: Path, tmp_path: Path) -> None:
    done = call(
        "reason-train", "import", files / "reason.pth", "--teacher", "efficientnet_lite0", "--out", tmp_path / "run"
    )
    assert "published checkpoints have ResNet teachers" in done.error


def test_a_folder_in_use_is_kept(files: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "exists; choose another --out" in import_into(tmp_path / "run", files / "reason.pth", files / "e.pth").error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
