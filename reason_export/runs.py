"""Images through a session, one a run, as on the line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.image import InputFormat, load_image
from reason_runtime.progress import counted
from reason_runtime.session import Outputs, Session, joined
from reason_runtime.stratified import stratified
from reason_runtime.tiles import tiles_of_file


def run_each(session: Session, images: NDArray[np.uint8]) -> Outputs:
    """Maps and scores of (N, H, W, C) images."""
    return joined([session.run(image[None]) for image in images])


def score_each(session: Session, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N,) scores of (N, H, W, C) images; no map is kept."""
    return score_and_peak_each(session, images)[0]


def score_and_peak_each(session: Session, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N,) scores of (N, H, W, C) images and (N,) maxima of their maps."""
    scores, peaks = [], []
    for image in counted(images, total=len(images), what="runs"):
        outputs = session.run(image[None])
        scores.append(outputs.score)
        peaks.append(outputs.anomaly_map.max(axis=(1, 2)))
    return np.concatenate(scores), np.concatenate(peaks)


def load_images(
    paths: Sequence[Path], *, root: Path, input_format: InputFormat, tile_px: int | None, most: int | None = None
) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and (N, H, W, C), as the graph takes them: whole images, or all of their tiles.

    Args:
        paths: Of the images.
        root: What their names begin at.
        input_format: Of the graph.
        tile_px: Side of the tiles that the bundle was trained on; None for whole images.
        most: So many at most, a stratified sample.

    Raises:
        ImageError: An image cannot be read, or is smaller than a tile.
    """
    if tile_px is None:
        chosen = [paths[i] for i in stratified(len(paths), most=most)]
        images = [load_image(path, input_format=input_format) for path in chosen]
        return [path.relative_to(root).as_posix() for path in chosen], np.stack(images)
    # twice: which tiles are wanted is known once all are counted, and all may be more than fit in memory
    reads = partial(tiles_of_file, tile_px=tile_px, input_format=input_format)
    tiles = [(path, tile) for path in paths for tile in reads(path)]
    wanted = [tiles[i] for i in stratified(len(tiles), most=most)]
    names = [f"{path.relative_to(root).as_posix()}{tile.place}" for path, tile in wanted]
    pixels: list[NDArray[np.uint8]] = []
    for path, group in groupby(wanted, key=itemgetter(0)):
        read = reads(path)
        pixels += [read[tile] for _, tile in group]
    return names, np.stack(pixels)
