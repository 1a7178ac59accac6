"""Regions of interest and ignore masks: a constant on the map, from training to the exported graph."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from reason_runtime import load
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import square_format
from reason_train.region import counted_region, parse_roi
from tests.commands import call
from tests.conftest import SIZES


def test_a_rectangle_counts_inside_and_not_outside() -> None:
    region = counted_region(roi=(0.25, 0.5, 0.5, 0.25), ignore_mask=None, input_format=square_format(64))
    expected = np.zeros((64, 64), np.float32)
    expected[32:48, 16:48] = 1
    np.testing.assert_array_equal(region, expected)


def test_a_rectangle_refers_to_the_whole_image_also_where_the_centre_is_cropped() -> None:
    form = square_format(64, resize_px=128)  # the crop shows columns and rows 32 to 96 of 128
    region = counted_region(roi=(0.0, 0.0, 0.5, 1.0), ignore_mask=None, input_format=form)
    expected = np.zeros((64, 64), np.float32)
    expected[:, :32] = 1
    np.testing.assert_array_equal(region, expected)


def test_a_mask_of_any_size_is_resized_and_white_is_ignored(tmp_path: Path) -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[:, 100:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    region = counted_region(roi=None, ignore_mask=tmp_path / "mask.png", input_format=square_format(64))
    assert region is not None
    assert region[:, :31].all()
    assert not region[:, 33:].any()


def test_without_either_there_is_no_region() -> None:
    assert counted_region(roi=None, ignore_mask=None, input_format=square_format(64)) is None


def test_a_region_with_nothing_left_is_refused(tmp_path: Path) -> None:
    Image.new("L", (32, 32), 255).save(tmp_path / "all.png")
    with pytest.raises(ConfigurationError, match="no pixel that counts"):
        counted_region(roi=None, ignore_mask=tmp_path / "all.png", input_format=square_format(64))


@pytest.mark.parametrize(
    ("levels", "kind"), [(255, np.uint8), (1, np.uint8), (255, np.uint16), (65535, np.uint16), (3, np.uint16)]
)
def test_an_ignore_mask_is_read_as_masks_of_defects_are(levels: int, kind: type[np.generic], tmp_path: Path) -> None:
    mask = np.zeros((64, 64), kind)
    mask[:32] = levels
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    region = counted_region(roi=None, ignore_mask=tmp_path / "mask.png", input_format=square_format(64))
    assert region is not None
    np.testing.assert_array_equal(region, np.repeat([[0.0], [1.0]], 32, axis=0) * np.ones((1, 64)))


def test_an_ignore_mask_that_ignores_nothing_is_refused(tmp_path: Path) -> None:
    Image.new("L", (32, 32), 0).save(tmp_path / "none.png")
    with pytest.raises(ConfigurationError, match=r"none\.png: is black all over"):
        counted_region(roi=None, ignore_mask=tmp_path / "none.png", input_format=square_format(64))


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "0.5,0.5,0.6,0.2", "0,0,0,1", "-0.1,0,0.5,0.5", "nan,0,1,1"])
def test_a_rectangle_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="LEFT,TOP,WIDTH,HEIGHT|shares of the image"):
        parse_roi(text)


@pytest.mark.slow
def test_training_with_a_region_exports_a_graph_whose_map_is_zero_outside(parts: Path, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    fitted = call("reason-train", "fit", "--data", parts, "--out", run, *SIZES, "--students", 1, "--roi", "0,0,0.5,1")
    assert fitted.status == 0, fitted.log
    exported = call("reason-export", "onnx", run, "--out", bundle)
    assert exported.status == 0, exported.log
    image = np.asarray(Image.open(next((parts / "test" / "good").iterdir())).convert("RGB"))
    anomaly_map = load(bundle)(image).anomaly_map
    assert (anomaly_map[:, 32:] == 0).all()
    assert (anomaly_map[:, :32] > 0).all()
    settings = json.loads((bundle / "manifest.json").read_text())["method"]["settings"]
    assert settings["roi"] == [0, 0, 0.5, 1]
    assert settings["ignore_mask_sha256"] is None
    evaluated = call("reason-train", "evaluate", run, "--data", parts, "--json", "--report", tmp_path / "report")
    figures = json.loads(evaluated.output)
    checked = json.loads(call("reason-export", "check", bundle, "--data", parts, "--json").output)["accuracy"]
    for name in ("pixel_auroc", "aupro"):
        assert checked[name]["reference"] == pytest.approx(figures[name], abs=1e-4)
    told = "figures of pixels are of the 50% of the map where defects count"
    assert told in call("reason-train", "evaluate", run, "--data", parts).output
    assert told in (tmp_path / "report" / "report.html").read_text()
