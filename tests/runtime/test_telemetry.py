"""What ONNX Runtime leaves in the user's cache when it is loaded: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.bundles import make_bundle

LOADED = "from reason_runtime import load; load({!r})"
EXPORTER = "from reason_runtime.entry import new_app, run; run(new_app('none'))"


def written(home: Path, script: str) -> list[str]:
    """Files below an empty home after a script ran there, as a user: on build servers (`CI=true`) it never reports."""
    home.mkdir()
    user = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-c", script], env=user, check=True, timeout=120)
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_loading_a_bundle_makes_no_device_id_and_no_events(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").path
    assert written(tmp_path / "home", LOADED.format(str(bundle))) == []


def test_commands_switch_it_off_before_anything_is_imported(tmp_path: Path) -> None:
    script = f"import sys; sys.argv = ['x', '--help']\ntry: exec({EXPORTER!r})\nfinally: import onnxruntime"
    assert written(tmp_path / "home", script) == []


def test_that_probe_can_fail(tmp_path: Path) -> None:
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32):
        pytest.skip("this ONNX Runtime is older than those known to report")
    assert written(tmp_path / "home", "import onnxruntime") == ["deviceid", "onnxruntime.db"]
