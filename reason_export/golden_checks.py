"""An artefact on the golden images: with painted defects, several in a run, at the threshold. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reason_export.good_images import LEAST_HELD_OUT
from reason_export.parity import MOST_SHIFT, TOLERANCES, Limits, Parity, Tolerance, broken, compare, exchanged
from reason_export.runs import run_each
from reason_runtime.choices import MOST_IN_A_RUN, Precision
from reason_runtime.golden import Golden
from reason_runtime.manifest import Manifest
from reason_runtime.session import Session, joined

RUNS = (MOST_IN_A_RUN, 4)
"""Images that the check of batches puts in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedDefects:
    """The answer to defects painted on the golden photographs."""

    parity: Parity
    """A score's difference is a share of the image's own score; where that is below the good images', of their largest.
    """
    found: int | None
    """Those that are rejected at the artefact's threshold; None where it has none, as for the next."""
    found_by_trained: int | None
    """Those that the trained model rejects at its own."""
    lost: int | None
    """Those that the trained model rejects and the artefact does not, but for those whose score lies less far above the
    threshold than twice what scores of good images differ by; None where a threshold is missing, or is this device's
    own: others may find others."""

    def broken(self, tolerance: Tolerance) -> list[str]:
        """Gates that do not hold, in words."""
        told = broken(self.parity, tolerance, score_unit="an image's own")
        if self.lost is not None and self.lost > tolerance.painted_lost:
            told.append(
                f"{self.lost} of the {self.found_by_trained} that the trained model finds pass, at most "
                f"{tolerance.painted_lost} may"
            )
        return [f"on painted defects: {line}" for line in told]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched:
    """The golden images again, several in a run: libraries have other kernels for that."""

    images_in_a_run: tuple[int, ...]
    """One after the other, the largest first."""
    parity: Parity
    """Of all these runs together."""
    exchanged: list[str]
    """See `reason_export.parity.exchanged`."""

    def broken(self, tolerance: Tolerance) -> list[str]:
        """Gates that do not hold, in words."""
        told = [*broken(self.parity, tolerance), *self.exchanged]
        return [f"with {self.text} images in a run: {line}" for line in told]

    @property
    def text(self) -> str:
        """The numbers of images in a run, for people."""
        return " and ".join(map(str, self.images_in_a_run))


def painted_defects(
    session: Session, golden: Golden, score: NDArray[np.float32], *, limits: Limits
) -> PaintedDefects | None:
    """None where the bundle has none; `score` (N,) is what the artefact gives for the golden images without defects."""
    painted = golden.painted
    if painted is None:
        return None
    outputs = run_each(session, painted.images)
    return PaintedDefects(
        parity=compare(
            golden_map=painted.anomaly_map,
            golden_score=painted.score,
            anomaly_map=outputs.anomaly_map,
            score=outputs.score,
            score_unit=np.maximum(np.abs(painted.score), np.abs(golden.score).max()),
        ),
        found=_rejected(outputs.score, limits.found),
        found_by_trained=_rejected(painted.score, limits.reference),
        lost=_now_passed(
            painted.score, outputs.score, limits=limits, close=2 * float(np.abs(score - golden.score).max())
        ),
    )


def in_batches(session: Session, golden: Golden) -> Batched | None:
    """None where the artefact takes one image in a run. Golden images that are fewer than that come again."""
    most = session.largest_batch or MOST_IN_A_RUN
    sizes = tuple(dict.fromkeys(min(most, size) for size in RUNS if min(most, size) > 1))
    if not sizes:
        return None
    runs = [
        np.arange(first, first + size) % len(golden.images)
        for size in sizes
        for first in range(0, MOST_IN_A_RUN - size + 1, size)
    ]
    outputs = joined([session.run(golden.images[run]) for run in runs])
    shown = np.concatenate(runs)
    expected = golden.anomaly_map[shown]
    parity = compare(
        golden_map=expected,
        golden_score=golden.score[shown],
        anomaly_map=outputs.anomaly_map,
        score=outputs.score,
    )
    answered = exchanged(golden_map=expected, anomaly_map=outputs.anomaly_map)
    return Batched(images_in_a_run=sizes, parity=parity, exchanged=answered)


def _rejected(scores: NDArray[np.float32], limit: float | None) -> int | None:
    return None if limit is None else int((scores >= limit).sum())


