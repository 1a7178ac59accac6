"""Some of many, spread over all of them without a rhythm."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray


def stratified(count: int, *, most: int | None) -> NDArray[np.int64]:
    """Rising positions of at most `most` of `count` things: one out of each of `most` stretches of equal length.

    Which one is drawn, with a seed of its own, so that the same call gives the same positions. Steps of equal length
    would take one and the same tile of every picture, or one camera's pictures of two, where names take turns.

    Args:
        count: How many there are.
        most: How many are wanted; None takes all.
    """
    if most is None or count <= most:
        return np.arange(count)
    draw = Random(count)
    starts = [stretch * count // most for stretch in range(most + 1)]
    return np.array([draw.randrange(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)], np.int64)
