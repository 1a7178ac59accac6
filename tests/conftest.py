"""One small training and its bundles, made once for all tests that need real ones, whichever process runs them."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.commands import Done, call
from tests.pictures import good_picture, parts_with_defects, save


def pytest_configure() -> None:
    """One thread for PyTorch, here and in processes that tests start: on 64-pixel images a second one only waits.

    No example has to be done in a given time: a busy machine is no failure.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


SIZES = ("--steps", 20, "--batch-size", 3, "--image-size", 64, "--seed", 3, "--device", "cpu")
TRAINING = (*SIZES, "--method", "reason", "--suppression-layers")


def made_once(name: str, make: Callable[[Path], Done], factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder that a command makes, and what it said; of several pytest processes the first one runs it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all processes
    out, said = root / name / "stripes", root / f"{name}.json"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            shutil.rmtree(out, ignore_errors=True)  # of a process that failed
            done = make(out)
            assert done.status == 0, done.log
            said.write_text(json.dumps(dataclasses.asdict(done)))
    return out, Done(**json.loads(said.read_text()))


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good training images of 64 x 64 pixels; four good and four defective test images with masks."""
    return parts_with_defects(tmp_path_factory.mktemp("data") / "stripes", images=10)


@pytest.fixture(scope="session")
def finished_run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `fit` made of `parts`: EfficientNet-Lite0, twenty steps, two images held out."""
    out, done = made_once(
        "run",
        lambda out: call("reason-train", "fit", "--data", parts, "--out", out, *TRAINING, "--json"),
        tmp_path_factory,
    )
    assert json.loads(done.output)["steps"] == 20
    return out


@pytest.fixture(scope="session")
def small_run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one student without suppression layers, for tests that export anew: that takes half as long."""
    out = tmp_path_factory.mktemp("run") / "small"
    done = call("reason-train", "fit", "--data", parts, "--out", out, *SIZES, "--students", 1)
    assert done.status == 0, done.log
    return out


@pytest.fixture(scope="session")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The bundle of that run with its fp16 file, and what `onnx` said."""
    return made_once(
        "bundle", lambda out: call("reason-export", "onnx", finished_run, "--out", out, "--fp16"), tmp_path_factory
    )


@pytest.fixture(scope="session")
def exported_bundle(exported: tuple[Path, Done]) -> Path:
    """The bundle of that run. Read-only: tests that change one copy it."""
    return exported[0]


@pytest.fixture(scope="session")
def good_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty good pictures that nothing was trained on."""
    folder = tmp_path_factory.mktemp("good")
    for number in range(20):
        save(folder / f"{number:02}.png", good_picture(3000 + number))
    return folder


@pytest.fixture(scope="session")
def precise_bundle(exported_bundle: Path, good_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That bundle with its int8 file too. Read-only."""

    def quantize(out: Path) -> Done:
        shutil.copytree(exported_bundle, out)
        return call("reason-export", "quantize", out, "--calibration", good_pictures)

    return made_once("precise", quantize, tmp_path_factory)[0]
