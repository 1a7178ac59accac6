"""Parity: what an artefact gives against what the trained model gave. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reason_runtime.choices import Precision
from reason_runtime.errors import ParityError
from reason_runtime.manifest import SCORE_CELL_PX
from reason_runtime.self_test import MOST_DIFFERENCE


class NotFiniteError(ParityError):
    """Images gave maps or scores that are not finite; says how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a precision may differ by; a figure that is None is reported but not gated."""

    map_difference: float | None
    """Largest |difference| of any map value, over the golden map's largest value."""
    score_difference: float | None
    """Largest |difference| of any score, over the largest golden score."""
    sqnr_db: float | None
    """Least signal-to-quantisation-noise ratio of the maps, dB."""
    image_auroc_lost: float
    """Most image AUROC lost on labelled images against fp32 in ONNX Runtime: the score's gate there."""
    aupro_lost: float
    """Most AUPRO lost there: the map's gate."""
    wrong_decisions: float
    """Most decisions on labelled images by the bundle's thresholds that are wrong where those of fp32 in ONNX Runtime
    are right, less the other way round, of good and of defective images alone: a share, one image at least."""
    painted_lost: int
    """Most painted defects that pass and that the trained model clearly rejects."""
    reason: str


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(
        map_difference=1e-4,
        score_difference=MOST_DIFFERENCE["fp32"],
        sqnr_db=None,
        image_auroc_lost=1e-4,
        aupro_lost=1e-4,
        wrong_decisions=0.0,
        painted_lost=0,
        reason="the same float32 arithmetic in another order of summation",
    ),
    "fp16": Tolerance(
        map_difference=2e-2,
        score_difference=MOST_DIFFERENCE["fp16"],
        sqnr_db=40.0,
        image_auroc_lost=0.001,
        aupro_lost=0.002,
        wrong_decisions=0.01,
        painted_lost=1,
        reason="11 bits of mantissa through some fifty layers; cosine and map head stay float32",
    ),
    "bf16": Tolerance(
        map_difference=None,
        score_difference=MOST_DIFFERENCE["bf16"],
        sqnr_db=20.0,
        image_auroc_lost=0.001,
        aupro_lost=0.002,
        wrong_decisions=0.01,
        painted_lost=1,
        reason="8 bits of mantissa: single pixels move, so the map is judged by its noise as a whole",
    ),
    "int8": Tolerance(
        map_difference=None,
        score_difference=MOST_DIFFERENCE["int8"],
        sqnr_db=15.0,
        image_auroc_lost=0.005,
        aupro_lost=0.01,
        wrong_decisions=0.05,
        painted_lost=1,
        reason="quantised layers: judged by noise (at 15 dB scores moved by up to 0.2) and by the accuracy lost on "
        "labelled images",
    ),
}


MOST_SHIFT = 0.25
"""By how much of the way from their mean to the threshold good parts' scores may move off those that drew it; int8 in
OpenVINO, by the threshold that ONNX Runtime's scores drew, had -0.04, on an emulated Arm processor 0.04."""
LEAST_ALIKE = 0.9
"""Correlation of maps, each less its mean, from which their places can be compared; int8 maps had 0.97 and more."""
LEAST_FOLLOWED = 0.2
"""Correlation of what is an image's own in the maps; int8 maps at 15 dB had 0.35 and more."""
LEAST_OF_ANOTHER, LEAST_CLOSER = 0.7, 0.3
"""Correlation of that with another image's, and by how much it is above the one with its own, from which a map is that
other image's; of screw's golden photographs, in int8, 0.97 and more was with their own, 0.56 at most with another's."""


MOST_CONTRADICTION = 1e-4
"""Of the largest score, between a score and its map; ONNX Runtime and OpenVINO had 1e-7 in every precision."""
SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Thresholds in raw score units; None where there is none."""

    reference: float | None
    """Of the fp32 graph."""
    found: float | None
    """Of the artefact."""
    are_of_bundle: bool = True
    """Drawn from the same images for the same rate; not so where the artefact's is its own of this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far an artefact is from the trained model on N images."""

    images: int
    map_difference_max: float
    """Largest |difference| over the golden map's largest |value|."""
    map_difference_mean: float
    """Mean |difference| over the golden map's largest |value|."""
    score_difference_max: float
    """Largest |difference| over the largest golden |score|, or over what the scores were to be compared with."""
    score_difference_mean: float
    """Mean |difference| over the same."""
    sqnr_db: float | None
    """10 log10 of map power over power of the difference; None where there is no difference."""
    rank_correlation: float | None
    """Spearman's of the scores; None with fewer than three images or equal scores."""
    map_offset_px: tuple[int, int] | None = None
    """How far down and to the right of the golden maps the maps lie; None where they are not finite, or too flat or too
    noisy to tell."""


