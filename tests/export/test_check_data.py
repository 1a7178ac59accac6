from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from reason_export.accuracy import Accuracy, Figure, LabelledSet
from reason_export.parity import TOLERANCES, compare
from reason_runtime import load
from reason_runtime.bundle import listed, open_bundle, update_bundle
from reason_runtime.checks import known_check
from reason_runtime.digest import file_sha256
from reason_runtime.image import load_image
from reason_runtime.manifest import ScoreStatistics
from reason_train.calibration import false_reject_upper_bound
from reason_train.metrics import auroc
from reason_train.ranking import rank
from tests.commands import call
from tests.pictures import save
from tests.runtime.changed_checks import change_check
from tests.runtime.processor import NEEDS_BF16


def accuracy(*, image: float, aupro: float | None, good: int = 41, defective: int = 119) -> Accuracy:
    """On so many images, with so much lost."""
    ones = np.ones((3, 4, 4), np.float32)
    parity = compare(golden_map=ones, golden_score=ones[:, 0, 0], anomaly_map=ones, score=ones[:, 0, 0])
    return Accuracy(
        data="parts",
        good=good,
        defective=defective,
        image_auroc=Figure(reference=0.98, found=0.98 - image, lost=image),
        image_auroc_step=1 / (good * defective),
        pixel_auroc=None,
        aupro=None if aupro is None else Figure(reference=0.95, found=0.95 - aupro, lost=aupro),
        parity=parity,
        decisions_flipped=None,
        good_rejected=None,
        defective_passed=None,
    )


@pytest.mark.parametrize(
    ("precision", "image", "aupro"), [("fp16", 0.001, 0.002), ("bf16", 0.001, 0.002), ("int8", 0.005, 0.01)]
)
def test_score_and_map_are_gated_each_on_its_own(precision: str, image: float, aupro: float) -> None:
    tolerance = TOLERANCES[precision]  # type: ignore[index]
    assert (tolerance.image_auroc_lost, tolerance.aupro_lost) == (image, aupro)
    assert accuracy(image=image * 0.99, aupro=aupro * 0.99).broken(tolerance) == []
    assert ["the score loses" in told for told in accuracy(image=image * 1.1, aupro=0.0).broken(tolerance)] == [True]
    assert ["the map loses" in told for told in accuracy(image=0.0, aupro=aupro * 1.1).broken(tolerance)] == [True]


def test_one_swapped_pair_is_always_allowed() -> None:
    pair = accuracy(image=1 / 720, aupro=None, good=12, defective=60)
    assert pair.broken(TOLERANCES["fp16"]) == []
    assert accuracy(image=2 / 720, aupro=None, good=12, defective=60).broken(TOLERANCES["fp16"])


@pytest.mark.parametrize(("good", "defective"), [(8, 9), (12, 60), (7, 11), (41, 3)])
def test_one_swapped_pair_is_allowed_whatever_its_last_bits(good: int, defective: int) -> None:
    anomalous = np.arange(good + defective) >= good
    scores = np.arange(good + defective, dtype=np.float64)
    swapped = scores.copy()
    swapped[[good - 1, good]] = swapped[[good, good - 1]]
    for shuffle in range(20):
        order = np.random.default_rng(shuffle).permutation(len(scores))[: good + defective]
        lost = auroc(rank(scores[order], anomalous[order])) - auroc(rank(swapped[order], anomalous[order]))
        pair = accuracy(image=lost, aupro=None, good=good, defective=defective)
        assert pair.broken(TOLERANCES["fp32"]) == []
    assert accuracy(image=1 / 72 + 6e-17, aupro=None, good=8, defective=9).broken(TOLERANCES["fp32"]) == []


def test_a_pair_that_is_worth_too_much_is_no_excuse() -> None:
    assert accuracy(image=1 / 20, aupro=None, good=4, defective=5).broken(TOLERANCES["int8"]) == []
    told = accuracy(image=1 / 18, aupro=None, good=6, defective=3).broken(TOLERANCES["int8"])
    assert told == ["the score loses 0.0556 image AUROC on parts, at most 0.0500 is allowed"]


