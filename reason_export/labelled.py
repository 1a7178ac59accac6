"""Images that a check may be given beside the golden ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LEAST_HELD_OUT = 8
"""Good images that a threshold is drawn from, at least; its bound says how little so few prove."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """A labelled data set, see `reason_train.datasets.load_dataset`."""

    folder: Path
    category: str | None = None
    """In a root of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutImages:
    """Good images that neither trained, nor chose, nor calibrated anything."""

    folder: Path
    false_reject_rate: float = 0.01
    """Wanted, between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Thresholds in raw score units; None where there is none."""

    reference: float | None
    """Of the fp32 graph."""
    found: float | None
    """Of the artefact."""
