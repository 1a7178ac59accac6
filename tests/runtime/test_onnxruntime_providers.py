"""ONNX Runtime's providers: bound memory, and an error where the provider asked for is not the one in use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from reason_runtime.backends import onnxruntime as backend
from reason_runtime.backends.onnxruntime_binding import BoundRuns
from reason_runtime.bundle import Bundle, update_bundle
from reason_runtime.choices import Device, Provider
from reason_runtime.errors import BackendError, ConfigurationError
from reason_runtime.session import open_session
from tests.runtime.bundles import SIZE_PX, expected_map, grey_model, make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def test_bound_runs_give_what_the_graph_computes_for_every_batch_and_keep_earlier_results(bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), providers=["CPUExecutionProvider"])
    bound = BoundRuns(library=onnxruntime, session=session, device="cpu", map_size_px=SIZE_PX)
    random = np.random.default_rng(5)
    batches = [random.integers(0, 256, (n, SIZE_PX, SIZE_PX, 3), dtype=np.uint8) for n in (1, 3, 1, 2, 3)]
    results = [bound.run(images) for images in batches]
    for images, result in zip(batches, results, strict=True):
        np.testing.assert_allclose(result.anomaly_map, expected_map(images), rtol=1e-6)
        np.testing.assert_array_equal(result.score, result.anomaly_map.max(axis=(1, 2)))
    assert set(bound.bindings) == {1, 2, 3}


@pytest.mark.parametrize(("provider", "name"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_provider_that_cannot_be_had_is_an_error_and_never_the_cpu(
    bundle: Bundle, provider: Provider, name: str
) -> None:
    if f"{name}ExecutionProvider" not in onnxruntime.get_available_providers():
        missing = rf'{name}ExecutionProvider is not in .*pip install "reason-edge\[gpu\]"'
        with pytest.raises(BackendError, match=missing):
            open_session(bundle, provider=provider)
        return
    try:
        found = open_session(bundle, provider=provider).libraries["provider"]
    except BackendError as error:  # onnxruntime-gpu without a GPU
        found = str(error)
    assert f"{name}ExecutionProvider" in found


@pytest.mark.parametrize(("provider", "device"), [("cpu", "cuda"), ("cuda", "cpu"), ("tensorrt", "cpu")])
def test_a_provider_of_another_device_is_refused(bundle: Bundle, provider: Provider, device: Device) -> None:
    with pytest.raises(ConfigurationError, match=f"provider {provider} runs on .*, not on {device}"):
        open_session(bundle, provider=provider, device=device)
    with pytest.raises(ConfigurationError, match="provider 'gpu' is not known; expected one of cpu, cuda, tensorrt"):
        open_session(bundle, provider="gpu")  # type: ignore[arg-type]


def test_the_cpu_provider_may_be_asked_for_by_name(bundle: Bundle) -> None:
    assert open_session(bundle, provider="cpu").libraries["provider"] == "CPUExecutionProvider"


def test_a_session_for_a_gpu_fails_rather_than_leave_a_node_to_the_cpu(bundle: Bundle) -> None:
    options = backend._session_options(onnxruntime, device="cuda", threads=None)
    with pytest.raises(backend._failures(), match="fallback to CPU EP has been explicitly disabled|disabled fallback"):
        onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), options, providers=["CPUExecutionProvider"])


def test_the_tensorrt_provider_keeps_engines_of_each_model_apart(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = make_bundle(tmp_path / "other", scale=1 / 64)
    folders = []
    for one, gpu in ((bundle, "NVIDIA L4"), (other, "NVIDIA L4"), (bundle, "Orin (8 SM)"), (bundle, "NVIDIA L4")):
        (name, options), cuda = backend._with_options(one, provider="tensorrt", precision="fp32", gpu=gpu)
        assert name == "TensorrtExecutionProvider"
        assert "trt_fp16_enable" not in options
        assert cuda == ("CUDAExecutionProvider", {"use_tf32": "0"})
        folders.append(Path(options["trt_engine_cache_path"]))
    assert len(set(folders[:3])) == 3
    assert folders[3] == folders[0]
    assert [folder.name.split("-", 1)[1] for folder in folders[1:3]] == ["NVIDIA_L4-unknown", "Orin_8_SM_-unknown"]
    assert {folder.parent for folder in folders} == {tmp_path / "reason-edge" / "onnxruntime-tensorrt"}


def test_the_tensorrt_provider_gets_the_flag_of_the_files_precision(bundle: Bundle) -> None:
    halved = update_bundle(bundle, manifest=bundle.manifest, files={"model_fp16.onnx": grey_model()})
    (_, options), _ = backend._with_options(halved, provider="tensorrt", precision="fp16", gpu="L4")
    assert options["trt_fp16_enable"] == "True"


@pytest.mark.parametrize(("number", "told"), [(100300, "10.3.0"), (101605, "10.16.5"), (110401, "11.4.1")])
def test_the_version_of_the_library_behind_the_tensorrt_provider_is_known(
    number: int, told: str, tmp_path: Path
) -> None:
    name = f"libnvinfer.so.{number // 10000}"
    code = f"int getInferLibVersion(void) {{ return {number}; }}"
    subprocess.run(["gcc", "-shared", "-x", "c", "-o", tmp_path / name, "-"], input=code, text=True, check=True)
    done = subprocess.run(
        [sys.executable, "-c", "from reason_runtime.backends.nvinfer import nvinfer_version; print(nvinfer_version())"],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == told


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_threads_stay_on_the_cores_that_the_process_may_use(exported_bundle: Path) -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os, sys; os.sched_setaffinity(0, {{{core}}})\n"
        "from reason_runtime import load; detector = load(sys.argv[1])\n"
        "from pathlib import Path\n"
        "tasks = Path('/proc/self/task').iterdir()\n"
        "lines = [line for task in tasks for line in (task / 'status').read_text().splitlines()]\n"
        "print({line.split()[1] for line in lines if line.startswith('Cpus_allowed_list')})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported_bundle)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str({str(core)}), done.stderr
