"""A run's threshold: scores of held-out good images, kept with the images so that export can score them again."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reason_runtime.atomic import write_bytes, write_text
from reason_runtime.errors import DataError, RunError
from reason_runtime.manifest import Threshold
from reason_train.calibration import threshold_for
from reason_train.datasets import DataSet
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.run import CALIBRATION, THRESHOLD, Run, describe_images
from reason_train.trained import judge


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Good images that trained nothing, as the graph takes them, and what the trained model scores them."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    """(N, H, W, C)"""
    scores: NDArray[np.float32]
    """(N,) raw, float32 model."""


def unseen(run: Run, dataset: DataSet) -> list[Path]:
    """Good images of a data set that the run did not train on, told by their content.

    Raises:
        DataError: It trained on all of them.
    """
    trained = {entry.sha256 for entry in run.train}
    paths = [sample.path for sample in dataset.train]
    entries = describe_images(paths, root=dataset.root)
    left = [path for path, entry in zip(paths, entries, strict=True) if entry.sha256 not in trained]
    if not left:
        raise DataError(
            f"{dataset.root}: all {len(paths)} good images were trained on; a threshold needs good images that were not"
        )
    return left


def calibrate(
    folder: Path,
    model: ReasonModel,
    store: ImageStore,
    *,
    names: Sequence[str],
    device: torch.device,
    false_reject_rate: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Threshold:
    """Score held-out good images, derive the threshold and write both into the run.

    Raises:
        ImageError: An image cannot be read.
        DataError: A score is not finite, or there is no image.
        ConfigurationError: The rate is not between 0 and 1.
    """
    scores = judge(model, store, device=device, keep_maps=False, progress=progress).scores
    threshold = threshold_for(scores, false_reject_rate=false_reject_rate, source=f"{len(scores)} held-out good images")
    images = np.stack([store[index] for index in range(len(store))])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(names), images=images, scores=scores)
    write_bytes(folder / CALIBRATION, buffer.getvalue())
    write_text(folder / THRESHOLD, json.dumps(dataclasses.asdict(threshold), indent=2) + "\n")
    return threshold


def read_threshold(folder: Path) -> Threshold | None:
    """The threshold of a run; None where it was never calibrated.

    Raises:
        RunError: The file is not as this version writes it.
    """
    path = folder / THRESHOLD
    if not path.is_file():
        return None
    try:
        return Threshold(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: is not a threshold of this version ({error}); calibrate again") from error


def read_held_out(folder: Path) -> HeldOut | None:
    """The images that a run was calibrated on; None where it never was.

    Raises:
        RunError: The file is not as this version writes it.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return HeldOut(names=tuple(arrays["names"].tolist()), images=arrays["images"], scores=arrays["scores"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path}: cannot be read ({error}); calibrate again") from error
