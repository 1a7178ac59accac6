"""What a training finds in its folder: nothing yet, an unfinished run of the same kind, or a whole one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from reason_runtime.alone import alone_in
from reason_runtime.atomic import make_folder
from reason_runtime.errors import RunError
from reason_train.run import (
    CALIBRATION,
    CHECKPOINT,
    LOG,
    MODEL,
    PAPER_PROTOCOL,
    RUN,
    THRESHOLD,
    Run,
    read_run,
    write_run,
)

TAKEN = "another training or calibration writes there; wait for its end"
Stage = Literal["train", "calibrate", "finished"]


@contextlib.contextmanager
def prepared(out: Path, run: Run, *, resume: bool, keep_finished: bool) -> Iterator[Stage]:
    """Make the run folder, or check that the one there is this run, and let no other process write there meanwhile.

    Arguments and errors are those of `find_stage`.

    Raises:
        ConfigurationError: Another training writes there.
        ReasonError: The folder cannot be made.
    """
    find_stage(out, run, resume=resume, keep_finished=keep_finished)  # what is refused makes no folder
    make_folder(out)
    with alone_in(out, otherwise=TAKEN):
        stage = find_stage(out, run, resume=resume, keep_finished=keep_finished)  # as another may have left it
        if (out / RUN).exists():
            _remove_unfinished(out)
        else:
            write_run(out, run)
        yield stage


def find_stage(out: Path, run: Run, *, resume: bool, keep_finished: bool) -> Stage:
    """What is left to do in a run folder, or in one that is not there yet; nothing is written.

    Args:
        out: The folder.
        run: What is asked for.
        resume: Go on with what is there.
        keep_finished: With `resume`, take a finished run as it is.

    Raises:
        RunError: Something else is there, or it is there and was not to be; or the folder's name is no UTF-8.
    """
    if str(out) != str(out).encode(errors="replace").decode():  # safetensors opens no such file
        raise RunError(f"{out}: its name is no UTF-8; choose another --out")
    if not (out / RUN).exists():
        if out.exists() and not (out.is_dir() and all(path.name.startswith(".") for path in out.iterdir())):
            raise RunError(f"{out}: exists and is not a run; choose another --out")
        return "train"
    if not resume:
        raise RunError(f"{out}: a run is there already; continue it with --resume or choose another --out")
    finished = (out / MODEL).exists() and ((out / THRESHOLD).exists() or not run.held_out)
    if finished and not keep_finished:
        raise RunError(f"{out}: training is finished; evaluate or export it, or choose another --out")
    _require_same(out, run)
    if finished:
        return "finished"
    return "calibrate" if (out / MODEL).exists() else "train"  # it may have been stopped between the two


def forget_unstarted(out: Path) -> None:
    """Free `out`, held alone, after a failure where there is no checkpoint to continue from; else leave it as it is."""
    if (out / CHECKPOINT).exists() or (out / MODEL).exists():
        return
    with contextlib.suppress(OSError):  # what made training fail is what the user must read
        for name in (RUN, LOG):
            (out / name).unlink(missing_ok=True)
        if not any(out.iterdir()):
            out.rmdir()


def _require_same(out: Path, run: Run) -> None:
    found = read_run(out)
    settings = dataclasses.replace(found.config, departures=run.config.departures)  # they follow from the others
    for name, ours, theirs in (
        ("settings", run.config, settings),
        ("teacher weights", run.teacher_weights_sha256, found.teacher_weights_sha256),
        ("training images", run.train, found.train),
        ("held-out images", run.held_out, found.held_out),
        ("test images", run.chosen_by, found.chosen_by),
    ):
        if ours != theirs:
            raise RunError(f"{out}: was started with other {name}; give the same options and images, or another --out")


def _remove_unfinished(out: Path) -> None:
    """Remove what a killed process was writing: hidden files, as `atomic.replacing` and safetensors name them.

    safetensors from 0.8 on writes beside the file that it was given, too, as `.tmp` and six letters or digits.
    """
    written = (name.split(".") for name in (RUN, LOG, CHECKPOINT, MODEL, CALIBRATION, THRESHOLD, PAPER_PROTOCOL))
    for pattern in (".tmp??????", *(f".{stem}.*.{suffix}" for stem, suffix in written)):
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)
