"""Images that a check may be given beside the golden ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reason_runtime.bundle import Bundle
from reason_train.calibration import USUAL_RATE, check_rate

LEAST_HELD_OUT = 8
"""Good images that a threshold is drawn from, at least; its bound says how little so few prove."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutImages:
    """Good images that neither trained, nor chose, nor calibrated anything."""

    folder: Path
    false_reject_rate: float | None = None
    """Wanted, between 0 and 1; None: that of the bundle's own threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Thresholds in raw score units; None where there is none."""

    reference: float | None
    """Of the fp32 graph."""
    found: float | None
    """Of the artefact."""
    are_of_bundle: bool = True
    """Drawn from the same images for the same rate; not so where the artefact's is its own of this device."""


def wanted_rate(bundle: Bundle, asked: float | None) -> float:
    """The false-reject rate to draw a threshold for: what was asked for, else what the bundle was calibrated for.

    Raises:
        ConfigurationError: It is no rate.
    """
    known = bundle.manifest.thresholds.get("fp32")
    rate = asked if asked is not None else USUAL_RATE if known is None else known.target_false_reject_rate
    check_rate(rate)
    return rate
