from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from reason_export.check import check_bundle
from reason_export.golden import golden_bytes, make_golden
from reason_export.painted import DEFECTS, LARGE, paint, painted_golden, part_of
from reason_runtime.bundle import Bundle, open_bundle, update_bundle
from reason_runtime.session import open_session
from reason_train.config import MethodConfig
from reason_train.trained import load_run
from tests.commands import call
from tests.export.changed_maps import change_map
from tests.filled_model import filled_model
from tests.pictures import good_picture


def pictures(count: int, *, channels: int = 3) -> np.ndarray:
    return np.stack([good_picture(900 + number)[:, :, :channels] for number in range(count)])


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_defect_changes_its_place_alone(defect: str, channels: int) -> None:
    picture = pictures(1, channels=channels)[0].squeeze()
    before = picture.copy()
    for seed in range(5):
        painted = paint(picture, defect, random=np.random.default_rng(seed), radii=LARGE)  # type: ignore[arg-type]
        assert painted is not None
        found, mask = painted
        changed = np.abs(found.astype(int) - before).reshape(*mask.shape, -1).mean(axis=2)
        assert changed[mask].mean() >= 8
        rows, columns = np.nonzero(mask)
        margin = 8  # of soft edges, and of what is pushed aside
        near = np.zeros_like(mask)
        near[
            max(rows.min() - margin, 0) : rows.max() + margin, max(columns.min() - margin, 0) : columns.max() + margin
        ] = 1
        assert not changed[~near].any()
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize(("count", "channels"), [(1, 3), (2, 1), (12, 3)])
def test_ten_golden_pictures_are_painted_the_same_every_time(count: int, channels: int) -> None:
    images = pictures(count, channels=channels)
    found = painted_golden(images)
    assert (found.dtype, found.shape) == (np.uint8, (10, *images.shape[1:]))
    for index, image in enumerate(found):
        share = (image != images[index % count]).any(axis=2).mean()
        assert 0 < share < 0.5
    np.testing.assert_array_equal(found, painted_golden(images))


def test_a_scratch_and_a_stain_on_grey_photographs_have_a_colour_unless_the_bundle_takes_mono() -> None:
    grey = np.repeat(pictures(10, channels=1), 3, axis=3)
    found = painted_golden(grey)
    coloured = [bool((image[:, :, 0] != image[:, :, 2]).any()) for image in found]
    assert coloured == [kind in ("scratch", "stain") for kind in DEFECTS] + [False] * 5
    mono = painted_golden(grey[:, :, :, :1])
    for one, three in zip(mono, found, strict=True):  # green gets the change of before
        np.testing.assert_array_equal(one[:, :, 0], three[:, :, 1])


def test_channels_in_another_order_fail_where_photographs_are_grey(bundle: Bundle, finished_run: Path) -> None:
    _, model = load_run(finished_run)
    grey = np.repeat(pictures(3, channels=1), 3, axis=3)
    files = {"golden.npz": golden_bytes(make_golden(model, grey, synthetic=False))}
    manifest = dataclasses.replace(bundle.manifest, thresholds={}, score_statistics=None)
    changed = update_bundle(bundle, manifest=manifest, files=files)
    assert check_bundle(changed).passed
    exported = (bundle.path / "model.onnx").read_bytes()
    for order in ((2, 1, 0), (0, 2, 1)):
        graph = onnx.load_from_string(exported)
        for node in graph.graph.node:
            node.input[:] = ["reordered" if name == "image" else name for name in node.input]
        exchange = onnx.helper.make_node("Gather", ["image", "order"], ["reordered"], axis=3, name="exchange")
        graph.graph.node.insert(0, exchange)
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(order), "order"))
        changed = update_bundle(changed, manifest=manifest, files={"model.onnx": graph.SerializeToString()})
        found = check_bundle(changed)
        assert found.parity.score_difference_max <= 1e-4
        assert found.broken, order
        assert all(line.startswith("on painted defects: ") for line in found.broken)


@pytest.mark.parametrize("corner", [(slice(20, 44), slice(30, 50)), (slice(0, 9), slice(0, 9))])
def test_defects_are_painted_where_they_count(corner: tuple[slice, slice]) -> None:
    images = pictures(10)
    counts = np.zeros(images.shape[1:3], bool)
    counts[corner] = True
    for image, found in zip(images, painted_golden(images, counts=counts), strict=True):
        assert (found != image)[counts].any()


def test_the_golden_defects_of_a_model_lie_in_its_region() -> None:
    model = filled_model(
        MethodConfig(method="rd4ad", teacher="efficientnet_lite0", image_size_px=64, roi=(0.0, 0.0, 1.0, 1.0))
    )
    images = pictures(3)
    model.head.get_buffer("region")[:] = 0
    model.head.get_buffer("region")[40:56, 8:24] = 1
    painted = make_golden(model, images, synthetic=False).painted
    assert painted is not None
    for index, found in enumerate(painted.images):
        assert (found != images[index % 3])[40:56, 8:24].any()
    assert (painted.score > 0).all()


