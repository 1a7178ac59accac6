from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from reason_runtime.bundle import open_bundle, update_bundle
from reason_runtime.checks import known_check
from reason_runtime.environment import RUNTIME
from reason_runtime.manifest import ScoreStatistics
from reason_runtime.session import open_session
from tests.commands import Done, call
from tests.export.changed_maps import change_map
from tests.imports import loaded_packages
from tests.line.disks import NEEDS_MOUNT, small_disk
from tests.pictures import good_picture, save
from tests.runtime.changed_checks import change_check

RUN = "import sys\nsys.argv = [{0!r}, *sys.argv[1:]]\nfrom {1} import main\nmain()\n"
FORBIDDEN = {"torch", "torchvision", "timm", "safetensors", "reason_train"}


def check(bundle: Path, *more: object) -> Done:
    return call("reason-export", "check", bundle, *more)


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))


def change_golden(path: Path, **changes: np.ndarray) -> None:
    """Write other golden arrays the way every change of a bundle is written, so that its hashes hold."""
    opened = open_bundle(path)
    golden = opened.golden()
    arrays = {name: getattr(golden, name) for name in ("images", "anomaly_map", "score", "synthetic")}
    stream = io.BytesIO()
    np.savez_compressed(stream, **{**arrays, **changes})
    update_bundle(opened, manifest=opened.manifest, files={"golden.npz": stream.getvalue()})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_exported_bundle_passes(backend: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = check(bundle, "--backend", backend)
    assert done.status == 0, done.log
    assert f"parity {backend} fp32 on 2 photographs: passed" in done.output
    assert "SQNR" in done.output or "differs by at most 0.0e+00" in done.output


def test_the_result_is_printed_and_kept_beside_the_bundle(bundle: Path) -> None:
    facts = json.loads(check(bundle, "--json").output)
    kept = json.loads((bundle / "checks" / "onnxruntime_fp32.json").read_text())
    files = open_bundle(bundle).manifest.files
    assert kept.pop("files") == {name: files[name].sha256 for name in ("model.onnx", "golden.npz")}
    assert kept.pop("threshold_from") is None
    assert kept.pop("bundle_threshold") == dataclasses.asdict(open_bundle(bundle).manifest.thresholds["fp32"])
    assert len(kept.pop("sha256")) == 64
    assert kept.keys() == facts.keys()
    assert (kept["passed"], kept["backend"], kept["precision"], kept["images"]) == (True, "onnxruntime", "fp32", 2)
    assert kept["map_difference_max"] <= 1e-4
    assert kept["tolerance"]["map_difference"] == 1e-4
    assert (kept["synthetic_images"], kept["broken"]) == (0, [])
    assert open_bundle(bundle)  # the check is no part of what is hashed


def test_a_result_that_cannot_be_kept_is_one_clear_line(bundle: Path) -> None:
    shutil.rmtree(bundle / "checks")
    (bundle / "checks").write_text("in the way")
    assert f"{bundle / 'checks'}: cannot be made (File exists); expected a folder" in check(bundle).error


@NEEDS_MOUNT
def test_a_bundle_on_a_read_only_disk_is_refused_before_any_work(exported_bundle: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="64m") as disk:
        bundle = Path(shutil.copytree(exported_bundle, disk / "bundle"))
        (bundle / "checks").mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = check(bundle)
        assert (done.status, done.output) == (1, "")
        assert f"{bundle / 'checks'}: cannot be written to; expected a folder on a disk that is not read" in done.error


@pytest.mark.parametrize(("limit", "shift", "status"), [(1.1, 0.15, 0), (1.03, 0.5, 1), (0.98, None, 0)])
def test_scores_that_moved_towards_the_threshold_fail(
    limit: float, shift: float | None, status: int, bundle: Path
) -> None:
    opened = open_bundle(bundle)
    score = opened.golden().score
    change_golden(bundle, score=score / np.float32(1.015))
    opened = open_bundle(bundle)
    mean = float(opened.golden().score.mean())
    known = ScoreStatistics(images=9, mean=mean, std=0.1, minimum=0.0, maximum=1.0, pixel_threshold=None)
    own = {name: dataclasses.replace(opened.manifest.thresholds[name], value=limit * mean) for name in ("fp32", "fp16")}
    update_bundle(opened, manifest=dataclasses.replace(opened.manifest, thresholds=own, score_statistics=known))
    done = check(bundle, "--precision", "fp16", "--json")
    assert done.status == status, done.log
    found = json.loads(done.output)["threshold_shift"]
    assert (found is None) if shift is None else found == pytest.approx(shift, abs=0.03)
    if status:
        assert done.error.endswith(
            f": onnxruntime fp16: good parts' scores moved by {found:+.2f} of the way to the threshold off those that "
            "drew it, at most 0.25 is allowed; draw this device's own with --held-out"
        )


def test_a_check_can_be_repeated(bundle: Path) -> None:
    assert [check(bundle).status for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("name", ["anomaly_map", "score"])
def test_a_result_beyond_the_tolerance_is_status_1(name: str, bundle: Path) -> None:
    golden = getattr(open_bundle(bundle).golden(), name).copy()
    golden.flat[0] += 2e-3 * golden.max()
    change_golden(bundle, **{name: golden})
    done = check(bundle)
    what = {"anomaly_map": "map", "score": "score"}[name]
    assert f"{bundle}: onnxruntime fp32: {what} differs by 2.0" in done.error
    assert "at most 1e-04 is allowed" in done.error
    assert "FAILED" in done.output
    assert json.loads((bundle / "checks" / "onnxruntime_fp32.json").read_text())["passed"] is False


def test_a_model_whose_output_is_not_finite_fails_and_the_result_can_be_read_again(bundle: Path) -> None:
    opened, model = open_bundle(bundle), onnx.load(bundle / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    update_bundle(opened, manifest=opened.manifest, files={"model.onnx": model.SerializeToString()})
    done = check(bundle, "--json")
    assert "a score is not finite; the map holds values that are not finite" in done.error

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    facts = json.loads(done.output, parse_constant=no_constant)
    assert (facts["passed"], facts["map_difference_max"], facts["score_difference_max"]) == (False, None, None)
    known = known_check(open_bundle(bundle), backend="onnxruntime", precision="fp32")
    assert known is not None
    assert not known.passed


def test_info_says_what_was_checked_and_whether_it_counts_here(bundle: Path, good_pictures: Path) -> None:
    def checks() -> list[str]:
        told = call("reason-run", "info", bundle).output.splitlines()
        return [line for line in told if line.startswith("check ")]

    version = open_session(open_bundle(bundle), backend="onnxruntime", device="cpu").libraries["onnxruntime"]
    shutil.rmtree(bundle / "checks")
    assert checks() == []
    assert check(bundle, "--held-out", good_pictures).status == 0
    own = json.loads((bundle / "checks" / "onnxruntime_fp32.json").read_text())["threshold"]["value"]
    (line,) = checks()
    assert line.startswith(f"check       onnxruntime fp32: passed with {version}, 20")
    assert line.endswith(f", own threshold {own:.6g}")
    score = open_bundle(bundle).golden().score
    change_golden(bundle, score=score * 1.01)
    assert checks() == ["check       onnxruntime fp32: of other files or of another processor; check again"]
    replaced = check(bundle)
    assert replaced.status == 1
    assert f"this device's own threshold {own:.6g} was of another version, processor or file" in replaced.output
    assert checks()[0].startswith(f"check       onnxruntime fp32: FAILED with {version}, 20")


def test_a_check_of_another_version_of_this_runtime_holds_for_nothing_and_stops_nothing(
    bundle: Path, good_pictures: Path
) -> None:
    assert check(bundle, "--held-out", good_pictures).status == 0
    path = bundle / "checks" / "onnxruntime_fp32.json"
    content = json.loads(path.read_text())
    libraries = {**content["environment"]["libraries"], RUNTIME: "0.0.1"}
    change_check(path, environment={**content["environment"], "libraries": libraries})
    picture = next(good_pictures.iterdir())
    done = call("reason-run", "predict", bundle, picture, "--json")
    assert done.status == 0, done.log
    assert "this device's own was drawn with another version: run its check with --held-out again" in done.log
    info = call("reason-run", "info", bundle).output
    assert (
        "check       onnxruntime fp32: made with another version of this runtime, counts no more; check again" in info
    )
    (line,) = done.output.splitlines()
    assert json.loads(line)["threshold"] == open_bundle(bundle).manifest.thresholds["fp32"].value
    told = call("reason-run", "predict", bundle, picture, "--backend", "auto").log
    assert "left out: onnxruntime fp32 (checked with another version or device)" in told
    own = content["threshold"]["value"]
    gone = f"this device's own threshold {own:.6g} was of another version, processor or file and is gone; draw it again"
    assert gone in check(bundle).output
    assert "is gone" not in check(bundle).output  # said once


def test_a_threshold_of_a_check_that_does_not_say_what_it_was_drawn_beside_goes_after_the_bundles(
    bundle: Path, good_pictures: Path
) -> None:
    assert check(bundle, "--held-out", good_pictures).status == 0
    change_check(bundle / "checks" / "onnxruntime_fp32.json", without="bundle_threshold")
    done = call("reason-run", "predict", bundle, next(good_pictures.iterdir()), "--json")
    assert "this device's own was drawn before it: run its check with --held-out again" in done.log
    assert json.loads(done.output)["threshold"] == open_bundle(bundle).manifest.thresholds["fp32"].value


def test_a_check_that_was_changed_is_said_by_info_and_left_out_by_auto(bundle: Path, good_pictures: Path) -> None:
    assert check(bundle, "--held-out", good_pictures).status == 0
    path = bundle / "checks" / "onnxruntime_fp32.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": false'))
    why = f"{path}: was changed since it was written; run reason-export check again"
    assert f"check       onnxruntime fp32: {why}\n" in call("reason-run", "info", bundle).output
    picture = next(good_pictures.iterdir())
    assert (
        f"left out: onnxruntime fp32 ({why})" in call("reason-run", "predict", bundle, picture, "--backend", "auto").log
    )
    assert call("reason-run", "predict", bundle, picture).error == f"error: {why}"  # its threshold may be what was
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "sha256"}))
    assert call("reason-run", "predict", bundle, picture).error == f"error: {why}"
    path.write_text(json.dumps({**content, "environment": {**content["environment"], "processor": "another"}}))
    assert call("reason-run", "predict", bundle, picture).status == 0  # of another device: nothing is taken from it


