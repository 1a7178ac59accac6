from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from PIL import Image

from reason_runtime import load
from reason_runtime.bundle import Bundle, open_bundle, update_bundle, write_bundle
from reason_runtime.image import InputFormat, covered, square_format
from reason_runtime.line.frame import Frame, Grab
from reason_runtime.line.model import LineModel
from reason_runtime.line.sinks.pictures import paint_reject
from reason_runtime.line.web.judge import DefectBook
from reason_runtime.manifest import Quantisation, ScoreStatistics
from reason_runtime.predict import judge
from reason_runtime.regions import Region, find_regions, regions_and_pixels, regions_of_picture
from reason_runtime.save_maps import MapWriter
from tests.runtime.bundles import golden_bytes, grey_model, make_bundle, make_manifest

FORM = square_format(32)


def test_regions_touch_over_corners_and_have_their_own_peaks() -> None:
    values = np.zeros((6, 8), np.float32)
    values[0, 0], values[1, 1] = 0.5, 0.75  # one, over a corner
    values[3:5, 5:8] = 0.5
    values[4, 6] = 2.0
    values[5, 0] = 0.49
    assert find_regions(values, pixel_threshold=0.5) == (
        Region(x_px=0, y_px=0, width_px=2, height_px=2, peak=0.75),
        Region(x_px=5, y_px=3, width_px=3, height_px=2, peak=2.0),
    )
    assert find_regions(values, pixel_threshold=2.5) == ()


def test_the_peak_is_of_the_region_and_not_of_what_its_box_holds_besides() -> None:
    values = np.full((7, 7), 0.5, np.float32)
    values[1:6, 1:6] = 0.0
    values[3, 3] = 9.0
    assert [region.peak for region in find_regions(values, pixel_threshold=0.5)] == [0.5, 9.0]


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 1.0, 2.0]))
def test_regions_are_the_connected_components(seed: int, height: int, width: int, blur: float) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(height, width)).astype(np.float32)
    if blur:
        values = cv2.GaussianBlur(values, (0, 0), blur)
    limit = float(np.quantile(values, random.uniform(0.1, 0.95)))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats((values >= limit).astype(np.uint8), connectivity=8)
    expected = []
    for label in range(1, count):
        first = np.argwhere(labels == label)[0]
        left, top, across, down, _ = (int(value) for value in boxes[label])
        peak = float(values[labels == label].max())
        own = labels[top : top + down, left : left + across] == label
        expected.append((*first, Region(x_px=left, y_px=top, width_px=across, height_px=down, peak=peak), own))
    expected.sort(key=lambda item: item[:2])
    found = regions_and_pixels(values, pixel_threshold=limit)
    assert [region for region, _ in found] == [region for *_, region, _ in expected[:100]]
    assert all(np.array_equal(pixels, own) for (_, pixels), (*_, own) in zip(found, expected, strict=False))
    assert find_regions(values, pixel_threshold=limit) == tuple(region for region, _ in found)


def test_a_map_that_is_high_everywhere_in_places_lists_a_hundred() -> None:
    values = np.zeros((64, 64), np.float32)
    values[::2, ::2] = 1.0
    assert len(find_regions(values, pixel_threshold=1.0)) == 100


@pytest.mark.parametrize(("side", "picture"), [(224, 29), (224, 58), (224, 225), (100, 116), (70, 123), (448, 225)])
def test_boxes_end_with_the_picture_whatever_its_size(side: int, picture: int) -> None:
    values = np.ones((side, side), np.float32)
    (region,) = regions_of_picture(
        values, pixel_threshold=1.0, input_format=square_format(side), shape=(picture, picture)
    )
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (0, 0, picture, picture)


