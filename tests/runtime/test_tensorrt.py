"""The TensorRT session as far as it goes without a GPU: what is refused, and how it calls the driver."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from reason_export.engine import build_engine
from reason_export.engine_choices import EngineChoices
from reason_runtime.backends import cuda
from reason_runtime.backends.tensorrt import TensorRtSession
from reason_runtime.backends.tensorrt_lane import Lane
from reason_runtime.backends.tensorrt_library import Messages, compute_capability_words, require_rtx_gpu
from reason_runtime.bundle import Bundle
from reason_runtime.choices import BUILDERS, Builder
from reason_runtime.engine_facts import Gpu
from reason_runtime.errors import BackendError, BundleError, ConfigurationError
from reason_runtime.session import Outputs, open_session
from reason_runtime.throughput import usual_batches
from tests.commands import call
from tests.runtime.bundles import make_bundle

ROOT = Path(__file__).parents[2]
LOAD = "import sys; from reason_runtime import load; load(sys.argv[1], backend=sys.argv[2])"
each_builder = pytest.mark.parametrize("backend", BUILDERS)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def error_of_loading(bundle: Bundle, *, backend: str, first_on_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(bundle.path), backend],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(first_on_path)},
        timeout=60,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def installation(folder: Path, *, name: str, content: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(content)
    return folder


@pytest.mark.parametrize(
    ("backend", "title", "extra"),
    [("tensorrt", "TensorRT", "tensorrt"), ("tensorrt_rtx", "TensorRT-RTX", "tensorrt-rtx")],
)
@pytest.mark.parametrize("failure", ["ModuleNotFoundError('not there')", "OSError('libnvinfer.so.10: not there')"])
def test_a_library_that_cannot_be_loaded_names_the_extra_that_brings_it(
    bundle: Bundle, tmp_path: Path, backend: str, title: str, extra: str, failure: str
) -> None:
    path = installation(tmp_path / "path", name=backend, content=f"raise {failure}\n")
    told = error_of_loading(bundle, backend=backend, first_on_path=path)
    assert told.startswith(f"reason_runtime.errors.BackendError: {title} cannot be imported (")
    assert "not there" in told
    assert f'pip install "reason-edge[{extra}]"' in told


def test_a_library_that_is_too_old_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = installation(tmp_path / "path", name="tensorrt", content="__version__ = '8.6.1'\n")
    told = error_of_loading(bundle, backend="tensorrt", first_on_path=path)
    assert "TensorRT 8.6.1 is too old, 10.3 or later is needed" in told


NO_BUILDER = """
__version__ = "1.7"
class ILogger:
    ERROR, INTERNAL_ERROR = 1, 0
def Builder(log):
    log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
    raise TypeError("pybind11::init(): factory function returned nullptr")
