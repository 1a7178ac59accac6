"""What OpenVINO really executes, read back from the compiled model."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from openvino import opset1
from PIL import Image

from reason_runtime.auto import choose
from reason_runtime.backends.openvino import OpenVinoSession, at_a_time
from reason_runtime.backends.openvino_bf16 import keep_head_in_float32, write_transposed_as_convolutions
from reason_runtime.backends.openvino_cache import kept_models
from reason_runtime.bundle import open_bundle, update_bundle
from reason_runtime.checks import known_check
from reason_runtime.choices import Backend, Precision
from reason_runtime.errors import BackendError, BundleError, ConfigurationError
from reason_runtime.session import open_session
from reason_train.config import MethodConfig
from tests.commands import call
from tests.export.engine_bundles import engine_bundle
from tests.runtime.changed_checks import change_check
from tests.runtime.processor import BF16, HAS_BF16, NEEDS_BF16

FEW = ("--warm-up", 1, "--minimum-count", 5, "--minimum-seconds", 0)
NETWORK = {"Convolution", "Deconvolution"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(bundle: Path, precision: str, **more: int | None) -> OpenVinoSession:
    session = open_session(open_bundle(bundle), backend="openvino", precision=precision, **more)  # type: ignore[arg-type]
    assert isinstance(session, OpenVinoSession)
    return session


def executed(compiled: openvino.CompiledModel) -> tuple[dict[str, str], dict[str, str]]:
    """Precision by name: of the convolutions, and of all that no convolution follows, with what it hands on."""
    layers, head, after = {}, {}, set()
    for node in reversed(compiled.get_runtime_model().get_ordered_ops()):
        facts = node.get_rt_info()
        kind, precision = facts["layerType"].astype(str), facts["runtimePrecision"].astype(str)
        name = node.get_friendly_name()
        readers = [reader.get_node() for out in node.outputs() for reader in out.get_target_inputs()]
        if kind in NETWORK:
            layers[name] = precision
        elif kind != "Const" and all(reader.get_friendly_name() in after for reader in readers):
            after.add(name)
            if kind not in ("Reorder", "Output"):  # a reorder brings the network's output to float32
                head[name] = f"{precision} {facts['outputPrecisions'].astype(str)}"
    return layers, head


def not_float32(head: dict[str, str]) -> dict[str, str]:
    return {name: found for name, found in head.items() if set(found.replace(",", " ").split()) - {"f32", "i32", "i64"}}


@pytest.mark.parametrize("precision", ["fp32", BF16, "int8"])
def test_the_map_head_is_float32_whatever_the_network_is(precision: str, precise_bundle: Path) -> None:
    layers, head = executed(opened(precise_bundle, precision).requests[1][0].get_compiled_model())
    kinds = set(layers.values())
    if precision == "fp32":
        assert kinds == {"f32"}
    elif precision == "bf16":
        assert kinds == {"f32", "bf16"}
        in_order = [layers[name] for name in reversed(layers)]
        assert in_order[:2] == ["f32", "f32"]  # the stem and the first depthwise convolution
        assert set(in_order[2:]) == {"bf16"}
    else:
        assert kinds & {"i8", "u8"}
        assert sum(kind in ("i8", "u8") for kind in layers.values()) > len(layers) / 2
        assert ("bf16" in kinds) == HAS_BF16  # layers that are not int8
    assert {"node_matmul", "node_matmul_1", "anomaly_map"} <= set(head)
    assert len(head) > 15
    assert not_float32(head) == {}


@pytest.mark.parametrize("precision", ["fp32", BF16, "int8"])
def test_a_batch_runs_in_the_precisions_of_a_single_image(precision: str, precise_bundle: Path) -> None:
    session = opened(precise_bundle, precision, threads=2)
    session.run(np.zeros((2, 64, 64, 3), np.uint8))
    single, batch = (executed(session.requests[streams][0].get_compiled_model()) for streams in (1, 2))
    assert batch == single


@pytest.fixture(scope="module")
def residual_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its features are residual sums, its student has transposed convolutions in the shortcuts."""
    method = MethodConfig(teacher="resnet18", image_size_px=64)
    return engine_bundle(tmp_path_factory.mktemp("residual") / "bundle", method).path


