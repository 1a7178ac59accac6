"""The golden arrays of a bundle: what every backend must reproduce."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import BundleError
from reason_runtime.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Inputs with the maps and scores that the trained model gave before export.

    Attributes:
        images: (N, H, W, C) uint8, as the graph takes them.
        anomaly_map: (N, S, S) float32.
        score: (N,) float32.
        synthetic: (N,) bool, True where the image is a made-up pattern and not a photograph.
    """

    images: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    score: NDArray[np.float32]
    synthetic: NDArray[np.bool_]


def read_golden(path: Path, manifest: Manifest) -> Golden:
    """Read `golden.npz` and check it against the manifest's sizes.

    Raises:
        BundleError: Not a NumPy archive, or an array is missing or of another shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: is not a NumPy archive ({error}); export again") from error
    images = len(found.get("images", ()))
    size, form = manifest.map_size_px, manifest.input
    expected = {
        "images": (np.dtype(np.uint8), (images, form.height_px, form.width_px, form.channels)),
        "anomaly_map": (np.dtype(np.float32), (images, size, size)),
        "score": (np.dtype(np.float32), (images,)),
        "synthetic": (np.dtype(np.bool_), (images,)),
    }
    for name, kind in expected.items():
        if name not in found or (found[name].dtype, found[name].shape) != kind:
            what = f"{found[name].dtype} {found[name].shape}" if name in found else "nothing"
            raise BundleError(f"{path}: {name} is {what}, expected {kind[0]} {kind[1]}; export again")
    return Golden(**{name: found[name] for name in expected})
