"""Some of many, evenly spaced."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly(count: int, *, most: int | None) -> NDArray[np.int64]:
    """Positions of at most `most` of `count` things, rising, the first and the last among them; None takes all."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)
