from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from reason_runtime import load
from reason_runtime.bundle import open_bundle, update_bundle
from reason_runtime.choices import Backend
from reason_runtime.errors import BackendError, BundleError, ConfigurationError, ImageError
from reason_runtime.image import resize_image, square_format
from tests.runtime.bundles import SIZE_PX, expected_map, grey_model, make_bundle, make_manifest

BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photograph(seed: int = 0, *, shape: tuple[int, ...] = (70, 50, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def flat(value: int) -> NDArray[np.uint8]:
    return np.full((SIZE_PX, SIZE_PX, 3), value, dtype=np.uint8)


@each_backend
def test_map_and_score_are_what_the_graph_computes_on_the_resized_image(tmp_path: Path, backend: Backend) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    result = load(bundle.path, backend=backend)(photograph())
    expected = expected_map(resize_image(photograph(), input_format=bundle.manifest.input)[None])[0]
    np.testing.assert_allclose(result.anomaly_map, expected, atol=1e-6)  # one float32 mean, in another order
    assert result.score == result.anomaly_map.max()
    assert result.anomaly_map.dtype == np.float32
    assert result.latency_ms > 0


@each_backend
def test_golden_arrays_are_reproduced(tmp_path: Path, backend: Backend) -> None:
    detector = load(make_bundle(tmp_path / "bundle").path, backend=backend)
    golden = detector.bundle.golden()
    outputs = detector.session.run(golden.images)
    np.testing.assert_allclose(outputs.anomaly_map, golden.anomaly_map, atol=1e-6)
    np.testing.assert_allclose(outputs.score, golden.score, atol=1e-6)


@each_backend
def test_a_batch_equals_its_single_images(tmp_path: Path, backend: Backend) -> None:
    detector = load(make_bundle(tmp_path / "bundle").path, backend=backend)
    images = [photograph(seed, shape=(40 + 7 * seed, 60, 3)) for seed in range(4)]
    for image, result in zip(images, detector.batch(images), strict=True):
        np.testing.assert_array_equal(result.anomaly_map, detector(image).anomaly_map)
    assert detector.batch([]) == ()


def test_results_do_not_change_when_the_next_image_is_judged(tmp_path: Path) -> None:
    for backend in BACKENDS:
        detector = load(make_bundle(tmp_path / backend).path, backend=backend)
        first = detector(photograph(1))
        kept = first.anomaly_map.copy()
        detector(photograph(2))
        np.testing.assert_array_equal(first.anomaly_map, kept)


def test_a_mono_bundle_takes_mono_and_colour_images(tmp_path: Path) -> None:
    detector = load(make_bundle(tmp_path / "bundle", input_format=square_format(SIZE_PX, channels=1)).path)
    mono = photograph(shape=(70, 50))
    np.testing.assert_array_equal(detector(mono).anomaly_map, detector(np.stack([mono] * 3, axis=2)).anomaly_map)


def test_a_score_at_the_threshold_is_ng_and_one_below_is_ok(tmp_path: Path) -> None:
    detector = load(make_bundle(tmp_path / "bundle", threshold=0.5).path)
    assert [detector(flat(value)).decision for value in (191, 192, 193)] == ["OK", "NG", "NG"]  # 63/128, 64/128, ...
    assert detector(flat(192)).score == 0.5
    assert [detector(flat(value)).is_anomalous for value in (191, 192)] == [False, True]


def test_every_result_names_where_its_threshold_came_from(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle", threshold=0.5).path
    own = load(path)(flat(128))
    assert (own.threshold, own.threshold_source) == (0.5, "bundle, fp32: 300 held-out good images")
    given = load(path, threshold=0.25)(flat(128))
    assert (given.threshold, given.threshold_source) == (0.25, "given by hand")


def test_without_a_threshold_every_decision_is_unknown_and_says_how_to_calibrate(tmp_path: Path) -> None:
    result = load(make_bundle(tmp_path / "bundle", threshold=None).path)(flat(130))
    assert (result.decision, result.threshold, result.threshold_source) == ("UNKNOWN", None, None)
    assert result.score == 2 / 128
    assert result.is_anomalous  # nothing passes unjudged
    assert "reason-train calibrate" in (result.reason or "")


def test_a_threshold_of_one_precision_is_not_used_for_another(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", threshold=0.5)
    update_bundle(bundle, manifest=bundle.manifest, files={"model_int8.onnx": grey_model()})
    result = load(bundle.path, precision="int8")(flat(255))
    assert result.decision == "UNKNOWN"
    assert "reason-export quantize" in (result.reason or "")


@each_backend
def test_an_output_that_is_not_finite_is_unknown_and_has_no_score(tmp_path: Path, backend: Backend) -> None:
    result = load(make_bundle(tmp_path / "bundle", scale=float("nan")).path, backend=backend)(photograph())
    assert (result.decision, result.reason) == ("UNKNOWN", "the model's output is not finite")
    assert np.isnan(result.score)
    assert result.is_anomalous


def test_images_that_cannot_be_judged_are_refused(tmp_path: Path) -> None:
    detector = load(make_bundle(tmp_path / "bundle").path)
    with pytest.raises(ImageError, match="uint8 or uint16, not float64"):
        detector(np.zeros((40, 40, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "tensorflow"}, "backend 'tensorflow' is not known; expected one of onnxruntime, openvino"),
        ({"precision": "fp8"}, "precision 'fp8' is not known"),
        ({"device": "npu"}, "device 'npu' is not known"),
        ({"threads": 0}, "expected 1 or more"),
        ({"threshold": float("inf")}, "threshold inf: expected a finite number, 0 or more"),
        ({"threshold": float("nan")}, "threshold nan: expected a finite number, 0 or more"),
        ({"threshold": -1.0}, "threshold -1: expected a finite number, 0 or more"),
        ({"backend": "auto", "provider": "cpu"}, "auto chooses the backend"),
        ({"backend": "auto", "cuda_graph": True}, "auto chooses the backend"),
    ],
)
def test_unknown_choices_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = make_bundle(tmp_path / "bundle").path
    with pytest.raises(ConfigurationError, match=message):
        load(path, **change)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").path
    with pytest.raises(BackendError, match=r'CUDAExecutionProvider .*pip install "reason-edge\[gpu\]"'):
        load(path, device="cuda")
    with pytest.raises(BackendError, match="OpenVINO backend runs on cpu, not cuda"):
        load(path, backend="openvino", device="cuda")


def test_a_precision_that_a_library_lacks_is_an_error_and_never_another(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").path
    with pytest.raises(BackendError, match="ONNX Runtime does not run bf16"):
        load(path, precision="bf16")
    with pytest.raises(BackendError, match="OpenVINO on CPU does not run fp16; ask for one of fp32, bf16, int8"):
        load(path, backend="openvino", precision="fp16")


@each_backend
def test_a_model_that_a_library_refuses_is_one_error(tmp_path: Path, backend: Backend) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    update_bundle(bundle, manifest=bundle.manifest, files={"model.onnx": b"this is no model"})
    with pytest.raises(BackendError, match=r"model\.onnx: O.* refuses the model"):
        load(bundle.path, backend=backend)


@each_backend
def test_a_model_that_does_not_fit_its_manifest_is_refused(tmp_path: Path, backend: Backend) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    smaller = replace(bundle.manifest, input=square_format(16))
    update_bundle(bundle, manifest=smaller)
    with pytest.raises(BundleError, match=r"model\.onnx: image has shape .*, the manifest says \(N, 16, 16, 3\)"):
        load(bundle.path, backend=backend)


@each_backend
@pytest.mark.parametrize("name", ["score", "anomaly_map"])
def test_a_model_whose_outputs_are_of_another_type_is_refused(tmp_path: Path, backend: Backend, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    model = onnx.load_from_string(grey_model())
    for node in model.graph.node:
        node.output[:] = ["plain" if each == name else each for each in node.output]
        node.input[:] = ["plain" if each == name else each for each in node.input]
    model.graph.node.append(onnx.helper.make_node("Cast", ["plain"], [name], to=onnx.TensorProto.DOUBLE))
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    update_bundle(bundle, manifest=bundle.manifest, files={"model.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=rf"model\.onnx: {name} is .*(double|float64).*, expected float32"):
        load(bundle.path, backend=backend)


def test_a_failing_run_is_one_error(tmp_path: Path) -> None:
    detector = load(make_bundle(tmp_path / "bundle", batch=1).path, backend="onnxruntime")
    with pytest.raises(BackendError, match="failed on a batch of 2"):
        detector.batch([photograph(), photograph()])


@each_backend
def test_what_is_no_batch_of_images_is_refused(tmp_path: Path, backend: Backend) -> None:
    session = load(make_bundle(tmp_path / "bundle").path, backend=backend).session
    for shape in ((1, 16, 16, 3), (0, 32, 32, 3), (32, 32, 3)):
        with pytest.raises(
            BackendError, match=rf"a batch is uint8 \(N, 32, 32, 3\), not uint8 {re.escape(str(shape))}"
        ):
            session.run(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("batch", [1, 2])
def test_openvino_runs_a_graph_of_whatever_batch_image_by_image(tmp_path: Path, batch: int) -> None:
    free, fixed = (load(make_bundle(tmp_path / str(n), batch=n).path, backend="openvino") for n in ("N", batch))
    pictures = np.random.default_rng(7).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for count in (1, 2, 3):
        found, expected = fixed.session.run(pictures[:count]), free.session.run(pictures[:count])
        np.testing.assert_array_equal(found.score, expected.score)
        np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)


@each_backend
def test_the_number_of_threads_is_taken(tmp_path: Path, backend: Backend) -> None:
    detector = load(make_bundle(tmp_path / "bundle").path, backend=backend, threads=1)
    assert detector.session.libraries["threads"] == "1"
    assert detector.session.libraries[backend]


def test_openvino_keeps_compiled_models_outside_the_bundle(tmp_path: Path, cache_folder: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    first = load(bundle.path, backend="openvino")(photograph())
    assert list(cache_folder.rglob("*.blob"))
    np.testing.assert_array_equal(load(bundle.path, backend="openvino")(photograph()).anomaly_map, first.anomaly_map)
    assert open_bundle(bundle.path) == bundle


def test_openvino_works_where_no_cache_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = load(make_bundle(tmp_path / "bundle").path, backend="openvino")(photograph())
    assert result.decision in ("OK", "NG")


def test_statistics_and_limits_of_the_manifest_reach_the_result_unchanged(tmp_path: Path) -> None:
    value = float(np.nextafter(0.5, 1))
    assert make_manifest(threshold=value).thresholds["fp32"].value == value
    detector = load(make_bundle(tmp_path / "bundle", threshold=value).path)
    assert detector(flat(192)).decision == "OK"  # 0.5, one float64 below the threshold


def test_a_check_s_file_that_is_no_json_is_refused_with_what_to_do(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.path / "checks").mkdir()
    (bundle.path / "checks" / "onnxruntime_fp32.json").touch()
    with pytest.raises(BundleError, match=r"onnxruntime_fp32\.json: is not JSON .*; run reason-export check again$"):
        load(bundle.path)
