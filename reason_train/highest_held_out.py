"""The highest of the scores that a threshold was drawn from, for a person to look at the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from reason_train.calibration import FAR_MADS, LEAST_COMPARED, mads_above_median

MOST_NAMED = 3


class HighImage(TypedDict):
    """One of them; ratios are None where what they are of is not above zero."""

    name: str
    score: float
    of_threshold: float | None
    of_median: float | None


class HighestHeldOut(TypedDict):
    """As `--json` has it."""

    images: list[HighImage]
    """The highest first."""
    mads_above_median: float | None
    """See `reason_train.calibration.mads_above_median`."""
    far_above: bool
    """Whether the first is so far above the rest that it may not be a good part."""


def highest_held_out(names: Sequence[str], scores: NDArray[np.floating], *, threshold: float) -> HighestHeldOut:
    """The up to three highest of held-out images, and whether the highest is far above the rest.

    Args:
        names: (N,) of the images.
        scores: (N,) raw, one or more.
        threshold: That was drawn from them.
    """
    scores = scores.astype(np.float64)
    middle, above = float(np.median(scores)), mads_above_median(scores)
    return {
        "images": [
            {
                "name": names[place],
                "score": float(scores[place]),
                "of_threshold": float(scores[place]) / threshold if threshold > 0 else None,
                "of_median": float(scores[place]) / middle if middle > 0 else None,
            }
            for place in np.argsort(-scores, kind="stable")[:MOST_NAMED]
        ],
        "mads_above_median": above,
        "far_above": above is not None and above > FAR_MADS,
    }


def highest_text(highest: HighestHeldOut) -> str:
    """The same in one line."""
    listed = ", ".join(
        f"{image['name']} ({_times(image['of_threshold'])} threshold, {_times(image['of_median'])} median)"
        for image in highest["images"]
    )
    above = highest["mads_above_median"]
    few = f"whether it is far above the rest takes {LEAST_COMPARED} images that differ"
    place = few if above is None else f"the first {above:.1f} MAD above the median"
    far = f", FAR ABOVE THE REST (limit {FAR_MADS:g}): is it a good part?" if highest["far_above"] else ""
    return f"highest held-out: {listed}; {place}{far}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x"
