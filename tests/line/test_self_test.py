"""What a line asks of a model before it judges with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from reason_export.golden import golden_bytes
from reason_export.preparation import preparation
from reason_runtime.bundle import MODELS, Bundle, open_bundle, update_bundle
from reason_runtime.choices import Precision
from reason_runtime.errors import ParityError
from reason_runtime.golden import Answers, Golden
from reason_runtime.self_test import require_golden_answers, resized_otherwise
from reason_runtime.session import open_session
from tests.commands import call
from tests.line.models import line_bundle
from tests.line.test_inspect_command import endless
from tests.line.test_run import inspecting, put, wait_until
from tests.runtime.bundles import expected_map, grey_model, make_bundle


def require(bundle: Bundle, *, precision: Precision = "fp32", most_in_a_run: int = 1) -> None:
    session = open_session(bundle, precision=precision, threads=1)
    require_golden_answers(session, bundle, most_in_a_run=most_in_a_run)


def with_model(bundle: Bundle, content: bytes, *, precision: Precision = "fp32") -> Bundle:
    return update_bundle(bundle, manifest=bundle.manifest, files={MODELS[precision]: content})


def with_golden(bundle: Bundle, golden: Golden) -> Bundle:
    return update_bundle(bundle, manifest=bundle.manifest, files={"golden.npz": golden_bytes(golden)})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def wrong_for_three() -> bytes:
    """The grey model; of three images in a run the scores are larger by a tenth."""
    model = onnx.load_from_string(grey_model())
    graph = model.graph
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (("three", np.array(3)), ("zeroth", np.array(0)), ("tenth", np.float32(0.1)))
    )
    (reduce,) = (node for node in graph.node if node.output[0] == "score")
    reduce.output[0] = "right"
    make = helper.make_node
    graph.node.extend(
        [
            make("Shape", ["image"], ["shape"]),
            make("Gather", ["shape", "zeroth"], ["count"]),
            make("Equal", ["count", "three"], ["are_three"]),
            make("Cast", ["are_three"], ["one"], to=TensorProto.FLOAT),
            make("Mul", ["one", "tenth"], ["more"]),
            make("Add", ["right", "more"], ["score"]),
        ]
    )
    return model.SerializeToString()


def without_numbers(output: str) -> bytes:
    """The grey model with NaN in one of its outputs; a library's maximum may skip them, so that the other is right."""
    model = onnx.load_from_string(grey_model())
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["right" if name == output else name for name in names]
    graph.node.append(helper.make_node("Add", ["right", "nan"], [output]))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("precision", "allowed", "refused"), [("fp32", 1.00005, 1.001), ("fp16", 1.015, 1.03), ("int8", 1.25, 1.4)]
)
def test_scores_may_differ_by_what_the_precision_may(
    bundle: Bundle, precision: Precision, allowed: float, refused: float
) -> None:
    require(bundle, most_in_a_run=5)
    require(with_model(bundle, grey_model(scale=allowed / 128), precision=precision), precision=precision)
    worse = with_model(open_bundle(bundle.path), grey_model(scale=refused / 128), precision=precision)
    told = rf"onnxruntime {precision} is not what was exported: scores of golden images differ by up to .*"
    with pytest.raises(ParityError, match=told):
        require(worse, precision=precision)


@pytest.mark.parametrize("output", ["anomaly_map", "score"])
def test_a_model_that_gives_no_numbers_is_refused(bundle: Bundle, output: str) -> None:
    with pytest.raises(ParityError, match="differ by up to inf"):
        require(with_model(bundle, without_numbers(output)))


def test_every_number_of_images_in_a_run_is_tried(bundle: Bundle) -> None:
    wrong = with_model(bundle, wrong_for_three())
    require(wrong, most_in_a_run=2)
    with pytest.raises(ParityError, match="differ by up to"):
        require(wrong, most_in_a_run=3)


@pytest.mark.parametrize("place", ["first good part", "second good part", "first painted defect"])
def test_good_parts_and_painted_defects_come_in_turns(bundle: Bundle, place: str) -> None:
    golden = bundle.golden()
    defects = np.random.default_rng(3).integers(0, 256, golden.images.shape, dtype=np.uint8)
    maps = expected_map(defects)
    painted = Answers(images=defects, anomaly_map=maps, score=maps.max(axis=(1, 2)))
    require(with_golden(bundle, dataclasses.replace(golden, painted=painted)))
    score = (painted if place == "first painted defect" else golden).score
    score[1 if place == "second good part" else 0] *= 0.99
    with pytest.raises(ParityError, match=r"differ by up to (9\..e-03|1\.0e-02)"):
        require(with_golden(open_bundle(bundle.path), dataclasses.replace(golden, painted=painted)))


def test_a_device_that_resizes_otherwise_judges_nothing(bundle: Bundle) -> None:
    golden = bundle.golden()
    found = preparation(bundle.manifest.input)
    assert found is not None
    require(with_golden(bundle, dataclasses.replace(golden, preparation=found)))
    size = found.prepared.shape[1::-1]
    nearest = np.asarray(Image.fromarray(found.picture).resize(size, Image.Resampling.NEAREST))
    other = dataclasses.replace(golden, preparation=dataclasses.replace(found, prepared=nearest))
    with pytest.raises(ParityError, match="a picture is resized otherwise here than at export"):
        require(with_golden(open_bundle(bundle.path), other))
    assert [bool(resized_otherwise(levels)) for levels in (0, 2, 3)] == [False, False, True]


def test_a_line_neither_begins_with_such_a_model_nor_changes_to_it(tmp_path: Path) -> None:
    first = line_bundle(tmp_path / "first").manifest.content_sha256[:12]
    with_model(make_bundle(tmp_path / "half"), grey_model(scale=1 / 256))
    source = endless(tmp_path)
    done = call("reason-run", "inspect", tmp_path / "half", "--source", source)
    assert (done.status, done.output) == (1, "")
    assert done.error.startswith(
        f"error: {tmp_path / 'half'}: onnxruntime fp32 is not what was exported: scores of gol"
    )
    with inspecting(tmp_path, source=source, bundle="first") as (line, told):
        put(tmp_path, "half")
        line.swap()
        wait_until(lambda: len(told) == 1)
        assert "the new bundle is refused, the old one stays" in told[0]
        assert line.models.of("top").content == first
