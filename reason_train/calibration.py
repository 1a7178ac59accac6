"""From the scores of held-out good images to a threshold with a guarantee.

With n good images that did nothing else (no training, no choice of settings), the share p of all good parts that score
above the (k + 1)-th highest of them is a Beta(k + 1, n - k) variable whatever the scores' distribution is, or less
where scores tie. Its 95 % quantile is the one-sided Clopper-Pearson upper bound for k rejects among n: in 95 of 100
calibrations the true false-reject rate is at or below it. With no reject at all the bound is 1 - 0.05^(1/n), so that a
bound of 1 % takes 299 images. k follows from n and the wanted rate alone, so that no score chooses its own bound.
"""

import math
from bisect import bisect_right
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reason_runtime.errors import ConfigurationError, DataError
from reason_runtime.manifest import Threshold

CONFIDENCE = 0.95
FAR_MADS = 10.0
"""Median absolute deviations above the median: of n = 16 to 64 good images of normal scores not one set in 500 has its
highest there, of Gumbel's (maxima) one in 25; skewer ones more often, so it is said and changes nothing."""
LEAST_COMPARED = 8
USUAL_RATE = 0.01
"""False-reject rate that is wanted where nobody says one."""
MOST_TILES = 1000
"""That a threshold is drawn from, of all held-out pictures together, a stratified sample."""
LEAST_RATE = 1e-6
"""Promising it takes three million images; nobody has them."""


@lru_cache(maxsize=4096)  # a search asks for the same ones again
def false_reject_upper_bound(*, images: int, rejected: int) -> float:
    """Exact one-sided 95 % upper confidence bound of the share of good parts that are rejected, 0..1.

    The 0.95 quantile of Beta(rejected + 1, images - rejected).

    Args:
        images: Held-out good images.
        rejected: How many of them score at or above the threshold.

    Raises:
        ValueError: Not 0 <= rejected <= images, or no images.

    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    if not 0 <= rejected <= images or images == 0:
        raise ValueError(f"{rejected} rejected of {images} images; expected 0 <= rejected <= images and images > 0")
    if rejected == images:
        return 1.0
    return float(stats.beta.ppf(CONFIDENCE, rejected + 1, images - rejected))


def images_needed(false_reject_rate: float) -> int:
    """The fewest held-out good images, none of them rejected, whose bound is at most this rate: 299 for 1 %.

    Raises:
        ConfigurationError: The rate is not between 0 and 1.
    """
    check_rate(false_reject_rate)
    return max(1, math.ceil(math.log1p(-CONFIDENCE) / math.log1p(-false_reject_rate)))


def threshold_for(scores: NDArray[np.floating], *, false_reject_rate: float, source: str) -> Threshold:
    """The lowest threshold whose bound keeps the wanted false-reject rate; `score >= threshold` is anomalous.

    Rejects the largest number k of the given images whose upper bound is at most the wanted rate: the threshold is the
    next float32 above the (k + 1)-th highest score. Where even k = 0 misses the rate, since there are too few images,
    the threshold lies above all scores and carries the bound that it has: compare `false_reject_upper_bound` with
    `target_false_reject_rate`. Where scores tie at the limit fewer than k are rejected; the bound stays that of k: that
    of a count which the scores themselves chose would hold in as few as 90 of 100 calibrations.

    Args:
        scores: (n,) raw scores of good images that neither trained nor chose anything.
        false_reject_rate: Wanted, between 0 and 1.
        source: What the scores came from, for people who read a result.

    Raises:
        ConfigurationError: The rate is not between 0 and 1.
        DataError: There is no score, or one is not finite.
    """
    check_rate(false_reject_rate)
    if scores.ndim != 1:
        raise ValueError(f"scores of shape {scores.shape}; expected (n,)")
    if not scores.size:
        raise DataError("no held-out good image to calibrate on; a threshold needs at least one")
    values = np.sort(scores.astype(np.float32))[::-1]  # what the graph gives and the line compares
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise DataError(
            f"{count} of {values.size} scores of good images are not finite; no threshold can be drawn from them"
        )
    allowed = _allowed_rejects(values.size, false_reject_rate)
    threshold = np.nextafter(values[allowed], np.float32(np.inf))
    rejected = int(np.count_nonzero(values >= threshold))
    return Threshold(
        value=float(threshold),
        target_false_reject_rate=false_reject_rate,
        images=values.size,
        rejected=rejected,
        false_reject_upper_bound=false_reject_upper_bound(images=values.size, rejected=allowed),
        source=source,
    )


def mads_above_median(scores: NDArray[np.floating]) -> float | None:
    """How far the highest score lies above the median, in median absolute deviations from it.

    Returns:
        None where there are fewer than 8 scores, or half of them and more are the same.
    """
    middle = float(np.median(scores))
    mad = float(np.median(np.abs(scores - middle)))
    return (float(scores.max()) - middle) / mad if len(scores) >= LEAST_COMPARED and mad > 0 else None


def pixel_threshold(scores: NDArray[np.floating], peaks: NDArray[np.floating], *, threshold: float) -> float:
    """The next float32 above the highest map value of the good images that the threshold accepts.

    Args:
        scores: (n,) raw scores of good images; one at least below the threshold.
        peaks: (n,) the maxima of their maps.
        threshold: Of the score.
    """
    return float(np.nextafter(np.float32(peaks[scores < threshold].max()), np.float32(np.inf)))


def most_held_out(*, tile_px: int | None) -> int | None:
    """So many whole images, or tiles, a threshold is drawn from at most; None: all.

    Args:
        tile_px: Side of the tiles; None for whole images.
    """
    return None if tile_px is None else MOST_TILES


def described_images(count: int, *, pictures: int, tile_px: int | None, training_known: bool) -> str:
    """What a threshold was drawn from, in words.

    Args:
        count: Scores.
        pictures: They are of.
        tile_px: Side of the tiles that they are of; None where they are of whole pictures.
        training_known: Whether it is known what the model was trained on, so that these can be told to be other images.
    """
    images = "held-out good images" if training_known else "good images that may have been trained on"
    return f"{count} {images}" if tile_px is None else f"{count} tiles of {pictures} {images}"


def _allowed_rejects(images: int, rate: float) -> int:
    """The largest k < images whose bound is at most the rate, 0 if none is (the bound grows with k)."""
    within = bisect_right(range(images), rate, key=lambda k: false_reject_upper_bound(images=images, rejected=k))
    return max(within - 1, 0)


def check_rate(false_reject_rate: float) -> None:
    """Refuse what is no rate.

    Raises:
        ConfigurationError: The rate is below one in a million, or not below 1.
    """
    if not LEAST_RATE <= false_reject_rate < 1:
        raise ConfigurationError(
            f"false-reject rate {false_reject_rate}; expected between {LEAST_RATE:f} and 1, such as 0.01"
        )
