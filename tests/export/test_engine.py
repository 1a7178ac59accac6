"""Engines built for real, by TensorRT-RTX, for GPUs that are not here."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx
from onnx import TensorProto, helper

from reason_export.engine import BuiltEngine, build_engine
from reason_export.engine_choices import EngineChoices
from reason_export.timing_cache import attach_timing_cache, keep_timing_cache
from reason_runtime.backends.tensorrt_library import Messages
from reason_runtime.bundle import MODELS, Bundle, open_bundle, update_bundle
from reason_runtime.choices import Precision
from reason_runtime.engine_facts import from_json
from reason_runtime.engine_store import engines, read_engine
from reason_runtime.errors import BackendError, BundleError, ConfigurationError, ReasonError
from reason_train.config import MethodConfig
from reason_train.presets import Choices, resolve
from tests.commands import call
from tests.export.engine_bundles import engine_bundle
from tests.imports import loaded_packages
from tests.runtime.bundles import make_bundle

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(scope="module")
def lite(precise_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A trained one; engines are built into the copy."""
    return open_bundle(shutil.copytree(precise_bundle, tmp_path_factory.mktemp("lite") / "lite"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    folder = tmp_path_factory.mktemp("wide")
    yield engine_bundle(folder / "wide", MethodConfig(teacher="wide_resnet50_2"))
    shutil.rmtree(folder)  # 1.3 GB with its engines


@pytest.fixture
def grey(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "grey")


def build(bundle: Bundle, *capabilities: str, precision: Precision = "fp32") -> BuiltEngine:
    choices = EngineChoices(precision=precision, builder="tensorrt_rtx", compute_capabilities=capabilities)
    return build_engine(bundle, choices=choices)


def assert_complete(built: BuiltEngine, bundle: Bundle, *, precision: Precision) -> None:
    size_px = 64 if bundle.path.name == "lite" else 256
    assert [(tensor.name, tensor.shape, tensor.kind) for tensor in built.tensors] == [
        ("image", (-1, size_px, size_px, 3), "UINT8"),
        ("anomaly_map", (-1, size_px, size_px), "FLOAT"),
        ("score", (-1,), "FLOAT"),
    ]
    path, facts = built.file.path, built.file.facts
    plan = path.read_bytes()
    assert len(plan) == facts.engine_size_bytes > 0
    assert hashlib.sha256(plan).hexdigest() == facts.engine_sha256
    source = (bundle.path / MODELS[precision]).read_bytes()
    assert (facts.source_file, facts.source_sha256) == (MODELS[precision], hashlib.sha256(source).hexdigest())
    assert (facts.builder, facts.builder_version) == ("tensorrt_rtx", tensorrt_rtx.__version__)
    assert (facts.precision, facts.gpu, facts.largest_batch) == (precision, None, 16)
    side_car = path.with_suffix(".json")
    assert from_json(side_car.read_text(), where=str(side_car)) == facts
    open_bundle(bundle.path)  # an engine beside it changes nothing of a bundle


@each_precision
def test_a_lite_model_becomes_an_engine_for_a_named_gpu(lite: Bundle, precision: Precision) -> None:
    built = build(lite, "8.6", precision=precision)
    assert built.file.path == lite.path / "engines" / f"rtx-sm86_{precision}.engine"
    assert (built.file.facts.compute_capabilities, built.file.facts.runs_on) == (("8.6",), "same_compute_capability")
    assert_complete(built, lite, precision=precision)


@pytest.mark.slow
@each_precision
def test_the_wide_model_becomes_an_engine_for_a_named_gpu(wide: Bundle, precision: Precision) -> None:
    built = build(wide, "8.9", precision=precision)
    assert_complete(built, wide, precision=precision)
    least = {"fp32": 450e6, "fp16": 220e6, "int8": 100e6}[precision]  # 124 million weights of 4, 2 and 1 bytes
    assert built.file.facts.engine_size_bytes > least


@pytest.mark.slow
def test_the_edge_preset_becomes_an_engine_whose_score_is_a_generalised_mean(tmp_path: Path) -> None:
    method = resolve(Choices(roi=(0.1, 0.1, 0.8, 0.8)), dataset="screw", bf16_is_fast=False).method
    assert method.score_exponent is not None
    bundle = engine_bundle(tmp_path / "edge", method)
    assert_complete(build(bundle, "12.0"), bundle, precision="fp32")


def test_one_engine_can_serve_several_named_gpus_or_all_from_8_0_on(lite: Bundle) -> None:
    several, every = build(lite, "8.9", "12.0").file, build(lite).file
    assert several.path.name == "rtx-sm89-sm120_fp32.engine"
    assert several.facts.compute_capabilities == ("8.9", "12.0")
    assert every.path.name == "rtx-sm80-and-later_fp32.engine"
    assert (every.facts.compute_capabilities, every.facts.runs_on) == ((), "ampere_and_later")
    assert {several.path, every.path} <= {engine.path for engine in engines(lite)}


def test_building_again_replaces_engine_and_side_car(grey: Bundle) -> None:
    first = build(grey, "8.6").file
    choices = EngineChoices(builder="tensorrt_rtx", compute_capabilities=("8.6",), largest_batch=4)
    second = build_engine(grey, choices=choices).file
    assert first.path == second.path
    assert [engine.facts.largest_batch for engine in engines(grey)] == [4]
    assert read_engine(second, command="")
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["rtx-sm86_fp32.engine", "rtx-sm86_fp32.json"]


def test_the_command_prints_one_json_object_whatever_the_library_prints(lite: Bundle) -> None:
    command = ["engine", str(lite.path), "--builder", "tensorrt_rtx", "--precision", "fp16", "--json"]
    code = "from reason_export.commands import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["engine"] == str(lite.path / "engines" / "rtx-sm80-and-later_fp16.engine")
    assert (found["precision"], found["tensors"][0]["kind"]) == ("fp16", "UINT8")


def test_the_command_says_in_words_what_it_built(grey: Bundle) -> None:
    done = call("reason-export", "engine", grey.path, "--builder", "tensorrt_rtx", "--compute-capability", "8.9")
    assert done.status == 0, done.log
    assert f"{grey.path}/engines/rtx-sm89_fp32.engine: " in done.output
    assert "fp32, compute capability 8.9, batches up to 16" in done.output


def test_info_lists_engines_and_says_which_are_stale(grey: Bundle) -> None:
    name = build(grey, "8.6").file.path.name
    told = call("reason-run", "info", grey.path).output
    assert f"engine      {name}, tensorrt_rtx {tensorrt_rtx.__version__}, compute capability 8.6, " in told
    assert "STALE" not in told
    graph = onnx.load(grey.path / "model.onnx")
    graph.graph.name = "trained again"
    changed(grey, graph)
    assert "; STALE: built from another model" in call("reason-run", "info", grey.path).output


def test_phases_are_shown_where_stderr_is_a_terminal(grey: Bundle) -> None:
    master, slave = pty.openpty()
    code = "from reason_export.commands import main; main()"
    command = [sys.executable, "-c", code, "engine", str(grey.path), "--builder", "tensorrt_rtx"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=slave, timeout=120)
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 0, shown
    assert "Building engine 1/6" in shown


def test_engines_need_no_pytorch_and_no_onnx(grey: Bundle) -> None:
    code = "import sys; sys.argv[0] = 'reason-export'; from reason_export.commands import main; main()"
    found = loaded_packages(code, arguments=["engine", grey.path, "--builder", "tensorrt_rtx"])
    assert "tensorrt_rtx" in found
    assert found.isdisjoint({"torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino"})


def changed(bundle: Bundle, graph: onnx.ModelProto) -> Bundle:
    return update_bundle(bundle, manifest=bundle.manifest, files={"model.onnx": graph.SerializeToString()})


def test_what_the_parser_refuses_is_told_with_its_node(grey: Bundle) -> None:
    graph = onnx.load(grey.path / "model.onnx")
    turned = helper.make_node("Transpose", ["image"], ["turned"], name="turn_first", perm=[0, 1, 2, 3])
    graph.graph.node[0].input[0] = "turned"
    graph.graph.node.insert(0, turned)
    with pytest.raises(BackendError) as told:
        build(changed(grey, graph), "8.6")
    message = str(told.value)
    assert message.startswith(f"{grey.path}/model.onnx: the parser of tensorrt_rtx {tensorrt_rtx.__version__} refuses ")
    assert "node 0 turn_first (Transpose): " in message
    assert "UInt8" in message
    assert "driver" not in message  # that there is none here is not why
    assert not (grey.path / "engines").exists()


def test_a_file_that_is_no_onnx_is_refused(grey: Bundle) -> None:
    broken = update_bundle(grey, manifest=grey.manifest, files={"model.onnx": b"no network at all"})
    with pytest.raises(BackendError, match=r"model\.onnx: the parser of tensorrt_rtx .* refuses"):
        build(broken, "8.6")


def test_a_network_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="image has a fixed batch of 1; export again"):
        build(make_bundle(tmp_path / "fixed", batch=1), "8.6")
    bundle = make_bundle(tmp_path / "half")
    graph = onnx.load(bundle.path / "model.onnx")
    graph.graph.node.append(helper.make_node("Cast", ["whole"], ["score"], to=TensorProto.FLOAT16))
    graph.graph.node[-2].output[0] = "whole"
    graph.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(BundleError, match="score is HALF, expected float32; export again"):
        build(changed(bundle, graph), "8.6")


def test_what_the_builder_refuses_is_told_in_its_words(lite: Bundle) -> None:
    with pytest.raises(BackendError, match=r"built no engine \(.*for Turing \(SM75\): FP32 GEMM is not supported"):
        build(lite, "7.5")


def test_a_precision_that_the_bundle_does_not_have_says_how_to_get_it(grey: Bundle) -> None:
    with pytest.raises(BundleError, match=r"has no model_int8\.onnx for int8; run `reason-export quantize"):
        build(grey, "8.6", precision="int8")


@pytest.mark.parametrize("capability", ["8.7", "9.0", "86", "sm86", ""])
def test_a_compute_capability_that_the_library_has_not_is_refused(grey: Bundle, capability: str) -> None:
    with pytest.raises(ConfigurationError, match=r"this TensorRT-RTX builds for 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"):
        build(grey, capability)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--precision", "bf16"], "no engine is built in bf16: .*bf16 is OpenVINO's run-time hint; use fp16"),
        (["--compute-capability", "8.6"], "TensorRT times kernels on the GPU it runs on"),
        (["--builder", "tensorrt_rtx", "--runs-on", "ampere_and_later"], "TensorRT-RTX has no hardware compatibility"),
        (["--builder", "tensorrt_rtx", "--version-compatible"], "TensorRT-RTX has no lean runtime"),
        (["--builder", "tensorrt_rtx", "--timing-cache", "cache"], "TensorRT-RTX times no kernels"),
        (["--typical-batch", "4", "--largest-batch", "2"], "typical batch 4 and largest batch 2"),
        (["--builder", "tensorrt_rtx", "--largest-batch", "3000000000"], "expected at least 1 image, 1024 at most"),
        (
            ["--builder", "tensorrt_rtx", "--compute-capability", "8.6", "--compute-capability", "8.6"],
            "8.6, 8.6 names one twice",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_reason(grey: Bundle, arguments: list[str], reason: str) -> None:
    done = call("reason-export", "engine", grey.path, *arguments)
    assert re.search(reason, done.error), done.error
    assert not (grey.path / "engines").exists()


def test_an_engine_that_cannot_be_written_leaves_the_old_one(grey: Bundle) -> None:
    old = build(grey, "8.6").file
    limit = (
        "import resource, sys; from reason_export.commands import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); main()"
    )
    command = ["engine", str(grey.path), "--builder", "tensorrt_rtx", "--compute-capability", "8.6"]
    done = subprocess.run([sys.executable, "-c", limit, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert [engine.facts for engine in engines(grey)] == [old.facts]
    assert read_engine(old, command="")


def test_a_place_that_an_engine_cannot_be_written_to_is_said_before_it_is_built(lite: Bundle, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(lite.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")))
    (bundle.path / "engines").touch()
    with pytest.raises(ReasonError, match="engines: cannot be made"):
        build(bundle, "7.5")  # which the builder refuses


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops in TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_is_read_where_it_is_there_and_written_after(tmp_path: Path) -> None:
    config = tensorrt_rtx.Builder(Messages(tensorrt_rtx).log).create_builder_config()
    path = tmp_path / "folder" / "timings"
    attach_timing_cache(config, path)
    keep_timing_cache(config, path)
    assert path.stat().st_size > 0
    attach_timing_cache(config, path)
    with pytest.raises(ReasonError, match=r"folder: cannot be read \(Is a directory\)"):
        attach_timing_cache(config, path.parent)
