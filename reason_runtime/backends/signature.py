"""The one signature that every model in a bundle has, checked when a library has loaded it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import BackendError, BundleError
from reason_runtime.manifest import Manifest

INPUT = "image"
OUTPUTS = ("anomaly_map", "score")


def shapes_of_one(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Of the graph's input and outputs by name, for one image: without the batch."""
    form, size = manifest.input, manifest.map_size_px
    return {INPUT: (form.height_px, form.width_px, form.channels), OUTPUTS[0]: (size, size), OUTPUTS[1]: ()}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a loaded model; a side that is free is None, and the type is named as NumPy does."""

    shape: list[int | None]
    type_name: str


def check_signature(path: Path, manifest: Manifest, *, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> None:
    """Compare a loaded model's names, shapes and types with the manifest.

    Args:
        path: The model, for the message.
        manifest: Of its bundle.
        inputs: By name.
        outputs: By name.

    Raises:
        BundleError: The model is not what the manifest says.
    """
    found = {**inputs, **outputs}
    if set(inputs) != {INPUT} or set(outputs) != set(OUTPUTS):
        raise BundleError(f"{path}: has {', '.join(found)}, expected input {INPUT} and outputs {' and '.join(OUTPUTS)}")
    for name, sides in shapes_of_one(manifest).items():
        shape, type_name = found[name].shape, found[name].type_name
        fits = len(shape) == len(sides) + 1 and all(
            side in (None, want) for side, want in zip(shape[1:], sides, strict=True)
        )
        if not fits:
            raise BundleError(f"{path}: {name} has shape {shape}, the manifest says (N, {', '.join(map(str, sides))})")
        expected = "uint8" if name == INPUT else "float32"
        if type_name != expected:
            raise BundleError(f"{path}: {name} is {type_name}, expected {expected}; export again")


def check_batch(images: NDArray[np.uint8], manifest: Manifest) -> None:
    """Refuse an array that is not a batch of the graph's input.

    Raises:
        BackendError: Another type or shape, or no image at all.
    """
    expected = shapes_of_one(manifest)[INPUT]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or len(images) == 0:
        raise BackendError(f"a batch is uint8 (N, {', '.join(map(str, expected))}), not {images.dtype} {images.shape}")
