"""Tiles at native resolution over a large picture, and their maps stitched back without seams.

Training, calibration, export checks, `predict` and the line all cut their tiles here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import BundleError, ImageError
from reason_runtime.image import InputFormat, read_part
from reason_runtime.manifest import Manifest
from reason_runtime.session import Outputs

TILE_OVERLAP_PX = 32  # that neighbours share in training, and elsewhere unless another overlap is asked for
TILE_KEY = "tile_px"  # in the manifest's training configuration: written by `reason-train fit --tile`


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A square of a frame, in pixels."""

    top: int
    left: int
    size_px: int

    @property
    def place(self) -> str:
        """Where in the picture, for names: `[TOP,LEFT]`."""
        return f"[{self.top},{self.left}]"


def tile_px_of(manifest: Manifest) -> int | None:
    """Side of the tiles that a bundle was trained on; None for whole parts.

    Raises:
        BundleError: The manifest holds something else there.
    """
    found = manifest.training.configuration.get(TILE_KEY)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BundleError(
            f"{manifest.name}: training.configuration.{TILE_KEY} is {found!r}, expected a number of pixels"
        )
    return found


@lru_cache(maxsize=16)
def place_tiles(shape: tuple[int, int], *, tile_px: int, overlap_px: int = TILE_OVERLAP_PX) -> tuple[Tile, ...]:
    """Tiles that cover a frame, evenly spread, neighbours sharing at least `overlap_px`.

    Args:
        shape: Rows and columns of the frame.
        tile_px: Side of a tile; never scaled.
        overlap_px: Less than the side.

    Raises:
        ImageError: The frame is smaller than a tile.
    """
    if min(shape) < tile_px:
        raise ImageError(
            f"a picture of {shape[1]} x {shape[0]} pixels is smaller than a tile of {tile_px}; make it larger"
        )
    tops, lefts = (_starts(side, tile_px=tile_px, overlap_px=overlap_px) for side in shape)
    return tuple(Tile(top=top, left=left, size_px=tile_px) for top in tops for left in lefts)


def cut(image: NDArray[np.uint8], tile: Tile) -> NDArray[np.uint8]:
    """The pixels of a tile: (size, size, C)."""
    return image[tile.top : tile.top + tile.size_px, tile.left : tile.left + tile.size_px]


def stitch(tiles: Sequence[Tile], maps: NDArray[np.float32], *, shape: tuple[int, int]) -> NDArray[np.float32]:
    """One map of the frame from the maps of its tiles.

    Where tiles overlap, each counts by how far the pixel is from that tile's edge, so that neither the edge of one
    nor the change from one to the next shows. Maps that agree come out unchanged, but for rounding; that of a frame of
    one tile comes out as it is, since the threshold is of such maps' scores.

    Args:
        tiles: From `place_tiles`; they cover the frame.
        maps: (K, S, S), raw units, in the same order.
        shape: Rows and columns of the frame.

    Returns:
        (rows, columns) float32, raw units; not finite wherever a tile's map was not.
    """
    if len(tiles) == 1:
        return np.asarray(maps[0])
    total = np.zeros(shape, np.float32)
    weights = np.zeros(shape, np.float32)
    for tile, map_ in zip(tiles, maps, strict=True):
        size = tile.size_px
        weight = _weight(size)
        rows, columns = slice(tile.top, tile.top + size), slice(tile.left, tile.left + size)
        total[rows, columns] += map_ * weight
        weights[rows, columns] += weight
    return total / weights


def run_tiled(
    run: Callable[[NDArray[np.uint8]], Outputs], image: NDArray[np.uint8], *, tile_px: int, together: int = 1
) -> Outputs:
    """The stitched map of a picture of any size and its maximum: (1, H, W) and (1,), as for a batch of one.

    Args:
        run: The model, for (N, S, S, C) tiles.
        image: (H, W, C) uint8, at native resolution.
        tile_px: Side of a tile.
        together: Tiles that go through the model at once, at most.

    Raises:
        ImageError: The picture is smaller than a tile.
    """
    shape = (image.shape[0], image.shape[1])
    tiles = place_tiles(shape, tile_px=tile_px)
    groups = [tiles[i : i + together] for i in range(0, len(tiles), together)]
    outputs = [run(np.stack([cut(image, tile) for tile in group])) for group in groups]
    stitched = stitch(tiles, np.concatenate([output.anomaly_map for output in outputs]), shape=shape)
    score = np.float32(stitched.max()) if np.isfinite(stitched).all() else np.float32(np.nan)
    return Outputs(anomaly_map=stitched[None], score=np.array([score], np.float32))


def tiles_of_file(path: Path, *, tile_px: int, input_format: InputFormat) -> dict[Tile, NDArray[np.uint8]]:
    """Every tile of a picture, or of the part that is looked at, as the graph takes it, by where in that it is.

    Raises:
        ImageError: It cannot be read, or is smaller than a tile; with its path.
    """
    image = read_part(path, input_format=input_format)
    try:
        tiles = place_tiles((image.shape[0], image.shape[1]), tile_px=tile_px)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return {tile: np.ascontiguousarray(cut(image, tile)) for tile in tiles}


@lru_cache(maxsize=4)
def _weight(size_px: int) -> NDArray[np.float32]:
    ramp = np.minimum(np.arange(1, size_px + 1), np.arange(size_px, 0, -1)).astype(np.float32)
    weight: NDArray[np.float32] = np.outer(ramp, ramp) / ramp.max() ** 2
    return weight


def _starts(side: int, *, tile_px: int, overlap_px: int) -> list[int]:
    count = 1 + -(-(side - tile_px) // (tile_px - overlap_px))
    if count == 1:
        return [0]
    return [round(i * (side - tile_px) / (count - 1)) for i in range(count)]
