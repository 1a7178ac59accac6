from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from reason_export.golden import golden_bytes
from reason_export.preparation import preparation
from reason_runtime.bundle import Bundle, open_bundle, update_bundle
from reason_runtime.errors import BundleError
from reason_runtime.golden import Golden, Preparation
from reason_runtime.image import InputFormat, square_format
from reason_runtime.self_test import levels_apart, resized_otherwise
from tests.commands import call

Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""Of (H, W, 3) to (width, height)."""
FORM = square_format(64)


def of_pillow(resample: Image.Resampling) -> Resize:
    return lambda picture, size: np.asarray(Image.fromarray(picture).resize(size, resample))


def of_opencv(interpolation: int) -> Resize:
    return lambda picture, size: cv2.resize(picture, size, interpolation=interpolation)


def one_axis_after_the_other(picture: np.ndarray, size: tuple[int, int], *, rows_first: bool) -> np.ndarray:
    between = (picture.shape[1], size[1]) if rows_first else (size[0], picture.shape[0])
    return of_pillow(Image.Resampling.BILINEAR)(of_pillow(Image.Resampling.BILINEAR)(picture, between), size)


def as_if_prepared_by(resize: Resize, *, form: InputFormat = FORM) -> Golden:
    found = preparation(form)
    assert found is not None
    return golden_with(dataclasses.replace(found, prepared=resize(found.picture, (form.width_px, form.height_px))))


def golden_with(found: Preparation | None) -> Golden:
    none = np.empty(0, np.float32)
    return Golden(images=none, anomaly_map=none, score=none, synthetic=none, preparation=found)


def test_the_picture_is_shrunk_by_pillow_and_rounding_of_another_order_is_allowed() -> None:
    golden = as_if_prepared_by(of_pillow(Image.Resampling.BILINEAR))
    assert levels_apart(golden, form=FORM) == 0
    for rows_first in (False, True):
        golden = as_if_prepared_by(
            lambda picture, size, rows_first=rows_first: one_axis_after_the_other(picture, size, rows_first=rows_first)
        )
        assert resized_otherwise(levels_apart(golden, form=FORM)) == []


@pytest.mark.parametrize(
    "resize",
    [
        of_opencv(cv2.INTER_LINEAR),
        of_opencv(cv2.INTER_AREA),
        of_opencv(cv2.INTER_NEAREST),
        of_pillow(Image.Resampling.BICUBIC),
        of_pillow(Image.Resampling.BOX),
        lambda picture, size: of_pillow(Image.Resampling.BILINEAR)(picture[:, :, ::-1], size),
        lambda picture, size: of_pillow(Image.Resampling.BILINEAR)(picture[1:], size),
    ],
    ids=["linear", "area", "nearest", "bicubic", "box", "BGR", "a row less"],
)
def test_another_resize_is_seen(resize: Resize) -> None:
    levels = levels_apart(as_if_prepared_by(resize), form=FORM)
    assert levels is not None
    assert f"differs by {levels} grey levels, at most 2 is rounding" in resized_otherwise(levels)[0]


@pytest.mark.parametrize("crop_px", [(7, 3, 90, 70), (120, 40, 1000, 500), (0, 0, 20, 30)])
def test_the_part_that_is_looked_at_is_cut_out_first(crop_px: tuple[int, int, int, int]) -> None:
    form = dataclasses.replace(FORM, crop_px=crop_px)
    found = preparation(form)
    assert found is not None
    left, top, width, height = crop_px
    part = found.picture[top : top + height, left : left + width]
    assert part.shape[:2] == (height, width)
    assert np.array_equal(found.prepared, of_pillow(Image.Resampling.BILINEAR)(part, (64, 64)))
    beside = dataclasses.replace(form, crop_px=(max(0, left - 1), top, width - (left == 0), height))
    assert resized_otherwise(levels_apart(golden_with(found), form=beside))


def test_a_large_part_packs_well() -> None:
    found = preparation(dataclasses.replace(FORM, crop_px=(0, 0, 1500, 1500)))
    arrays = np.zeros((1, 64, 64), np.float32)
    golden = Golden(
        images=arrays[0], anomaly_map=arrays, score=arrays, synthetic=np.zeros(1, np.bool_), preparation=found
    )
    assert len(golden_bytes(golden)) < 500_000  # of 6,750,000


def test_the_centre_is_cut_out_after() -> None:
    form = square_format(56, channels=1, resize_px=64)
    found = preparation(form)
    assert found is not None
    assert found.picture.shape == (109, 147, 1)
    whole = np.asarray(Image.fromarray(found.picture[:, :, 0]).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(found.prepared[:, :, 0], whole[4:60, 4:60])


def test_nothing_is_prepared_where_the_graph_resizes() -> None:
    assert preparation(dataclasses.replace(FORM, resize_filter="in-graph")) is None
    assert levels_apart(golden_with(None), form=FORM) is None
    assert resized_otherwise(None) == []


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(exported_bundle, tmp_path / "bundle"))


def with_prepared(bundle: Bundle, prepared: np.ndarray | None) -> None:
    golden = bundle.golden()
    found = golden.preparation
    assert found is not None
    changed = None if prepared is None else dataclasses.replace(found, prepared=prepared)
    content = golden_bytes(dataclasses.replace(golden, preparation=changed))
    update_bundle(bundle, manifest=bundle.manifest, files={"golden.npz": content})


def test_a_device_that_resizes_otherwise_fails_its_check(bundle: Bundle) -> None:
    found = bundle.golden().preparation
    assert found is not None
    assert found.picture.shape[:2] == (round(1.7 * found.prepared.shape[0]), round(2.3 * found.prepared.shape[1]))
    done = call("reason-export", "check", bundle.path)
    assert done.status == 0, done.log
    assert "a picture's resize differs by 0 grey levels from the export's" in done.output
    with_prepared(bundle, cv2.resize(found.picture, found.prepared.shape[1::-1], interpolation=cv2.INTER_AREA))
    done = call("reason-export", "check", bundle.path)
    assert done.status == 1
    assert "a picture is resized otherwise here than at export" in done.error
    kept = json.loads((bundle.path / "checks" / "onnxruntime_fp32.json").read_text())
    assert (kept["passed"], kept["resize_levels"] > 2) == (False, True)


def test_a_bundle_without_the_picture_says_nothing(bundle: Bundle) -> None:
    with_prepared(bundle, None)
    facts = json.loads(call("reason-export", "check", bundle.path, "--json").output)
    assert (facts["passed"], facts["resize_levels"]) == (True, None)


def test_a_prepared_picture_of_another_size_is_refused(bundle: Bundle) -> None:
    found = bundle.golden().preparation
    assert found is not None
    with_prepared(bundle, found.prepared[1:])
    with pytest.raises(BundleError, match=r"golden\.npz: prepared is uint8 .*, expected uint8"):
        open_bundle(bundle.path).golden()
