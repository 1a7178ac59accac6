from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.imports import loaded_packages
from tests.runtime.bundles import make_bundle

FORBIDDEN = {"torch", "torchvision", "timm", "onnx", "reason_train", "reason_export"}


@pytest.mark.parametrize(("backend", "other"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_predict_loads_its_one_library_and_nothing_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, other: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
    bundle = make_bundle(tmp_path / "bundle").path
    code = "import reason_runtime; from reason_runtime.commands import main; main()"
    loaded = loaded_packages(code, arguments=["predict", bundle, tmp_path / "image.png", "--backend", backend])
    assert loaded & FORBIDDEN == set()
    assert backend in loaded
    assert other not in loaded


def test_importing_the_package_takes_no_time_since_it_loads_nothing_but_itself() -> None:
    more = loaded_packages("import reason_runtime") - loaded_packages("pass")
    assert more - set(sys.stdlib_module_names) == {"reason_runtime"}
