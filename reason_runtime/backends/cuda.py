"""The few calls of the CUDA driver that the TensorRT session needs.

They go to libcuda by ctypes. It comes with every NVIDIA driver, Jetson's too, these functions have kept their form
since CUDA 11, and TensorRT takes streams and addresses as plain numbers. A binding package would have to match the
CUDA version of whichever TensorRT is installed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import suppress
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p

from reason_runtime.engine_facts import Gpu
from reason_runtime.errors import BackendError

_LIBRARY = "libcuda.so.1"
SIGNATURES: dict[str, tuple[type[object], ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemAllocHost_v2": (POINTER(c_void_p), c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
"""Exported name -> argument types; every one returns 0 or an error number. Source: cuda.h of CUDA 12."""
ATTRIBUTES = {
    "MULTIPROCESSOR_COUNT": 16,
    "INTEGRATED": 18,
    "COMPUTE_CAPABILITY_MAJOR": 75,
    "COMPUTE_CAPABILITY_MINOR": 76,
}
"""Name after `CU_DEVICE_ATTRIBUTE_` -> its number. Source: the same."""
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating


class Cuda:
    """The driver with the primary context of the first GPU, which TensorRT uses too.

    Raises:
        BackendError: There is no NVIDIA driver or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise BackendError(
                f"no NVIDIA driver: {error}; TensorRT engines run on an NVIDIA GPU, --backend openvino and "
                "--backend onnxruntime on a CPU"
            ) from error
        for name, types in SIGNATURES.items():
            getattr(self._library, name).argtypes = types
        self.call("cuInit", 0)
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", device, 0)
        self.call("cuDevicePrimaryCtxRetain", context, device)
        self._context = context
        self.bind()
        self.gpu = self._describe(device)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver; pointer arguments are given as the variable they point to.

        Raises:
            BackendError: It returned an error, told in the driver's words.
        """
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            text = c_char_p()
            self._library.cuGetErrorString(code, text)
            raise BackendError(f"CUDA's {name} failed: {(text.value or b'unknown error').decode()} ({code})")

    def bind(self) -> None:
        """Make the context the calling thread's."""
        self.call("cuCtxSetCurrent", self._context)

    def device_memory(self, size_bytes: int) -> int:
        """Address of new memory on the GPU."""
        address = c_uint64()
        self.call("cuMemAlloc_v2", address, size_bytes)
        return address.value

    def pinned_memory(self, size_bytes: int) -> int:
        """Address of new page-locked memory of the host, which the GPU copies from and to by itself."""
        address = c_void_p()
        self.call("cuMemAllocHost_v2", address, size_bytes)
        return address.value or 0

    def stream(self) -> int:
        """A new queue of work."""
        stream = c_void_p()
        self.call("cuStreamCreate", stream, _NON_BLOCKING)
        return stream.value or 0

    def recorded(self, stream: int, work: Callable[[], None]) -> int:
        """What `work` queues on the stream from the calling thread, recorded instead of run: a graph to launch."""
        graph, executable = c_void_p(), c_void_p()
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            work()
        except BackendError:
            with suppress(BackendError):  # the failure is what is to be said; left open, none could free the stream
                self.call("cuStreamEndCapture", stream, graph)
                self.call("cuGraphDestroy", graph)
            raise
        self.call("cuStreamEndCapture", stream, graph)
        self.call("cuGraphInstantiateWithFlags", executable, graph, 0)
        self.call("cuGraphDestroy", graph)
        return executable.value or 0

    def _describe(self, device: c_int) -> Gpu:
        name, found = ctypes.create_string_buffer(256), {attribute: c_int() for attribute in ATTRIBUTES}
        self.call("cuDeviceGetName", name, len(name), device)
        for attribute, value in found.items():
            self.call("cuDeviceGetAttribute", value, ATTRIBUTES[attribute], device)
        return describe(name.value.decode(), {attribute: value.value for attribute, value in found.items()})


def describe(name: str, attributes: Mapping[str, int]) -> Gpu:
    """A GPU by what the driver says of it.

    Those of all Jetson Orin modules have one name, and an engine tuned on 16 multiprocessors is not for 8: a GPU that
    is part of a module is told by their number too.
    """
    if attributes["INTEGRATED"]:
        name = f"{name} ({attributes['MULTIPROCESSOR_COUNT']} SM)"
    major, minor = attributes["COMPUTE_CAPABILITY_MAJOR"], attributes["COMPUTE_CAPABILITY_MINOR"]
    return Gpu(name=name, compute_capability=f"{major}.{minor}")