def test_a_model_that_gives_one_map_for_all_images_fails(bundle: Path) -> None:
    fixed = open_bundle(bundle).golden().anomaly_map.mean(axis=0, keepdims=True)
    change_map(
        bundle,
        nodes=[
            onnx.helper.make_node("Mul", ["seen", "nothing"], ["zeros"]),
            onnx.helper.make_node("Add", ["zeros", "fixed"], ["anomaly_map"]),
        ],
        constants={"nothing": np.float32(0), "fixed": fixed},
    )
    told = check(bundle).error
    assert "the map does not follow the image: what differs between images correlates by 0.00" in told
    assert "the score is the same for all images" in told


def test_a_model_whose_map_lies_beside_its_place_fails(bundle: Path) -> None:
    last, columns = np.array([-2], np.int64), np.array([2], np.int64)
    change_map(
        bundle,
        nodes=[
            onnx.helper.make_node("Slice", ["seen", "last", "end", "columns"], ["right"]),
            onnx.helper.make_node("Slice", ["seen", "start", "last", "columns"], ["rest"]),
            onnx.helper.make_node("Concat", ["right", "rest"], ["anomaly_map"], axis=2),
        ],
        constants={"last": last, "start": np.array([0]), "end": np.array([2**31 - 1]), "columns": columns},
    )
    assert "the map lies +0 px down and +2 px to the right of where it should" in check(bundle).error
    kept = json.loads((bundle / "checks" / "onnxruntime_fp32.json").read_text())
    assert kept["map_offset_px"] == [0, 2]


