from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import openvino
import pytest

from reason_export.accuracy import Accuracy, Figure
from reason_export.parity import TOLERANCES, compare
from reason_runtime.bundle import open_bundle
from tests.commands import call
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


def test_the_reference_loses_nothing_against_itself(bundle: Path, parts: Path) -> None:
    found = json.loads(call("reason-export", "check", bundle, "--data", parts, "--json").output)["accuracy"]
    assert {found[name]["lost"] for name in ("image_auroc", "pixel_auroc", "aupro")} == {0.0}
    assert found["parity"]["map_difference_max"] == 0


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
    path.write_text(path.read_text().replace(f'"openvino": "{openvino.__version__}"', '"openvino": "2020.1"'))
    stale = json.loads(call("reason-run", "predict", bundle, image, *arguments, "--json").output)
    assert stale["threshold"] == before["threshold"]
    assert stale["threshold_source"] == (
        f"{before['threshold_source']} (this device's own was drawn with another version: run its check again)"
    )


def test_few_held_out_images_are_refused(bundle: Path, parts: Path) -> None:
    told = call("reason-export", "check", bundle, "--held-out", parts / "test" / "good").error
    assert "holds 4 images; a threshold needs 8 good ones or more" in told
