"""The golden arrays of a bundle: what every backend must reproduce."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import BundleError
from reason_runtime.manifest import Manifest

PAINTED = "painted_"
"""What the names of their arrays in `golden.npz` begin with."""
Kinds = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Type and shape of arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Images with the maps and scores that the trained model gave before export.

    Attributes:
        images: (N, H, W, C) uint8, as the graph takes them.
        anomaly_map: (N, S, S) float32.
        score: (N,) float32.
    """

    images: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    score: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A picture before the graph.

    Attributes:
        picture: (H, W, C) uint8, as a camera gives it.
        prepared: (h, w, C) uint8, what the graph takes of it: the part that is looked at, resized and cropped.
    """

    picture: NDArray[np.uint8]
    prepared: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden(Answers):
    """Those of good parts, of the same with defects painted on them, and what comes before them all.

    Attributes:
        synthetic: (N,) bool, True where the image is a made-up pattern and not a photograph.
        painted: With a defect each; None where there is no photograph, and for a camera's size.
        preparation: None where nothing is resized before the graph.
    """

    synthetic: NDArray[np.bool_]
    painted: Answers | None = None
    preparation: Preparation | None = None


def read_golden(source: IO[bytes], manifest: Manifest, *, where: str) -> Golden:
    """Read `golden.npz` and check it against the manifest's sizes; `where` names it in messages.

    Raises:
        BundleError: Not a NumPy archive, or an array is missing or of another shape or type.
    """
    try:
        with np.load(source, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{where}: is not a NumPy archive ({error}); export again") from error

    def taken(kinds: Kinds, *, prefix: str = "") -> dict[str, NDArray[Any]]:
        for name, kind in kinds.items():
            array = found.get(prefix + name)
            if array is None or (array.dtype, array.shape) != kind:
                what = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise BundleError(f"{where}: {prefix}{name} is {what}, expected {kind[0]} {kind[1]}; export again")
        return {name: found[prefix + name] for name in kinds}

    images, painted = len(found.get("images", ())), None
    good = taken({**_answers(manifest, images=images), "synthetic": (np.dtype(np.bool_), (images,))})
    if f"{PAINTED}images" in found:
        kinds = _answers(manifest, images=len(found[f"{PAINTED}images"]))
        painted = Answers(**taken(kinds, prefix=PAINTED))
    preparation = None
    if "picture" in found:
        preparation = Preparation(**taken(_preparation(manifest, shape=found["picture"].shape)))
    return Golden(**good, painted=painted, preparation=preparation)


def _answers(manifest: Manifest, *, images: int) -> Kinds:
    size, form = manifest.map_size_px, manifest.input
    return {
        "images": (np.dtype(np.uint8), (images, form.height_px, form.width_px, form.channels)),
        "anomaly_map": (np.dtype(np.float32), (images, size, size)),
        "score": (np.dtype(np.float32), (images,)),
    }


def _preparation(manifest: Manifest, *, shape: tuple[int, ...]) -> Kinds:
    form = manifest.input
    return {
        "picture": (np.dtype(np.uint8), (*shape[:2], form.channels)),
        "prepared": (np.dtype(np.uint8), (form.height_px, form.width_px, form.channels)),
    }