@pytest.mark.parametrize("precision", [BF16, pytest.param("int8", marks=NEEDS_BF16)])
def test_no_layer_of_a_residual_network_is_left_in_float32(precision: str, residual_bundle: Path) -> None:
    layers, head = executed(opened(residual_bundle, precision).requests[1][0].get_compiled_model())
    assert len(layers) > 40
    assert set(layers.values()) <= {"bf16", "i8", "u8"}
    assert {"node_matmul", "node_matmul_1", "node_matmul_2", "anomaly_map"} <= set(head)
    if precision == "bf16":  # in int8 the last residual sum, of 8 bits, is one step with the head's first product
        assert not_float32(head) == {}


def test_what_is_changed_for_bf16_changes_no_value(residual_bundle: Path) -> None:
    golden, core = open_bundle(residual_bundle).golden(), openvino.Core()
    found = []
    for changed in (False, True):
        source = core.read_model(residual_bundle / "model.onnx")
        if changed:
            write_transposed_as_convolutions(source)
            keep_head_in_float32(source)
        kinds = [operation.get_type_name() for operation in source.get_ordered_ops()]
        compiled = core.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        result = compiled(golden.images)
        counts = (kinds.count("ConvolutionBackpropData"), kinds.count("DepthToSpace"), len(compiled.outputs))
        found.append((result["anomaly_map"], result["score"], counts))
    (plain_map, plain_score, before), (its_map, its_score, after) = found
    np.testing.assert_allclose(its_map, plain_map, rtol=1e-5, atol=1e-6 * plain_map.max())
    np.testing.assert_allclose(its_score, plain_score, rtol=1e-5)
    assert (before, after) == ((6, 0, 2), (0, 6, 6))


@pytest.mark.parametrize(
    ("side", "stride", "pad", "dilation", "apart"),
    [
        (2, 2, 0, 1, True),
        (3, 3, 0, 1, True),
        (2, 1, 0, 1, False),
        (3, 2, 1, 1, False),
        (4, 2, 1, 1, False),
        (2, 2, 1, 1, False),
        (2, 2, 0, 2, False),
    ],
)
def test_transposed_convolutions_whose_blocks_lie_apart_become_plain_ones(
    side: int, stride: int, pad: int, dilation: int, apart: bool
) -> None:
    random = np.random.default_rng(0)
    value = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    weight = random.normal(size=(3, 7, side, side)).astype(np.float32)
    image = opset1.parameter([2, 3, 4, 5], np.float32)
    made = opset1.convolution_backprop_data(image, weight, [stride] * 2, None, [pad] * 2, [pad] * 2, [dilation] * 2)
    model = openvino.Model([made], [image])
    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(value), torch.from_numpy(weight), stride=stride, padding=pad, dilation=dilation
    )
    write_transposed_as_convolutions(model)
    kinds = {operation.get_type_name() for operation in model.get_ordered_ops()}
    assert ("DepthToSpace" in kinds) == apart
    assert ("ConvolutionBackpropData" in kinds) != apart
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(value)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@NEEDS_BF16
def test_that_probe_can_fail(precise_bundle: Path) -> None:
    # the hint alone, without the backend's own measure
    settings = {"INFERENCE_PRECISION_HINT": "bf16"}
    compiled = openvino.Core().compile_model(str(precise_bundle / "model.onnx"), "CPU", settings)
    assert not_float32(executed(compiled)[1])


@NEEDS_BF16
def test_bf16_gives_the_bundles_two_outputs(precise_bundle: Path) -> None:
    golden = open_bundle(precise_bundle).golden()
    found = opened(precise_bundle, "bf16").run(golden.images)
    assert (found.anomaly_map.shape, found.score.shape) == (golden.anomaly_map.shape, golden.score.shape)
    assert np.abs(found.score / golden.score - 1).max() < 0.1