"""


def test_a_library_that_makes_no_builder_is_an_error_with_what_it_said(bundle: Bundle, tmp_path: Path) -> None:
    path = installation(tmp_path / "path", name="tensorrt_rtx", content=NO_BUILDER)
    code = "from reason_export.commands import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "engine", str(bundle.path), "--builder", "tensorrt_rtx"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{path}:{ROOT}"},
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: tensorrt_rtx 1.7 does not start here (CUDA initialization failure with error: 35); it may need a later "
        "NVIDIA driver\n"
    )


def test_the_log_that_the_library_registered_outlives_the_session_that_brought_it() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    first = trt.Builder(Messages(trt).log)
    log = weakref.ref(first.logger)
    second = trt.Builder(Messages(trt).log)
    del first
    gc.collect()
    assert log() is not None
    assert second.logger is log()


def test_no_driver_is_said_with_what_can_be_done_instead(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build_engine(bundle, choices=EngineChoices(builder="tensorrt_rtx"))
    monkeypatch.setattr(cuda, "_LIBRARY", "libcuda-not-installed.so.1")
    with pytest.raises(
        BackendError, match=r"no NVIDIA driver: .*; TensorRT engines run on an NVIDIA GPU, --backend op"
    ):
        open_session(bundle, backend="tensorrt_rtx")


@each_builder
def test_what_an_engine_cannot_do_is_refused(bundle: Bundle, backend: Builder) -> None:
    with pytest.raises(BackendError, match=r"^TensorRT(-RTX)? runs on cuda, not cpu$"):
        open_session(bundle, backend=backend, device="cpu")
    with pytest.raises(BackendError, match="bf16 is OpenVINO's run-time hint; use fp16, or --backend openvino"):
        open_session(bundle, backend=backend, precision="bf16")
    with pytest.raises(BundleError, match=r"has no model_int8\.onnx for int8"):
        open_session(bundle, backend=backend, precision="int8")
    with pytest.raises(
        ConfigurationError, match=f"threads are an option of backends that run on a CPU, not of {backend}"
    ):
        open_session(bundle, backend=backend, threads=2)
    with pytest.raises(ConfigurationError, match=f"a provider is an option of onnxruntime, not of {backend}"):
        open_session(bundle, backend=backend, provider="cuda")


def test_cuda_graphs_are_refused_by_backends_that_have_none(bundle: Bundle) -> None:
    done = call("reason-export", "check", bundle.path, "--cuda-graph")
    assert done.error == "error: CUDA graphs are an option of tensorrt and tensorrt_rtx, not of onnxruntime"


KINDS = {  # what CUDA's types are to ctypes; a pointer is one of two, by what it points to
    "CUdevice": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_uint64,
    "CUdeviceptr": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "CUcontext": ctypes.c_void_p,
    "CUstream": ctypes.c_void_p,
    "CUgraph": ctypes.c_void_p,
    "CUgraphExec": ctypes.c_void_p,
    "void *": ctypes.c_void_p,
    "char *": ctypes.c_char_p,
}


def as_ctypes(argument: str) -> object:
    """The type of an argument as it is declared: `CUstream hStream`, `const void *srcHost`, `CUgraph *phGraph`."""
    kind = re.sub(r"\w+$", "", argument.removeprefix("const ").strip()).strip()
    if kind in KINDS:
        return KINDS[kind]
    return ctypes.POINTER(KINDS[kind.removesuffix("*").strip()])


def cudas_own_header() -> str:
    triton = importlib.util.find_spec("triton")  # it comes with PyTorch and carries the header
    assert triton is not None
    assert triton.origin is not None
    return (Path(triton.origin).parent / "backends" / "nvidia" / "include" / "cuda.h").read_text()


def test_every_call_of_the_driver_is_declared_as_in_cudas_own_header() -> None:
    header = cudas_own_header()
    defined = re.findall(r"#define (cu\w+)\s+(?:__CUDA_API_PTSZ\()?(cu\w+)", header)
    written = {exported: plain for plain, exported in defined}
    for exported, types in cuda.SIGNATURES.items():
        name = written.get(exported, exported)
        assert dict(defined).get(name, name) == exported  # never the older of two forms
        declared = re.search(rf"CUresult CUDAAPI {name}\(([^)]*)\);", header)
        assert declared is not None, exported
        assert tuple(as_ctypes(argument.strip()) for argument in declared[1].split(",")) == types, exported


def test_every_attribute_of_a_gpu_has_the_number_of_cudas_own_header() -> None:
    header = cudas_own_header()
    for name, number in cuda.ATTRIBUTES.items():
        assert re.search(rf"CU_DEVICE_ATTRIBUTE_{name} = {number},", header), name


@pytest.mark.parametrize(
    ("name", "count", "integrated", "told"),
    [("Orin", 16, 1, "Orin (16 SM)"), ("Orin", 8, 1, "Orin (8 SM)"), ("NVIDIA H100", 132, 0, "NVIDIA H100")],
)
def test_gpus_of_different_modules_are_told_apart(name: str, count: int, integrated: int, told: str) -> None:
    capability = {"COMPUTE_CAPABILITY_MAJOR": 8, "COMPUTE_CAPABILITY_MINOR": 7}
    found = cuda.describe(name, {"MULTIPROCESSOR_COUNT": count, "INTEGRATED": integrated, **capability})
    assert found == Gpu(name=told, compute_capability="8.7")


KNOWN = ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]


@pytest.mark.parametrize("capability", ["8.0", "8.6", "12.1", "13.0"])
def test_tensorrt_rtx_runs_on_what_it_builds_for_and_on_later_gpus(capability: str) -> None:
    require_rtx_gpu(Gpu(name="NVIDIA RTX", compute_capability=capability), known=KNOWN, version="1.7")


@pytest.mark.parametrize("capability", ["7.0", "7.5", "8.7", "9.0", "11.0"])
def test_tensorrt_rtx_does_not_run_on_gpus_in_between_nor_on_turing(capability: str) -> None:
    gpu = Gpu(name="NVIDIA H100", compute_capability=capability)
    words = f"does not run on NVIDIA H100 .compute capability {capability}., only on 8.0, .* and later; use --backend"
    with pytest.raises(BackendError, match=words):
        require_rtx_gpu(gpu, known=KNOWN, version="1.7")


def test_tensorrt_rtx_names_what_it_builds_for_oldest_first() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    found = compute_capability_words(trt)
    assert found["8.6"] == "SM86"
    assert found["12.0"] == "SM120"
    assert list(found) == sorted(found, key=float)


def test_tensorrt_rtx_has_what_a_lane_sets_in_its_runtime_configuration() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    for name in ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"):
        assert getattr(trt.IRuntimeConfig, name).fset is not None
    assert "WHOLE_GRAPH_CAPTURE" in trt.CudaGraphStrategy.__members__
    assert "EAGER" in trt.DynamicShapesKernelSpecializationStrategy.__members__


class TellsWhoUsesIt:
    """In place of a lane, which needs a GPU: answers with its number, and fails where two calls use it at once."""

    def __init__(self, number: int) -> None:
        self.number, self.busy = number, threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        if images.all():
            raise BackendError("white")
        assert self.busy.acquire(blocking=False)
        time.sleep(0.002)
        self.busy.release()
        return Outputs(np.zeros((len(images), 8, 8), np.float32), np.full(len(images), self.number, np.float32))


def session_of(bundle: Bundle, made: list[TellsWhoUsesIt]) -> TensorRtSession:
    def new_lane() -> TellsWhoUsesIt:
        made.append(TellsWhoUsesIt(len(made)))
        return made[-1]

    return TensorRtSession(
        backend="tensorrt",
        precision="fp32",
        libraries={},
        manifest=bundle.manifest,
        engine=bundle.path / "engine",
        largest_batch=2,
        new_lane=new_lane,  # type: ignore[arg-type]
        kept=(),
    )


def images_for(bundle: Bundle, count: int = 1, *, value: int = 0) -> NDArray[np.uint8]:
    form = bundle.manifest.input
    return np.full((count, form.height_px, form.width_px, form.channels), value, np.uint8)


def test_another_thread_finds_the_lane_that_loading_warmed_up(bundle: Bundle) -> None:
    made: list[TellsWhoUsesIt] = []
    session, images = session_of(bundle, made), images_for(bundle)
    session.run(images)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(session.run, images).result().score == [0]
    assert len(made) == 1


def test_calls_at_the_same_time_have_a_lane_each_and_no_more_are_made(bundle: Bundle) -> None:
    made: list[TellsWhoUsesIt] = []
    session, images = session_of(bundle, made), images_for(bundle)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: session.run(images), range(200)))
    assert 2 <= len(made) <= 4


def test_a_lane_that_failed_is_not_used_again(bundle: Bundle) -> None:
    made: list[TellsWhoUsesIt] = []
    session = session_of(bundle, made)
    with pytest.raises(BackendError, match="white"):
        session.run(images_for(bundle, value=255))
    assert session.run(images_for(bundle)).score == [1]


def test_a_batch_that_is_too_large_reaches_no_lane(bundle: Bundle) -> None:
    made: list[TellsWhoUsesIt] = []
    with pytest.raises(BackendError, match="takes 2 images in one run, not 3; build it with --largest-batch 3"):
        session_of(bundle, made).run(images_for(bundle, 3))
    assert not made


def test_throughput_tries_no_batch_that_an_engine_does_not_take(bundle: Bundle) -> None:
    assert usual_batches(session_of(bundle, [])) == (1, 2)
    assert usual_batches(open_session(bundle)) == (1, 2, 4, 8)


FAILING_DRIVER = """
#include <stdlib.h>
static int failed;
int cuMemAllocHost_v2(void **memory, size_t size) { *memory = malloc(size); return 0; }
int cuStreamSynchronize(void *stream) { return failed = 700; }
int cuGetErrorString(int error, const char **text) { *text = "an illegal memory access"; return 0; }
"""


class IdleEngine:
    """In place of an engine, which needs a GPU: takes whatever it is given."""

    def create_execution_context(self) -> IdleEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        return True


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_gpu_that_fails_is_told_once_and_not_again_where_its_memory_is_given_back(
    cuda_graph: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [f"int {name}() {{ return failed; }}" for name in cuda.SIGNATURES if name not in FAILING_DRIVER]
    (tmp_path / "driver.c").write_text("\n".join([FAILING_DRIVER, *others]))
    subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", "driver.so", "driver.c"], cwd=tmp_path, check=True)
    monkeypatch.setattr(cuda, "_LIBRARY", str(tmp_path / "driver.so"))
    lane = Lane(
        trt=ModuleType("without CudaGraphStrategy, as TensorRT is"),
        why=lambda: "",
        cuda=cuda.Cuda(),
        engine=IdleEngine(),  # type: ignore[arg-type]
        shapes={"image": (8, 8, 3), "anomaly_map": (8, 8), "score": ()},
        largest_batch=1,
        cuda_graph=cuda_graph,
    )
    with pytest.raises(BackendError, match=r"^CUDA's cuStreamSynchronize failed: an illegal memory access \(700\)$"):
        lane.run(np.zeros((1, 8, 8, 3), np.uint8))
    del lane
    gc.collect()  # an error here would be a warning, which fails a test
