"""Weights and arrays that the golden files in `tests/golden` were computed from.

Everything is a function of a name, a shape and a seed, so the large weights themselves need not be stored. The draws
(generator, order, constants) are part of the golden files: change one and every golden comparison fails.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "golden"


def fill(component: str, key: str, shape: tuple[int, ...], seed: int) -> NDArray[np.generic]:
    """One parameter or buffer of `encoder`, `lns_layer`, `bottleneck` or `decoder`, by its state-dict key."""
    random = np.random.RandomState(zlib.crc32(f"{seed}:{component}.{key}".encode()))
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind == "running_mean":
        return (random.standard_normal(shape) * 0.1).astype(np.float32)
    if len(shape) > 1:  # He initialisation of a convolution, whichever its direction
        return (random.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:], dtype=int))).astype(np.float32)
    if kind == "weight":
        return random.uniform(0.5, 1.0, shape).astype(np.float32)
    return (random.standard_normal(shape) * 0.05).astype(np.float32)


def image(seed: int, size: int = 256) -> NDArray[np.float32]:
    """(1, 3, size, size), already normalised: a sine pattern with one sharp rectangle on it."""
    random = np.random.RandomState(seed)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    planes = []
    for _ in range(3):
        across, down, phase = random.uniform(1, 6), random.uniform(1, 6), random.uniform()
        planes.append(np.sin(2 * np.pi * (across * columns + down * rows + phase)))
    picture = np.stack(planes)
    top, left = random.randint(16, size // 2, 2)
    picture[:, top : top + 24, left : left + 40] += random.uniform(-2, 2, (3, 1, 1)).astype(np.float32)
    return picture[None].astype(np.float32)


def features(seed: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Teacher, student and suppressed features of three scales, each (4, C, H, W)."""
    random = np.random.RandomState(seed)
    shapes = [(4, 16, 64, 64), (4, 32, 32, 32), (4, 64, 16, 16)]
    teacher = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    student = [(t * 0.7 + 0.5 * random.standard_normal(t.shape)).astype(np.float32) for t in teacher]
    suppressed = [
        (t * 0.4 + s * 0.3 + 0.5 * random.standard_normal(t.shape)).astype(np.float32)
        for t, s in zip(teacher, student, strict=True)
    ]
    return teacher, student, suppressed


def masks_and_maps(seed: int, n: int = 6, size: int = 128) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(n, size, size) masks, the first empty, and maps with ties that follow them; some regions meet at a corner."""
    random = np.random.RandomState(seed)
    masks = np.zeros((n, size, size), np.int64)
    for mask in masks[1:]:
        for _ in range(random.randint(1, 4)):
            top, left = random.randint(0, size - 48, 2)
            height, width = random.randint(4, 24, 2)
            mask[top : top + height, left : left + width] = 1
            mask[top + height : top + height + 5, left + width : left + width + 9] = 1
    maps = np.round((masks * 0.6 + random.rand(n, size, size)) * 64) / 64
    return masks, maps.astype(np.float32)
