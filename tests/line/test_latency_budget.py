from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from reason_runtime import load
from reason_runtime.line.grabber import Camera
from reason_runtime.line.pipeline import PipelineSettings
from reason_runtime.line.sources.linescan import LineScanSource, Motion
from reason_runtime.tiles import place_tiles
from tests.line.models import line_bundle, part
from tests.line.stations import running


def tiles_by_formula(*, width: int, lines: int, tile: int, overlap: int) -> int:
    across = 1 + math.ceil((width - tile) / (tile - overlap))
    along = 1 + math.ceil((lines - tile) / (tile - overlap))
    return across * along


@pytest.mark.parametrize("width", [256, 257, 2048, 4096, 4100])
@pytest.mark.parametrize("lines", [256, 300, 480, 512])
@pytest.mark.parametrize("overlap", [0, 32, 100])
def test_the_page_counts_the_tiles_that_are_placed(width: int, lines: int, overlap: int) -> None:
    placed = place_tiles((lines, width), tile_px=256, overlap_px=overlap)
    assert len(placed) == tiles_by_formula(width=width, lines=lines, tile=256, overlap=overlap)


@pytest.mark.parametrize("asked", [0.5, 2.0])
def test_a_line_judges_the_share_that_the_page_predicts(tmp_path: Path, asked: float) -> None:
    bundle = line_bundle(tmp_path / "line", trips=1500).path
    detector = load(bundle, threads=1)
    detector(part(130))
    samples = []
    for _ in range(15):
        started_s = time.perf_counter()
        detector(part(130))
        samples.append(time.perf_counter() - started_s)
    period_s = float(np.median(samples)) / asked
    motion = Motion(lines_per_s=32 / period_s, block_lines=32, loops=150)
    source = LineScanSource(part(130), motion=motion, name="line")
    settings = PipelineSettings(when_full="drop-oldest", queue_frames=4)
    with running(bundle, Camera(name="top", source=source), settings=settings) as line:
        line.finish()
    infer = line.metrics.snapshot().stages["infer"]
    rho = infer.total / sum(infer.counts) / period_s  # as it was: the machine is shared and its speed wanders
    share = line.sink.causes.count("judged") / 150
    assert share == pytest.approx(min(1.0, 1 / rho), abs=0.12)  # what waits at the end is judged too: 6 of 150
