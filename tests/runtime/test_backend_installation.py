"""What is said where an inference library is missing or installed twice; in processes that see such an installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.bundles import make_bundle

ROOT = Path(__file__).parents[2]
LOAD = "import sys; from reason_runtime import load; load(sys.argv[1], backend=sys.argv[2])"


def error_of_loading(bundle: Path, *, backend: str, first_on_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(bundle), backend],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(first_on_path)},
        timeout=60,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_a_missing_library_names_the_extra_that_brings_it(tmp_path: Path, backend: str, extra: str) -> None:
    broken = tmp_path / "path" / backend
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise ModuleNotFoundError(\"No module named '{backend}'\")\n")
    told = error_of_loading(make_bundle(tmp_path / "bundle").path, backend=backend, first_on_path=broken.parent)
    assert told.startswith("reason_runtime.errors.BackendError: ")
    assert f'pip install "reason-edge[{extra}]"' in told
    assert told.endswith("--backend openvino, which is installed") == (backend == "onnxruntime")


def test_two_distributions_of_onnx_runtime_are_refused(tmp_path: Path) -> None:
    second = tmp_path / "path" / "onnxruntime_gpu-1.20.0.dist-info"
    second.mkdir(parents=True)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.20.0\n")
    told = error_of_loading(make_bundle(tmp_path / "bundle").path, backend="onnxruntime", first_on_path=second.parent)
    assert "onnxruntime and onnxruntime-gpu are both installed" in told
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in told