def compare(
    *,
    golden_map: NDArray[np.float32],
    golden_score: NDArray[np.float32],
    anomaly_map: NDArray[np.float32],
    score: NDArray[np.float32],
    score_unit: NDArray[np.float32] | None = None,
) -> Parity:
    """Differences of maps (N, S, S) and scores (N,), computed in float64; not-finite values count as infinitely far.

    Args:
        golden_map: Of the trained model.
        golden_score: The same.
        anomaly_map: Of the artefact.
        score: The same.
        score_unit: (N,) what a difference of scores is a share of; None: the largest golden |score|.
    """
    expected, found = golden_map.astype(np.float64), anomaly_map.astype(np.float64)
    gap = np.where(np.isfinite(found), np.abs(found - expected), np.inf)
    score_gap = np.where(np.isfinite(score), np.abs(score.astype(np.float64) - golden_score), np.inf)
    map_unit = np.abs(expected).max()
    score_gap = score_gap / (np.abs(golden_score).max() if score_unit is None else score_unit)
    noise = float(np.square(gap).mean())
    distinct = len(golden_score) >= 3 and np.ptp(golden_score) > 0 and np.ptp(score) > 0
    return Parity(
        images=len(golden_score),
        map_difference_max=float(gap.max() / map_unit),
        map_difference_mean=float(gap.mean() / map_unit),
        score_difference_max=float(score_gap.max()),
        score_difference_mean=float(score_gap.mean()),
        sqnr_db=float(10 * np.log10(np.square(expected).mean() / noise)) if 0 < noise < np.inf else None,
        rank_correlation=float(stats.spearmanr(golden_score, score).statistic) if distinct else None,
        map_offset_px=_offset_px(expected, found),
    )


