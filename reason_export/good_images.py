"""Good images to draw a threshold from: for which rate, and whether they are good and unseen. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.bundle import Bundle
from reason_runtime.errors import DataError
from reason_runtime.image import image_sha256, list_images
from reason_runtime.stratified import stratified

LEAST_HELD_OUT = 8
"""Good images that a threshold is drawn from, at least; its bound says how little so few prove."""
MOST_REJECTED = 0.2
"""Share of the images that the trained model may reject beyond its threshold's bound, which is high where few images
drew it: above it they are not good parts, or not these parts."""
LOWER_SCORES = 4.0
"""Standard errors by which held-out images may score below the bundle's own held-out ones. Further below, training has
seen them, or copies of them, or they are of easier parts: a threshold from them would reject good parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutImages:
    """Good images that neither trained, nor chose, nor calibrated anything."""

    folder: Path
    false_reject_rate: float | None = None
    """Wanted, between 0 and 1; None: that of the bundle's own threshold."""


def wanted_rate(bundle: Bundle, asked: float | None) -> float:
    """The false-reject rate to draw a threshold for: what was asked for, else what the bundle was calibrated for.

    Raises:
        ConfigurationError: It is no rate.
    """
    from reason_train.calibration import USUAL_RATE, check_rate

    known = bundle.manifest.thresholds.get("fp32")
    rate = asked if asked is not None else USUAL_RATE if known is None else known.target_false_reject_rate
    check_rate(rate)
    return rate


def different_images(folder: Path) -> dict[str, Path]:
    """The images below a folder by SHA-256; of copies the first: a bound holds for images that are independent.

    Raises:
        DataError: There is no such folder.
        ImageError: A file cannot be read.
    """
    found: dict[str, Path] = {}
    for path in list_images(folder):
        found.setdefault(image_sha256(path), path)
    return found


def unseen(bundle: Bundle, images: Mapping[str, Path]) -> dict[str, Path]:
    """Those of `different_images` that neither trained the model nor chose its epoch, as far as the bundle says so."""
    seen = bundle.trained_on() | bundle.chosen_by()
    return {sha256: path for sha256, path in images.items() if sha256 not in seen}


def half_of(images: Mapping[str, Path]) -> dict[str, Path]:
    """One of each two neighbours, drawn by lot: every other one would be one camera's where names take turns."""
    listed = list(images.items())
    return dict(listed[i] for i in stratified(len(listed), most=len(listed) // 2))


def require_good(bundle: Bundle, scores: NDArray[np.float32], *, where: Path) -> None:
    """Refuse images that the bundle's own threshold says are not of good parts.

    Args:
        bundle: Its float32 threshold counts, where that is drawn from enough images.
        scores: (N,) of the images, in whatever precision: this is about very different ones.
        where: The folder, for the message.

    Raises:
        DataError: Too many are rejected.
    """
    limit = bundle.manifest.thresholds.get("fp32")
    if limit is None or limit.images < LEAST_HELD_OUT:
        return
    rejected = int((scores >= limit.value).sum())
    if rejected > (MOST_REJECTED + limit.false_reject_upper_bound) * len(scores):
        raise DataError(
            f"{where}: the trained model rejects {rejected} of {len(scores)} images; expected good parts, as the "
            "camera sees them"
        )


def require_unseen(bundle: Bundle, scores: NDArray[np.float32], *, where: Path) -> None:
    """Refuse images that score so low that training must have seen them, or that they are of easier parts.

    Args:
        bundle: The scores of its own held-out images count, where these are enough.
        scores: (N,) of the images.
        where: The folder, for the message.

    Raises:
        DataError: They score too low on average.
    """
    known = bundle.manifest.score_statistics
    if known is None or known.images < LEAST_HELD_OUT:
        return
    error = known.std * np.sqrt(1 / known.images + 1 / len(scores))
    if known.mean - scores.mean() > LOWER_SCORES * error > 0:
        raise DataError(
            f"{where}: its images score {scores.mean():.3g} on average, the bundle's own held-out images "
            f"{known.mean:.3g}: training has seen them or copies of them, or they are more alike, and a threshold from "
            "them would reject good parts; give the images that set the bundle's threshold with --held-out"
        )
