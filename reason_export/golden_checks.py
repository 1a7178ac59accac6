"""An artefact on the golden images: with painted defects, several in a run, at the threshold. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reason_export.labelled import Limits
from reason_export.parity import TOLERANCES, Parity, Tolerance, broken, compare
from reason_export.runs import joined, run_each
from reason_runtime.golden import Golden
from reason_runtime.session import Session

MOST_IN_A_RUN = 4
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

    def broken(self, tolerance: Tolerance) -> list[str]:
        """Gates that do not hold, in words."""
        told = broken(self.parity, tolerance, score_unit="an image's own")
        return [f"on painted defects: {line}" for line in told]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched:
    """The golden images again, several in a run: libraries have other kernels for that."""

    images_in_a_run: int
    parity: Parity

    def broken(self, tolerance: Tolerance) -> list[str]:
        """Gates that do not hold, in words."""
        return [f"with {self.images_in_a_run} images in a run: {line}" for line in broken(self.parity, tolerance)]


def painted_defects(session: Session, golden: Golden, *, limits: Limits) -> PaintedDefects | None:
    """None where the bundle has none."""
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
    )


def in_batches(session: Session, golden: Golden) -> Batched | None:
    """None where the artefact takes one image in a run, or the bundle has one golden image."""
    size = min(len(golden.images), session.largest_batch or MOST_IN_A_RUN, MOST_IN_A_RUN)
    if size < 2:
        return None
    whole = len(golden.images) // size * size
    outputs = joined([session.run(golden.images[first : first + size]) for first in range(0, whole, size)])
    parity = compare(
        golden_map=golden.anomaly_map[:whole],
        golden_score=golden.score[:whole],
        anomaly_map=outputs.anomaly_map,
        score=outputs.score,
    )
    return Batched(images_in_a_run=size, parity=parity)


def _rejected(scores: NDArray[np.float32], limit: float | None) -> int | None:
    return None if limit is None else int((scores >= limit).sum())


def decisions_flipped(golden: NDArray[np.float32], score: NDArray[np.float32], *, limits: Limits) -> int | None:
    """Scores (N,) judged otherwise than the golden ones, each by its threshold; too close to call left out.

    The threshold touches the highest score, so that rounding decides there. None where a threshold is missing.
    """
    if limits.reference is None or limits.found is None:
        return None
    close = (TOLERANCES["fp32"].score_difference or 0.0) * float(np.abs(golden).max())
    clear = np.abs(golden.astype(np.float64) - limits.reference) > close
    return int(np.count_nonzero(clear & ((golden >= limits.reference) != (score >= limits.found))))
