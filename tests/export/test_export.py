from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from reason_export.golden import MOST_IMAGES, synthetic_images
from reason_export.parity import TOLERANCES
from reason_runtime.bundle import open_bundle
from reason_runtime.detector import load
from reason_runtime.image import as_image, load_image, resize_image, square_format
from reason_runtime.session import open_session
from reason_train.calibrate import read_held_out
from reason_train.calibration import threshold_for
from reason_train.datasets import load_dataset
from reason_train.evaluate import evaluate
from reason_train.run import MODEL, RUN, read_tensors, write_tensors
from reason_train.trained import load_run
from tests.commands import Done, call
from tests.pictures import good_parts, good_picture, save


def export(run: Path, out: Path, *more: object) -> Done:
    return call("reason-export", "onnx", run, "--out", out, *more)


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run_copy"))


@torch.no_grad()
def torch_outputs(run: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    _, model = load_run(run)
    anomaly_map, score = model(torch.from_numpy(images.copy()))
    return anomaly_map.numpy(), score.numpy()


def test_export_prints_what_it_made(exported: tuple[Path, Done]) -> None:
    bundle, done = exported
    assert f"{bundle}: " in done.output
    assert "parity onnxruntime fp32 on 2 photographs: passed" in done.output


def test_a_bundle_says_what_was_trained_and_how(exported_bundle: Path, finished_run: Path) -> None:
    manifest = open_bundle(exported_bundle).manifest
    run, _ = load_run(finished_run)
    assert (manifest.name, manifest.method.teacher) == ("stripes", "efficientnet_lite0")
    assert manifest.method.settings["method"] == "reason"
    assert manifest.method.settings["whitening"] == "measured"
    assert manifest.training.images == 8
    assert manifest.training.images_sha256 == run.images_sha256
    trained_on = open_bundle(exported_bundle).trained_on()
    assert trained_on == {entry.sha256 for entry in run.train}
    assert (len(trained_on), trained_on & {entry.sha256 for entry in run.held_out}) == (8, set())
    assert open_bundle(exported_bundle).threshold_from() == {entry.sha256 for entry in run.held_out}
    assert (manifest.training.seed, manifest.training.libraries) == (3, run.libraries)
    assert manifest.training.configuration["steps"] == 20
    assert manifest.training.configuration["whitening_power"] == 0.2
    assert (manifest.input.height_px, manifest.input.channels, manifest.map_size_px) == (64, 3, 64)


def test_a_bundle_holds_no_path_of_this_machine(exported_bundle: Path, finished_run: Path, parts: Path) -> None:
    text = (exported_bundle / "manifest.json").read_text()
    for path in (exported_bundle.parent, finished_run.parent, parts.parent, Path.home()):
        assert str(path) not in text


def test_the_threshold_comes_from_the_graphs_own_scores(exported_bundle: Path, finished_run: Path) -> None:
    bundle, held_out = open_bundle(exported_bundle), read_held_out(finished_run)
    assert held_out is not None
    session = open_session(bundle)
    scores = np.concatenate([session.run(image[None]).score for image in held_out.images])
    expected = threshold_for(scores, false_reject_rate=0.01, source="2 held-out good images")
    assert set(bundle.manifest.thresholds) == {"fp32", "fp16"}
    assert bundle.manifest.thresholds["fp32"] == expected
    known = bundle.manifest.score_statistics
    assert known is not None
    assert (known.images, known.minimum, known.maximum) == (2, float(scores.min()), float(scores.max()))
    assert known.mean == pytest.approx(float(scores.mean()))
    highest = max(session.run(image[None]).anomaly_map.max() for image in held_out.images)
    assert known.pixel_threshold == np.nextafter(highest, np.float32(np.inf))


def test_the_report_and_the_line_outline_from_the_same_value(
    exported_bundle: Path, finished_run: Path, parts: Path
) -> None:
    judged = evaluate(finished_run, load_dataset(parts), device=torch.device("cpu"), keep_maps=True)
    known = open_bundle(exported_bundle).manifest.score_statistics
    assert known is not None
    assert judged.pixel_threshold == pytest.approx(known.pixel_threshold, rel=1e-5)
    assert load(exported_bundle).pixel_threshold == known.pixel_threshold


def test_no_held_out_image_is_rejected_on_the_line(exported_bundle: Path, finished_run: Path, parts: Path) -> None:
    held_out = read_held_out(finished_run)
    assert held_out is not None
    detector = load(exported_bundle)
    paths = [parts / name for name in held_out.names]
    form = detector.bundle.manifest.input
    assert [detector(load_image(path, input_format=form)).decision for path in paths] == ["OK", "OK"]


@pytest.mark.slow
def test_a_run_without_calibration_gives_a_bundle_without_threshold(parts: Path, tmp_path: Path) -> None:
    data, run = good_parts(tmp_path / "stripes", images=3), tmp_path / "run"
    sizes = ("--image-size", 64, "--crop-from", 80, "--steps", 1, "--batch-size", 2, "--device", "cpu", "--held-out", 0)
    assert call("reason-train", "fit", "--data", data, "--out", run, *sizes, "--students", 1).status == 0
    done = export(run, tmp_path / "bundle")
    assert done.status == 0, done.log
    assert "has no threshold, so that every decision will be UNKNOWN" in done.log
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.manifest.thresholds, bundle.manifest.score_statistics) == ({}, None)
    assert bundle.golden().synthetic.all()
    form = bundle.manifest.input  # and the crop of its images travels along
    assert (form.height_px, form.width_px, form.resize_height_px, form.resize_width_px) == (64, 64, 80, 80)
    trained = json.loads(call("reason-train", "evaluate", run, "--data", parts, "--device", "cpu", "--json").output)
    found = json.loads(call("reason-export", "check", tmp_path / "bundle", "--data", parts, "--json").output)[
        "accuracy"
    ]
    for name in ("image_auroc", "pixel_auroc", "aupro"):  # masks are cropped as pictures are
        assert found[name]["found"] == pytest.approx(trained[name], abs=2e-3)


