"""The simulated web of the soak: an image with defects and codes, and the model that obeys them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from reason_runtime import load
from reason_runtime.tiles import place_tiles
from tests.line.models import NAN, SLOW, line_bundle

TILE_PX = 32
TILE_OVERLAP_PX = 8
FRAME_LINES = 64
OVERLAP_LINES = 16
WIDTH_PX = 56
WEB_LINES = 48_000
TILES = place_tiles((FRAME_LINES, WIDTH_PX), tile_px=TILE_PX, overlap_px=TILE_OVERLAP_PX)
FRAME_S = 0.008  # what a frame shall cost the model; turns of its loop are chosen so, whatever the machine
SLOW_CALL_S = 0.4  # of a tile whose inference is slow on purpose; the deadline is shorter
_FIRST_TRIPS, _ATTEMPTS = 50, 3


def make_web(path: Path) -> list[tuple[int, int]]:
    """Write the web; gives first row and rows of its defects. Column 0 holds codes that trouble the model."""
    web = np.full((WEB_LINES, WIDTH_PX, 3), 128, np.uint8)
    web += np.random.default_rng(0).integers(0, 8, web.shape, dtype=np.uint8)
    spots = [(row, 3) for row in range(150, WEB_LINES, 331)]
    for row, rows in spots:
        web[row : row + rows, 40:44] = 255
    web[10_000:10_048, 0] = NAN
    web[30_000:30_016, 0] = SLOW
    np.save(path, web)
    return spots


def frame_seconds(bundle: Path) -> float:
    """What the model needs for one frame of tiles where nothing disturbs it: the fastest tenth of many."""
    detector = load(bundle, threads=1)
    images = np.full((1, TILE_PX, TILE_PX, 3), 128, np.uint8)
    samples = []
    for _ in range(100):
        started_s = time.perf_counter()
        for _ in TILES:
            detector.session.run(images)
        samples.append(time.perf_counter() - started_s)
    return float(np.quantile(samples, 0.1))


def make_bundle(folder: Path) -> Path:
    """A model whose frame takes about `FRAME_S`, in `folder/bundle`."""
    trips, slow_trips = _FIRST_TRIPS, _FIRST_TRIPS
    for attempt in range(_ATTEMPTS):  # more than one: on a busy machine a first look may see it much too slow
        bundle = line_bundle(folder / f"attempt{attempt}", tile_px=TILE_PX, trips=trips)
        taken_s = frame_seconds(bundle.path)
        slow_trips = round(trips * len(TILES) * SLOW_CALL_S / taken_s)
        trips = max(1, round(trips * FRAME_S / taken_s))
    return line_bundle(folder / "bundle", tile_px=TILE_PX, trips=trips, slow_trips=slow_trips).path
