"""Training images decoded once, kept in memory up to a bound, and read ahead by threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import ImageError
from reason_runtime.image import InputFormat, decode_part, image_of, is_one_channel, resize_image
from reason_runtime.stratified import stratified
from reason_runtime.tiles import Tile, cut, place_tiles
from reason_train.datasets.masks import picture_size
from reason_train.views import at_view_scale, change_view

READERS = 2
AHEAD = 2
"""Batches that are read while one is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What becomes one input of the graph: what is looked at of a picture, resized, or one tile of that, as it is."""

    path: Path
    tile: Tile | None = None

    @property
    def place(self) -> str:
        """Where in the picture, for names; empty for the whole."""
        return "" if self.tile is None else self.tile.place


class ImageStore:
    """Images at the size of the graph's input, by position: all images first, then a view of each, then another, ...

    With `tile_px` every tile is an image. With `most` so many of the images are left, a stratified sample of the list.

    The first images, and pictures that views are taken of, that fit into `memory_mib` stay decoded; the others are read
    again each time. Which ones stay changes speed only, never a pixel.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        input_format: InputFormat,
        memory_mib: int = 4096,
        seed: int = 0,
        tile_px: int | None = None,
        most: int | None = None,
    ) -> None:
        self.paths, self.input_format = tuple(paths), input_format
        pieces = [piece for path in paths for piece in _cut(path, tile_px, input_format)]
        self.pieces = tuple(pieces[i] for i in stratified(len(pieces), most=most))
        self._siblings: dict[Path, list[int]] = {}
        for position, piece in enumerate(self.pieces):
            self._siblings.setdefault(piece.path, []).append(position)
        self._seed = seed
        self._room_bytes = max(0, memory_mib) * 2**20
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._kept_pictures: dict[int, NDArray[np.uint8]] = {}
        self._highest: dict[Path, int] = {}
        self._last: tuple[Path | None, NDArray[np.uint8]] = None, np.empty((0, 0, 3), np.uint8)

    @property
    def images(self) -> int:
        """How many there are; each has any number of views."""
        return len(self.pieces)

    @property
    def highest_16_bit(self) -> int | None:
        """The highest value in files of 16 bits a channel among those read so far; None where all had 8."""
        return max(self._highest.values(), default=None)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """(H, W, C) uint8: image `index % n`, as it is where index < n, else in view `index // n`.

        Raises:
            ImageError: The file cannot be read.
        """
        view, position = divmod(index, self.images)
        if view == 0:
            return self._image(position)
        return change_view(
            self._picture(position),
            input_format=self.input_format,
            random=np.random.default_rng([self._seed, position, view]),
        )

    def _picture(self, position: int) -> NDArray[np.uint8]:
        """What views of an image are taken of."""
        kept = self._kept_pictures.get(position)
        if kept is not None:
            return kept
        piece = self.pieces[position]
        if piece.tile is None:
            picture = at_view_scale(self._read(piece.path), input_format=self.input_format)
        else:
            picture = self._image(position)  # tiles are at native resolution
        self._keep(self._kept_pictures, position, picture)
        return picture

    def _keep(self, place: dict[int, NDArray[np.uint8]], position: int, pixels: NDArray[np.uint8]) -> None:
        """Where there is room; two threads that read the same file may both count it."""
        size = _size_bytes(pixels)
        if size <= self._room_bytes:
            self._room_bytes -= size
            place[position] = pixels

    def _image(self, position: int) -> NDArray[np.uint8]:
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        piece = self.pieces[position]
        picture = self._read(piece.path)
        image = self._taken(picture, piece)
        self._keep(self._kept, position, image)
        for sibling in self._siblings[piece.path]:  # a picture is decoded once for all of its tiles, where they fit
            if self._room_bytes < _size_bytes(image):
                break
            if sibling not in self._kept:
                self._keep(self._kept, sibling, self._taken(picture, self.pieces[sibling]))
        return image

    def _read(self, path: Path) -> NDArray[np.uint8]:
        """(H, W, C): the picture, or the part of it that is looked at, in its own size."""
        last, picture = self._last
        if last == path:
            return picture
        decoded = decode_part(path, input_format=self.input_format)
        self._require_tiles_of(path, shape=(decoded.colour.shape[0], decoded.colour.shape[1]))
        if decoded.colour.dtype == np.uint16:
            self._highest[path] = int(decoded.colour.max())
        picture = image_of(decoded, input_format=self.input_format)
        if len(self._siblings[path]) > 1:  # tiles are mostly read in order
            self._last = path, picture
        return picture

    def _require_tiles_of(self, path: Path, *, shape: tuple[int, int]) -> None:
        """Tiles are placed by the size in a file's header; an orientation may stand behind the pixels of a PNG."""
        tiles = {tile for i in self._siblings[path] if (tile := self.pieces[i].tile) is not None}
        if tiles and not tiles <= set(place_tiles(shape, tile_px=next(iter(tiles)).size_px)):
            raise ImageError(
                f"{path}: its pixels are {shape[1]} x {shape[0]} the right way up, its header says otherwise; save it "
                "upright, without an orientation"
            )

    def _taken(self, picture: NDArray[np.uint8], piece: Piece) -> NDArray[np.uint8]:
        return resize_image(
            picture if piece.tile is None else cut(picture, piece.tile).copy(), input_format=self.input_format
        )

    def broken(self) -> list[str]:
        """Why images cannot be read, one sentence each; reads all of them once."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as readers:
            return [message for message in readers.map(self._why_broken, self._siblings) if message]

    def _why_broken(self, path: Path) -> str | None:
        try:
            self._image(self._siblings[path][0])
        except ImageError as error:
            return str(error)
        return None

    def batches(self, orders: Iterable[Sequence[int]], *, ahead: int = AHEAD) -> Iterator[NDArray[np.uint8]]:
        """(N, H, W, C) uint8 for each list of positions, in order, read so many batches before they are asked for.

        Raises:
            ImageError: A file cannot be read.
        """
        with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as readers:
            waiting: list[list[Future[NDArray[np.uint8]]]] = []
            for order in orders:
                waiting.append([readers.submit(self.__getitem__, index) for index in order])
                if len(waiting) > ahead:
                    yield self._stacked(waiting.pop(0))
            for futures in waiting:
                yield self._stacked(futures)

    def _stacked(self, futures: Sequence[Future[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
        form = self.input_format
        batch = np.empty((len(futures), form.height_px, form.width_px, form.channels), np.uint8)
        for position, future in enumerate(futures):
            batch[position] = future.result()
        return batch


def _size_bytes(pixels: NDArray[np.uint8]) -> int:
    """What they take in memory; the view of a mono image has one channel."""
    return pixels[:, :, 0].nbytes if is_one_channel(pixels) else pixels.nbytes


def _cut(path: Path, tile_px: int | None, input_format: InputFormat) -> list[Piece]:
    if tile_px is None:
        return [Piece(path=path)]
    width, height = picture_size(path)
    try:
        rows, columns = input_format.looked_at(height_px=height, width_px=width)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return [Piece(path=path, tile=tile) for tile in place_tiles(shape, tile_px=tile_px)]
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def require_readable(*stores: ImageStore) -> None:
    """Read every image once, so that a broken file is met before training and not hours into it.

    Raises:
        ImageError: Images cannot be read; names the first and says how many there are.
    """
    broken = [message for store in stores for message in store.broken()]
    if broken:
        images = sum(len(store.paths) for store in stores)
        raise ImageError(f"{broken[0]}; of {images} good images {len(broken)} cannot be used: mend or remove them")


def unused_levels(highest: int | None, *, input_format: InputFormat) -> str | None:
    """What to say where 16-bit images use less than a quarter of the levels that they are read with; None elsewhere.

    Args:
        highest: Value in the images; None where all have 8 bits.
        input_format: Has the levels.
    """
    black, white = input_format.black_level, input_format.white_level
    if highest is None or 4 * (highest - black) >= white - black:
        return None
    fits = 2 ** max(highest, 1).bit_length() - 1
    return f"16-bit images reach {highest} of {white} only; train with --white-level {fits}"


def all_images(store: ImageStore, *, batch_size: int = 16) -> Iterator[NDArray[np.uint8]]:
    """Every image of a store once, in order, in batches."""
    return store.batches(range(i, min(i + batch_size, store.images)) for i in range(0, store.images, batch_size))
