"""A bundle that failed its check on this very machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_export.check import check_bundle
from reason_export.golden import golden_bytes
from reason_runtime import load
from reason_runtime.bundle import open_bundle, update_bundle
from tests.commands import call
from tests.line.models import line_bundle
from tests.line.test_inspect_command import endless
from tests.line.test_run import inspecting, put, wait_until
from tests.runtime.bundles import make_bundle


def failed_bundle(path: Path) -> Path:
    """A bundle whose maps lie elsewhere than the golden ones, with the same scores; returns its check's file."""
    bundle = make_bundle(path)
    golden = bundle.golden()
    moved = golden_bytes(dataclasses.replace(golden, anomaly_map=np.roll(golden.anomaly_map, 1, axis=2)))
    changed = update_bundle(bundle, manifest=bundle.manifest, files={"golden.npz": moved})
    assert not check_bundle(changed).passed
    return path / "checks" / "onnxruntime_fp32.json"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((40, 40, 3), 130, np.uint8)).save(tmp_path / "images" / "a.png")
    return tmp_path / "images"


def test_commands_that_judge_say_which_check_failed_and_when(tmp_path: Path, images: Path) -> None:
    kept = failed_bundle(tmp_path / "bundle")
    (remark,) = load(tmp_path / "bundle").remarks
    assert remark.startswith(f"{kept}: onnxruntime fp32 failed its check on this device at 20")
    assert remark.endswith("+00:00: its answers may be wrong; mend the cause and run that check again")
    assert load(tmp_path / "bundle", threshold=0.3).remarks == [remark]
    predicted = call("reason-run", "predict", tmp_path / "bundle", images)
    assert (predicted.status, predicted.log) == (0, f"{remark}\n")
    timed = call(
        "reason-bench", "latency", tmp_path / "bundle", "--warm-up", 0, "--minimum-count", 1, "--minimum-seconds", 0
    )
    assert (timed.status, timed.log) == (0, f"{remark}\n")
    assert "FAILED" in call("reason-run", "info", tmp_path / "bundle").output


def test_only_the_session_that_failed_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = (make_bundle(tmp_path / "other").path / "golden.npz").read_bytes()
    failed_bundle(tmp_path / "bundle")
    assert load(tmp_path / "bundle", backend="openvino").remarks == []
    opened = open_bundle(tmp_path / "bundle")
    update_bundle(opened, manifest=opened.manifest, files={"golden.npz": before})
    assert load(tmp_path / "bundle").remarks == []  # the check was of another file
    assert check_bundle(open_bundle(tmp_path / "bundle")).passed
    assert load(tmp_path / "bundle").remarks == []


@pytest.mark.parametrize("threshold", [[], ["--threshold", "0.3"]])
def test_a_line_does_not_begin_with_it_unless_its_file_is_removed(
    tmp_path: Path, images: Path, threshold: list[str]
) -> None:
    kept = failed_bundle(tmp_path / "bundle")
    done = call("reason-run", "inspect", tmp_path / "bundle", "--source", images, *threshold)
    assert done.output == ""
    assert done.error.startswith(f"error: {kept}: onnxruntime fp32 failed its check on this device at 20")
    assert done.error.endswith(
        "+00:00; mend the cause and check again, choose another backend or precision, or remove that file to judge all "
        "the same"
    )
    kept.unlink()
    assert call("reason-run", "inspect", tmp_path / "bundle", "--source", images, *threshold).status == 0


def test_a_line_changes_to_no_bundle_that_failed_its_check(tmp_path: Path) -> None:
    first = line_bundle(tmp_path / "first").manifest.content_sha256[:12]
    kept = failed_bundle(tmp_path / "failed")
    with inspecting(tmp_path, source=endless(tmp_path), bundle="first") as (line, told):
        put(tmp_path, "failed")
        line.swap()
        wait_until(lambda: len(told) == 1)
        assert line.models.of("top").content == first
        kept.unlink()
        line.swap()
        wait_until(lambda: len(told) == 2)
        assert line.models.of("top").content != first
    assert told[0].startswith("the new bundle is refused, the old one stays: ")
    assert "onnxruntime fp32 failed its check on this device" in told[0]
