from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import onnxruntime
import pytest

from reason_export.golden import golden_bytes
from reason_runtime.bundle import open_bundle, update_bundle
from tests.commands import call
from tests.runtime.processor import HAS_BF16

PASSED = [
    "onnxruntime fp32",
    "onnxruntime fp16",
    "onnxruntime int8",
    "openvino fp32",
    *(["openvino bf16"] if HAS_BF16 else []),
    "openvino int8",
]


@pytest.fixture
def bundle(precise_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.rmtree(shutil.copytree(precise_bundle, tmp_path / "bundle") / "checks", ignore_errors=True)
    return tmp_path / "bundle"


def test_all_that_can_run_here_is_checked_and_auto_chooses_among_it(bundle: Path, good_pictures: Path) -> None:
    done = call("reason-export", "check", bundle, "--all", "--device", "cpu", "--held-out", good_pictures)
    assert done.status == 0, done.log
    parity = [line for line in done.output.splitlines() if line.startswith("parity ")]
    assert parity == [f"parity {name} on 2 photographs: passed" for name in PASSED]
    assert done.output.count("threshold ") >= len(PASSED)
    kept = {path.stem.replace("_", " ") for path in (bundle / "checks").iterdir()}
    assert kept == set(PASSED)
    assert ("not run: openvino bf16: this processor has no bf16" in done.log) == (not HAS_BF16)
    told = call("reason-run", "predict", bundle, good_pictures, "--backend", "auto").log
    assert all(f"{name} " in told for name in PASSED)


def test_what_cannot_run_is_said_with_its_reason(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (bundle / "model_fp16.onnx").unlink()
    files = {name: entry for name, entry in opened.manifest.files.items() if name != "model_fp16.onnx"}
    update_bundle(
        dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, files=files)),
        manifest=opened.manifest,
    )
    found = json.loads(call("reason-export", "check", bundle, "--all", "--device", "cpu", "--json").output)
    ran = [f"{check['backend']} {check['precision']}" for check in found["checks"]]
    assert ran == [name for name in PASSED if name != "onnxruntime fp16"]
    assert "has no model_fp16.onnx for fp16; export again with --fp16" in found["not_run"]["onnxruntime fp16"]


def test_threads_are_those_of_every_library_on_the_processor(bundle: Path) -> None:
    found = json.loads(call("reason-export", "check", bundle, "--all", "--threads", 1, "--json").output)
    on_cpu = [check for check in found["checks"] if check["provider"] in (None, "cpu")]
    assert [check["environment"]["session"]["threads"] for check in on_cpu] == ["1"] * len(PASSED)


def test_one_that_fails_ends_with_1_after_the_others_ran(bundle: Path) -> None:
    opened = open_bundle(bundle)
    golden = opened.golden()
    shifted = dataclasses.replace(golden, anomaly_map=golden.anomaly_map * 1.01)  # too much for fp32, not for int8
    update_bundle(opened, manifest=opened.manifest, files={"golden.npz": golden_bytes(shifted)})
    done = call("reason-export", "check", bundle, "--all", "--device", "cpu")
    assert done.status == 1
    assert "parity onnxruntime fp32 on 2 photographs: FAILED" in done.output
    assert "parity openvino int8 on 2 photographs: passed" in done.output
    assert f"{bundle}: onnxruntime fp32: map differs by" in done.error
    assert "openvino fp32: map differs by" in done.error
    assert "int8" not in done.error


@pytest.mark.parametrize(
    "named", [("--backend", "openvino"), ("--precision", "int8"), ("--provider", "cpu"), ("--cuda-graph",)]
)
def test_all_and_one_that_is_named_is_refused(bundle: Path, named: tuple[str, ...]) -> None:
    assert (
        "--all is every backend, precision and provider"
        in call("reason-export", "check", bundle, "--all", *named).error
    )


def test_where_nothing_can_run_the_reason_is_an_error(bundle: Path) -> None:
    if not {"CUDAExecutionProvider", "TensorrtExecutionProvider"}.isdisjoint(onnxruntime.get_available_providers()):
        pytest.skip("ONNX Runtime for GPUs is installed")
    done = call("reason-export", "check", bundle, "--all", "--device", "cuda")
    assert (done.status, done.output) == (1, "")
    assert done.error.startswith("error: CUDAExecutionProvider is not in the installed ONNX Runtime")
