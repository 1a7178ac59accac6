"""The wheel in an empty environment: what a line PC gets."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.bundles import make_bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LARGEST_MIB = 300  # of the base install, that of the inference library not counted


def run(*arguments: object, where: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(item) for item in arguments], capture_output=True, text=True, cwd=where, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def size_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("reason_runtime", "reason_train", "reason_export"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source, where=folder)
    (found,) = folder.glob("reason_edge-*.whl")
    return found


def new_environment(folder: Path) -> Path:
    """The interpreter of an empty environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def installed(python: Path) -> dict[str, str]:
    """Version by name in lower case."""
    told = run(python, "-m", "pip", "list", "--format", "json", where=python.parent).stdout
    return {item["name"].lower(): item["version"] for item in json.loads(told)}


@pytest.mark.slow
def test_the_wheel_predicts_in_an_environment_without_pytorch(wheel: Path, tmp_path: Path) -> None:
    python = new_environment(tmp_path / "empty")
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
    names = installed(python).keys()
    assert "onnxruntime" in names
    assert names.isdisjoint({"torch", "torchvision", "timm", "onnx"})


def lowest_allowed(*extras: str) -> dict[str, str]:
    """The lowest series of every requirement of the package and these extras, such as `1.26`, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(each for name in extras for each in project["optional-dependencies"][name])]
    parsed = (re.fullmatch(r"([\w-]+)>=([\d.]+)( ; python_version < '3\.11')?", each) for each in wanted)
    found = [each for each in parsed if each is not None]
    assert len(found) == len(wanted)
    return {name: version for name, version, marker in (each.groups() for each in found) if marker is None}


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the lowest NumPy that is allowed has no wheel for it")
def test_the_lowest_versions_that_are_allowed_give_what_the_training_gave(
    wheel: Path, exported_bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    python = new_environment(tmp_path / "lowest")
    lowest = lowest_allowed("cpu", "openvino", "export")
    pins = [f"{name}=={version}.*" for name, version in lowest.items()]
    run(python, "-m", "pip", "install", f"{wheel}[cpu,openvino,export]", *pins, where=tmp_path)
    versions = installed(python)
    assert {name for name, version in lowest.items() if not f"{versions[name]}.".startswith(f"{version}.")} == set()
    assert "torch" not in versions

    bundle = shutil.copytree(exported_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("checks"))
    export, predict = python.parent / "reason-export", (python.parent / "reason-run", "predict")
    quantised = json.loads(
        run(export, "quantize", bundle, "--calibration", good_pictures, "--json", where=tmp_path).stdout
    )
    assert [(each["backend"], each["passed"]) for each in quantised["checks"]] == [
        ("onnxruntime", True),
        ("openvino", True),
    ]
    for backend in ("onnxruntime", "openvino"):
        run(export, "check", bundle, "--backend", backend, where=tmp_path)
    done = run(*predict, bundle, good_pictures, "--backend", "auto", "--json", where=tmp_path)
    assert len(done.stdout.splitlines()) == len(list(good_pictures.iterdir()))
    assert "auto chose o" in done.stderr
