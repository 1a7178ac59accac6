"""TensorRT and TensorRT-RTX: the bundle's engine for this machine, run on the first GPU.

Engines are built by `reason-export engine`. One session class serves both libraries and any number of threads: they
share the engine, and each call has a lane to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reason_runtime.backends.cuda import Cuda
from reason_runtime.backends.signature import Port, check_batch, check_signature, shapes_of_one
from reason_runtime.backends.tensorrt_lane import Lane
from reason_runtime.backends.tensorrt_library import (
    NAMES,
    Messages,
    compute_capability_words,
    load_library,
    numpy_name,
    require_rtx_gpu,
)
from reason_runtime.bundle import Bundle
from reason_runtime.choices import Builder, Device, Precision
from reason_runtime.engine_store import choose_engine, read_engine, rebuild_command
from reason_runtime.errors import BackendError
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs

if TYPE_CHECKING:
    import tensorrt

BF16 = (
    "TensorRT takes its precision from the ONNX file and a bundle has none in bf16: bf16 is OpenVINO's run-time hint; "
    "use fp16, or --backend openvino"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtSession:
    """See `reason_runtime.session.Session`. Threads run at the same time, each on memory of its own.

    Attributes:
        engine: The file.
        largest_batch: Images in one run, at most.
        new_lane: Makes what one call at a time runs on.
        kept: Objects of the library that must live as long as the engine.
        idle: Lanes that no call is using. One that was warmed up by the thread that loaded the engine serves the next
            thread too: making a lane can take seconds, in which TensorRT-RTX compiles kernels.
    """

    backend: Builder
    provider: None = None
    precision: Precision
    libraries: dict[str, str]
    manifest: Manifest
    engine: Path
    largest_batch: int
    new_lane: Callable[[], Lane]
    kept: tuple[object, ...]
    idle: list[Lane] = field(default_factory=list)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Session.run`."""
        check_batch(images, self.manifest)
        if len(images) > self.largest_batch:
            raise BackendError(
                f"{self.engine}: takes {self.largest_batch} images in one run, not {len(images)}; "
                f"build it with --largest-batch {len(images)}"
            )
        try:
            lane = self.idle.pop()
        except IndexError:
            lane = self.new_lane()
        found = lane.run(images)
        self.idle.append(lane)  # one that failed is not used again
        return found


def open_session(
    bundle: Bundle, *, backend: Builder, precision: Precision, device: Device, cuda_graph: bool
) -> TensorRtSession:
    """Load a bundle's engine; see `reason_runtime.session.open_session`.

    Raises:
        BundleError: The bundle has no model for the precision, or engine or side-car are broken.
        BackendError: The library, the driver or the GPU is missing, or no engine fits them.
    """
    if device != "cuda":
        raise BackendError(f"{NAMES[backend]} runs on cuda, not {device}")
    if precision == "bf16":
        raise BackendError(BF16)
    bundle.model_path(precision)
    trt = load_library(backend)
    cuda = Cuda()
    known = list(compute_capability_words(trt)) if backend == "tensorrt_rtx" else []
    if backend == "tensorrt_rtx":
        require_rtx_gpu(cuda.gpu, known=known, version=trt.__version__)
    command = rebuild_command(bundle, builder=backend, precision=precision, gpu=cuda.gpu, capabilities=known)
    chosen = choose_engine(
        bundle, builder=backend, precision=precision, gpu=cuda.gpu, builder_version=trt.__version__, command=command
    )
    messages = Messages(trt)
    runtime = messages.made(trt.Runtime)
    if chosen.facts.version_compatible:  # such an engine carries the lean runtime's code, and would not load otherwise
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(read_engine(chosen, command=command))
    if engine is None:
        raise BackendError(f"{chosen.path}: {NAMES[backend]} cannot load it ({messages.why()}); run `{command}`")
    _check(trt, engine, chosen.path, bundle.manifest)
    largest_batch = chosen.facts.largest_batch

    def new_lane() -> Lane:
        return Lane(
            trt=trt,
            why=messages.why,
            cuda=cuda,
            engine=engine,
            shapes=shapes_of_one(bundle.manifest),
            largest_batch=largest_batch,
            cuda_graph=cuda_graph,
        )

    return TensorRtSession(
        backend=backend,
        precision=precision,
        libraries={
            backend: trt.__version__,
            "device": cuda.gpu.name,
            "compute_capability": cuda.gpu.compute_capability,
            "engine": chosen.path.name,
            "engine_sha256": chosen.facts.engine_sha256,
            "cuda_graph": "yes" if cuda_graph else "no",
        },
        manifest=bundle.manifest,
        engine=chosen.path,
        largest_batch=largest_batch,
        new_lane=new_lane,
        kept=(runtime, engine),
    )


def _check(trt: ModuleType, engine: tensorrt.ICudaEngine, path: Path, manifest: Manifest) -> None:
    def ports(mode: tensorrt.TensorIOMode) -> dict[str, Port]:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {
            name: Port(
                [None if side < 0 else int(side) for side in engine.get_tensor_shape(name)],
                numpy_name(engine.get_tensor_dtype(name).name),
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        }

    check_signature(path, manifest, inputs=ports(trt.TensorIOMode.INPUT), outputs=ports(trt.TensorIOMode.OUTPUT))