@given(st.integers(0, 31), st.integers(0, 31), st.integers(20, 300), st.integers(20, 300), st.sampled_from([32, 48]))
def test_a_box_covers_what_its_map_pixel_covers_and_little_more(
    row: int, column: int, height: int, width: int, resize: int
) -> None:
    form = square_format(32, resize_px=resize)
    values = np.zeros((32, 32), np.float32)
    values[row, column] = 1.0
    (region,) = regions_of_picture(values, pixel_threshold=1.0, input_format=form, shape=(height, width))
    rows, columns = covered((height, width), input_format=form)
    down, right = (rows.stop - rows.start) / 32, (columns.stop - columns.start) / 32
    tiny = 1e-9
    assert region.x_px <= columns.start + column * right + tiny
    assert region.x_px + region.width_px >= columns.start + (column + 1) * right - tiny
    assert region.y_px <= rows.start + row * down + tiny
    assert region.y_px + region.height_px >= rows.start + (row + 1) * down - tiny
    assert region.width_px < right + 2
    assert region.height_px < down + 2
    assert region.x_px >= 0
    assert region.x_px + region.width_px <= width
    assert region.y_px >= 0
    assert region.y_px + region.height_px <= height


def mean_bundle(path: Path, *, pixel_threshold: float | None) -> Bundle:
    """The score is the map's mean, which lies below the map's maximum of good parts too."""
    bundle = make_bundle(path, threshold=0.1)
    known = ScoreStatistics(images=9, mean=0.05, std=0.01, minimum=0.01, maximum=0.09, pixel_threshold=pixel_threshold)
    manifest = dataclasses.replace(bundle.manifest, score_statistics=known)
    update_bundle(bundle, manifest=manifest, files={"model.onnx": grey_model(score="ReduceMean")})
    return bundle


