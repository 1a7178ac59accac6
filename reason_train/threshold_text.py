"""What commands say of a threshold: its value, and what its images can promise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reason_runtime.manifest import Threshold
    from reason_train.highest_held_out import HighestHeldOut


def threshold_facts(threshold: Threshold, *, tile_px: int | None, training_known: bool) -> dict[str, object]:
    """A threshold with whether its bound holds the wanted rate, and how many images that takes.

    Args:
        threshold: Of a run.
        tile_px: Side of the tiles that it was trained on, whose bound would hold were they independent; None without.
        training_known: See `reason_train.run.Run.training_known`; where it is not, no bound is known to hold.
    """
    from reason_train.calibration import images_needed

    needed = images_needed(threshold.target_false_reject_rate)
    known = training_known and tile_px is None
    kept = known and threshold.false_reject_upper_bound <= threshold.target_false_reject_rate
    return {**dataclasses.asdict(threshold), "images_needed": needed, "bound_kept": kept}


def run_highest(run: Path, *, threshold: float) -> HighestHeldOut | None:
    """The highest of a run's held-out images; None where nothing was held out.

    Raises:
        RunError: The run's calibration cannot be read.
    """
    from reason_train.calibrate import read_held_out
    from reason_train.highest_held_out import highest_held_out

    held_out = read_held_out(run)
    return None if held_out is None else highest_held_out(held_out.names, held_out.scores, threshold=threshold)


def print_highest(highest: HighestHeldOut | None) -> None:
    """Which images to look at, where there are any."""
    from reason_train.highest_held_out import highest_text

    if highest is not None:
        print(highest_text(highest))


def print_threshold(threshold: Threshold, *, tile_px: int | None, training_known: bool) -> None:
    """The same in two lines; of a run that was trained on tiles the rate is that of tiles."""
    facts = threshold_facts(threshold, tile_px=tile_px, training_known=training_known)
    print(f"threshold {threshold.value:.6g} from {threshold.source}, {threshold.rejected} of them rejected")
    if not training_known:
        print("false rejects: no bound is known to hold; import the checkpoint with --trained-on DIR")
        return
    print(f"false rejects: at most {threshold.false_reject_upper_bound:.2%} with 95 % confidence", end="")
    if tile_px is not None:
        print(" of tiles, were those of a picture independent of each other")
        return
    wanted = threshold.target_false_reject_rate
    print("" if facts["bound_kept"] else f"; promising {wanted:.2%} takes {facts['images_needed']} good images")