@NEEDS_BF16
@pytest.mark.parametrize("room_bytes", [2_000, 500_000], ids=["for nothing", "for the description alone"])
def test_bf16_without_room_for_its_temporary_copy_says_so(
    room_bytes: int, precise_bundle: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    limit = (
        "import resource, sys; from reason_runtime.commands import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room_bytes}, {room_bytes})); main()"
    )
    command = ["predict", str(precise_bundle), str(picture), "--backend", "openvino", "--precision", "bf16"]
    done = subprocess.run([sys.executable, "-c", limit, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "bf16 needs a temporary copy of the model, which cannot be written" in done.stderr


@pytest.mark.skipif(HAS_BF16, reason="this processor has bf16")
def test_bf16_is_refused_where_the_processor_has_none(precise_bundle: Path) -> None:
    with pytest.raises(BackendError, match="this processor has no bf16 for OpenVINO; it has FP32"):
        opened(precise_bundle, "bf16")


@pytest.mark.skipif(HAS_BF16, reason="where float layers run in bf16 the graph is another")
def test_on_arm_the_int8_file_runs_as_it_is(precise_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO for Arm refuses what `use_unsigned` makes; `benchmarks/arm64.py` runs it there."""
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    core = openvino.Core()
    source = core.read_model(str(precise_bundle / "model_int8.onnx"))
    source.reshape({"image": [1, 64, 64, 3]})
    expected = core.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)["anomaly_map"]
    assert not np.array_equal(opened(precise_bundle, "int8").run(image).anomaly_map, expected)
    for machine in ("aarch64", "arm64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        np.testing.assert_array_equal(opened(precise_bundle, "int8").run(image).anomaly_map, expected)


@pytest.mark.parametrize("images", [1, 2, 7])
def test_streams_give_what_single_runs_give_in_the_same_order(images: int, precise_bundle: Path) -> None:
    pictures = np.random.default_rng(3).integers(0, 256, (images, 64, 64, 3), dtype=np.uint8)
    streaming, single = opened(precise_bundle, "fp32", streams=2), opened(precise_bundle, "fp32")
    assert streaming.libraries["streams"] == "2"
    found = streaming.run(pictures)
    for i in range(images):
        expected = single.run(pictures[i : i + 1])
        np.testing.assert_allclose(found.score[i], expected.score[0], rtol=1e-5)
        np.testing.assert_allclose(found.anomaly_map[i], expected.anomaly_map[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", BF16])
def test_compiled_models_are_kept(precision: str, precise_bundle: Path, own_cache: Path) -> None:
    opened(precise_bundle, precision)
    kept = {path: path.read_bytes() for path in own_cache.rglob("*.*")}
    assert {path.suffix for path in kept} == {".blob", ".sha256"}
    opened(precise_bundle, precision)
    assert {path: path.read_bytes() for path in own_cache.rglob("*.*")} == kept


@pytest.mark.parametrize("lost", ["a page of the model", "its hash"])
def test_a_kept_model_that_was_damaged_is_compiled_again(lost: str, precise_bundle: Path, own_cache: Path) -> None:
    picture = np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = opened(precise_bundle, "int8").run(picture)
    (blob,) = own_cache.rglob("*.blob")
    written = blob.read_bytes()
    middle = len(written) // 2
    damaged = written[:middle] + bytes(4096) + written[middle + 4096 :]
    assert damaged != written
    blob.chmod(0o600)
    blob.write_bytes(damaged)
    if lost == "its hash":
        blob.with_suffix(".sha256").unlink()
    found = opened(precise_bundle, "int8").run(picture)
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    assert blob.read_bytes() != damaged


def test_what_becomes_of_a_kept_model_s_file_does_not_reach_a_session_that_has_loaded_it(
    precise_bundle: Path, own_cache: Path
) -> None:
    picture = np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = opened(precise_bundle, "int8").run(picture)
    session = opened(precise_bundle, "int8")
    assert session.requests[1][0].get_compiled_model().get_property("LOADED_FROM_CACHE")
    (blob,) = own_cache.rglob("*.blob")
    blob.chmod(0o600)
    with blob.open("r+b") as file:  # the same file, as OpenVINO writes too
        file.write(bytes(blob.stat().st_size))
    found = session.run(picture)
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)


def test_of_two_that_compile_a_model_at_once_the_second_does_without_what_the_first_may_be_writing() -> None:
    for _ in range(2):
        with kept_models("one") as first, kept_models("one") as second, kept_models("another") as third:
            assert set(first) == set(third) == {"CACHE_DIR"}
            assert second == {}


def test_where_no_model_can_be_kept_every_start_compiles(
    precise_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    opened(precise_bundle, "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def checked_once(precise_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checks of two candidates that passed. Read-only."""
    bundle = tmp_path_factory.mktemp("checked") / "bundle"
    shutil.copytree(precise_bundle, bundle, ignore=shutil.ignore_patterns("checks"))
    for backend, precision in (("onnxruntime", "fp32"), ("openvino", "int8")):
        done = call("reason-export", "check", bundle, "--backend", backend, "--precision", precision)
        assert done.status == 0, done.log
    return bundle


@pytest.fixture
def checked(checked_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checked_once, tmp_path / "bundle"))


def test_auto_takes_the_fastest_that_passed_and_says_so(checked: Path, good_pictures: Path) -> None:
    choice = choose(open_bundle(checked))
    assert set(choice.median_ms) == {"onnxruntime fp32", "openvino int8"}
    fastest = min(choice.median_ms, key=lambda key: choice.median_ms[key])
    assert f"{choice.session.backend} {choice.session.precision}" == fastest
    done = call("reason-run", "predict", checked, next(good_pictures.iterdir()), "--backend", "auto", "--json")
    assert "auto chose o" in done.log
    assert json.loads(done.output)["decision"] in ("OK", "NG")


@pytest.mark.parametrize(
    ("command", "subcommand", "options"),
    [
        ("reason-run", "inspect", ("--source", "PICTURES")),
        ("reason-bench", "accuracy", ("--data", "PICTURES")),
        ("reason-bench", "latency", FEW),
        ("reason-bench", "throughput", ("--batch", 1, "--threads", 1, *FEW)),
        ("reason-bench", "pipeline", ("--frame-size", 40, 60, *FEW)),
    ],
)
def test_every_command_takes_auto_and_says_what_it_chose(
    command: str, subcommand: str, options: tuple[object, ...], checked: Path, good_pictures: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    for kind in ("good", "scratch"):
        shutil.copytree(good_pictures, pictures / kind)
    given = [pictures if item == "PICTURES" else item for item in options]
    done = call(command, subcommand, checked, "--backend", "auto", *given)
    assert done.status == 0, done.log
    chosen = re.search(r"auto chose (onnxruntime fp32|openvino int8); median of one image: ", done.log)
    assert chosen, done.log
    if command == "reason-bench":
        assert chosen[1] in done.output


def test_auto_keeps_to_the_device_and_never_takes_a_cpu_check_for_a_gpu(checked: Path) -> None:
    assert set(choose(open_bundle(checked), device="cpu").median_ms) == {"onnxruntime fp32", "openvino int8"}
    with pytest.raises(ConfigurationError, match="for any precision on cuda no parity check passed"):
        choose(open_bundle(checked), device="cuda")
    (checked / "checks" / "onnxruntime_fp32.json").rename(checked / "checks" / "onnxruntime-cuda_fp32.json")
    assert set(choose(open_bundle(checked), device="cpu").median_ms) == {"openvino int8"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"passed": False}, "did not pass its check"),
        ({"files": {"model_int8.onnx": "0" * 64}}, "checked with other files or on another processor"),
    ],
)
def test_auto_leaves_out_what_did_not_pass_on_these_files(changes: dict[str, object], why: str, checked: Path) -> None:
    change_check(checked / "checks" / "openvino_int8.json", **changes)
    choice = choose(open_bundle(checked))
    assert set(choice.median_ms) == {"onnxruntime fp32"}
    assert choice.describe().endswith(f" ms; left out: openvino int8 ({why})")


def test_auto_leaves_out_checks_of_another_processor_library_or_runtime(checked: Path) -> None:
    path = checked / "checks" / "openvino_int8.json"
    environment = json.loads(path.read_text())["environment"]
    change_check(path, environment={**environment, "processor": "another"})
    assert set(choose(open_bundle(checked)).median_ms) == {"onnxruntime fp32"}
    others = ({"openvino": "2020.1"}, {"float_layers": "fp64"}, {"device": "GPU"}, {"engine_sha256": "0" * 64})
    for changed in others:
        change_check(path, environment={**environment, "session": {**environment["session"], **changed}})
        assert set(choose(open_bundle(checked)).median_ms) == {"onnxruntime fp32"}
    change_check(path, environment={**environment, "libraries": {**environment["libraries"], "reason-edge": "0.0.1"}})
    choice = choose(open_bundle(checked))
    assert set(choice.median_ms) == {"onnxruntime fp32"}
    assert choice.left_out == {"openvino int8": "checked with another version or device"}


def test_auto_does_without_a_library_that_is_gone(checked: Path, good_pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "gone" / "openvino").mkdir(parents=True)
    (tmp_path / "gone" / "openvino" / "__init__.py").write_text("raise ImportError('No module named openvino')")
    arguments = ["predict", str(checked), str(next(good_pictures.iterdir())), "--backend", "auto"]
    done = subprocess.run(
        [sys.executable, "-c", "from reason_runtime.commands import main; main()", *arguments],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'gone'}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "auto chose onnxruntime fp32; " in done.stderr
    assert "; left out: openvino int8 (OpenVINO cannot be imported (No module named openvino)" in done.stderr


def test_a_check_whose_file_was_changed_is_refused_by_name(checked: Path) -> None:
    path = checked / "checks" / "openvino_int8.json"
    text = path.read_text()
    digit = re.search(r'"score_difference_max": 0\.0*([1-9])', text)
    assert digit is not None
    path.write_text(text[: digit.start(1)] + str(9 - int(digit[1])) + text[digit.end(1) :])
    with pytest.raises(BundleError, match="openvino_int8.json: was changed .*; run reason-export check again"):
        known_check(open_bundle(checked), backend="openvino", precision="int8")
    choice = choose(open_bundle(checked))
    assert set(choice.median_ms) == {"onnxruntime fp32"}
    assert "was changed since it was written" in choice.left_out["openvino int8"]
    path.write_text(json.dumps(json.loads(text)))  # spaces are no change
    assert set(choose(open_bundle(checked)).median_ms) == {"onnxruntime fp32", "openvino int8"}


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "fp32"), ("openvino", "int8")])
def test_auto_stays_with_what_judges_already_where_that_passed(
    backend: Backend, precision: Precision, checked: Path
) -> None:
    running = open_session(open_bundle(checked), backend=backend, precision=precision)
    choice = choose(open_bundle(checked), like=running)
    assert (choice.session.backend, choice.session.precision) == (backend, precision)
    assert choice.median_ms == {}
    assert choice.describe() == f"auto stays with {backend} {precision}"
    change_check(checked / "checks" / f"{backend}_{precision}.json", passed=False)
    assert len(choose(open_bundle(checked), like=running).median_ms) == 1


