"""What ONNX Runtime and OpenVINO leave in the user's home when they are loaded: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.runtime.bundles import make_bundle

LOADED = "from reason_runtime import load; load({!r}, backend={!r})"
EXPORTER = "from reason_runtime.entry import new_app, run; run(new_app('none'))"


def written(home: Path, script: str) -> list[str]:
    """Files below an empty home after a script ran there, as a user: on build servers (`CI=true`) it never reports."""
    home.mkdir()
    user = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-c", script], env=user, check=True, timeout=120)
    return sorted(path.name for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_loading_a_bundle_makes_no_device_id_and_no_events(backend: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").path
    found = written(tmp_path / "home", LOADED.format(str(bundle), backend))
    assert [name for name in found if not name.endswith((".blob", ".sha256"))] == []  # but for compiled models


def test_commands_switch_it_off_before_anything_is_imported(tmp_path: Path) -> None:
    script = f"import sys; sys.argv = ['x', '--help']\ntry: exec({EXPORTER!r})\nfinally: import onnxruntime, openvino"
    assert written(tmp_path / "home", script) == []


@pytest.mark.parametrize(
    ("library", "since", "files"),
    [("onnxruntime", (1, 32), ["deviceid", "onnxruntime.db"]), ("openvino", (2026, 4), ["openvino_ga_cid", "stats"])],
)
def test_that_probe_can_fail(library: str, since: tuple[int, int], files: list[str], tmp_path: Path) -> None:
    if tuple(map(int, metadata.version(library).split(".")[:2])) < since:
        pytest.skip(f"this {library} is older than those known to report")
    assert written(tmp_path / "home", f"import {library}") == files