@pytest.mark.parametrize(
    ("precision", "rejected", "passed", "told"),
    [
        ("int8", 2, 28, []),  # a twentieth of 41 and of 119, rounded down
        ("int8", 3, 23, ["3 good images are rejected on parts, 0 by fp32 in ONNX Runtime, at most 2 more are allowed"]),
        ("int8", 0, 29, ["29 defective images pass on parts, 23 by fp32 in ONNX Runtime, at most 5 more are allowed"]),
        ("fp16", 1, 24, []),  # one image always may
        ("fp32", 1, 24, []),
        ("fp16", 2, 0, ["2 good images are rejected on parts, 0 by fp32 in ONNX Runtime, at most 1 more are allowed"]),
    ],
)
def test_decisions_are_gated_by_what_the_trained_model_decides(
    precision: str, rejected: int, passed: int, told: list[str]
) -> None:
    found = dataclasses.replace(
        accuracy(image=0.0, aupro=0.0),
        good_rejected=rejected,
        defective_passed=passed,
        trained_good_rejected=0,
        trained_defective_passed=23,
    )
    hint = "; draw this device's own threshold with --held-out"
    assert found.broken(TOLERANCES[precision]) == [f"{line}{hint}" for line in told]  # type: ignore[index]
    own = dataclasses.replace(found, trained_good_rejected=None, trained_defective_passed=None)
    assert own.broken(TOLERANCES[precision]) == []  # type: ignore[index]


def test_a_figure_that_is_not_a_number_breaks_its_gate() -> None:
    assert len(accuracy(image=float("nan"), aupro=float("nan")).broken(TOLERANCES["int8"])) == 2


def test_a_better_artefact_passes() -> None:
    assert accuracy(image=-0.2, aupro=-0.2).broken(TOLERANCES["fp32"]) == []


@pytest.fixture
def bundle(precise_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(precise_bundle, tmp_path / "bundle"))


def test_what_is_lost_is_printed_and_kept(bundle: Path, parts: Path) -> None:
    done = call("reason-export", "check", bundle, "--precision", "fp16", "--data", parts, "--json")
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    kept = json.loads((bundle / "checks" / "onnxruntime_fp16.json").read_text())
    found = kept["accuracy"]
    assert found == facts["accuracy"]
    assert (found["good"], found["defective"], found["image_auroc_step"]) == (4, 4, 1 / 16)
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        figure = found[name]
        assert figure["lost"] == pytest.approx(figure["reference"] - figure["found"])
        assert 0 <= figure["found"] <= 1
    assert found["parity"]["images"] == 8
    assert found["parity"]["sqnr_db"] > 40
    assert found["good_rejected"] + found["defective_passed"] <= 8
    assert found["decisions_flipped"] == 0


@pytest.mark.parametrize(("value", "good_rejected", "defective_passed"), [(1e-6, 3, 0), (1e6, 0, 4)])
def test_images_on_the_wrong_side_of_the_threshold_are_counted(
    value: float, good_rejected: int, defective_passed: int, bundle: Path, parts: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "parts"))
    next((data / "test" / "good").iterdir()).unlink()  # three good ones and four with a defect
    opened = open_bundle(bundle)
    limit = dataclasses.replace(opened.manifest.thresholds["fp32"], value=value)
    update_bundle(opened, manifest=dataclasses.replace(opened.manifest, thresholds={"fp32": limit}))
    found = json.loads(call("reason-export", "check", bundle, "--data", data, "--json").output)["accuracy"]
    assert (found["good_rejected"], found["defective_passed"]) == (good_rejected, defective_passed)


def test_few_labelled_images_are_said_to_see_little(bundle: Path, parts: Path) -> None:
    printed = call("reason-export", "check", bundle, "--data", parts).output
    assert (
        "too few images to see 0.0001 image AUROC lost: one pair in the wrong order is 0.0625, and allowed" in printed
    )


def test_the_bound_of_a_threshold_of_this_device_is_printed(bundle: Path, good_pictures: Path) -> None:
    printed = call("reason-export", "check", bundle, "--held-out", good_pictures).output
    assert "from 20 held-out good images, onnxruntime fp32 on this device, 0 of them rejected" in printed
    assert "false rejects: at most 13.91% with 95 % confidence; promising 1.00% takes 299 good images" in printed


def test_the_reference_loses_nothing_against_itself(bundle: Path, parts: Path) -> None:
    found = json.loads(call("reason-export", "check", bundle, "--data", parts, "--json").output)["accuracy"]
    assert {found[name]["lost"] for name in ("image_auroc", "pixel_auroc", "aupro")} == {0.0}
    assert found["parity"]["map_difference_max"] == 0