def part() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A map of 0.2 in the upper half and of 0.6 in a corner of it."""
    image = np.full((64, 96, 3), 128, np.uint8)
    image[:32] = 128 + 26
    image[8:16, 12:24] = 128 + 77
    return image


def test_a_reject_says_where_by_the_pixel_threshold(tmp_path: Path) -> None:
    detector = load(mean_bundle(tmp_path / "bundle", pixel_threshold=0.5).path)
    result = detector(part())
    assert result.decision == "NG"
    (region,) = result.regions
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (12, 8, 12, 8)
    assert region.peak == pytest.approx(77 / 128)
    Image.fromarray(part()).save(tmp_path / "part.png")
    line = judge(detector, tmp_path / "part.png").line()
    assert line["regions"] == [{"x_px": 12, "y_px": 8, "width_px": 12, "height_px": 8, "peak": region.peak}]


def test_without_a_measured_one_the_threshold_is_the_pixel_threshold(tmp_path: Path) -> None:
    detector = load(mean_bundle(tmp_path / "bundle", pixel_threshold=None).path)
    assert detector.pixel_threshold == pytest.approx(0.1)
    (region,) = detector(part()).regions
    assert (region.width_px, region.height_px) == (96, 32)


def test_int8_has_its_own_pixel_threshold(tmp_path: Path) -> None:
    bundle = open_bundle(mean_bundle(tmp_path / "bundle", pixel_threshold=0.5).path)
    assert bundle.manifest.score_statistics is not None
    known = dataclasses.replace(bundle.manifest.score_statistics, pixel_threshold=0.6)
    made = Quantisation(images=8, sqnr_db=20.0, layers=1, float_layers={}, scores=known, trained_mean=known.mean)
    files = {"model_int8.onnx": bundle.model_path("fp32").read_bytes()}
    update_bundle(bundle, manifest=dataclasses.replace(bundle.manifest, quantisation=made), files=files)
    assert [load(bundle.path, precision=precision).pixel_threshold for precision in ("int8", "fp32")] == [0.6, 0.5]


def test_a_part_that_passes_and_one_that_is_not_judged_have_no_regions(tmp_path: Path) -> None:
    bundle = mean_bundle(tmp_path / "bundle", pixel_threshold=0.5)
    assert load(bundle.path, threshold=0.9)(part()).regions == ()
    broken = make_bundle(tmp_path / "broken", scale=float("nan"))
    result = load(broken.path)(part())
    assert (result.decision, result.regions) == ("UNKNOWN", ())


def centre_bundle(path: Path) -> Bundle:
    """Takes frames of 64 x 96, halves their rows, takes a third of their columns, and looks at the centre of that."""
    made = onnx.load_from_string(grey_model())
    made.graph.node.pop()
    made.graph.node[-1].output[0] = "whole"
    made.graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["whole", "channel_axis"], ["plane"]),
            helper.make_node("AveragePool", ["plane"], ["small_plane"], kernel_shape=[2, 3], strides=[2, 3]),
            helper.make_node("Squeeze", ["small_plane", "channel_axis"], ["small"]),
            helper.make_node("Slice", ["small", "first", "end", "map_axes"], ["anomaly_map"]),
            helper.make_node("ReduceMax", ["anomaly_map", "map_axes"], ["score"], keepdims=0),
        ]
    )
    for name, values in (("channel_axis", [1]), ("first", [8, 8]), ("end", [24, 24])):
        made.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    for value, sides in ((made.graph.input[0], (64, 96)), (made.graph.output[0], (16, 16))):
        for axis, side in enumerate(sides, 1):
            value.type.tensor_type.shape.dim[axis].dim_value = side
    form = InputFormat(height_px=64, width_px=96, resize_height_px=64, resize_width_px=96, resize_filter="in-graph")
    manifest = make_manifest(input_format=form)
    method = dataclasses.replace(manifest.method, settings={"crop_from_px": 32})
    manifest = dataclasses.replace(manifest, map_size_px=16, method=method)
    return write_bundle(
        path, manifest=manifest, files={"model.onnx": made.SerializeToString(), "golden.npz": golden_bytes(form)}
    )


def test_places_are_those_of_the_centre_where_the_graph_resizes_and_crops(tmp_path: Path) -> None:
    detector = load(centre_bundle(tmp_path / "bundle").path)
    frame = np.full((64, 96, 3), 128, np.uint8)
    frame[20:28, 60:66] = 255
    result = detector(frame)
    assert result.anomaly_map.shape == (16, 16)
    (region,) = result.regions
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (60, 20, 6, 8)
    frame_of_line = Frame(
        camera="c", number=0, key="k", part_id="p", grab=Grab(grabbed_ns=0, image=frame), deadline_ns=None, grabbed_at=0
    )
    model = LineModel(detector)
    prepared = model.prepare(frame)
    answer = model.judge(frame_of_line, prepared, model.infer(prepared.images), book=DefectBook())
    assert [(item.x_px, item.first_line, item.width_px, item.lines) for item in answer.defects] == [(60, 20, 6, 8)]
    assert answer.picture is not None
    Image.fromarray(frame).save(tmp_path / "part.png")
    writer = MapWriter(detector, folder=tmp_path / "maps", sources=[tmp_path / "part.png"], scale=None)
    writer.write(judge(detector, tmp_path / "part.png"))
    saved = np.asarray(Image.open(tmp_path / "maps" / "part.png.overlay.png"))
    for painted in (saved, paint_reject(answer.picture, detector)):
        rows, columns = np.nonzero((painted != frame).any(axis=2))
        assert 16 <= rows.min() <= 20 < 27 <= rows.max() <= 31
        assert 56 <= columns.min() <= 60 < 65 <= columns.max() <= 69


def test_the_map_of_tiles_is_the_pictures_own() -> None:
    form = InputFormat(height_px=32, width_px=32, channels=3, resize_height_px=32, resize_width_px=32)
    values = np.zeros((50, 90), np.float32)
    values[10:12, 70:75] = 1.0
    (region,) = regions_of_picture(values, pixel_threshold=1.0, input_format=form, shape=(50, 90))
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (70, 10, 5, 2)