def test_auto_prefers_what_has_a_threshold_of_its_own_where_the_bundle_has_none(
    checked: Path, good_pictures: Path
) -> None:
    opened_bundle = open_bundle(checked)
    update_bundle(opened_bundle, manifest=dataclasses.replace(opened_bundle.manifest, thresholds={}))
    for backend, more in (("openvino", ()), ("onnxruntime", ("--held-out", good_pictures))):
        done = call("reason-export", "check", checked, "--backend", backend, *more)
        assert done.status == 0, done.log
    assert set(choose(open_bundle(checked)).median_ms) == {"onnxruntime fp32"}
    (checked / "checks" / "onnxruntime_fp32.json").unlink()
    assert set(choose(open_bundle(checked)).median_ms) == {"openvino fp32", "openvino int8"}


def test_auto_takes_nothing_without_a_threshold_where_the_bundle_has_one_for_another_precision(checked: Path) -> None:
    bundle = open_bundle(checked)
    only = {"fp32": bundle.manifest.thresholds["fp32"]}
    update_bundle(bundle, manifest=dataclasses.replace(bundle.manifest, thresholds=only))
    assert set(choose(open_bundle(checked)).median_ms) == {"onnxruntime fp32"}
    (checked / "checks" / "onnxruntime_fp32.json").unlink()
    with pytest.raises(ConfigurationError, match="no parity check passed on this machine with a threshold"):
        choose(open_bundle(checked))