def test_a_model_that_is_wrong_in_batches_alone_fails(bundle: Path) -> None:
    """One hundredth too much for every image beside the first."""
    change_map(
        bundle,
        nodes=[
            onnx.helper.make_node("Shape", ["seen"], ["count"], start=0, end=1),
            onnx.helper.make_node("Cast", ["count"], ["images"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", ["images", "share"], ["more"]),
            onnx.helper.make_node("Add", ["more", "rest"], ["factor"]),
            onnx.helper.make_node("Mul", ["seen", "factor"], ["anomaly_map"]),
        ],
        constants={"share": np.float32([0.01]), "rest": np.float32([0.99])},
    )
    done = check(bundle, "--json")
    facts = json.loads(done.output)
    assert [line.split(":")[0] for line in facts["broken"]] == ["with 16 and 4 images in a run"] * 2  # map and score
    assert facts["score_difference_max"] <= 1e-4
    assert facts["batched"]["images_in_a_run"] == [16, 4]
    assert facts["batched"]["score_difference_max"] == pytest.approx(0.15, rel=0.01)
    assert "with 16 and 4 images in a run: map differs by" in done.error


def test_a_model_that_answers_in_another_order_in_batches_fails(bundle: Path) -> None:
    change_map(
        bundle,
        nodes=[onnx.helper.make_node("Slice", ["seen", "last", "first", "images", "back"], ["anomaly_map"])],
        constants={
            "last": np.array([-1]),
            "first": np.array([-(2**31)]),
            "images": np.array([0]),
            "back": np.array([-1]),
        },
    )
    told = check(bundle).error
    assert "with 16 and 4 images in a run: 32 of 32 maps are those of other images" in told


@pytest.mark.parametrize("images", [1, 3, 16])
def test_batches_are_as_large_as_the_line_takes_however_few_golden_images_there_are(images: int, bundle: Path) -> None:
    golden = open_bundle(bundle).golden()
    order = np.arange(images) % 2
    names = ("images", "anomaly_map", "score", "synthetic")
    change_golden(bundle, **{name: getattr(golden, name)[order] for name in names})
    found = json.loads(check(bundle, "--json").output)["batched"]
    assert (found["images_in_a_run"], found["images"]) == ([16, 4], 32)


def test_a_result_within_the_tolerance_passes(bundle: Path) -> None:
    golden = open_bundle(bundle).golden().anomaly_map.copy()
    golden.flat[0] += 0.3e-4 * golden.max()
    change_golden(bundle, anomaly_map=golden)
    assert check(bundle).status == 0


def test_other_images_than_the_models_are_noticed(bundle: Path) -> None:
    change_golden(bundle, images=255 - open_bundle(bundle).golden().images)
    assert "map differs by" in check(bundle).error


def test_decisions_that_flip_are_counted(bundle: Path) -> None:
    opened = open_bundle(bundle)
    limit = opened.manifest.thresholds["fp32"].value
    change_golden(bundle, score=np.full(2, 2 * limit, np.float32))  # the trained model would have rejected both
    done = check(bundle, "--json")
    assert done.status == 1
    assert json.loads(done.output)["decisions_flipped"] == 2


def test_an_export_flips_no_decision(exported_bundle: Path) -> None:
    kept = json.loads((exported_bundle / "checks" / "onnxruntime_fp32.json").read_text())
    assert kept["decisions_flipped"] == 0


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "manifest.json"])
def test_a_changed_byte_is_one_clear_line(name: str, bundle: Path) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    assert str(bundle / name) in check(bundle).error


