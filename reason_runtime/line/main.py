"""A station from the command line: signals, the summary on stderr, and the exit status."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import typer

from reason_runtime.line.messages import Event
from reason_runtime.line.run import LineRun, Summary
from reason_runtime.line.station import Station


def inspect_station(station: Station) -> None:
    """Run a station until its end.

    Exits 0 when it was asked to stop, or when every frame of its files was judged and every sink has its answer; 1
    otherwise.

    Raises:
        ReasonError: The station cannot run.
    """
    line = LineRun(station, tell=_say)
    for remark in line.model.detector.remarks:
        print(remark, file=sys.stderr)
    if line.is_live and station.journal is None:
        print("without --journal, parts in flight at a power cut or a kill get no answer", file=sys.stderr)
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: line.stop()),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: line.stop()),
        signal.SIGHUP: signal.signal(signal.SIGHUP, lambda *_: line.swap()),
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, lambda *_: line.swap_back()),
    }
    try:
        summary = line.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(describe(summary), file=sys.stderr)
    status = _status(summary)
    if summary.is_stuck:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the interpreter cannot end around a thread that is still in a native call
    if status:
        raise typer.Exit(status)


def _say(event: Event) -> None:
    print(f"{event.at} {event.level} {event.name}: {event.text}", file=sys.stderr, flush=True)


def _status(summary: Summary) -> int:
    failed, missed = _failed(summary), sum(summary.metrics.missed.values())
    if summary.outcome == "hung":
        print("error: a stage hangs; the process ends so that its supervisor can start it again", file=sys.stderr)
        return 1
    if summary.outcome == "ended" and failed:
        frames = sum(summary.metrics.frames.values())
        print(f"error: {failed} of {frames} images could not be judged; their lines say why", file=sys.stderr)
        return 1
    if summary.outcome == "ended" and missed:
        sinks = ", ".join(sink for sink, count in summary.metrics.missed.items() if count)
        print(f"error: {missed} messages were lost: {sinks}", file=sys.stderr)
        return 1
    return 0


def describe(summary: Summary) -> str:
    """One line for people."""
    now = summary.metrics
    frames = sum(now.frames.values())
    counts = {name: 0 for name in ("OK", "NG", "UNKNOWN")}
    for (_, decision), count in now.decisions.items():
        counts[decision] += count
    decisions = ", ".join(f"{count} {name}" for name, count in counts.items())
    latency = ""
    if now.latest_ms:
        p50_ms, p99_ms = np.percentile(now.latest_ms, (50, 99))
        latency = f", grab to answer p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
    missed = sum(now.missed.values())
    lost = f", {missed} messages never reached their sink" if missed else ""
    return f"{frames} frames: {decisions}; {frames / summary.seconds:.1f} FPS{latency}{lost}"


def _failed(summary: Summary) -> int:
    """Frames without a judgement; one without a threshold has its score."""
    return sum(count for (_, cause), count in summary.metrics.causes.items() if cause != "no-threshold")