def test_auto_hands_the_number_of_threads_on(checked: Path) -> None:
    assert choose(open_bundle(checked), threads=1).session.libraries["threads"] == "1"


def test_auto_leaves_out_a_check_of_another_golden_file_or_of_other_unsigned_values(checked: Path) -> None:
    bundle = open_bundle(checked)
    for name, left in (("model_int8_unsigned.onnx", {"onnxruntime fp32"}), ("golden.npz", set())):
        files = bundle.manifest.files
        assert known_check(bundle, backend="openvino", precision="int8") is not None
        other = {**files, name: dataclasses.replace(files[name], sha256="0" * 64)}
        changed = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=other))
        known = {
            f"{backend} {precision}"
            for backend, precision in (("onnxruntime", "fp32"), ("openvino", "int8"))
            if known_check(changed, backend=backend, precision=precision) is not None  # type: ignore[arg-type]
        }
        assert known == left


def test_auto_without_any_check_says_how_to_make_one(checked: Path) -> None:
    shutil.rmtree(checked / "checks")
    with pytest.raises(ConfigurationError, match="no parity check passed on this machine .*reason-export check BUNDLE"):
        choose(open_bundle(checked))


def test_auto_keeps_to_the_precision_asked_for(checked: Path) -> None:
    assert set(choose(open_bundle(checked), precision="fp32").median_ms) == {"onnxruntime fp32"}


