"""A recording from the command line: signals, the summary, and the exit status."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from reason_runtime.elsewhere import require_elsewhere
from reason_runtime.line.log import Log
from reason_runtime.line.recorder import Recorder, RecordSettings
from reason_runtime.line.signals import hearing
from reason_runtime.line.sources.open import folder_of, open_source
from reason_runtime.strict_json import Json

_LAST_LINES_S = 0.3


def record_source(text: str, *, folder: Path, settings: RecordSettings, as_json: bool) -> None:
    """Record what a source gives, until its end, a limit, SIGTERM or SIGINT; then say what was kept.

    Raises:
        ConfigurationError: The folder lies in the one that is read, or the address is wrong.
        ReasonError: See `Recorder.run`; what was kept has been said.
    """
    source, read = open_source(text, input_format=None), folder_of(text)
    if read is not None:
        require_elsewhere(folder, source=read)
    log = Log(sys.stderr)
    recorder = Recorder(
        source,
        folder=folder,
        settings=settings,
        tell=lambda event: log.say(f"{event.at} {event.level} {event.name}: {event.text}"),
    )
    started_s = time.monotonic()
    try:
        with hearing({signal.SIGTERM: recorder.stop, signal.SIGINT: recorder.stop}):
            recorder.run()
    finally:
        seconds = time.monotonic() - started_s
        if as_json:
            print(json.dumps(_line(recorder, folder, seconds)))
        else:
            log.say(_describe(recorder, folder, seconds))
        log.finish(_LAST_LINES_S)


def _line(recorder: Recorder, folder: Path, seconds: float) -> dict[str, Json]:
    return {
        "folder": str(folder),
        "pictures": recorder.pictures,
        "first": recorder.first,
        "last": recorder.last,
        "frames": recorder.frames,
        "skipped": recorder.skipped,
        "skipped_reason": recorder.skipped_reason,
        "seconds": round(seconds, 3),
    }


def _describe(recorder: Recorder, folder: Path, seconds: float) -> str:
    names = f", {recorder.first} to {recorder.last}" if recorder.pictures else ""
    skipped = f"; {recorder.skipped} skipped, the last one: {recorder.skipped_reason}" if recorder.skipped else ""
    return f"{recorder.pictures} pictures in {folder}{names}; {recorder.frames} frames in {seconds:.1f} s{skipped}"
