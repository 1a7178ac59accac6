from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from reason_export.activations import measure_activations
from reason_export.check import check_bundle
from reason_export.equalisation import equalise
from reason_export.golden import golden_bytes, synthetic_images
from reason_export.good_images import half_of
from reason_export.graph_parts import map_head
from reason_export.qdq import LEVELS, SUMMED_LEVELS, measured_tensors, quantised_graph
from reason_export.quantisation import quantise_model
from reason_runtime.bundle import open_bundle, update_bundle, write_bundle
from reason_runtime.checks import known_check
from reason_runtime.digest import file_sha256
from reason_runtime.errors import ParityError
from reason_runtime.image import load_image
from reason_runtime.session import open_session
from reason_runtime.stratified import stratified
from tests.commands import Done, call
from tests.imports import loaded_packages
from tests.pictures import good_picture, save

CONVOLUTIONS = ("Conv", "ConvTranspose")


def quantize(bundle: Path, calibration: Path, *more: object) -> Done:
    return call("reason-export", "quantize", bundle, "--calibration", calibration, *more)


@pytest.fixture(scope="module")
def int8(precise_bundle: Path) -> onnx.ModelProto:
    return onnx.load(precise_bundle / "model_int8.onnx")


@pytest.fixture(scope="module")
def weights(int8: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {item.name: numpy_helper.to_array(item) for item in int8.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def quantised_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    made = makers(model)
    return [node for node in model.graph.node if node.op_type in CONVOLUTIONS and node.input[1] in made]


def test_every_zero_point_is_zero_and_every_value_int8(
    int8: onnx.ModelProto, weights: dict[str, NDArray[np.generic]]
) -> None:
    pairs = [node for node in int8.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert weights[node.input[2]].dtype == np.int8
        assert not weights[node.input[2]].any()


def test_weights_have_one_scale_an_output_channel_and_transposed_ones_one_in_all(
    int8: onnx.ModelProto, weights: dict[str, NDArray[np.generic]]
) -> None:
    made = makers(int8)
    layers = quantised_layers(int8)
    assert {node.op_type for node in layers} == set(CONVOLUTIONS)
    for node in layers:
        dequantise = made[node.input[1]]
        values, scales = (weights[name] for name in dequantise.input[:2])
        levels = LEVELS if node.op_type == "Conv" and values.shape[1] == 1 else SUMMED_LEVELS
        if node.op_type == "ConvTranspose":
            assert (values.dtype, scales.shape) == (np.int8, ())
            assert not dequantise.attribute
            assert np.abs(values.astype(int)).max() == levels
            continue
        assert (values.dtype, scales.shape) == (np.int8, (values.shape[0],))
        assert helper.get_node_attr_value(dequantise, "axis") == 0
        largest = np.abs(values.astype(int)).max(axis=tuple(range(1, values.ndim)))
        # the whole range of each channel is used; some channels are dead, or next to nothing beside their bias
        product = scales * weights[made[node.input[0]].input[1]]
        assert (np.isin(largest, [0, levels]) | (np.abs(weights[node.input[2]]) > 2**28 * product)).all()


def test_quantised_weights_are_within_half_a_step_of_equalised_ones(precise_bundle: Path) -> None:
    source = onnx.load(precise_bundle / "model.onnx")
    images = synthetic_images(open_bundle(precise_bundle).manifest.input)[:1]
    seen = measure_activations(source, images, tensors=measured_tensors(source.graph))
    layers = [node.name for node in source.graph.node if node.op_type in CONVOLUTIONS]
    int8 = quantised_graph(source, seen=seen, layers=layers)
    equalise(source.graph, seen=seen, layers=layers)  # in place; see test_equalisation.py
    before = {item.name: numpy_helper.to_array(item) for item in source.graph.initializer}
    weights = {item.name: numpy_helper.to_array(item) for item in int8.graph.initializer}
    made = makers(int8)
    assert [node.name for node in quantised_layers(int8)] == layers
    for node in quantised_layers(int8):
        values, scales = (weights[name] for name in made[node.input[1]].input[:2])
        scales = scales.reshape(-1, *[1] * (values.ndim - 1))
        original = before[node.input[1].removesuffix(".dequantised")]
        gap = np.abs(values * scales - original) / scales
        assert gap.max() <= 0.5 + 1e-3


def test_the_map_head_is_never_quantised(int8: onnx.ModelProto) -> None:
    head = map_head(int8.graph)
    assert {"MatMul", "Sqrt", "Div"} <= {node.op_type for node in int8.graph.node if node.name in head}
    for node in int8.graph.node:
        if node.name in head:
            assert node.op_type not in ("QuantizeLinear", "DequantizeLinear")
            assert node.op_type != "MatMul" or not any("dequantised" in name for name in node.input)


def test_residual_sums_take_their_shortcut_quantised_and_their_main_side_plain(int8: onnx.ModelProto) -> None:
    made, head = makers(int8), map_head(int8.graph)
    quantised = {node.name for node in quantised_layers(int8)}
    inside, of_students = [], []
    for node in int8.graph.node:
        if node.op_type == "Add" and any(made[name].name in quantised for name in node.input if name in made):
            readers = {reader.name for reader in int8.graph.node if node.output[0] in reader.input}
            (of_students if readers <= head else inside).append([made[name].op_type for name in node.input])
    assert len(inside) >= 4
    for kinds in inside:
        assert sorted(kind in CONVOLUTIONS for kind in kinds) == [False, True]
        assert "DequantizeLinear" in kinds
    assert of_students == [["Conv", "Conv"]] * 2  # a sum a scale, which the head reads as it is


def test_a_concatenation_joins_int8_values_of_one_scale(int8: onnx.ModelProto) -> None:
    made = makers(int8)
    joint = next(node for node in int8.graph.node if node.op_type == "Concat")
    assert {made[name].op_type for name in joint.input} == {"QuantizeLinear"}
    after = [node for node in int8.graph.node if joint.output[0] in node.input]
    assert [node.op_type for node in after] == ["DequantizeLinear"]
    scales = {made[name].input[1] for name in joint.input} | {after[0].input[1]}
    weights = {item.name: float(numpy_helper.to_array(item)) for item in int8.graph.initializer if not item.dims}
    assert len({weights[name] for name in scales}) == 1


def test_onnx_runtime_has_the_same_weights_in_a_file_of_its_own(precise_bundle: Path, int8: onnx.ModelProto) -> None:
    bundle = open_bundle(precise_bundle)
    path = bundle.model_path("int8", provider="cpu")
    assert path.name == "model_int8_unsigned.onnx"
    assert [bundle.model_path("int8", provider=provider).name for provider in (None, "tensorrt")] == [
        "model_int8.onnx",
        "model_int8.onnx",
    ]
    own = onnx.load(path)
    weights = [
        {item.name: item for item in model.graph.initializer if item.name.endswith(".int8")} for model in (int8, own)
    ]
    assert weights[0]
    assert weights[0] == weights[1]
    zeros = {node.input[2] for node in own.graph.node if node.op_type == "QuantizeLinear"}
    assert {item.data_type for item in own.graph.initializer if item.name in zeros} == {TensorProto.UINT8}
    assert str(open_session(bundle, precision="int8").model) == str(path)


def test_a_bundle_of_before_has_one_int8_file_for_all(precise_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(precise_bundle)
    names = ("model.onnx", "model_int8.onnx", "golden.npz")
    before = write_bundle(
        tmp_path / "before", manifest=bundle.manifest, files={name: bundle.path / name for name in names}
    )
    assert open_session(before, precision="int8").model.name == "model_int8.onnx"
    assert check_bundle(before, precision="int8").passed


def test_how_it_came_about_is_in_the_manifest(precise_bundle: Path, int8: onnx.ModelProto) -> None:
    manifest = open_bundle(precise_bundle).manifest
    made = manifest.quantisation
    assert made is not None
    assert made.images == 10  # of twenty; the other ten set the threshold
    assert made.sqnr_db >= 15
    assert made.layers == len(quantised_layers(int8))
    floats = [node for node in int8.graph.node if node.op_type in CONVOLUTIONS and node.input[1] not in makers(int8)]
    assert set(made.float_layers) == {node.input[1].removesuffix(".weight") for node in floats}
    assert manifest.thresholds["int8"].images == 10
    assert manifest.thresholds["int8"].source == "10 held-out good images, int8 in ONNX Runtime"


def test_where_two_cameras_names_take_turns_both_set_ranges_and_threshold() -> None:
    images = {f"{number}": Path(f"{number // 2:03}_{('left', 'right')[number % 2]}.png") for number in range(24)}
    half = half_of(images)
    assert len(half) == 12
    for part in (half.values(), set(images.values()) - set(half.values())):
        assert {path.stem.partition("_")[2] for path in part} == {"left", "right"}


def test_its_held_out_scores_are_the_int8_files_own(precise_bundle: Path, good_pictures: Path) -> None:
    bundle = open_bundle(precise_bundle)
    assert bundle.manifest.quantisation is not None
    known = bundle.manifest.quantisation.scores
    assert known is not None
    session = open_session(bundle, precision="int8")
    images = [load_image(path, input_format=bundle.manifest.input) for path in sorted(good_pictures.iterdir())]
    outputs = [session.run(images[i][None]) for i in stratified(len(images), most=10)]  # the others calibrated
    scores = np.concatenate([output.score for output in outputs])
    assert (known.images, known.minimum, known.maximum) == (10, float(scores.min()), float(scores.max()))
    assert (known.mean, known.std) == (pytest.approx(float(scores.mean())), pytest.approx(float(scores.std())))
    accepted = scores < bundle.manifest.thresholds["int8"].value
    highest = max(output.anomaly_map.max() for output, good in zip(outputs, accepted, strict=True) if good)
    assert known.pixel_threshold == np.nextafter(highest, np.float32(np.inf))
    assert (
        f"            10 held-out good images: {known.minimum:.4g} .. "
        in call("reason-run", "info", bundle.path).output
    )


@pytest.mark.slow
def test_quantize_checks_in_every_backend_for_cpus_and_keeps_what_it_found(
    exported_bundle: Path, good_pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    done = quantize(bundle, good_pictures, "--json")
    assert (done.status, done.log) == (0, "")
    checks = json.loads(done.output)["checks"]
    assert [(found["backend"], found["precision"]) for found in checks] == [
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
    ]
    for found in checks:
        assert found["passed"]
        assert found["sqnr_db"] >= 20
        kept = known_check(open_bundle(bundle), backend=found["backend"], precision="int8")
        assert kept is not None
        assert kept.passed


@pytest.mark.slow
def test_a_threshold_that_is_drawn_anew_goes_before_what_this_device_drew_until_then(
    exported_bundle: Path, good_pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    (tmp_path / "later").mkdir()
    for number in range(50, 60):
        save(tmp_path / "later" / f"{number}.png", good_picture(number))
    assert quantize(bundle, good_pictures).status == 0
    openvino = ("--backend", "openvino", "--precision", "int8")
    assert call("reason-export", "check", bundle, *openvino, "--held-out", good_pictures).status == 0
    picture = next(good_pictures.iterdir())

    def limit() -> tuple[float, str, str]:
        done = call("reason-run", "predict", bundle, picture, *openvino, "--json")
        line = json.loads(done.output)
        return line["threshold"], line["threshold_source"], done.log

    own = json.loads((bundle / "checks" / "openvino_int8.json").read_text())["threshold"]["value"]
    assert limit()[0] == own
    done = quantize(bundle, good_pictures, "--held-out", tmp_path / "later", "--json")
    assert done.status == 0, done.log
    assert all(found["threshold"] is None for found in json.loads(done.output)["checks"])
    assert limit()[0] == open_bundle(bundle).manifest.thresholds["int8"].value
    found = call("reason-export", "check", bundle, *openvino, "--held-out", good_pictures, "--json")
    own = json.loads(found.output)["threshold"]["value"]
    assert limit()[0] == own
    opened = open_bundle(bundle)
    again = replace(opened.manifest.thresholds["int8"], value=2 * own)
    thresholds = {**opened.manifest.thresholds, "int8": again}
    update_bundle(opened, manifest=replace(opened.manifest, thresholds=thresholds))  # the files are the same
    value, source, told = limit()
    assert (value, source.startswith("bundle, int8: ")) == (2 * own, True)
    assert "this device's own was drawn before it: run its check with --held-out again" in told


@pytest.mark.slow
def test_int8_of_other_held_out_images_than_those_of_float32_is_compared_with_what_float32_gives_them(
    exported_bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    """Noisier ones: in float32 they score higher, too."""
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    known = open_bundle(bundle).manifest.score_statistics
    assert known is not None
    (tmp_path / "noisier").mkdir()
    for number in range(10):
        noise = np.random.default_rng(number).normal(0, 12, (64, 64, 3))
        picture = np.clip(good_picture(70 + number) + noise, 0, 255).astype(np.uint8)
        save(tmp_path / "noisier" / f"{number}.png", picture)
    done = quantize(bundle, good_pictures, "--held-out", tmp_path / "noisier", "--json")
    assert done.status == 0, done.log
    made = open_bundle(bundle).manifest.quantisation
    assert made is not None
    assert made.scores is not None
    form, session = open_bundle(bundle).manifest.input, open_session(open_bundle(bundle), device="cpu")
    pictures = (load_image(path, input_format=form) for path in (tmp_path / "noisier").iterdir())
    trained = np.concatenate([session.run(picture[None]).score for picture in pictures])
    assert made.trained_mean == pytest.approx(float(trained.mean()))
    assert abs(made.trained_mean - known.mean) > 0.005
    for found in json.loads(done.output)["checks"]:
        assert abs(found["threshold_shift"]) < 0.15


def test_few_images_are_refused(exported_bundle: Path, good_pictures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(good_pictures.iterdir())[:6]:
        shutil.copy(path, few)
    before = (exported_bundle / "manifest.json").read_bytes()
    told = quantize(exported_bundle, few).error
    assert "3 good images to calibrate and 3 others, not used by training, to draw the threshold from; at least 8" in (
        told
    )
    assert (exported_bundle / "manifest.json").read_bytes() == before


def test_few_held_out_images_are_refused_however_many_calibrate(
    exported_bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    for number in range(7):
        save(tmp_path / "few" / f"{number}.png", good_picture(4000 + number))
    told = quantize(exported_bundle, good_pictures, "--held-out", tmp_path / "few").error
    assert "20 good images to calibrate and 7 others, not used by training, to draw the threshold from; at least 8" in (
        told
    )


@pytest.mark.parametrize("refused", ["calibration", "held_out"])
def test_images_that_the_trained_model_rejects_neither_calibrate_nor_set_the_threshold(
    refused: str, exported_bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    session = open_session(bundle, precision="fp32")
    scores = {
        path: float(session.run(load_image(path, input_format=bundle.manifest.input)[None]).score[0])
        for path in good_pictures.iterdir()
    }
    ranked = sorted(scores, key=lambda path: scores[path])
    accepted = "held_out" if refused == "calibration" else "calibration"
    for folder, paths in ((accepted, ranked[:10]), (refused, ranked[10:])):
        (tmp_path / folder).mkdir()
        for path in paths:
            shutil.copy(path, tmp_path / folder)
    strict = dataclasses.replace(
        bundle.manifest.thresholds["fp32"], images=299, value=scores[ranked[10]], false_reject_upper_bound=0.01
    )
    manifest = dataclasses.replace(bundle.manifest, thresholds={"fp32": strict}, score_statistics=None)
    update_bundle(bundle, manifest=manifest)
    told = quantize(bundle.path, tmp_path / "calibration", "--held-out", tmp_path / "held_out").error
    assert f"{tmp_path / refused}: the trained model rejects 10 of 10 images; expected good parts" in told


def test_an_image_that_sets_the_threshold_does_not_calibrate(exported_bundle: Path, good_pictures: Path) -> None:
    told = quantize(exported_bundle, good_pictures, "--held-out", good_pictures).error
    assert "0 good images to calibrate and 20 others" in told


@pytest.mark.slow
def test_a_copy_neither_calibrates_nor_sets_the_threshold(
    exported_bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    pictures, bundle = tmp_path / "pictures", Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    pictures.mkdir()
    for path in sorted(good_pictures.iterdir()):
        shutil.copy(path, pictures / f"{path.stem}a.png")
        shutil.copy(path, pictures / f"{path.stem}b.png")
    assert quantize(bundle, pictures).status == 0
    manifest = open_bundle(bundle).manifest
    assert manifest.quantisation is not None
    assert (manifest.quantisation.images, manifest.thresholds["int8"].images) == (10, 10)


@pytest.mark.slow
def test_images_that_were_trained_on_set_the_ranges_and_others_the_threshold(
    exported_bundle: Path, good_pictures: Path, parts: Path, tmp_path: Path
) -> None:
    pictures, bundle = tmp_path / "pictures", Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    shutil.copytree(good_pictures, pictures / "new")
    shutil.copytree(parts / "train" / "good", pictures / "old")  # of these ten two were held out
    done = quantize(bundle, pictures, "--json")
    assert done.status == 0, done.log
    manifest = open_bundle(bundle).manifest
    assert manifest.quantisation is not None
    assert (manifest.quantisation.images, manifest.thresholds["int8"].images) == (8, 22)
    new = {file_sha256(path) for path in (pictures / "new").iterdir()}
    before = open_bundle(exported_bundle).threshold_from()
    assert (len(before), open_bundle(bundle).threshold_from()) == (2, before | new)
    seen = next(path for path in (pictures / "old").iterdir() if file_sha256(path) in open_bundle(bundle).trained_on())
    seen.unlink()  # too few for the ranges
    assert quantize(bundle, pictures).status == 0
    manifest = open_bundle(bundle).manifest
    assert manifest.quantisation is not None
    assert (manifest.quantisation.images, manifest.thresholds["int8"].images) == (18, 11)


@pytest.mark.slow
def test_the_highest_held_out_images_are_named(exported_bundle: Path, good_pictures: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    done = quantize(bundle, good_pictures, "--json")
    highest = json.loads(done.output)["highest_held_out"]
    opened = open_bundle(bundle)
    session = open_session(opened, precision="int8")
    paths = sorted(good_pictures.iterdir())
    scores = {
        path.name: float(session.run(load_image(path, input_format=opened.manifest.input)[None]).score[0])
        for path in (paths[i] for i in stratified(len(paths), most=10))
    }
    ranked = sorted(scores, key=lambda name: -scores[name])
    assert [image["name"] for image in highest["images"]] == ranked[:3]
    assert highest["images"][0]["score"] == scores[ranked[0]]
    assert f"highest held-out: {ranked[0]} (1.00 x threshold, " in quantize(bundle, good_pictures).output


def test_an_image_that_cannot_be_read_is_named(exported_bundle: Path, good_pictures: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(good_pictures, tmp_path / "broken"))
    (broken / "03.png").write_bytes(b"no picture")
    assert str(broken / "03.png") in quantize(exported_bundle, broken).error


@pytest.mark.slow
def test_a_bundle_whose_check_fails_stays_as_it_was(exported_bundle: Path, good_pictures: Path, tmp_path: Path) -> None:
    copy = open_bundle(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    golden = copy.golden()
    doubled = dataclasses.replace(golden, anomaly_map=2 * golden.anomaly_map)  # what no int8 graph of this model gives
    update_bundle(copy, manifest=copy.manifest, files={"golden.npz": golden_bytes(doubled)})
    before = {path.name: path.read_bytes() for path in copy.path.iterdir() if path.is_file()}
    told = quantize(copy.path, good_pictures).error
    assert "left as it was, int8 fails its check: " in told
    assert {path.name: path.read_bytes() for path in copy.path.iterdir() if path.is_file()} == before


def test_it_loads_no_torch(exported_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    for number in range(3):
        save(tmp_path / "few" / f"{number}.png", np.full((64, 64, 3), 90 + number, np.uint8))
    code = (
        "import sys\nfrom pathlib import Path\nfrom reason_export.quantize import QuantizeChoices, quantize\n"
        "from reason_runtime.bundle import open_bundle\nfrom reason_runtime.errors import DataError\n"
        "try:\n    quantize(open_bundle(sys.argv[1]), choices=QuantizeChoices(calibration=Path(sys.argv[2])))\n"
        "except DataError:\n    pass\n"
    )
    loaded = loaded_packages(code, arguments=[bundle, tmp_path / "few"])
    assert loaded & {"torch", "torchvision", "timm", "safetensors"} == set()
    assert "onnxruntime" in loaded


def two_that_nearly_agree() -> onnx.ModelProto:
    """A map of what two branches of four layers each differ by: a ten-thousandth of what they hold."""
    random = np.random.default_rng(0)
    weights, nodes = (
        {},
        [
            helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["pixels"], ["x"], name="transpose", perm=[0, 3, 1, 2]),
        ],
    )
    common = [random.normal(0, 0.2, (8, 3 if i == 0 else 8, 3, 3)) for i in range(4)]
    for branch, apart in (("a", 0.0), ("b", 1e-4)):
        before = "x"
        for i, weight in enumerate(common):
            name = f"{branch}{i}"
            weights[f"{name}.weight"] = weight * (1 + apart * random.normal(size=weight.shape))
            layer = [before, f"{name}.weight"]
            nodes.append(helper.make_node("Conv", layer, [f"{name}.sum"], name=name, pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"], name=f"{name}.relu"))
            before = f"{name}.out"
    nodes += [
        helper.make_node("Sub", ["a3.out", "b3.out"], ["apart"], name="sub"),
        helper.make_node("ReduceL2", ["apart", "channels"], ["anomaly_map"], name="norm", keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map", "sides"], ["score"], name="max", keepdims=0),
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    stored += [numpy_helper.from_array(np.array(axes), name) for name, axes in (("channels", [1]), ("sides", [1, 2]))]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("anomaly_map", ["N", 16, 16]), ("score", ["N"]))
    ]
    graph = helper.make_graph(nodes, "g", [image], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_network_that_int8_cannot_hold_is_refused(tmp_path: Path) -> None:
    onnx.save(two_that_nearly_agree(), tmp_path / "model.onnx")
    images = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ParityError, match="even with half of the layers in float32, at least 15 dB is needed"):
        quantise_model(tmp_path / "model.onnx", images)


def chain(nodes: Sequence[onnx.NodeProto], weights: dict[str, NDArray[np.float64]]) -> onnx.ModelProto:
    """Image, layers from `x` to `y`, and the length of each pixel's `y` as the map."""
    make = helper.make_node
    before = [
        make("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        make("Div", ["pixels", "white"], ["grey"], name="div"),
        make("Transpose", ["grey"], ["x"], name="transpose", perm=[0, 3, 1, 2]),
    ]
    behind = [
        make("ReduceL2", ["y", "channels"], ["anomaly_map"], name="norm", keepdims=0),
        make("ReduceMax", ["anomaly_map", "sides"], ["score"], name="max", keepdims=0),
    ]
    stored = [
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in {"white": np.array(255.0), **weights}.items()
    ]
    stored += [numpy_helper.from_array(np.array(axes), name) for name, axes in (("channels", [1]), ("sides", [1, 2]))]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("anomaly_map", ["N", 8, 8]), ("score", ["N"]))
    ]
    graph = helper.make_graph([*before, *nodes, *behind], "g", [image], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def convolution(name: str, source: str, *, biased: bool = False) -> onnx.NodeProto:
    parts = [source, f"{name}.weight", *([f"{name}.bias"] if biased else [])]
    return helper.make_node("Conv", parts, [name], name=name, pads=[1, 1, 1, 1])


def random_weights(*names: str, inputs: int = 8) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(0)
    return {
        f"{name}.weight": random.normal(0, 0.15, (8, 3 if i == 0 else inputs, 3, 3)) for i, name in enumerate(names)
    }


FEW_IMAGES = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


def test_only_the_noisiest_layer_stays_in_float32_where_that_is_enough(tmp_path: Path) -> None:
    weights = random_weights("a", "b", "c", "out")
    weights["b.weight"][0] *= 300  # what c reads: one channel so large that the others fall between two levels
    weights["c.weight"][:, 0] /= 300
    relu = helper.make_node("Relu", ["a"], ["positive"], name="relu")
    last = helper.make_node("Relu", ["c"], ["end"], name="last relu")
    nodes = [convolution("a", "x"), relu, convolution("b", "positive"), convolution("c", "b"), last]
    model = chain([*nodes, helper.make_node("Conv", ["end", "out.weight"], ["y"], name="out", pads=[1] * 4)], weights)
    onnx.save(model, tmp_path / "model.onnx")
    found = quantise_model(tmp_path / "model.onnx", FEW_IMAGES)
    assert (found.layers, list(found.kept)) == (3, ["c"])
    assert found.kept["c"] < 20 <= found.sqnr_db
    before, after = (
        np.concatenate(
            [
                session.run(["anomaly_map"], {"image": image[None]})[0]
                for session in [onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])]
                for image in FEW_IMAGES
            ]
        ).astype(np.float64)
        for graph in (model.SerializeToString(), found.graph)
    )
    noise = np.square(after - before).mean()
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.square(before).mean() / noise), abs=0.01)


def test_of_two_layers_about_as_noisy_the_cheaper_one_stays_in_float32(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {"a.weight": random.normal(0, 0.15, (8, 3, 3, 3)), "b.weight": random.normal(0, 0.28, (8, 3, 1, 1))}
    for weight in weights.values():
        weight[:, 0] /= 60
    weights["white"] = np.array([255.0 / 60, 255.0, 255.0])  # one channel of what they read is so much larger
    make = helper.make_node
    # 8 x 8 pixels, 3 channels to 8: a has 13 824 products, b 1536
    nodes = [
        convolution("a", "x"),
        make("Conv", ["x", "b.weight"], ["b"], name="b"),
        make("Add", ["a", "b"], ["y"], name="sum"),
    ]
    onnx.save(chain(nodes, weights), tmp_path / "model.onnx")
    found = quantise_model(tmp_path / "model.onnx", FEW_IMAGES)
    assert list(found.kept) == ["b"]
    assert 20 < found.sqnr_db < found.kept["b"]  # a, which alone is left in int8, is the noisier one


def test_more_layers_stay_in_float32_where_their_noise_adds_up_to_more_than_its_sum_promised(tmp_path: Path) -> None:
    # three layers alike, which round alike: their errors add up, not the squares of these
    alike = np.random.default_rng(0).normal(0, 0.15, (8, 3, 3, 3))
    alike[:, 0] /= 60
    weights = {f"{name}.weight": alike for name in "abc"}
    weights["white"] = np.array([255.0 / 60, 255.0, 255.0])  # one channel of what they read is so much larger
    make = helper.make_node
    nodes = [
        *(convolution(name, "x") for name in "abc"),
        make("Add", ["a", "b"], ["two"], name="two"),
        make("Add", ["two", "c"], ["y"], name="three"),
    ]
    onnx.save(chain(nodes, weights), tmp_path / "model.onnx")
    found = quantise_model(tmp_path / "model.onnx", FEW_IMAGES)
    (alone_db,) = found.kept.values()
    assert found.layers == 2
    assert alone_db - 10 * np.log10(3) > 20  # what the sum of the three promises
    assert 15 < alone_db - 20 * np.log10(3) < 20  # what they give
    assert found.sqnr_db == pytest.approx(alone_db - 20 * np.log10(2), abs=1)
    assert found.sqnr_db > 20


def test_what_the_map_head_reads_beside_the_network_stays_in_float32_however_quiet_it_is(tmp_path: Path) -> None:
    weights = random_weights("a", "b", "c", "out")
    nodes = [convolution("a", "x"), convolution("b", "a"), convolution("c", "b"), convolution("out", "c")]
    model = chain([*nodes, helper.make_node("Mul", ["b", "out"], ["y"], name="head")], weights)
    onnx.save(model, tmp_path / "model.onnx")
    found = quantise_model(tmp_path / "model.onnx", FEW_IMAGES)
    assert (found.layers, list(found.kept)) == (3, ["b"])


def test_a_network_that_only_the_file_of_onnx_runtime_cannot_hold_is_refused(tmp_path: Path) -> None:
    # there the sum's other side is rounded too: one channel of it is far below zero, which the rectifier cuts off
    weights = random_weights("a", "b", "c", "out")
    weights["b.bias"] = np.array([-1000.0, *[0.0] * 7])
    make = helper.make_node
    nodes = [
        convolution("a", "x"),
        make("Relu", ["a"], ["shortcut"], name="first relu"),
        convolution("b", "shortcut", biased=True),
        make("Add", ["b", "shortcut"], ["sum"], name="sum"),
        make("Relu", ["sum"], ["positive"], name="second relu"),
        convolution("c", "positive"),
        make("Relu", ["c"], ["end"], name="third relu"),
        make("Conv", ["end", "out.weight"], ["y"], name="out", pads=[1] * 4),
    ]
    onnx.save(chain(nodes, weights), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="in int8 the map's SQNR in ONNX Runtime is -?[0-9.]+ dB; use fp16 or bf16"):
        quantise_model(tmp_path / "model.onnx", FEW_IMAGES)


def test_activations_are_measured_over_all_images() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["feature"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMax", ["feature"], ["score"], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 5, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [score]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    images = np.random.default_rng(1).integers(0, 200, (3, 4, 5, 3), dtype=np.uint8)
    images[1, 2, 3, 0] = 255
    found = measure_activations(model, images, tensors=["feature"])["feature"]
    assert found.largest == 255
    np.testing.assert_allclose(found.channel_means, images.mean(axis=(0, 1, 2)), rtol=1e-6)
