"""A lane's copies, streams, graphs and memory on a real GPU, without TensorRT.

What TensorRT's execution context would queue is queued here by the driver: a "network" whose map is the image's bytes
read as float32, and whose score is the map's first value.
"""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_size_t, c_uint64, c_void_p
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from reason_runtime.backends.cuda import Cuda
from reason_runtime.backends.tensorrt_lane import Lane
from reason_runtime.errors import BackendError
from tests.runtime.gpu import NEEDS_GPU

pytestmark = NEEDS_GPU
SIDE_PX = 96
SHAPES = {"image": (SIDE_PX, SIDE_PX, 4), "anomaly_map": (SIDE_PX, SIDE_PX), "score": ()}
MAP_BYTES = SIDE_PX * SIDE_PX * 4
LARGEST = 5


class CopyingContext:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.addresses, self.batch = cuda, dict[str, int](), 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.copy("anomaly_map", to=0, of=0, size_bytes=self.batch * MAP_BYTES, stream=stream)
        for image in range(self.batch):
            self.copy("score", to=4 * image, of=MAP_BYTES * image, size_bytes=4, stream=stream)
        return True

    def copy(self, name: str, *, to: int, of: int, size_bytes: int, stream: int) -> None:
        addresses = c_uint64(self.addresses[name] + to), c_uint64(self.addresses["image"] + of)
        self.cuda.call("cuMemcpyDtoDAsync_v2", *addresses, c_size_t(size_bytes), c_void_p(stream))


class CopyingEngine:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def create_execution_context(self) -> CopyingContext:
        return CopyingContext(self.cuda)


class RefusingContext(CopyingContext):
    def execute_async_v3(self, stream: int) -> bool:
        return False


class RefusingEngine(CopyingEngine):
    def create_execution_context(self) -> CopyingContext:
        return RefusingContext(self.cuda)


def new_lane(cuda: Cuda, *, cuda_graph: bool, engine: CopyingEngine | None = None) -> Lane:
    return Lane(
        trt=ModuleType("without CudaGraphStrategy, as TensorRT is"),
        why=lambda: "as it says",
        cuda=cuda,
        engine=CopyingEngine(cuda) if engine is None else engine,
        shapes=SHAPES,
        largest_batch=LARGEST,
        cuda_graph=cuda_graph,
    )


def some_images(seed: int, batch: int) -> NDArray[np.uint8]:
    values = np.random.default_rng(seed).normal(size=(batch, SIDE_PX, SIDE_PX)).astype(np.float32)
    return values.view(np.uint8).reshape(batch, SIDE_PX, SIDE_PX, 4)


def assert_right(lane: Lane, images: NDArray[np.uint8]) -> None:
    found = lane.run(images)
    expected = images.view(np.float32)[..., 0]
    np.testing.assert_array_equal(found.anomaly_map, expected)
    np.testing.assert_array_equal(found.score, expected[:, 0, 0])


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_every_batch_size_in_any_order_gives_its_own_answers(cuda_graph: bool) -> None:
    lane = new_lane(Cuda(), cuda_graph=cuda_graph)
    for turn, batch in enumerate(np.random.default_rng(0).integers(1, LARGEST + 1, 40)):
        assert_right(lane, some_images(turn, int(batch)))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_refusal_comes_with_what_the_library_said(cuda_graph: bool) -> None:
    cuda = Cuda()
    lane = new_lane(cuda, cuda_graph=cuda_graph, engine=RefusingEngine(cuda))
    with pytest.raises(BackendError, match=r"^TensorRT could not queue a batch of 2 \(as it says\)$"):
        lane.run(some_images(4, 2))


def test_answers_are_not_overwritten_by_later_runs() -> None:
    lane, images = new_lane(Cuda(), cuda_graph=True), some_images(1, 2)
    first = lane.run(images)
    lane.run(some_images(2, 2))
    np.testing.assert_array_equal(first.anomaly_map, images.view(np.float32)[..., 0])


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_threads_with_a_lane_each_do_not_disturb_one_another(cuda_graph: bool) -> None:
    cuda = Cuda()

    def work(thread: int) -> None:
        lane = new_lane(cuda, cuda_graph=cuda_graph)
        for turn in range(50):
            assert_right(lane, some_images(1000 * thread + turn, 1 + turn % LARGEST))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


def test_a_lane_that_is_gone_gives_its_memory_back() -> None:
    cuda = Cuda()

    def free_bytes() -> int:
        gc.collect()
        free, total = c_size_t(), c_size_t()
        cuda.call("cuMemGetInfo_v2", byref(free), byref(total))  # undeclared, so it would get their values
        assert 0 < free.value <= total.value
        return free.value

    def use_lanes() -> None:
        for _ in range(20):
            lane = new_lane(cuda, cuda_graph=True)
            assert_right(lane, some_images(3, LARGEST))

    use_lanes()
    before = free_bytes()
    use_lanes()
    assert before - free_bytes() < 20 * LARGEST * MAP_BYTES / 4  # of what they took; the driver keeps a little


def test_a_recording_that_fails_is_ended_so_that_its_stream_goes_on() -> None:
    cuda = Cuda()
    stream = cuda.stream()

    def fail() -> None:
        raise BackendError("as a context that refuses")

    for _ in range(2):
        with pytest.raises(BackendError, match="as a context that refuses"):
            cuda.recorded(stream, fail)
    cuda.call("cuStreamSynchronize", stream)  # of a stream that records it would be an error
