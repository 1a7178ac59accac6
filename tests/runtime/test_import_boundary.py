from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.imports import loaded_packages
from tests.runtime.bundles import make_bundle

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"torch", "torchvision", "timm", "onnx", "reason_train", "reason_export"}
# What a user of the runtime does, then every module that is loaded by then.
PROBE = """
import json, sys
{before}
import reason_runtime
backend, bundle, image = sys.argv[1:]
sys.argv[1:] = ["predict", bundle, image, "--backend", backend]
from reason_runtime.commands import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps(loaded), file=sys.stderr)
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
    return make_bundle(tmp_path / "bundle").path, tmp_path / "image.png"


def loaded_by(paths: tuple[Path, Path], *, backend: str, before: str = "") -> set[str]:
    arguments = [sys.executable, "-c", PROBE.format(before=before), backend, *map(str, paths)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(("backend", "other"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_predict_loads_its_one_library_and_nothing_of_training(
    probe: tuple[Path, Path], backend: str, other: str
) -> None:
    loaded = loaded_by(probe, backend=backend)
    assert loaded & FORBIDDEN == set()
    assert backend in loaded
    assert other not in loaded


def test_the_probe_can_fail(probe: tuple[Path, Path]) -> None:
    loaded = loaded_by(probe, backend="onnxruntime", before="import onnx, reason_train")
    assert loaded & FORBIDDEN == {"onnx", "reason_train"}


def test_importing_the_package_takes_no_time_since_it_loads_nothing_but_itself() -> None:
    more = loaded_packages("import reason_runtime") - loaded_packages("pass")
    assert more - set(sys.stdlib_module_names) == {"reason_runtime"}