def threshold_shift(
    golden: Golden, score: NDArray[np.float32], *, manifest: Manifest, precision: Precision
) -> float | None:
    """How far this artefact's scores of good parts lie from the scores that drew its threshold in the bundle.

    Those may be of another backend. A share of the way from their mean to the threshold: at 1 half of the good parts
    are rejected, at -1 a defect must stand out twice as far to be. None where the bundle has no photographs, does not
    know how `LEAST_HELD_OUT` good images or more score both in the trained model and in this precision, or a score is
    not finite, which is the parity's gate.

    Args:
        golden: Of the bundle, with the trained model's scores.
        score: (N,) the artefact's.
        manifest: With the held-out scores of the trained model and of this precision.
        precision: Of the artefact.
    """
    limit, known = manifest.thresholds.get(precision), manifest.scores_in(precision)
    if limit is None or known is None or limit.value <= known.mean:
        return None
    photographs = ~golden.synthetic
    if known.images < LEAST_HELD_OUT or not photographs.any():
        return None
    made = manifest.quantisation
    trained_mean = known.mean if precision != "int8" or made is None else made.trained_mean
    moved = float((score - golden.score)[photographs].mean(dtype=np.float64)) - (known.mean - trained_mean)
    return moved / (limit.value - known.mean) if np.isfinite(moved) else None


def shifted(shift: float | None) -> list[str]:
    """The gate of `threshold_shift`, in words where it does not hold."""
    if shift is None or abs(shift) <= MOST_SHIFT:
        return []
    return [
        f"good parts' scores moved by {shift:+.2f} of the way to the threshold off those that drew it, at most "
        f"{MOST_SHIFT} is allowed; draw this device's own with --held-out"
    ]


def unfounded(golden: Golden, *, manifest: Manifest, precision: Precision) -> list[str]:
    """Whether a threshold is not what the manifest says that it was drawn from, in words; empty where it is.

    The threshold touches a score of a good image: the highest, where it rejects none of them. Half precision has no
    scores of its own in the manifest and is held to float32's.
    """
    limit, known, plain = (
        manifest.thresholds.get(precision),
        manifest.scores_in(precision),
        manifest.thresholds.get("fp32"),
    )
    if limit is None or known is None:
        return []
    told = []
    if limit.images == known.images and precision in ("fp32", "int8"):
        above = float(np.nextafter(np.float32(known.maximum), np.float32(np.inf)))
        if not (limit.value == above if limit.rejected == 0 else known.minimum < limit.value <= known.maximum):
            told.append(
                f"the threshold {limit.value:.6g} does not follow from good images that score {known.minimum:.6g} to "
                f"{known.maximum:.6g}, {limit.rejected} of them rejected"
            )
    elif precision == "fp16" and plain is not None and limit.images == plain.images:
        allowed = (TOLERANCES[precision].score_difference or 0.0) * abs(known.maximum)
        if abs(limit.value - plain.value) > allowed:
            told.append(
                f"the threshold {limit.value:.6g} is more than {allowed:.2g} away from fp32's {plain.value:.6g}"
            )
    photographs = golden.score[~golden.synthetic]
    trained = manifest.score_statistics
    if trained is not None and min(trained.images, len(photographs)) >= LEAST_HELD_OUT:
        middle = float(np.median(photographs))
        if not trained.minimum <= middle <= trained.maximum:
            told.append(
                f"half of the golden photographs score {middle:.6g} or more in the trained model, the good images that "
                f"drew the threshold {trained.minimum:.6g} to {trained.maximum:.6g}: they are of other parts, or the "
                "threshold is of another training"
            )
    return told


def decisions_flipped(golden: NDArray[np.float32], score: NDArray[np.float32], *, limits: Limits) -> int | None:
    """Scores (N,) judged otherwise than the golden ones, each by its threshold; too close to call left out.

    The threshold touches the highest score, so that rounding decides there. None where a threshold is missing.
    """
    if limits.reference is None or limits.found is None:
        return None
    clear = np.abs(golden.astype(np.float64) - limits.reference) > _rounding(golden)
    return int(np.count_nonzero(clear & ((golden >= limits.reference) != (score >= limits.found))))


def _now_passed(golden: NDArray[np.float32], score: NDArray[np.float32], *, limits: Limits, close: float) -> int | None:
    """Scores (N,) that are rejected by the trained model, clearly, and not by the artefact."""
    if limits.reference is None or limits.found is None or not limits.are_of_bundle:
        return None
    clear = golden.astype(np.float64) - limits.reference > max(close, _rounding(golden))
    return int(np.count_nonzero(clear & (score < limits.found)))


def _rounding(golden: NDArray[np.float32]) -> float:
    return (TOLERANCES["fp32"].score_difference or 0.0) * float(np.abs(golden).max())
