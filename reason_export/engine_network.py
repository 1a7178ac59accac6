"""From a bundle's ONNX file to TensorRT's network, with every complaint of the parser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from reason_runtime.backends.signature import Port, check_signature
from reason_runtime.backends.tensorrt_library import Messages, numpy_name
from reason_runtime.bundle import Bundle
from reason_runtime.errors import BackendError, BundleError
from reason_runtime.manifest import Manifest

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTensor:
    """An input or output of a parsed network.

    Attributes:
        name: As in the ONNX file.
        shape: -1 where a side is free.
        kind: The library's word: `UINT8`, `FLOAT`.
    """

    name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedNetwork:
    """A network with the parser that holds its weights, which must live until the engine is built."""

    network: tensorrt.INetworkDefinition
    parser: tensorrt.OnnxParser
    tensors: tuple[NetworkTensor, ...]


def parse_network(
    trt: ModuleType, builder: tensorrt.Builder, messages: Messages, *, model: Path, bundle: Bundle
) -> ParsedNetwork:
    """Parse strongly typed: every layer computes in the type that the ONNX file says.

    TensorRT 11 knows no other way and ignores the flag; 10 needs it.

    Args:
        trt: The library.
        builder: Of the library.
        messages: The library's.
        model: The ONNX file.
        bundle: That has it.

    Raises:
        BackendError: The parser refuses the file; names every node it stumbled over.
        BundleError: The file was changed since the bundle was opened, the network is not what the manifest says, or its
            batch is fixed.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise BackendError(f"{trt.__name__} {trt.__version__} made no network ({messages.why()})")
    parser = messages.made(trt.OnnxParser, network)
    parsed = parser.parse_from_file(str(model))
    bundle.require_unchanged(model.name)
    if not parsed or parser.num_errors:
        found = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        said = "; ".join(found) or messages.why()
        raise BackendError(f"{model}: the parser of {trt.__name__} {trt.__version__} refuses {said}")
    inputs = [_tensor(network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [_tensor(network.get_output(index)) for index in range(network.num_outputs)]
    _check(model, bundle.manifest, inputs=inputs, outputs=outputs)
    return ParsedNetwork(network=network, parser=parser, tensors=(*inputs, *outputs))


def _describe(error: tensorrt.ParserError) -> str:
    """Node and reason, without the lines that only say that no driver is there."""
    lines = [line.strip() for line in error.desc().splitlines() if "catchCudaError" not in line]
    return f"node {error.node()} {error.node_name()} ({error.node_operator()}): {' '.join(filter(None, lines))}"


def _tensor(tensor: tensorrt.ITensor) -> NetworkTensor:
    return NetworkTensor(name=tensor.name, shape=tuple(int(side) for side in tensor.shape), kind=tensor.dtype.name)


def _check(model: Path, manifest: Manifest, *, inputs: list[NetworkTensor], outputs: list[NetworkTensor]) -> None:
    def ports(tensors: list[NetworkTensor]) -> dict[str, Port]:
        return {
            tensor.name: Port([None if side < 0 else side for side in tensor.shape], numpy_name(tensor.kind))
            for tensor in tensors
        }

    check_signature(model, manifest, inputs=ports(inputs), outputs=ports(outputs))
    for tensor in (*inputs, *outputs):
        if tensor.shape[0] >= 0:
            raise BundleError(f"{model}: {tensor.name} has a fixed batch of {tensor.shape[0]}; export again")