@pytest.mark.parametrize("threads", [1, 2, None])
def test_every_batch_gives_what_single_images_give(threads: int | None, precise_bundle: Path) -> None:
    pictures = np.random.default_rng(4).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    session = opened(precise_bundle, "fp32", threads=threads)
    single = [session.run(picture[None]) for picture in pictures]
    for size in (2, 3, 4, 5, 2, 7, 1):
        found = session.run(pictures[:size])
        for i in range(size):
            np.testing.assert_allclose(found.score[i], single[i].score[0], rtol=1e-5)
            np.testing.assert_allclose(found.anomaly_map[i], single[i].anomaly_map[0], rtol=1e-4, atol=1e-5)
    if threads is not None:
        assert set(session.requests) == {1, threads}


def test_images_run_side_by_side_where_there_are_threads_for_them() -> None:
    most = [(1, 8, 1), (2, 8, 2), (3, 8, 2), (7, 8, 4), (8, 8, 8), (16, 8, 8), (16, 12, 8), (5, 1, 1)]
    assert [at_a_time(images, threads=threads) for images, threads, _ in most] == [streams for *_, streams in most]


def test_a_batch_of_which_two_images_fail_leaves_none_running(
    precise_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.random.default_rng(6).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    session = opened(precise_bundle, "fp32", threads=2)
    expected = session.run(pictures).score

    class Watched:
        """A request of OpenVINO that counts, and may fail."""

        def __init__(self, request: openvino.InferRequest, *, fails: bool) -> None:
            self._request, self._fails, self.runs = request, fails, 0
            self.get_tensor = request.get_tensor

        def start_async(self) -> None:
            self.runs += 1
            self._request.start_async()

        def wait(self) -> None:
            self._request.wait()
            self.runs -= 1
            if self._fails:
                raise RuntimeError("out of memory")

    watched = [Watched(request, fails=i < 2) for i, request in enumerate(session.requests[2])]
    monkeypatch.setitem(session.requests, 2, tuple(watched))
    with pytest.raises(BackendError, match=r"model\.onnx: OpenVINO failed on a batch of 4 \(out of memory\)"):
        session.run(pictures)
    assert [each.runs for each in watched] == [0] * 4
    monkeypatch.undo()
    np.testing.assert_allclose(session.run(pictures).score, expected, rtol=1e-5)