def test_a_precision_that_is_not_there_is_one_clear_line(bundle: Path) -> None:
    assert "has no model_int8.onnx for int8; run `reason-export quantize" in check(bundle, "--precision", "int8").error


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--false-reject-rate", 0.1), "--false-reject-rate is of a threshold, which needs images: give --held-out"),
        (("--category", "x"), "--category is one of a data set: give --data"),
        (("--held-out", ".", "--false-reject-rate", 1e-9), "false-reject rate 1e-09; expected between"),
        (("--held-out", ".", "--false-reject-rate", 1.5), "false-reject rate 1.5; expected between"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: tuple[object, ...], told: str, bundle: Path) -> None:
    assert told in check(bundle, *options).error


def test_a_package_that_is_missing_is_named_with_what_brings_it(bundle: Path) -> None:
    code = "import sys; sys.modules['scipy'] = None\n" + RUN.format("reason-export", "reason_export.commands")
    done = subprocess.run([sys.executable, "-c", code, "check", str(bundle)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: scipy")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith('is not installed; pip install "reason-edge[export]"\n')


def test_an_inference_library_that_is_missing_is_named_with_its_own_extra(bundle: Path, good_pictures: Path) -> None:
    code = "import sys; sys.modules['onnxruntime'] = None\n" + RUN.format("reason-export", "reason_export.commands")
    arguments = ["quantize", str(bundle), "--calibration", str(good_pictures)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'error: onnxruntime is not installed; pip install "reason-edge[cpu]"\n'


def test_no_bundle_is_one_clear_line(tmp_path: Path) -> None:
    assert f"{tmp_path}: is not a bundle" in check(tmp_path).error


@pytest.mark.parametrize(
    ("module", "command"),
    [("reason_export.commands", "check"), ("reason_runtime.commands", "predict"), ("reason_runtime.commands", "info")],
)
def test_what_runs_on_the_device_loads_no_torch(module: str, command: str, bundle: Path, tmp_path: Path) -> None:
    image = save(tmp_path / "image.png", good_picture(1))
    arguments = [command, bundle, *([image] if command == "predict" else [])]
    loaded = loaded_packages(f"from {module} import main; main()", arguments=arguments)
    assert loaded & FORBIDDEN == set()
    assert "reason_runtime" in loaded