def test_where_no_defect_counts_images_alone_are_judged(bundle: Path, parts: Path) -> None:
    labelled = LabelledSet(open_bundle(bundle), parts)
    whole = labelled.detection(labelled.reference)
    assert whole.aupro is not None
    assert labelled.masks is not None
    labelled.counted = ~labelled.masks.any(axis=0)  # as with --roi beside all defects
    found = labelled.detection(labelled.reference)
    assert (found.image_auroc, found.pixel_auroc, found.aupro) == (whole.image_auroc, None, None)


def test_good_images_that_drew_the_threshold_are_counted(bundle: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "parts"))
    drew = open_bundle(bundle).threshold_from()
    held_out = [path for path in (parts / "train" / "good").iterdir() if file_sha256(path) in drew]
    assert len(held_out) == 2
    for path in held_out:
        shutil.copy(path, data / "test" / "good" / f"again_{path.name}")
    printed = call("reason-export", "check", bundle, "--data", data).output
    assert "    2 of the 6 good test images drew the threshold: how many of them it rejects says nothing" in printed
    found = json.loads(call("reason-export", "check", bundle, "--json").output)["accuracy"]  # kept from before
    assert (found["good"], found["good_of_threshold"]) == (6, 2)
    printed = call("reason-export", "check", bundle, "--data", parts).output
    assert "drew the threshold" not in printed


def test_good_images_that_drew_the_threshold_of_this_device_are_counted(
    bundle: Path, parts: Path, good_pictures: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(parts, tmp_path / "parts"))
    drew = open_bundle(bundle).threshold_from()
    others = [path for path in (parts / "train" / "good").iterdir() if file_sha256(path) in drew]
    for path in [*sorted(good_pictures.iterdir())[:3], *others]:  # the bundle's threshold is not the one in force
        shutil.copy(path, data / "test" / "good" / f"again_{path.name}")
    told = "3 of the 9 good test images drew the threshold: how many of them it rejects says nothing of other parts"
    assert told in call("reason-export", "check", bundle, "--held-out", good_pictures, "--data", data).output
    assert told in call("reason-export", "check", bundle, "--data", data).output  # the threshold was kept from before
    assert told in call("reason-bench", "accuracy", bundle, "--data", data).output


def test_data_without_defects_are_refused(bundle: Path, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "train", tmp_path / "parts" / "train")
    shutil.copytree(parts / "test" / "good", tmp_path / "parts" / "test" / "good")
    told = call("reason-export", "check", bundle, "--data", tmp_path / "parts").error
    assert "the test images are 4 good and 0 defective, an evaluation needs both" in told


@NEEDS_BF16
def test_bf16_gets_a_threshold_of_this_device_which_results_name(bundle: Path, good_pictures: Path) -> None:
    image = next(good_pictures.iterdir())
    arguments = ("--backend", "openvino", "--precision", "bf16")
    before = json.loads(call("reason-run", "predict", bundle, image, *arguments, "--json").output)
    assert (before["decision"], before["threshold"]) == ("UNKNOWN", None)
    assert "--precision bf16 --held-out DIR" in before["reason"]
    done = call("reason-export", "check", bundle, *arguments, "--held-out", good_pictures)
    assert done.status == 0, done.log
    after = json.loads(call("reason-run", "predict", bundle, image, *arguments, "--json").output)
    assert after["decision"] == "OK"
    assert after["threshold_source"] == (
        "check of this device, bf16: 20 held-out good images, openvino bf16 on this device"
    )
    assert "bf16" not in open_bundle(bundle).manifest.thresholds


def test_a_threshold_of_this_device_goes_before_the_bundles(bundle: Path, good_pictures: Path) -> None:
    image = next(good_pictures.iterdir())
    arguments = ("--backend", "openvino", "--precision", "int8")
    before = json.loads(call("reason-run", "predict", bundle, image, *arguments, "--json").output)
    assert before["threshold_source"] == "bundle, int8: 10 held-out good images, int8 in ONNX Runtime"
    done = call("reason-export", "check", bundle, *arguments, "--held-out", good_pictures)
    assert done.status == 0, done.log
    after = json.loads(call("reason-run", "predict", bundle, image, *arguments, "--json").output)
    assert after["threshold_source"] == (
        "check of this device, int8: 20 held-out good images, openvino int8 on this device"
    )
    path = bundle / "checks" / "openvino_int8.json"
    environment = json.loads(path.read_text())["environment"]
    change_check(path, environment={**environment, "session": {**environment["session"], "openvino": "2020.1"}})
    done = call("reason-run", "predict", bundle, image, *arguments, "--json")
    note = "this device's own was drawn with another version: run its check with --held-out again"
    assert done.log.strip() == f"the threshold is the bundle's: {note}"
    stale = json.loads(done.output)
    assert stale["threshold"] == before["threshold"]
    assert stale["threshold_source"] == f"{before['threshold_source']} ({note})"


