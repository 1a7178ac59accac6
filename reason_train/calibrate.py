"""A run's threshold: scores of held-out good images, kept with the images so that export can score them again."""

from __future__ import annotations

import dataclasses
import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reason_runtime import manifest
from reason_runtime.atomic import write_bytes, write_text
from reason_runtime.errors import BundleError, DataError, RunError
from reason_runtime.manifest import Threshold
from reason_runtime.strict_json import parse
from reason_train.calibration import check_rate, described_images, images_needed, most_held_out, threshold_for
from reason_train.datasets import DataSet
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.run import CALIBRATION, THRESHOLD, ImageEntry, Run, describe_images
from reason_train.trained import input_format, judge, score_and_peak_each

ARRAYS = {"names", "images", "scores", "sixteen_bit", "sha256"}
DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError),  # the last of unknown compression, too
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy and zipfile raise at changed bytes."""
SCORED_AGAIN = 16
"""So many held-out images tell another model within a second or two."""
SAME_SCORES = 1e-3
"""Of the largest score: more than float32 differs by from one processor or GPU to another (on one it is some 1e-7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Good images that trained nothing, as the graph takes them, and what the trained model scores them."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    """(N, H, W, C)"""
    scores: NDArray[np.float32]
    """(N,) raw, float32 model."""
    sixteen_bit: bool
    """Whether there were files of 16 bits a channel among them; they were read with the run's levels."""
    sha256: frozenset[str]
    """Of the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Images that trained nothing, no two of them with the same content."""

    paths: tuple[Path, ...]
    entries: tuple[ImageEntry, ...]
    """Of the same images."""
    trained_on: tuple[ImageEntry, ...]
    """Others that were trained on, or used otherwise, or are copies of such."""
    copies: int
    """How many others are copies of these: a bound holds for images that are independent."""


def told_apart(paths: Sequence[Path], *, root: Path, trained: Iterable[ImageEntry]) -> Unseen:
    """The images that are not among the trained ones by content; of copies the first.

    Args:
        paths: Images below `root`.
        root: What their names begin at.
        trained: What was trained on.

    Raises:
        ImageError: A file cannot be read.
    """
    known = {entry.sha256 for entry in trained}
    new: dict[str, tuple[Path, ImageEntry]] = {}
    trained_on = []
    for path, entry in zip(paths, describe_images(paths, root=root), strict=True):
        if entry.sha256 in known:
            trained_on.append(entry)
        else:
            new.setdefault(entry.sha256, (path, entry))
    return Unseen(
        paths=tuple(path for path, _ in new.values()),
        entries=tuple(entry for _, entry in new.values()),
        trained_on=tuple(trained_on),
        copies=len(paths) - len(trained_on) - len(new),
    )


def unseen(run: Run, dataset: DataSet) -> Unseen:
    """Good images of a data set that the run did not train on, nor choose its epoch by, told by their content.

    Raises:
        DataError: There is none.
        ImageError: A file cannot be read.
    """
    used = (*run.train, *run.chosen_by)
    found = told_apart([sample.path for sample in dataset.train], root=dataset.root, trained=used)
    if not found.paths:
        how = "were trained on, or chose the epoch" if run.chosen_by else "were trained on"
        raise DataError(
            f"{dataset.root}: all {len(dataset.train)} good images {how}; a threshold needs good images that were not"
        )
    return found


def calibration_images(run: Run, paths: Sequence[Path], *, memory_mib: int = 4096) -> ImageStore:
    """Held-out good images as the run's model takes them: whole, or at most 1000 of their tiles.

    Raises:
        ImageError: A picture is smaller than a tile.
    """
    tile_px = run.config.training.tile_px
    form = input_format(run.config.method)
    return ImageStore(
        paths, input_format=form, memory_mib=memory_mib, tile_px=tile_px, most=most_held_out(tile_px=tile_px)
    )


def calibrate(
    folder: Path,
    model: ReasonModel,
    store: ImageStore,
    *,
    entries: Sequence[ImageEntry],
    device: torch.device,
    false_reject_rate: float,
    training_known: bool = True,
    require_bound: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Threshold:
    """Score held-out good images, derive the threshold and write both into the run.

    Where the run was trained on tiles, the false-reject rate is that of a tile.

    Args:
        folder: The run.
        model: Its model.
        store: From `calibration_images`.
        entries: Of its pictures.
        device: Where to run.
        false_reject_rate: Wanted share of rejected good images, 0..1.
        training_known: See `Run.training_known`: where it is not, nobody knows whether the bound holds.
        require_bound: Write nothing where the images do not promise that rate.
        progress: Called with the number of images after each batch.

    Raises:
        ImageError: An image cannot be read.
        DataError: A score is not finite, there is no image, or a bound that is required does not hold.
        ConfigurationError: The rate is not between 0 and 1.
    """
    check_rate(false_reject_rate)
    if require_bound and not training_known:
        raise DataError(
            f"{folder}: left as it was; what the checkpoint was trained on is not known, so that no bound can be "
            "promised; import it again with --trained-on DIR"
        )
    scores = judge(model, store, device=device, keep_maps=False, progress=progress).scores
    tile_px = next((piece.tile.size_px for piece in store.pieces if piece.tile is not None), None)
    source = described_images(len(scores), pictures=len(store.paths), tile_px=tile_px, training_known=training_known)
    threshold = threshold_for(scores, false_reject_rate=false_reject_rate, source=source)
    if require_bound and threshold.false_reject_upper_bound > false_reject_rate:
        raise DataError(
            f"{folder}: left as it was; {threshold.images} good images promise at most "
            f"{threshold.false_reject_upper_bound:.2%} false rejects with 95 % confidence, {false_reject_rate:.2%} "
            f"takes {images_needed(false_reject_rate)}"
        )
    images = np.stack([store[index] for index in range(store.images)])
    buffer = io.BytesIO()
    known = dict(zip(store.paths, entries, strict=True))
    np.savez_compressed(
        buffer,
        names=np.array([f"{known[piece.path].name}{piece.place}" for piece in store.pieces]),
        images=images,
        scores=scores,
        sixteen_bit=np.array(store.highest_16_bit is not None),
        sha256=np.array([entry.sha256 for entry in entries]),
    )
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
        return manifest.read_threshold(parse(path.read_text(encoding="utf-8"), where=THRESHOLD), where=THRESHOLD)
    except (OSError, ValueError, BundleError) as error:
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
            if unknown := set(arrays.files) - ARRAYS:
                raise ValueError(f"holds {', '.join(map(repr, sorted(unknown)))}, expected {', '.join(sorted(ARRAYS))}")
            return HeldOut(
                names=tuple(arrays["names"].tolist()),
                images=arrays["images"],
                scores=arrays["scores"],
                sixteen_bit=bool(arrays["sixteen_bit"]),
                sha256=frozenset(arrays["sha256"].tolist()),
            )
    except DAMAGED as error:
        raise RunError(f"{path}: cannot be read ({error}); calibrate again") from error


def read_calibration(
    folder: Path, *, model: ReasonModel, device: torch.device
) -> tuple[HeldOut | None, Threshold | None]:
    """What `read_held_out` and `read_threshold` give, checked to be of one calibration and of this model.

    Raises:
        RunError: A file is not as this version writes it or is missing, a new calibration was ended between its two
            files, or the model is not the one that was calibrated.
    """
    held_out, threshold = read_held_out(folder), read_threshold(folder)
    if held_out is None and threshold is not None:  # the other way round, a first calibration was ended between them
        raise RunError(f"{folder}: {THRESHOLD} is there, but no {CALIBRATION} of it; bring it back, or calibrate again")
    if held_out is not None and threshold is not None:
        below = np.nextafter(np.float32(threshold.value), np.float32(-np.inf))  # a score, as `threshold_for` chose it
        if threshold.images != len(held_out.scores) or below not in held_out.scores:
            raise RunError(f"{folder}: {CALIBRATION} and {THRESHOLD} are of two calibrations; calibrate again")
    if held_out is not None:
        _require_same_scores(held_out, model, device=device, where=folder)
    return held_out, threshold


def _require_same_scores(held_out: HeldOut, model: ReasonModel, *, device: torch.device, where: Path) -> None:
    """Refuse a model that is not the one that was calibrated; its own SHA-256 tells damage alone."""
    expected = held_out.scores[:SCORED_AGAIN]
    scores, _ = score_and_peak_each(model, held_out.images[:SCORED_AGAIN], device=device)
    difference, allowed = np.abs(scores - expected).max(), SAME_SCORES * np.abs(expected).max()
    if not difference <= allowed:
        raise RunError(
            f"{where}: its model gives held-out images other scores than in its calibration (by {difference:.2g}, "
            f"expected at most {allowed:.2g}): one of the two is damaged; bring back a whole copy, or train again"
        )