def test_on_a_level_picture_what_would_not_be_seen_is_left_out() -> None:
    level = np.full((1, 64, 64, 3), 120, np.uint8)
    found = painted_golden(level)
    assert len(found) == 6  # a scratch, a stain and a hole, twice; nothing bends, and what is moved looks alike
    assert all((image != 120).any() for image in found)
    assert len(painted_golden(np.zeros((1, 64, 64, 1), np.uint8))) >= 2


def test_a_part_is_where_a_picture_has_edges() -> None:
    picture = np.full((64, 64), 100, np.uint8)
    picture[20:40:2, 20:40] = 200
    part = part_of(picture)
    assert part[22:38, 22:38].all()
    assert not part[:12].any()
    assert part_of(np.full((64, 64), 100, np.uint8)).all()


def test_a_bundle_has_painted_pictures_with_torchs_answers(exported_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(exported_bundle)
    golden = bundle.golden()
    assert golden.painted is not None
    np.testing.assert_array_equal(golden.painted.images, painted_golden(golden.images))
    session = open_session(bundle, backend="onnxruntime", precision="fp32", device="cpu")
    for image, anomaly_map, score in zip(
        golden.painted.images, golden.painted.anomaly_map, golden.painted.score, strict=True
    ):
        outputs = session.run(image[None])
        np.testing.assert_allclose(outputs.anomaly_map[0], anomaly_map, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(outputs.score[0], score, rtol=1e-4)


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(exported_bundle, tmp_path / "bundle"))


def test_the_answer_to_painted_defects_is_said_with_how_many_are_found(bundle: Bundle) -> None:
    painted, limit = bundle.golden().painted, bundle.manifest.thresholds["fp32"].value
    assert painted is not None
    found = int((painted.score >= limit).sum())
    facts = json.loads(call("reason-export", "check", bundle.path, "--json").output)["painted"]
    assert (facts["images"], facts["found"], facts["found_by_trained"]) == (10, found, found)
    assert facts["score_difference_max"] <= 1e-4
    assert facts["map_offset_px"] == [0, 0]
    told = call("reason-export", "check", bundle.path).output
    assert "  10 painted defects: score differs by at most " in told
    assert f", {found} found, {found} by the trained model" in told


def test_a_model_that_saturates_where_good_parts_end_fails_by_painted_defects_alone(bundle: Bundle) -> None:
    change_map(
        bundle.path,
        nodes=[onnx.helper.make_node("Min", ["seen", "highest"], ["anomaly_map"])],
        constants={"highest": np.float32(bundle.golden().anomaly_map.max())},
    )
    done = call("reason-export", "check", bundle.path, "--json")
    facts = json.loads(done.output)
    assert facts["score_difference_max"] <= 1e-4
    assert facts["painted"]["score_difference_max"] > 0.05
    assert facts["broken"]
    assert all(line.startswith("on painted defects: ") for line in facts["broken"])
    assert "on painted defects: score differs by" in done.error
    assert "of an image's own, at most 1e-04 is allowed" in done.error


def test_a_painted_score_is_compared_with_itself_and_not_with_the_largest(bundle: Bundle) -> None:
    golden = bundle.golden()
    assert golden.painted is not None
    score = golden.painted.score.copy()
    lowest = int(np.where(score > golden.score.max(), score, np.inf).argmin())
    score[lowest] *= 1 + 1e-3
    other = dataclasses.replace(golden.painted, score=score)
    content = golden_bytes(dataclasses.replace(golden, painted=other))
    update_bundle(bundle, manifest=bundle.manifest, files={"golden.npz": content})
    facts = json.loads(call("reason-export", "check", bundle.path, "--json").output)
    assert facts["painted"]["score_difference_max"] == pytest.approx(1e-3, rel=0.05)
    assert (facts["passed"], facts["score_difference_max"] <= 1e-4) == (False, True)


def test_a_painted_score_below_those_of_good_images_is_compared_with_their_largest(bundle: Bundle) -> None:
    golden = bundle.golden()
    assert golden.painted is not None
    good, score = golden.score.copy(), golden.painted.score.copy()
    good[0] = 10 * score.max()  # so that every painted score lies below it
    score[0] += 0.02 * good[0]
    other = dataclasses.replace(golden, score=good, painted=dataclasses.replace(golden.painted, score=score))
    update_bundle(bundle, manifest=bundle.manifest, files={"golden.npz": golden_bytes(other)})
    facts = json.loads(call("reason-export", "check", bundle.path, "--json").output)
    assert facts["painted"]["score_difference_max"] == pytest.approx(0.02, rel=0.01)


def test_a_bundle_of_an_earlier_version_has_none_and_passes(bundle: Bundle) -> None:
    before = golden_bytes(dataclasses.replace(bundle.golden(), painted=None))
    update_bundle(bundle, manifest=bundle.manifest, files={"golden.npz": before})
    done = call("reason-export", "check", bundle.path)
    assert done.status == 0, done.log
    assert "painted" not in done.output
    assert json.loads(call("reason-export", "check", bundle.path, "--json").output)["painted"] is None