def test_the_held_out_scores_of_this_device_go_before_the_bundles(bundle: Path, good_pictures: Path) -> None:
    choice: dict[str, Any] = {"backend": "openvino", "precision": "int8"}
    opened = open_bundle(bundle)
    assert opened.manifest.quantisation is not None
    assert load(bundle, **choice).limit.scores == opened.manifest.quantisation.scores
    done = call(
        "reason-export", "check", bundle, "--backend", "openvino", "--precision", "int8", "--held-out", good_pictures
    )
    assert done.status == 0, done.log
    detector = load(bundle, **choice)
    images = [load_image(path, input_format=opened.manifest.input) for path in sorted(good_pictures.iterdir())]
    outputs = [detector.session.run(image[None]) for image in images]
    scores = np.concatenate([output.score for output in outputs])
    known = detector.limit.scores
    assert known is not None
    assert (known.images, known.minimum, known.maximum) == (20, float(scores.min()), float(scores.max()))
    assert (known.mean, known.std) == (pytest.approx(float(scores.mean())), pytest.approx(float(scores.std())))
    highest = np.float32(max(output.anomaly_map.max() for output in outputs))
    assert detector.pixel_threshold == known.pixel_threshold == np.nextafter(highest, np.float32(np.inf))
    assert load(bundle, **choice, threshold=0.5).limit.scores == opened.manifest.quantisation.scores


def test_a_check_keeps_what_one_with_images_established(
    bundle: Path, good_pictures: Path, parts: Path, tmp_path: Path
) -> None:
    arguments = ("--backend", "openvino", "--precision", "int8", "--json")
    given = call("reason-export", "check", bundle, *arguments, "--held-out", good_pictures, "--data", parts)
    first = json.loads(given.output)
    again = json.loads(call("reason-export", "check", bundle, *arguments).output)
    assert first["threshold"] is not None
    assert first["scores"]["images"] == first["threshold"]["images"]
    kept_names = ("threshold", "scores", "highest_held_out", "accuracy", "passed")
    assert {name: again[name] for name in kept_names} == {name: first[name] for name in kept_names}
    path = bundle / "checks" / "openvino_int8.json"
    found = json.loads(path.read_text())["accuracy"]
    lost = {**found["image_auroc"], "lost": 0.5}  # as a check on other images found it
    change_check(path, accuracy={**found, "image_auroc": lost})
    assert "the score loses 0.5000 image AUROC" in call("reason-export", "check", bundle, *arguments).error
    opened = open_bundle(bundle)  # another precision's file and threshold change nothing
    update_bundle(opened, manifest=dataclasses.replace(opened.manifest, thresholds={}), files={})
    known = known_check(open_bundle(bundle), backend="openvino", precision="int8")
    assert known is not None
    assert known.threshold is not None
    assert not known.passed


def test_counts_of_decisions_end_with_the_threshold_that_they_are_of(
    bundle: Path, good_pictures: Path, parts: Path
) -> None:
    def counts(*more: object) -> list[object]:
        done = call("reason-export", "check", bundle, "--precision", "fp16", *more, "--json")
        assert done.status == 0, done.log
        found = json.loads(done.output)["accuracy"]
        assert found["image_auroc"]["found"] > 0
        names = ("threshold", "decisions_flipped", "good_rejected", "defective_passed", "trained_good_rejected")
        return [found[name] for name in names]

    first = counts("--data", parts)
    assert None not in first
    assert counts() == first
    assert counts("--held-out", good_pictures, "--false-reject-rate", 0.3) == [None] * 5
    own = counts("--data", parts)
    assert None not in own[:4]
    assert own[0] != first[0]
    assert own[4] is None  # drawn for another rate, so that it may reject more


