"""A finished run's model, and what it says of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reason_runtime.errors import ImageError, RunError
from reason_runtime.image import InputFormat, read_part, square_format
from reason_runtime.session import Outputs
from reason_runtime.tiles import run_tiled
from reason_train.config import MethodConfig
from reason_train.datasets.masks import picture_size_of_all
from reason_train.image_store import ImageStore, all_images
from reason_train.model import ReasonModel, build_model
from reason_train.run import MODEL, Run, read_model, read_run

TILES_TOGETHER = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Raw scores and maps of N images."""

    scores: NDArray[np.float32]
    """(N,)"""
    maps: NDArray[np.float32] | None
    """(N, S, S), or (N, H, W) of what is looked at in tiles; none where they were not asked for."""


def input_format(method: MethodConfig) -> InputFormat:
    """What images become before the graph."""
    form = square_format(method.image_size_px, resize_px=method.crop_from_px)
    return dataclasses.replace(
        form, black_level=method.black_level, white_level=method.white_level, crop_px=method.crop_px
    )


def require_finished(folder: Path) -> Path:
    """The file of a run's model.

    Raises:
        RunError: There is none.
    """
    path = folder / MODEL
    if not path.is_file():
        raise RunError(f"{folder}: training is not finished (no {MODEL}); continue it with reason-train fit --resume")
    return path


def load_run(folder: Path) -> tuple[Run, ReasonModel]:
    """A finished run and its model, in evaluation mode on the CPU.

    Raises:
        RunError: No run there, training is not finished, the tensors do not fit or are not finite, or `run.json` was
            changed since.
    """
    run = read_run(folder)
    path = require_finished(folder)
    tensors = read_model(folder)
    model = build_model(run.config.method)
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise RunError(f"{path}: tensor {name} is missing or of another shape; train again")
        if not torch.isfinite(tensors[name].float()).all():
            raise RunError(f"{path}: tensor {name} holds values that are not finite; train again")
    model.load_state_dict({name: tensors[name] for name in own})
    return run, model.eval()


@torch.no_grad()
def judge(
    model: ReasonModel,
    store: ImageStore,
    *,
    device: torch.device,
    keep_maps: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Judgement:
    """Scores and maps of every image of a store, float32 throughout.

    Raises:
        ImageError: An image cannot be read.
        RunError: A score is not finite.
    """
    model = model.to(device).eval()
    scores, maps = [], []
    for batch in all_images(store):
        anomaly_map, score = model(torch.from_numpy(batch).to(device))
        scores.append(score.cpu().numpy())
        if keep_maps:
            maps.append(anomaly_map.cpu().numpy())
        progress(len(batch))
    joined = np.concatenate(scores)
    if not np.isfinite(joined).all():
        where = store.pieces[int(np.flatnonzero(~np.isfinite(joined))[0])].path
        raise RunError(f"{where}: the model's score is not finite; train again")
    return Judgement(scores=joined, maps=np.concatenate(maps) if keep_maps else None)


@torch.no_grad()
def score_and_peak_each(
    model: ReasonModel, images: NDArray[np.uint8], *, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores of (N, H, W, C) images, as the model takes them, and the maxima of their maps, (N,) each."""
    model = model.to(device).eval()
    scores, peaks = [], []
    for image in images:
        anomaly_map, score = model(torch.from_numpy(image[None]).to(device))
        scores.append(float(score))
        peaks.append(float(anomaly_map.max()))
    return np.array(scores, np.float32), np.array(peaks, np.float32)


@torch.no_grad()
def judge_tiled(
    model: ReasonModel,
    paths: Sequence[Path],
    *,
    tile_px: int,
    device: torch.device,
    keep_maps: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Judgement:
    """Stitched maps of what is looked at of pictures, at native resolution, and their maxima, float32 throughout.

    Raises:
        ImageError: A picture cannot be read, or is smaller than a tile.
        DataError: Maps are to be kept and the pictures differ in size.
        RunError: A score is not finite.
    """
    form = input_format(model.method)
    if keep_maps and form.crop_px is None:
        picture_size_of_all(
            paths, needed="maps of tiles are kept of images of one size: crop them, or ask for no report"
        )
    model = model.to(device).eval()

    def run(tiles: NDArray[np.uint8]) -> Outputs:
        anomaly_map, score = model(torch.from_numpy(tiles).to(device))
        return Outputs(anomaly_map=anomaly_map.cpu().numpy(), score=score.cpu().numpy())

    scores, maps = [], []
    for path in paths:
        picture = read_part(path, input_format=form)
        try:
            output = run_tiled(run, picture, tile_px=tile_px, together=TILES_TOGETHER)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        if not np.isfinite(output.score).all():
            raise RunError(f"{path}: the model's score is not finite; train again")
        scores.append(output.score)
        if keep_maps:
            maps.append(output.anomaly_map)
        progress(1)
    return Judgement(scores=np.concatenate(scores), maps=np.concatenate(maps) if keep_maps else None)
