"""12-bit cameras that write 16-bit files: training, calibration, export and the line use one pair of levels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reason_runtime.detector import load
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import square_format
from reason_train.config import MethodConfig
from reason_train.image_store import ImageStore, unused_levels
from reason_train.run import read_run
from reason_train.trained import input_format
from tests.commands import Done, call
from tests.pictures import good_picture, save
from tests.train.trainings import model_tensors

Picture = NDArray[np.uint8] | NDArray[np.uint16]
SMALL = ("--steps", 1, "--batch-size", 2, "--image-size", 64, "--device", "cpu", "--students", 1)


def mono(number: int) -> NDArray[np.uint8]:
    return good_picture(number)[:, :, 0]


def twelve_bit(number: int) -> NDArray[np.uint16]:
    """What a 12-bit camera sees of the same part: 12 bits hold all of the 8."""
    return np.round(mono(number) * (4095 / 255)).astype(np.uint16)


def parts_of(root: Path, picture: Callable[[int], Picture], *, images: int = 5) -> Path:
    for number in range(images):
        save(root / "train" / "good" / f"{number}.png", picture(number))  # type: ignore[arg-type]  # Pillow saves both
    return root


def fit(data: Path, out: Path, *more: object) -> Done:
    done = call("reason-train", "fit", "--data", data, "--out", out, *SMALL, *more)
    assert done.status == 0, done.log
    return done


def export(run: Path, out: Path, *more: object) -> Done:
    return call("reason-export", "onnx", run, "--out", out, *more)


@pytest.fixture(scope="module")
def deep_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on 12-bit images with their level of white."""
    folder = tmp_path_factory.mktemp("deep")
    assert "reach" not in fit(parts_of(folder / "parts", twelve_bit), folder / "run", "--white-level", 4095).log
    return folder / "run"


def test_twelve_bits_train_as_the_same_pictures_in_eight_do(deep_run: Path, tmp_path: Path) -> None:
    fit(parts_of(tmp_path / "parts", mono), tmp_path / "run")
    deep, plain = model_tensors(deep_run), model_tensors(tmp_path / "run")
    assert all(torch.equal(deep[name], plain[name]) for name in deep)
    assert json.loads((deep_run / "calibration.json").read_text()) == json.loads(
        (tmp_path / "run" / "calibration.json").read_text()
    )
    assert read_run(tmp_path / "run").highest_16_bit is None
    assert 2048 < (read_run(deep_run).highest_16_bit or 0) <= 4095


@pytest.mark.slow
def test_the_line_reads_with_the_levels_of_the_run(deep_run: Path, tmp_path: Path) -> None:
    done = export(deep_run, tmp_path / "bundle")
    assert done.status == 0, done.log
    detector = load(tmp_path / "bundle")
    assert detector.bundle.manifest.input.white_level == 4095
    held_out = read_run(deep_run).held_out[0].name
    assert detector(twelve_bit(int(Path(held_out).stem))).decision == "OK"


@pytest.mark.parametrize("levels", [("--white-level", 65535), ("--black-level", 100)])
def test_other_levels_than_those_of_16_bit_training_images_are_refused(
    levels: tuple[object, ...], deep_run: Path, tmp_path: Path
) -> None:
    told = export(deep_run, tmp_path / "bundle", *levels).error
    assert "trained or calibrated on 16-bit images with black level 0 and white level 4095, not" in told
    assert not (tmp_path / "bundle").exists()


def test_fit_says_which_level_dark_images_need(tmp_path: Path) -> None:
    done = fit(parts_of(tmp_path / "parts", twelve_bit), tmp_path / "run")
    highest = max(int(twelve_bit(number).max()) for number in range(5))
    assert f"16-bit images reach {highest} of 65535 only; train with --white-level 4095" in done.log
    assert read_run(tmp_path / "run").highest_16_bit == highest
    assert "white level 65535, not 0 and 4095" in export(tmp_path / "run", tmp_path / "b", "--white-level", 4095).error


def test_a_calibration_on_16_bit_images_binds_the_levels_too(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    data = parts_of(tmp_path / "parts", lambda number: twelve_bit(700 + number))
    done = call("reason-train", "calibrate", run, "--data", data, "--device", "cpu")
    assert "train with --white-level 4095" in done.log
    assert "16-bit images" in export(run, tmp_path / "bundle", "--white-level", 4095).error


@pytest.mark.parametrize(
    ("highest", "levels", "fits"),
    [
        (None, (0, 65535), None),
        (16383, (0, 65535), 16383),
        (16384, (0, 65535), None),
        (3000, (0, 65535), 4095),
        (0, (0, 65535), 1),
        (4095, (0, 4095), None),
        (300, (200, 4095), 511),
    ],
)
def test_levels_are_unused_below_a_quarter(highest: int | None, levels: tuple[int, int], fits: int | None) -> None:
    method = MethodConfig(teacher="resnet18", black_level=levels[0], white_level=levels[1])
    said = unused_levels(highest, input_format=input_format(method))
    assert said is None if fits is None else said is not None and said.endswith(f"--white-level {fits}")


def test_a_store_knows_its_highest_16_bit_value(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png", mono(1)), save(tmp_path / "b.png", twelve_bit(2))]  # type: ignore[arg-type]
    store = ImageStore(paths, input_format=square_format(64))
    assert store.highest_16_bit is None
    assert store.broken() == []
    assert store.highest_16_bit == twelve_bit(2).max()


def test_levels_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="black level 10 and white level 10 are not 0 <= black < white"):
        MethodConfig(teacher="resnet18", black_level=10, white_level=10)
