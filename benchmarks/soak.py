"""A line under load for minutes or days, with everything that goes wrong on a line going wrong on purpose.

A simulated web runs below `reason-run inspect` faster than the model can follow (1.5 times) and slower (0.8 times),
while the camera is unplugged, blocks arrive corrupt, the model gives NaN and hangs for a moment, the process is stopped
and continued, the broker restarts, the disk fills up, the clock is stepped, the process is killed and started again.
Afterwards every part must have exactly one decision, and no defect of the web may have passed.

    python -m benchmarks.soak                                  # under 4 minutes; writes the result file and the page
    python -m benchmarks.soak --minutes 600 --out soak.json    # a night

Exit 1 where anything that must hold does not. Needs root (a small disk is mounted), mosquitto and faketime.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.result_file import require_place, write_result
from benchmarks.soak_check import Verdict, broken, check
from benchmarks.soak_station import DEADLINE_MS, FAKETIME, KEPT_FILES, Broker, StationProcess, Watched, small_disk
from benchmarks.soak_web import FRAME_LINES, OVERLAP_LINES, WEB_LINES, frame_seconds, make_bundle, make_web
from benchmarks.tables import main as write_tables
from reason_runtime import load
from reason_runtime.entry import run_script
from reason_runtime.environment import fingerprint
from reason_runtime.errors import ReasonError

RESULTS = Path(__file__).parent / "results" / "soak.json"
CALM_SHARE = 0.55  # of the time for the load of 0.8, whose frames come more slowly
WARM_UP_FRAMES = 2_000  # until everything bounded is full: part ids that are remembered, latencies
LEAST_FRAMES = 3_000  # fewer say nothing about a slope


def soak(folder: Path, *, seconds: float) -> dict[str, object]:
    """Run both loads with all faults for about so long and check what came out.

    Raises:
        ReasonError: The station ended on its own, or not as it should; a small disk cannot be mounted.
    """
    bundle = make_bundle(folder)
    spots = make_web(folder / "web.npy")
    frame_s = frame_seconds(bundle)
    faults: Counter[str] = Counter()
    loads: dict[str, object] = {}
    broker = Broker(folder)
    try:
        for load_factor, share in ((0.8, CALM_SHARE), (1.5, 1 - CALM_SHARE)):
            lines_per_s = load_factor * (FRAME_LINES - OVERLAP_LINES) / frame_s
            place = folder / f"load{load_factor}"
            with small_disk(folder / f"disk{load_factor}") as disk:
                place.mkdir()
                for name in ("bundle", "web.npy"):
                    (place / name).symlink_to(folder / name)
                station = StationProcess(place, disk, broker, lines_per_s=lines_per_s)
                try:
                    statuses = _trouble(station, broker, disk, seconds=seconds * share, faults=faults)
                finally:
                    station.end()
                verdict = check(
                    sorted(disk.glob("results.jsonl*")),
                    broker.heard,
                    spots=spots,
                    web_lines=WEB_LINES,
                    frame_lines=FRAME_LINES,
                    overlap_lines=OVERLAP_LINES,
                    deadline_ms=DEADLINE_MS,
                    kept_files=KEPT_FILES,
                )
                loads[str(load_factor)] = _report(verdict, station.watched, lines_per_s, statuses)
    finally:
        broker.close()
    detector = load(bundle, threads=1)
    return {
        "seconds": seconds,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "frame_ms": frame_s * 1000,
        "deadline_ms": DEADLINE_MS,
        "faults": dict(faults),
        "loads": loads,
        "environment": fingerprint(detector.session),
    }


def _trouble(station: StationProcess, broker: Broker, disk: Path, *, seconds: float, faults: Counter[str]) -> list[int]:
    """One life with outside faults, a kill, and a quiet life that ends with SIGTERM; gives the exit statuses."""

    def fault(name: str, begin: Callable[[], object], end: Callable[[], object], *, hold_s: float) -> None:
        begin()
        station.run_for(hold_s)
        end()
        faults[name] += 1
        station.run_for(pause_s)

    def fill() -> None:
        with (
            suppress(OSError),
            (disk / "filler").open("wb", buffering=0) as stream,
        ):  # a buffer would fail again at the end
            while True:
                stream.write(bytes(1 << 16))

    until_s, pause_s = time.monotonic() + seconds, 0.5
    station.start()
    station.run_for(2)
    fault("broker restarted", broker.stop, broker.start, hold_s=1.5)
    fault("disk full", fill, (disk / "filler").unlink, hold_s=1.5)
    fault(
        "process stopped and continued",
        lambda: (station.signal(signal.SIGSTOP), time.sleep(0.7), station.signal(signal.SIGCONT)),
        lambda: None,
        hold_s=0.5,
    )
    station.signal(signal.SIGKILL)
    statuses = [station.wait()]
    faults["killed and restarted"] += 1
    if FAKETIME.exists():
        station.start(own_clock=True)
        fault("clock stepped back", lambda: station.step_clock(-7200), lambda: None, hold_s=1.5)
        fault("clock stepped forth", lambda: station.step_clock(+86400), lambda: None, hold_s=1.5)
        station.signal(signal.SIGKILL)
        statuses.append(station.wait())
        faults["killed and restarted"] += 1
    station.start()
    station.run_for(max(3.0, until_s - time.monotonic()))
    station.signal(signal.SIGTERM)
    statuses.append(station.wait())
    if statuses[-1] != 0 or set(statuses[:-1]) != {-signal.SIGKILL}:
        raise ReasonError(f"exit statuses {statuses}, expected kills and a clean end: {station.log()}")
    return statuses


def _report(verdict: Verdict, watched: Watched, lines_per_s: float, statuses: list[int]) -> dict[str, object]:
    settled = [i for i, frame in enumerate(watched.frames) if frame >= WARM_UP_FRAMES]
    frames, rss = ([values[i] for i in settled] for values in (watched.frames, watched.rss_kib))
    spread = frames[-1] - frames[0] if len(frames) > 2 else 0
    slope = float(np.polyfit(frames, rss, 1)[0]) * 10_000 / 1024 if spread >= LEAST_FRAMES else None
    return {
        "lines_per_s": lines_per_s,
        **verdict.figures(),
        "exit_statuses": statuses,
        "rss_mib": [watched.rss_kib[0] / 1024, watched.rss_kib[-1] / 1024],
        "rss_slope_mib_per_10000_frames": slope,
        "frames_behind_slope": spread,
        "threads": [watched.threads[len(watched.threads) // 2], watched.threads[-1]],
        "descriptors": [watched.descriptors[len(watched.descriptors) // 2], watched.descriptors[-1]],
    }


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Of both loads together.")] = 3.6,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Result file; the default is what the pages show.")
    ] = RESULTS,
) -> None:
    """Run, write; exit 1 where something that must hold does not."""
    require_place(out)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), seconds=60 * minutes)
    write_result(out, found)
    if out.resolve() == RESULTS.resolve():
        write_tables(check=False)
    write_result(None, found)
    if failures := broken(found):
        sys.exit("error: " + "; ".join(failures))


if __name__ == "__main__":
    run_script(main, extra="mqtt")