def test_images_that_were_trained_on_prove_nothing(bundle: Path, parts: Path, tmp_path: Path) -> None:
    labelled = Path(shutil.copytree(parts, tmp_path / "labelled"))
    picture = next((labelled / "test" / "good").iterdir())
    opened = open_bundle(bundle)
    text = f"{file_sha256(picture)}\n".encode()
    update_bundle(opened, manifest=opened.manifest, files={"trained_on.txt": text})
    done = call("reason-export", "check", bundle, "--data", labelled)
    assert done.status == 1
    assert f"{labelled}: the bundle was trained on 1 of its 8 test images ({picture}, ...); remove them" in done.error


def test_thresholds_are_for_the_rate_that_the_bundle_was_calibrated_for(bundle: Path, good_pictures: Path) -> None:
    opened = open_bundle(bundle)
    own = dataclasses.replace(opened.manifest.thresholds["fp32"], target_false_reject_rate=0.2)
    update_bundle(opened, manifest=dataclasses.replace(opened.manifest, thresholds={"fp32": own}))
    for more, rate in (((), 0.2), (("--false-reject-rate", 0.1), 0.1)):
        done = call("reason-export", "check", bundle, "--held-out", good_pictures, *more, "--json")
        found = json.loads(done.output)["threshold"]
        assert (found["target_false_reject_rate"], found["images"]) == (rate, 20)


def test_defective_parts_and_trained_ones_set_no_threshold(bundle: Path, good_pictures: Path) -> None:
    opened = open_bundle(bundle)
    own = dataclasses.replace(opened.manifest.thresholds["fp32"], images=20, value=1e-3)
    strict = update_bundle(opened, manifest=dataclasses.replace(opened.manifest, thresholds={"fp32": own}))
    told = call("reason-export", "check", bundle, "--held-out", good_pictures).error
    assert f"{good_pictures}: the trained model rejects 20 of 20 images; expected good parts" in told
    known = ScoreStatistics(images=50, mean=1e3, std=1.0, minimum=990.0, maximum=1010.0)
    manifest = dataclasses.replace(strict.manifest, thresholds={}, score_statistics=known)
    update_bundle(strict, manifest=manifest)
    told = call("reason-export", "check", bundle, "--held-out", good_pictures).error
    assert f"{good_pictures}: its images score" in told
    assert "training has seen them" in told


def test_what_was_trained_on_sets_no_threshold(bundle: Path, good_pictures: Path, parts: Path, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(parts / "train" / "good", tmp_path / "pictures" / "old"))  # and two held out
    told = call("reason-export", "check", bundle, "--held-out", trained).error
    assert f"{trained}: holds 2 images that training did not use; a threshold needs 8" in told
    shutil.copytree(good_pictures, tmp_path / "pictures" / "new")
    arguments = ("reason-export", "check", bundle, "--held-out", tmp_path / "pictures")
    found = json.loads(call(*arguments, "--json").output)
    assert found["threshold"]["images"] == 22
    first = found["highest_held_out"]["images"][0]
    assert first["score"] == pytest.approx(found["scores"]["maximum"])
    line = call("reason-run", "predict", bundle, tmp_path / "pictures" / first["name"], "--json").output
    assert json.loads(line)["score"] == pytest.approx(first["score"])
    assert f"highest held-out: {first['name']} (" in call(*arguments).output


def test_good_parts_may_be_rejected_as_often_as_few_held_out_images_allow(bundle: Path, good_pictures: Path) -> None:
    opened = open_bundle(bundle)
    lines = call("reason-run", "predict", bundle, good_pictures, "--json").output.splitlines()
    value = sorted(json.loads(line)["score"] for line in lines)[12]  # rejects 8 of 20
    for images, bound, status in ((9, 0.2832, 0), (299, 0.01, 1)):
        own = dataclasses.replace(
            opened.manifest.thresholds["fp32"], images=images, value=value, false_reject_upper_bound=bound
        )
        opened = update_bundle(opened, manifest=dataclasses.replace(opened.manifest, thresholds={"fp32": own}))
        done = call("reason-export", "check", bundle, "--held-out", good_pictures)
        assert done.status == status, done.log
        assert ("rejects 8 of 20 images; expected good parts" in done.log) == (status == 1)


