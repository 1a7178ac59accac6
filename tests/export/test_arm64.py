"""What a bundle answers on 64-bit Arm, in an emulated Debian with Arm's own wheels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRECISIONS = [("onnxruntime", each) for each in ("fp32", "fp16", "int8")] + [("openvino", "fp32"), ("openvino", "int8")]


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0
    or not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
    or shutil.which("debootstrap") is None,
    reason="needs root, debootstrap, and QEMU for Arm known to the system",
)
def test_every_artefact_answers_on_arm_as_the_trained_model_does(precise_bundle: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "arm64.json", tmp_path / "root"
    command = [sys.executable, "-m", "benchmarks.arm64", precise_bundle, "--root", root, "--out", out]
    try:
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=2400)
    finally:
        shutil.rmtree(root, ignore_errors=True)  # a gigabyte
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())["checks"]
    assert {(each["backend"], each["precision"]): each["broken"] for each in found} == {key: [] for key in PRECISIONS}
    assert {each["environment"]["processor"] for each in found} == {"aarch64 asimddp"}
