"""What only an NVIDIA GPU can show. Run with `pytest -m gpu` on a machine with one; see docs/not-run-here.md.

TensorRT-RTX, TensorRT and onnxruntime-gpu are tested where they are installed; a missing one fails, with its name.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reason_export.check import check_bundle
from reason_export.engine import build_engine
from reason_export.engine_choices import EngineChoices
from reason_runtime.auto import choose
from reason_runtime.backends.cuda import Cuda
from reason_runtime.backends.tensorrt_library import compute_capability_words, load_library, require_rtx_gpu
from reason_runtime.bundle import Bundle, open_bundle
from reason_runtime.choices import BUILDERS, Builder, Precision, Provider
from reason_runtime.engine_store import engines
from reason_runtime.errors import BackendError
from reason_runtime.session import open_session
from reason_train.config import MethodConfig
from tests.commands import call
from tests.export.engine_bundles import engine_bundle
from tests.runtime.gpu import NEEDS_GPU

pytestmark = NEEDS_GPU
each_builder = pytest.mark.parametrize("builder", BUILDERS)
SIZE_PX = 256


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return engine_bundle(tmp_path_factory.mktemp("lite") / "lite", MethodConfig(teacher="efficientnet_lite0"))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (5, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def build(bundle: Bundle, builder: Builder, precision: Precision = "fp32") -> None:
    """An engine for this GPU; skips where the library does not run on it."""
    gpu, named = Cuda().gpu, tuple[str, ...]()
    if builder == "tensorrt_rtx":
        trt = load_library(builder)
        known = list(compute_capability_words(trt))
        try:
            require_rtx_gpu(gpu, known=known, version=trt.__version__)
        except BackendError as error:
            pytest.skip(str(error))
        named = (gpu.compute_capability,) if gpu.compute_capability in known else ()
    build_engine(bundle, choices=EngineChoices(builder=builder, precision=precision, compute_capabilities=named))


@each_builder
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_gives_what_onnx_runtime_gives_on_the_cpu(
    lite: Bundle, images: np.ndarray, builder: Builder, precision: Precision
) -> None:
    build(lite, builder, precision)
    expected = open_session(lite, precision=precision).run(images)
    found = open_session(lite, backend=builder, precision=precision).run(images)
    # fp32: another order of summation. fp16 and int8: a convolution's result may round to the next step
    tolerance = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}[precision]
    assert np.abs(found.anomaly_map - expected.anomaly_map).max() <= tolerance * expected.anomaly_map.max()
    np.testing.assert_allclose(found.score, expected.score, rtol=tolerance)


@each_builder
def test_the_parity_gate_passes_with_an_engine(exported_bundle: Path, tmp_path: Path, builder: Builder) -> None:
    bundle = open_bundle(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    build(bundle, builder)
    assert check_bundle(bundle, backend=builder).passed


@each_builder
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_batch_equals_its_images_one_by_one_again_and_again(
    lite: Bundle, images: np.ndarray, builder: Builder, cuda_graph: bool
) -> None:
    build(lite, builder)
    session = open_session(lite, backend=builder, cuda_graph=cuda_graph)
    for _ in range(3):  # the second replays what the first recorded
        together = session.run(images)
        singles = [session.run(image[None]) for image in images]
        np.testing.assert_allclose(together.score, np.concatenate([one.score for one in singles]), rtol=1e-4)
    again = session.run(images)
    np.testing.assert_array_equal(together.anomaly_map, again.anomaly_map)
    assert together.anomaly_map is not again.anomaly_map


@each_builder
def test_threads_share_an_engine_and_get_their_own_answers(lite: Bundle, images: np.ndarray, builder: Builder) -> None:
    build(lite, builder)
    session = open_session(lite, backend=builder)
    expected = [session.run(image[None]).score for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: session.run(image[None]).score, list(images) * 20))
    np.testing.assert_allclose(found, expected * 20, rtol=1e-5)


@each_builder
def test_a_batch_above_the_largest_says_how_to_build(lite: Bundle, builder: Builder) -> None:
    build(lite, builder)
    with pytest.raises(BackendError, match="takes 16 images in one run, not 17; build it with --largest-batch 17"):
        open_session(lite, backend=builder).run(np.zeros((17, SIZE_PX, SIZE_PX, 3), np.uint8))


def test_tensorrt_engines_name_the_gpu_and_its_timings_are_kept(
    lite: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build(lite, "tensorrt")
    gpu = Cuda().gpu
    facts = [engine.facts for engine in engines(lite) if engine.facts.builder == "tensorrt"]
    assert {(one.gpu, one.compute_capabilities) for one in facts} == {(gpu.name, (gpu.compute_capability,))}
    assert list((tmp_path / "reason-edge" / "tensorrt").glob("*.timings"))


@pytest.mark.parametrize(
    "changes", [{"runs_on": "same_compute_capability"}, {"runs_on": "ampere_and_later"}, {"version_compatible": True}]
)
def test_compatible_tensorrt_engines_run_here_too(
    lite: Bundle, images: np.ndarray, tmp_path: Path, changes: dict[str, object]
) -> None:
    # alone: beside it, the engine tuned on this GPU would be chosen
    bundle = open_bundle(shutil.copytree(lite.path, tmp_path / "alone", ignore=shutil.ignore_patterns("engines")))
    choices = EngineChoices(builder="tensorrt", **changes)  # type: ignore[arg-type]
    built = build_engine(bundle, choices=choices).file
    session = open_session(bundle, backend="tensorrt")
    assert session.libraries["engine"] == built.path.name
    assert np.isfinite(session.run(images).score).all()


@pytest.mark.parametrize(
    ("provider", "precision", "tolerance"),
    [
        ("cuda", "fp32", 1e-4),
        ("cuda", "fp16", 2e-2),
        ("tensorrt", "fp32", 2e-2),  # in TF32, whose mantissa is that of half precision: it has no option against it
        ("tensorrt", "fp16", 2e-2),
    ],
)
def test_onnx_runtime_gives_on_the_gpu_what_it_gives_on_the_cpu(
    lite: Bundle, images: np.ndarray, provider: Provider, precision: Precision, tolerance: float
) -> None:
    expected = open_session(lite, precision=precision).run(images)
    session = open_session(lite, provider=provider, precision=precision)
    for _ in range(2):  # the second finds its memory bound
        found = session.run(images)
        assert np.abs(found.anomaly_map - expected.anomaly_map).max() <= tolerance * expected.anomaly_map.max()
        np.testing.assert_allclose(found.score, expected.score, rtol=tolerance)
    singles = [session.run(image[None]).score for image in images]
    np.testing.assert_allclose(np.concatenate(singles), found.score, rtol=tolerance)


def test_int8_on_the_cuda_provider_is_refused(lite: Bundle) -> None:
    with pytest.raises(BackendError, match="does not compute in int8; use --precision fp16"):
        open_session(lite, provider="cuda", precision="int8")


def test_the_parity_gate_and_auto_on_the_gpu(exported_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(exported_bundle, tmp_path / "bundle"))
    for precision in ("fp32", "fp16"):
        assert check_bundle(bundle, device="cuda", precision=precision).passed
    assert sorted(path.stem for path in (bundle.path / "checks").glob("onnxruntime-*")) == [
        "onnxruntime-cuda_fp16",
        "onnxruntime-cuda_fp32",
    ]
    choice = choose(bundle, device="cuda")
    assert set(choice.median_ms) <= {"onnxruntime-cuda fp32", "onnxruntime-cuda fp16"}
    assert choice.session.provider == "cuda"


@pytest.mark.parametrize(
    "options", [("--backend", "tensorrt", "--cuda-graph"), ("--backend", "tensorrt_rtx"), ("--device", "cuda")]
)
def test_the_line_judges_on_the_gpu(
    exported_bundle: Path, good_pictures: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    bundle = shutil.copytree(exported_bundle, tmp_path / "bundle")
    for builder in BUILDERS:
        if builder in options:
            build(open_bundle(bundle), builder)
    results = tmp_path / "results.jsonl"
    done = call("reason-run", "inspect", bundle, *options, "--source", good_pictures, "--sink", f"jsonl:{results}")
    assert done.status == 0, done.log
    lines = [line for line in map(json.loads, results.read_text().splitlines()) if line["kind"] == "result"]
    assert len(lines) == len(list(good_pictures.iterdir()))
    assert {line["decision"] for line in lines} <= {"OK", "NG"}