def test_golden_images_are_held_out_ones_with_torchs_outputs(exported_bundle: Path, finished_run: Path) -> None:
    golden, held_out = open_bundle(exported_bundle).golden(), read_held_out(finished_run)
    assert held_out is not None
    np.testing.assert_array_equal(golden.images, held_out.images)
    assert not golden.synthetic.any()
    anomaly_map, score = torch_outputs(finished_run, golden.images)
    np.testing.assert_allclose(golden.anomaly_map, anomaly_map, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(golden.score, score, rtol=1e-5)


@pytest.mark.slow
def test_golden_images_and_rate_can_be_chosen(small_run: Path, parts: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    for i in range(MOST_IMAGES + 2):
        save(tmp_path / "chosen" / f"{i:02}.png", good_picture(i, size_px=80))
    assert call("reason-train", "calibrate", run, "--data", parts, "--false-reject-rate", 0.9).status == 0
    done = export(run, tmp_path / "bundle", "--golden", tmp_path / "chosen", "--json")
    facts = json.loads(done.output)
    assert (facts["bundle"], facts["check"]["passed"], facts["check"]["images"]) == (str(tmp_path / "bundle"), True, 16)
    assert facts["size_mib"] > 1
    golden = open_bundle(tmp_path / "bundle").golden()
    assert len(golden.images) == MOST_IMAGES
    first = load_image(tmp_path / "chosen" / "00.png", input_format=square_format(64))
    np.testing.assert_array_equal(golden.images[0], first)
    assert not golden.synthetic.any()
    limit = open_bundle(tmp_path / "bundle").manifest.thresholds["fp32"]
    assert (limit.target_false_reject_rate, limit.images) == (0.9, 2)


@pytest.mark.slow
def test_a_bundle_is_replaced_on_request_and_can_leave_without_photographs(
    exported_bundle: Path, small_run: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    done = export(small_run, out, "--no-images", "--overwrite")
    assert "on 4 synthetic patterns: passed" in done.output
    bundle = open_bundle(out)
    assert bundle.golden().synthetic.all()
    assert bundle.golden().painted is None
    np.testing.assert_array_equal(bundle.golden().images, synthetic_images(bundle.manifest.input))
    assert bundle.manifest.thresholds  # the threshold is still that of the held-out images


@pytest.mark.slow
def test_a_bundle_that_fails_its_check_is_never_put_in_place(
    exported_bundle: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = dataclasses.replace(TOLERANCES["fp32"], map_difference=-1.0)  # which no map can meet
    monkeypatch.setitem(TOLERANCES, "fp32", strict)
    out = Path(shutil.copytree(exported_bundle, tmp_path / "old"))
    done = export(small_run, out, "--no-images", "--overwrite")
    assert f"{out}: not written, fp32 fails its check: map differs by" in done.error
    assert done.output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert open_bundle(out).manifest == open_bundle(exported_bundle).manifest


def test_a_bundle_that_is_there_is_named_before_anything_else_is_done(exported_bundle: Path, tmp_path: Path) -> None:
    told = export(tmp_path / "no_run", exported_bundle).error
    assert f"{exported_bundle}: a bundle is there already" in told


@pytest.mark.parametrize("channels", [1, 3])
def test_synthetic_images_are_patterns_that_never_change(channels: int) -> None:
    images = synthetic_images(square_format(64, channels=1 if channels == 1 else 3))
    assert (images.shape, images.dtype) == ((4, 64, 64, channels), np.uint8)
    assert all(image.std() > 20 for image in images)
    np.testing.assert_array_equal(images, synthetic_images(square_format(64, channels=1 if channels == 1 else 3)))


@pytest.mark.slow
def test_a_mono_bundle_judges_mono_images(small_run: Path, tmp_path: Path) -> None:
    done = export(small_run, tmp_path / "bundle", "--channels", 1, "--white-level", 4095)
    assert done.status == 0, done.log
    assert "on colours that" in done.log
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.golden().images.shape == (2, 64, 64, 1)
    assert bundle.manifest.thresholds["fp32"].images == 2
    detector = load(tmp_path / "bundle")
    twelve_bit = np.round(skimage.data.camera() * (4095 / 255)).astype(np.uint16)
    form = square_format(64, channels=1)
    prepared = resize_image(as_image(skimage.data.camera(), input_format=form), input_format=form)
    _, score = torch_outputs(small_run, prepared[None].repeat(3, axis=3))
    assert detector(skimage.data.camera()).score == pytest.approx(float(score[0]), rel=1e-3)
    assert detector(twelve_bit).score == detector(skimage.data.camera()).score  # 12 bits hold all of the 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--channels", 2), "--channels 2: expected 3 (colour) or 1 (mono)"),
        (("--golden", "here", "--no-images"), "--golden and --no-images are both given; choose one"),
        (("--golden", "none"), "none"),
        (("--white-level", 0), "are not 0 <= black < white <= 65535"),
        (("--black-level", 65535), "are not 0 <= black < white <= 65535"),
    ],
)
def test_options_that_cannot_be_are_one_clear_line(
    options: tuple[object, ...], message: str, finished_run: Path, tmp_path: Path
) -> None:
    assert message in export(finished_run, tmp_path / "bundle", *options).error
    assert not (tmp_path / "bundle").exists()


def test_golden_folders_without_images_are_one_clear_line(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = export(finished_run, tmp_path / "bundle", "--golden", tmp_path / "empty").error
    assert f"{tmp_path / 'empty'}: no image found" in error
    (tmp_path / "empty" / "a.png").write_text("text")
    assert "a.png" in export(finished_run, tmp_path / "bundle", "--golden", tmp_path / "empty").error


def test_no_run_is_one_clear_line(tmp_path: Path) -> None:
    assert f"{tmp_path}: is not a run" in export(tmp_path, tmp_path / "bundle").error
    assert "is not a run" in export(tmp_path / "none", tmp_path / "bundle").error


def test_an_unfinished_run_is_refused(run_copy: Path, tmp_path: Path) -> None:
    (run_copy / MODEL).unlink()
    assert "training is not finished (no model.safetensors)" in export(run_copy, tmp_path / "bundle").error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("part", ["teacher", "suppression", "bottleneck", "student"])
def test_weights_that_are_not_finite_are_refused(part: str, run_copy: Path, tmp_path: Path) -> None:
    tensors, facts = read_tensors(run_copy / MODEL)
    name = next(name for name in tensors if name.startswith(f"{part}."))
    tensors[name].view(-1)[0] = float("nan")
    write_tensors(run_copy / MODEL, tensors, facts=facts)
    assert f"tensor {name} holds values that are not finite" in export(run_copy, tmp_path / "bundle").error
    assert not (tmp_path / "bundle").exists()


def with_a_hole(path: Path) -> None:
    """Zero 4 KiB amidst the student's tensors, as a lost page of a disk does."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    first, last = max(
        (place for name, place in places.items() if name.startswith("student.")), key=lambda at: at[1] - at[0]
    )
    middle = 8 + size + (first + last) // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


def with_other_weights(path: Path) -> None:
    """A whole file of a model that was not calibrated: its largest tensor of the student is zero."""
    tensors, facts = read_tensors(path)
    name = max((name for name in tensors if name.startswith("student.")), key=lambda name: tensors[name].numel())
    write_tensors(path, {**tensors, name: torch.zeros_like(tensors[name])}, facts=facts)


def test_a_damaged_model_is_refused(run_copy: Path, parts: Path, tmp_path: Path) -> None:
    with_a_hole(run_copy / MODEL)
    message = f"{run_copy / MODEL}: is damaged, its content is not what was written"
    assert message in export(run_copy, tmp_path / "bundle").error
    assert message in call("reason-train", "evaluate", run_copy, "--data", parts).error
    assert message in call("reason-train", "calibrate", run_copy, "--data", parts).error
    assert not (tmp_path / "bundle").exists()


def test_a_run_whose_settings_were_changed_since_is_refused(run_copy: Path, parts: Path, tmp_path: Path) -> None:
    content = json.loads((run_copy / RUN).read_text())
    content["config"]["method"]["white_level"] = 4095  # its bundle would read other images than were trained on
    (run_copy / RUN).write_text(json.dumps(content, indent=2) + "\n")
    message = f"{run_copy / RUN}: was changed since model.safetensors was made by it, or is another run's"
    assert message in export(run_copy, tmp_path / "bundle").error
    assert message in call("reason-train", "evaluate", run_copy, "--data", parts).error
    assert message in call("reason-train", "calibrate", run_copy, "--data", parts).error
    assert not (tmp_path / "bundle").exists()


def test_a_model_without_its_hash_is_refused(run_copy: Path, tmp_path: Path) -> None:
    tensors, _ = read_tensors(run_copy / MODEL)
    save_file(tensors, run_copy / MODEL)
    error = export(run_copy, tmp_path / "bundle").error
    assert f"{run_copy / MODEL}: is damaged, its content is not what was written" in error


def test_a_model_that_was_not_calibrated_is_known_by_its_scores(run_copy: Path, parts: Path, tmp_path: Path) -> None:
    with_other_weights(run_copy / MODEL)
    for done in (
        export(run_copy, tmp_path / "bundle", "--no-images"),
        call("reason-train", "evaluate", run_copy, "--data", parts),
    ):
        assert f"{run_copy}: its model gives held-out images other scores than in its calibration" in done.error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_model_file_that_is_none_is_one_clear_line(content: bytes, run_copy: Path, tmp_path: Path) -> None:
    (run_copy / MODEL).write_bytes(content)
    error = export(run_copy, tmp_path / "bundle").error
    assert f"{run_copy / MODEL}: cannot be read as a safetensors file" in error


def test_a_changed_photograph_changes_the_score(exported_bundle: Path) -> None:
    detector = load(exported_bundle)
    good, holed = good_picture(77), good_picture(77)
    holed[20:40, 24:44] = 0
    assert detector(holed).score > detector(good).score
