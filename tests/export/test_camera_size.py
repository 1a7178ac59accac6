from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from reason_export.golden import synthetic_images
from reason_export.resize_graph import CameraModel, camera_model, require_same_resize, resize_matrix
from reason_runtime import load
from reason_runtime.blind import shrunk
from reason_runtime.bundle import open_bundle
from reason_runtime.errors import ConfigurationError, ImageError, ParityError
from reason_runtime.image import resize_image, square_format
from reason_runtime.line.model import LineModel
from tests.commands import Done, call
from tests.pictures import good_picture, save
from tests.runtime.processor import NEEDS_BF16

FRAME = (150, 200)


class Echo(torch.nn.Module):
    """Gives back the images it takes, so that the resize can be looked at."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


def resized(frame: np.ndarray, *, to: int, cropped: int) -> np.ndarray:
    model = CameraModel(
        Echo(),  # type: ignore[arg-type]
        frame=(frame.shape[0], frame.shape[1]),
        resized=(to, to),
        cropped=(cropped, cropped),
    )
    return model(torch.from_numpy(frame[None]))[0][0].numpy().astype(int)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (150, 200), (200, 150), (1024, 1224), (511, 513)])
@pytest.mark.parametrize("kind", ["noise", "edges"])
def test_the_resize_is_pillows_to_one_grey_level(size: tuple[int, int], kind: str) -> None:
    random = np.random.default_rng(sum(size))
    frame = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    if kind == "edges":
        frame = np.where(frame > 127, 255, 0).astype(np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resized(frame, to=64, cropped=64) - expected).max() <= 1


@pytest.mark.parametrize("cropped", [56, 57])  # 57: of seven pixels four come before it
def test_the_crop_is_the_runtimes(cropped: int) -> None:
    frame = np.random.default_rng(2).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    expected = resize_image(frame, input_format=square_format(cropped, resize_px=64)).astype(int)
    assert np.abs(resized(frame, to=64, cropped=cropped) - expected).max() <= 1


def test_columns_are_rounded_to_grey_levels_before_rows_are_resized() -> None:
    frame = np.array([[0, 1], [0, 0]], np.uint8)  # its rows are halves, of which one is rounded up: 1 and 0
    assert np.asarray(Image.fromarray(frame).resize((1, 1), Image.Resampling.BILINEAR)) == 1
    assert resized(frame[:, :, None], to=1, cropped=1) == 1


def test_a_matrix_computed_by_hand() -> None:
    # half size: each output looks at two input steps to each side, with weights 1/8, 3/8, 3/8, 1/8
    matrix = resize_matrix(8, 4)
    np.testing.assert_allclose(matrix[1], np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8, atol=1e-6)
    np.testing.assert_allclose(matrix[0], np.array([3, 3, 1, 0, 0, 0, 0, 0]) / 7, atol=2**-16)


@pytest.mark.parametrize(("before", "after"), [(64, 64), (2448, 256), (300, 257)])
def test_rows_sum_to_one(before: int, after: int) -> None:
    np.testing.assert_array_equal(resize_matrix(before, after).sum(1), 1)


@pytest.mark.parametrize(("before", "after"), [(64, 64), (960, 256), (1280, 256), (1600, 256), (2448, 256), (300, 257)])
def test_sums_are_exact_in_whatever_order_a_library_adds(before: int, after: int) -> None:
    random = np.random.default_rng(before)
    matrix = resize_matrix(before, after)
    levels = random.integers(0, 256, (before, 300)).astype(np.float32)
    levels[:, :2] = 0, 255
    exact = matrix.astype(np.float64) @ levels.astype(np.float64)
    for order in (np.arange(before), np.arange(before)[::-1], random.permutation(before)):
        total = np.zeros((after, 300), np.float32)
        for i in order:
            total += matrix[:, i : i + 1] * levels[i]
        np.testing.assert_array_equal(total, exact)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for number in range(3):
        picture = Image.fromarray(good_picture(number, size_px=200)).crop((0, 0, 200, 150))
        save(folder / f"{number}.png", np.asarray(picture))
    return folder


def nearest(before_px: int, after_px: int) -> np.ndarray:
    matrix = np.zeros((after_px, before_px), np.float32)
    matrix[np.arange(after_px), ((np.arange(after_px) + 0.5) * before_px / after_px).astype(int)] = 1
    return matrix


def one_off(before_px: int, after_px: int) -> np.ndarray:
    return np.roll(resize_matrix(before_px, after_px), 1, axis=0)


@pytest.mark.parametrize("wrong", [nearest, one_off])
def test_a_resize_that_is_not_the_runtimes_is_refused(
    wrong: Callable[[int, int], np.ndarray], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_export.resize_graph.resize_matrix", wrong)
    done = call("reason-export", "onnx", finished_run, "--out", tmp_path / "bundle", "--input-size", *FRAME)
    assert "the graph resizes 150 x 200 frames otherwise than the runtime: a pixel differs by" in done.error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("size", [(64, 64), (66, 200), (150, 64), (480, 640), (300, 1200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_resize_is_the_runtimes_at_any_size(size: tuple[int, int], channels: Literal[1, 3]) -> None:
    own = square_format(57, resize_px=64, channels=channels)
    height, width = size
    camera = dataclasses.replace(
        own, height_px=height, width_px=width, resize_height_px=height, resize_width_px=width, resize_filter="in-graph"
    )
    model = camera_model(Echo(), own=own, camera=camera)  # type: ignore[arg-type]
    require_same_resize(model, synthetic_images(camera), own=own)
    columns = model.get_buffer("columns")
    columns.copy_(columns.roll(1, dims=0))
    with pytest.raises(ParityError, match="at most 2 is rounding"):
        require_same_resize(model, synthetic_images(camera), own=own)


@pytest.fixture(scope="module")
def camera_export(finished_run: Path, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    out = tmp_path_factory.mktemp("camera") / "bundle"
    return out, call("reason-export", "onnx", finished_run, "--out", out, "--input-size", *FRAME, "--golden", frames)


@pytest.fixture(scope="module")
def camera(camera_export: tuple[Path, Done]) -> Path:
    assert camera_export[1].status == 0, camera_export[1].log
    return camera_export[0]


@pytest.mark.slow
def test_the_manifest_says_where_the_resize_is(camera: Path) -> None:
    form = open_bundle(camera).manifest.input
    assert (form.height_px, form.width_px, form.resize_filter) == (*FRAME, "in-graph")
    limit = open_bundle(camera).manifest.thresholds["fp32"]
    assert limit.source.endswith("held-out good images, resized before the graph")


@pytest.mark.slow
def test_a_camera_that_sees_nothing_is_told_by_what_good_parts_look_like(camera: Path, exported_bundle: Path) -> None:
    limits = open_bundle(camera).manifest.blind_limits
    assert limits == open_bundle(exported_bundle).manifest.blind_limits
    model = LineModel(load(camera))
    for number in range(3, 9):
        frame = np.ascontiguousarray(good_picture(number, size_px=200)[:150])
        assert model.prepare(frame).blind is None
    for dead in (frame // 5, np.full_like(frame, 255), cv2.GaussianBlur(frame, (0, 0), 18)):
        assert "the camera does not see the part" in (model.prepare(dead).blind or "")


def test_a_frame_is_made_small_for_that_as_the_graph_does_it() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (96, 128, 1), dtype=np.uint8)
    expected = frame.reshape(8, 12, 8, 16, 1).mean(axis=(1, 3))
    assert np.abs(shrunk(frame, size_px=8) - expected).max() <= 0.5
    assert np.abs(shrunk(frame, size_px=4, crop_from_px=8) - expected[2:6, 2:6]).max() <= 0.5
    assert shrunk(np.zeros((96, 128, 3), np.uint8), size_px=8).shape == (8, 8, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnxruntime", "fp32"), ("openvino", "fp32"), pytest.param("openvino", "bf16", marks=NEEDS_BF16)],
)
def test_the_same_file_runs_on_both_backends(
    backend: str, precision: str, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = call("reason-export", "check", camera, "--backend", backend, "--precision", precision, "--json")
    assert done.status == 0, done.log
    assert json.loads(done.output)["images"] == 3


@pytest.mark.slow
def test_scores_are_those_of_a_resize_before_the_graph(camera: Path, exported_bundle: Path, frames: Path) -> None:
    inside, before = load(camera), load(exported_bundle)
    for path in sorted(frames.iterdir()):
        frame = np.asarray(Image.open(path))
        assert inside(frame).score == pytest.approx(before(frame).score, rel=1e-2)


@pytest.mark.slow
def test_frames_of_another_size_are_refused_by_name(camera: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the image has 64 rows and 64 columns; this graph .* takes 150 x 200 only"):
        load(camera)(good_picture(1))
    path = save(tmp_path / "small.png", good_picture(1))
    done = call("reason-run", "predict", camera, path, "--json")
    assert done.status == 1
    assert json.loads(done.output)["decision"] == "UNKNOWN"


def test_a_frame_smaller_than_the_model_is_refused(finished_run: Path, tmp_path: Path) -> None:
    told = call("reason-export", "onnx", finished_run, "--out", tmp_path / "b", "--input-size", 32, 200).error
    assert "--input-size 32 200 is smaller than the 64 x 64 pixels that the model looks at" in told


@pytest.mark.parametrize(
    ("height", "width", "fits"), [(64, 64, True), (63, 64, False), (64, 63, False), (200, 63, False), (64, 200, True)]
)
def test_a_frame_is_as_large_as_the_resize_at_least_on_either_side(height: int, width: int, fits: bool) -> None:
    own = square_format(56, resize_px=64)
    camera = dataclasses.replace(
        own, height_px=height, width_px=width, resize_height_px=height, resize_width_px=width, resize_filter="in-graph"
    )
    if fits:
        model = camera_model(Echo(), own=own, camera=camera)  # type: ignore[arg-type]
        anomaly_map, _ = model(torch.zeros((1, height, width, 3), dtype=torch.uint8))
        assert anomaly_map.shape == (1, 56, 56, 3)
    else:
        with pytest.raises(ConfigurationError, match=f"--input-size {height} {width} is smaller than the 64 x 64"):
            camera_model(Echo(), own=own, camera=camera)  # type: ignore[arg-type]