def blind_to_white(path: Path) -> None:
    """The same bundle whose map is NaN for pictures with a white pixel in their corner, and whose score is not."""
    opened, model = open_bundle(path), onnx.load(path / "model.onnx")
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["clean" if name == "anomaly_map" else name for name in node.output]
        node.input[:] = ["clean" if name == "anomaly_map" else name for name in node.input]
    constants = {"corner": np.array([0, 0, 0]), "next": np.array([1, 1, 1]), "axes": np.array([1, 2, 3])}
    graph.initializer.extend(numpy_helper.from_array(value.astype(np.int64), name) for name, value in constants.items())
    graph.initializer.append(numpy_helper.from_array(np.array([[[255.0]]], np.float32), "white"))
    graph.node.extend(
        [
            helper.make_node("Cast", ["image"], ["corner_pixels"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Slice", ["corner_pixels", "corner", "next", "axes"], ["corner_pixel"]),
            helper.make_node("Squeeze", ["corner_pixel", "last"], ["corner_value"]),
            helper.make_node("Sub", ["corner_value", "white"], ["from_white"]),
            helper.make_node("Div", ["from_white", "from_white"], ["one_or_nan"]),
            helper.make_node("Mul", ["clean", "one_or_nan"], ["anomaly_map"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([3]), "last"))
    update_bundle(opened, manifest=opened.manifest, files={"model.onnx": model.SerializeToString()})


def whiten_corner(path: Path) -> None:
    pixels = np.asarray(Image.open(path)).copy()
    pixels[:4, :4] = 255
    save(path, pixels)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_labelled_images_whose_values_are_not_finite_fail_the_check_and_stay_failed(
    backend: str, bundle: Path, parts: Path, tmp_path: Path
) -> None:
    blind_to_white(bundle)
    data = Path(shutil.copytree(parts, tmp_path / "parts"))
    first = sorted((data / "test" / "good").iterdir())[0]
    whiten_corner(first)
    assert call("reason-export", "check", bundle, "--backend", backend).status == 0
    for more in (("--data", data), ()):
        told = call("reason-export", "check", bundle, "--backend", backend, *more).error
        assert f"{data}: 1 of 8 images give values that are not finite, the first is {first}" in told
        known = known_check(open_bundle(bundle), backend=backend, precision="fp32")  # type: ignore[arg-type]
        assert known is not None
        assert not known.passed
    assert call("reason-export", "check", bundle, "--backend", backend, "--data", parts).status == 0


def test_held_out_images_whose_values_are_not_finite_fail_the_check_and_leave_no_threshold(
    bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    blind_to_white(bundle)
    arguments = ("reason-export", "check", bundle, "--held-out")
    assert call(*arguments, good_pictures).status == 0
    pictures = Path(shutil.copytree(good_pictures, tmp_path / "pictures"))
    whiten_corner(pictures / "03.png")
    for more in (("--held-out", pictures), ()):
        told = call("reason-export", "check", bundle, *more).error
        assert f"{pictures}: 1 images have scores or maps that are not finite" in told
        known = known_check(open_bundle(bundle), backend="onnxruntime", precision="fp32")
        assert known is not None
        assert (known.passed, known.threshold, known.scores) == (False, None, None)
    assert call(*arguments, good_pictures).status == 0


def test_few_held_out_images_are_refused(bundle: Path, parts: Path) -> None:
    told = call("reason-export", "check", bundle, "--held-out", parts / "test" / "good").error
    assert "holds 4 images that training did not use; a threshold needs 8 good ones or more" in told


def test_images_that_chose_the_epoch_draw_no_threshold(bundle: Path, good_pictures: Path) -> None:
    opened = open_bundle(bundle)
    chose = listed(file_sha256(path) for path in sorted(good_pictures.iterdir())[:14])
    update_bundle(opened, manifest=opened.manifest, files={"chosen_by.txt": chose})
    told = call("reason-export", "check", bundle, "--held-out", good_pictures).error
    assert "holds 6 images that training did not use; a threshold needs 8 good ones or more" in told


def test_copies_of_held_out_images_do_not_count(bundle: Path, good_pictures: Path, tmp_path: Path) -> None:
    for path in sorted(good_pictures.iterdir())[:9]:
        for number in range(3):
            shutil.copy(path, tmp_path / f"{number}_{path.name}")
    found = json.loads(call("reason-export", "check", bundle, "--held-out", tmp_path, "--json").output)["threshold"]
    assert found["images"] == 9
    assert found["false_reject_upper_bound"] == false_reject_upper_bound(images=9, rejected=0)
    for path in sorted(tmp_path.glob("*_0[0-1].png")):
        path.unlink()
    told = call("reason-export", "check", bundle, "--held-out", tmp_path).error
    assert "holds 7 images that training did not use; a threshold needs 8 good ones or more" in told