def _offset_px(golden_map: NDArray[np.float64], anomaly_map: NDArray[np.float64]) -> tuple[int, int] | None:
    """Where the cross-correlation of maps (N, H, W) is largest, all images together.

    Noise moves that place. By far less than a pixel, where it leaves a correlation of `LEAST_ALIKE` there: an offset of
    smooth maps w wide is found to w / sqrt(M) times noise over signal, M the places in all images that differ freely.
    """
    if not np.isfinite(anomaly_map).all():
        return None
    height, width = golden_map.shape[1:]
    correlation, powers = np.zeros((height, width)), np.zeros(2)
    for pair in zip(golden_map, anomaly_map, strict=True):
        expected, found = (values - values.mean() for values in pair)
        if _is_more_than_rounding(expected, of=pair[0]) and _is_more_than_rounding(found, of=pair[1]):
            spectrum = np.fft.rfft2(expected).conj() * np.fft.rfft2(found)
            correlation += np.fft.irfft2(spectrum, s=(height, width))
            powers += np.square(expected).sum(), np.square(found).sum()
    if not correlation.max() > LEAST_ALIKE * np.sqrt(powers.prod()):
        return None
    down, right = np.unravel_index(correlation.argmax(), correlation.shape)
    return (int(down) + height // 2) % height - height // 2, (int(right) + width // 2) % width - width // 2


def _is_more_than_rounding(differences: NDArray[np.float64], *, of: NDArray[np.floating]) -> bool:
    """Whether values differ by more than rounding alone can make them."""
    return bool(np.square(differences).mean() > 1e-12 * np.square(of, dtype=np.float64).mean())


def broken(parity: Parity, tolerance: Tolerance, *, score_unit: str = "its largest value") -> list[str]:
    """Every gate that does not hold, in words; empty where all do."""
    gates = (
        ("map", parity.map_difference_max, tolerance.map_difference, "its largest value"),
        ("score", parity.score_difference_max, tolerance.score_difference, score_unit),
    )
    found = [
        f"{name} differs by {value:.2e} of {unit}, at most {limit:.0e} is allowed"
        for name, value, limit, unit in gates
        if limit is not None and not value <= limit
    ]
    if not np.isfinite(parity.score_difference_max):
        found.append("a score is not finite")
    if not np.isfinite(parity.map_difference_max):
        found.append("the map holds values that are not finite")
    elif tolerance.sqnr_db is not None and parity.sqnr_db is not None and parity.sqnr_db < tolerance.sqnr_db:
        found.append(f"the map's SQNR is {parity.sqnr_db:.1f} dB, at least {tolerance.sqnr_db:.0f} dB is needed")
    if parity.map_offset_px is not None and any(parity.map_offset_px):
        down, right = parity.map_offset_px
        found.append(f"the map lies {down:+d} px down and {right:+d} px to the right of where it should")
    return found


def blind(
    *,
    golden_map: NDArray[np.float32],
    golden_score: NDArray[np.float32],
    anomaly_map: NDArray[np.float32],
    score: NDArray[np.float32],
) -> list[str]:
    """Why an artefact cannot have looked at its images, in words; empty where it may have.

    Maps of good parts are much alike: one fixed map for all has an SQNR of 15 to 25 dB, as many as int8 and bf16 need.
    So what differs from image to image is compared by itself, as far as there are images that differ.
    """
    found = []
    own = golden_map.astype(np.float64) - golden_map.mean(axis=0, dtype=np.float64)
    if np.isfinite(anomaly_map).all() and _is_more_than_rounding(own, of=golden_map):
        others = anomaly_map.astype(np.float64) - anomaly_map.mean(axis=0, dtype=np.float64)
        size = float(np.linalg.norm(own) * np.linalg.norm(others))
        followed = float(np.vdot(own, others)) / size if size > 0 else 0.0
        if followed < LEAST_FOLLOWED:
            found.append(
                f"the map does not follow the image: what differs between images correlates by {followed:.2f}, "
                f"at least {LEAST_FOLLOWED} is needed"
            )
    if np.ptp(golden_score) > 0 and (score == score[0]).all():
        found.append("the score is the same for all images")
    return [*found, *exchanged(golden_map=golden_map, anomaly_map=anomaly_map)]


def contradicting(
    *, anomaly_map: NDArray[np.float32], score: NDArray[np.float32], score_exponent: float | None
) -> list[str]:
    """Whether scores (N,) are not those that the maps (N, S, S) beside them give, in words; empty where they are.

    Between the two there is float32 in every precision, so that noise is no reason for a difference.
    """
    expected = score_of(anomaly_map, score_exponent=score_exponent)
    difference = np.abs(score - expected).max() / max(np.abs(expected).max(), SMALLEST)
    if difference <= MOST_CONTRADICTION or not np.isfinite(anomaly_map).all():
        return []
    return [
        f"the score differs by {difference:.2e} of the largest from what the map beside it gives, at most "
        f"{MOST_CONTRADICTION:.0e} is allowed"
    ]


def score_of(anomaly_map: NDArray[np.floating], *, score_exponent: float | None) -> NDArray[np.float64]:
    """(N,) scores of maps (N, S, S), in float64: `reason_train.anomaly_map.MapHead` says how."""
    maps = anomaly_map.astype(np.float64)
    if score_exponent is None:
        highest: NDArray[np.float64] = maps.max(axis=(1, 2))
        return highest
    images, cells = len(maps), maps.shape[1] // SCORE_CELL_PX
    inside = maps[:, : cells * SCORE_CELL_PX, : cells * SCORE_CELL_PX]
    means = inside.reshape(images, cells, SCORE_CELL_PX, cells, SCORE_CELL_PX).mean(axis=(2, 4)).reshape(images, -1)
    means = np.maximum(means, 0)
    largest = np.maximum(means.max(axis=1), SMALLEST)
    scores: NDArray[np.float64] = largest * ((means / largest[:, None]) ** score_exponent).mean(axis=1) ** (
        1 / score_exponent
    )
    return scores


def exchanged(*, golden_map: NDArray[np.float32], anomaly_map: NDArray[np.float32]) -> list[str]:
    """Whether maps (N, S, S) are clearly those of other images, in words; empty where none is.

    An image that is like another one, or a map of much noise, shows no exchange.
    """
    if not np.isfinite(anomaly_map).all():
        return []
    expected, found = (_own(values) for values in (golden_map, anomaly_map))
    correlation = found @ expected.T
    best, own = correlation.max(axis=1), correlation.diagonal()
    others = int(np.count_nonzero((best >= LEAST_OF_ANOTHER) & (best - own >= LEAST_CLOSER)))
    return [f"{others} of {len(best)} maps are those of other images"] if others else []


def _own(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, S * S) what differs from the mean of (N, S, S) maps, each of length 1, or 0 where nothing does."""
    own = (maps - maps.mean(axis=0, dtype=np.float64)).reshape(len(maps), -1)
    length = np.linalg.norm(own, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = own / np.where(length > 1e-6 * np.linalg.norm(maps), length, np.inf)
    return scaled
