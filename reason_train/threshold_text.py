"""What commands say of a threshold: its value, and what its images can promise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reason_runtime.manifest import Threshold


def threshold_facts(threshold: Threshold) -> dict[str, object]:
    """A threshold with whether its bound holds the wanted rate, and how many images that takes."""
    from reason_train.calibration import images_needed

    needed = images_needed(threshold.target_false_reject_rate)
    kept = threshold.false_reject_upper_bound <= threshold.target_false_reject_rate
    return {**dataclasses.asdict(threshold), "images_needed": needed, "bound_kept": kept}


def highest_facts(run: Path, *, threshold: float) -> dict[str, object] | None:
    """The up to three highest of a run's held-out images, and whether the highest is far above the rest.

    None where nothing was held out.

    Raises:
        RunError: The run's calibration cannot be read.
    """
    import numpy as np

    from reason_train.calibrate import read_held_out
    from reason_train.calibration import FAR_MADS, mads_above_median

    held_out = read_held_out(run)
    if held_out is None:
        return None
    scores = held_out.scores.astype(np.float64)
    middle, above = float(np.median(scores)), mads_above_median(scores)
    images = [
        {
            "name": held_out.names[place],
            "score": float(scores[place]),
            "of_threshold": float(scores[place]) / threshold if threshold > 0 else None,
            "of_median": float(scores[place]) / middle if middle > 0 else None,
        }
        for place in np.argsort(-scores, kind="stable")[:3]
    ]
    return {"images": images, "mads_above_median": above, "far_above": above is not None and above > FAR_MADS}


def print_highest(run: Path, *, threshold: float) -> None:
    """The same in one line, for a person to look at the images."""
    from reason_train.calibration import FAR_MADS, LEAST_COMPARED

    facts = highest_facts(run, threshold=threshold)
    if facts is None:
        return
    above, images = facts["mads_above_median"], facts["images"]
    assert isinstance(images, list)
    listed = ", ".join(
        f"{image['name']} ({_times(image['of_threshold'])} threshold, {_times(image['of_median'])} median)"
        for image in images
    )
    few = f"whether it is far above the rest takes {LEAST_COMPARED} images that differ"
    place = few if above is None else f"the first {above:.1f} MAD above the median"
    far = f", FAR ABOVE THE REST (limit {FAR_MADS:g}): is it a good part?" if facts["far_above"] else ""
    print(f"highest held-out: {listed}; {place}{far}")


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x"


def print_threshold(threshold: Threshold, *, tile_px: int | None) -> None:
    """The same in two lines; of a run that was trained on tiles the rate is that of tiles."""
    facts = threshold_facts(threshold)
    print(f"threshold {threshold.value:.6g} from {threshold.source}, {threshold.rejected} of them rejected")
    print(f"false rejects: at most {threshold.false_reject_upper_bound:.2%} with 95 % confidence", end="")
    if tile_px is not None:
        print(" of tiles, were those of a picture independent of each other")
        return
    wanted = threshold.target_false_reject_rate
    print("" if facts["bound_kept"] else f"; promising {wanted:.2%} takes {facts['images_needed']} good images")
