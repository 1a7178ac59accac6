"""What one call at a time runs an engine on: an execution context, a stream, and buffers for the largest batch.

Nothing here runs without an NVIDIA GPU; what can be decided without one is decided in `tensorrt.py` and
`engine_store.py`.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reason_runtime.backends.cuda import Cuda
from reason_runtime.backends.signature import INPUT, OUTPUTS
from reason_runtime.errors import BackendError
from reason_runtime.session import Outputs

if TYPE_CHECKING:
    import tensorrt


class Lane:
    """Runs one batch at a time, on any thread.

    Memory is allocated once; a run copies in, computes and copies out on one stream.

    With CUDA graphs, TensorRT-RTX records by itself. For TensorRT a run is recorded once for each batch size, after one
    run in the open, which settles what depends on the shape; each recording has a context of its own, since another
    shape would change the state that it was recorded with.

    Args:
        trt: The library.
        why: What the library said last, for messages.
        cuda: The driver.
        engine: Shared by all lanes.
        shapes: Of one image, by tensor name: (H, W, C), (S, S) and ().
        largest_batch: Images in one run, at most.
        cuda_graph: Whether to replay recorded runs.

    Raises:
        BackendError: The library or the driver refused.
    """

    def __init__(
        self,
        *,
        trt: ModuleType,
        why: Callable[[], str],
        cuda: Cuda,
        engine: tensorrt.ICudaEngine,
        shapes: dict[str, tuple[int, ...]],
        largest_batch: int,
        cuda_graph: bool,
    ) -> None:
        cuda.bind()
        self._trt, self._why, self._cuda, self._engine, self._shapes = trt, why, cuda, engine, shapes
        self._cuda_graph = cuda_graph
        self._records = cuda_graph and not hasattr(trt, "CudaGraphStrategy")
        self._contexts: dict[int, tensorrt.IExecutionContext] = {}
        self._batches: dict[int, int] = {}  # that each context is set to
        self._graphs: dict[int, int] = {}
        self._stream = cuda.stream()
        self._device: dict[str, int] = {}
        self._pinned: dict[str, int] = {}
        weakref.finalize(self, _free, cuda, self._stream, self._device, self._pinned, self._graphs)
        self._host: dict[str, NDArray[np.uint8] | NDArray[np.float32]] = {}
        for name, shape in shapes.items():
            kind = np.dtype(np.uint8 if name == INPUT else np.float32)
            size_bytes = largest_batch * math.prod(shape) * kind.itemsize
            self._device[name], self._pinned[name] = cuda.device_memory(size_bytes), cuda.pinned_memory(size_bytes)
            memory = (ctypes.c_uint8 * size_bytes).from_address(self._pinned[name])
            self._host[name] = np.ctypeslib.as_array(memory).view(kind).reshape(largest_batch, *shape)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Maps and scores of a batch no larger than the largest.

        Raises:
            BackendError: The library or the driver failed.
        """
        cuda, batch = self._cuda, len(images)
        cuda.bind()
        self._host[INPUT][:batch] = images
        if batch in self._graphs:
            cuda.call("cuGraphLaunch", self._graphs[batch], self._stream)
        else:
            self._enqueue(self._context(batch), batch)
        cuda.call("cuStreamSynchronize", self._stream)
        if self._records and batch not in self._graphs:
            context = self._context(batch)
            self._graphs[batch] = cuda.recorded(self._stream, lambda: self._enqueue(context, batch))
        anomaly_map, score = (self._host[name][:batch].astype(np.float32) for name in OUTPUTS)  # copies
        return Outputs(anomaly_map=anomaly_map, score=score)

    def _context(self, batch: int) -> tensorrt.IExecutionContext:
        """The context for a batch size, with its shape and memory set."""
        key = batch if self._records else 0
        if key not in self._contexts:
            context = _new_context(self._trt, self._engine, cuda_graph=self._cuda_graph)
            if context is None:
                raise self._refusal("could not make an execution context; the GPU's memory may be full")
            for name, address in self._device.items():
                if not context.set_tensor_address(name, address):
                    raise self._refusal(f"refused the memory for {name}")
            self._contexts[key] = context
        if self._batches.get(key) != batch:  # never between a run and its recording: a change may take work of its own
            shape = (batch, *self._shapes[INPUT])
            if not self._contexts[key].set_input_shape(INPUT, shape):
                raise self._refusal(f"refused the input shape {shape}")
            self._batches[key] = batch
        return self._contexts[key]

    def _enqueue(self, context: tensorrt.IExecutionContext, batch: int) -> None:
        self._copy("cuMemcpyHtoDAsync_v2", INPUT, batch, to=self._device, of=self._pinned)
        if not context.execute_async_v3(self._stream):
            raise self._refusal(f"could not queue a batch of {batch}")
        for name in OUTPUTS:
            self._copy("cuMemcpyDtoHAsync_v2", name, batch, to=self._pinned, of=self._device)

    def _refusal(self, what: str) -> BackendError:
        return BackendError(f"TensorRT {what} ({self._why()})")

    def _copy(self, function: str, name: str, batch: int, *, to: dict[str, int], of: dict[str, int]) -> None:
        self._cuda.call(function, to[name], of[name], self._host[name][:batch].nbytes, self._stream)


def _new_context(
    trt: ModuleType, engine: tensorrt.ICudaEngine, *, cuda_graph: bool
) -> tensorrt.IExecutionContext | None:
    if not hasattr(trt, "CudaGraphStrategy"):
        return engine.create_execution_context()
    configuration = engine.create_runtime_config()  # of TensorRT-RTX alone
    # left alone it compiles a shape's kernels beside the first runs: some parts later another kernel would judge
    configuration.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    if cuda_graph:
        configuration.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(configuration)


def _free(cuda: Cuda, stream: int, device: dict[str, int], pinned: dict[str, int], graphs: dict[int, int]) -> None:
    """Give everything back when a lane is gone; whichever thread runs this binds first."""
    owned = [("cuGraphExecDestroy", graph) for graph in graphs.values()]
    owned.append(("cuStreamDestroy_v2", stream))
    owned += [("cuMemFree_v2", address) for address in device.values()]
    owned += [("cuMemFreeHost", address) for address in pinned.values()]
    with suppress(BackendError):
        cuda.bind()
    for function, handle in owned:
        with suppress(BackendError):  # once a GPU has failed every call does, and the first has been told
            cuda.call(function, handle)
