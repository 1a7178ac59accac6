"""The wheel in an empty environment: what a line PC gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.bundles import make_bundle

ROOT = Path(__file__).parents[2]
LARGEST_MIB = 300  # of the base install, that of the inference library not counted


def run(*arguments: object, where: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(item) for item in arguments], capture_output=True, text=True, cwd=where, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def size_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


@pytest.mark.slow
def test_the_wheel_predicts_in_an_environment_without_pytorch(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("reason_runtime", "reason_train", "reason_export"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, source, where=tmp_path)
    (wheel,) = tmp_path.glob("reason_edge-*.whl")

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))", where=tmp_path).stdout.strip()
    )
    before_mib = size_mib(packages)
    run(python, "-m", "pip", "install", wheel, where=tmp_path)
    assert size_mib(packages) - before_mib < LARGEST_MIB
    run(python, "-m", "pip", "install", f"{wheel}[cpu]", where=tmp_path)

    bundle = make_bundle(tmp_path / "bundle").path
    Image.new("RGB", (60, 40), (250, 250, 250)).save(tmp_path / "part.jpg", quality=100)
    done = run(python.parent / "reason-run", "predict", bundle, "part.jpg", "--json", where=tmp_path)
    (line,) = [json.loads(text) for text in done.stdout.splitlines()]
    assert (line["path"], line["decision"], line["score"]) == ("part.jpg", "NG", 122 / 128)
    installed = run(python, "-m", "pip", "list", "--format", "json", where=tmp_path).stdout
    names = {item["name"].lower() for item in json.loads(installed)}
    assert "onnxruntime" in names
    assert names.isdisjoint({"torch", "torchvision", "timm", "onnx"})
