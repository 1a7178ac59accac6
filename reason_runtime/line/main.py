"""A station from the command line: signals, the summary on stderr, and the exit status."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial

import numpy as np
import typer

from reason_runtime.line.drift import why_unchecked
from reason_runtime.line.log import Log
from reason_runtime.line.run import LineRun, Summary
from reason_runtime.line.signals import hearing
from reason_runtime.line.station import Station

_LAST_LINES_S = 0.3  # for a pipe that nobody empties


def inspect_station(station: Station) -> None:
    """Run a station until its end.

    Exits 0 when it was asked to stop, or when every frame of its files was judged and every sink has its answer; 1
    otherwise.

    Raises:
        ReasonError: The station cannot run.
    """
    log = Log(sys.stderr)
    status = 1
    is_stuck = False
    try:
        summary = _run(station, log)
        if summary.failure is None or summary.metrics.frames:
            log.say(describe(summary))
        error = _error(summary)
        if error is not None:
            log.say(f"error: {error}")
        status = int(error is not None)
        is_stuck = summary.is_stuck
    finally:
        is_stuck = not log.finish(_LAST_LINES_S) or is_stuck
        if is_stuck:
            for stream in (sys.stdout, sys.stderr):
                with suppress(AttributeError, OSError, ValueError):  # closed, or nobody reads
                    stream.flush()
            os._exit(status)  # the interpreter cannot end around a thread that is still in a native call
    if status:
        raise typer.Exit(status)


def _run(station: Station, log: Log) -> Summary:
    early: list[signal.Signals] = []  # done once the first bundles are loaded: a link may be moved after it was read
    with hearing({number: partial(early.append, number) for number in (signal.SIGHUP, signal.SIGUSR1)}):
        line = LineRun(station, tell=lambda event: log.say(f"{event.at} {event.level} {event.name}: {event.text}"))
        for remark in line.models.told(lambda model: model.detector.remarks):
            log.say(remark)
        if line.is_live and station.journal is None:
            log.say("without --journal, parts in flight at a power cut or a kill get no answer")
        if line.is_live:
            for why in line.models.told(
                lambda model: [] if model.blind_limits else ["the bundle has no limits for it"]
            ):
                log.say(f"no check whether the camera sees: {why}; calibrate the run and export it again")
        if station.drift_parts:
            for why in line.models.told(lambda model: filter(None, [why_unchecked(model)])):
                log.say(f"no check of drift: {why}")
        actions = {
            signal.SIGTERM: line.stop,
            signal.SIGINT: line.stop,
            signal.SIGHUP: line.swap,
            signal.SIGUSR1: line.swap_back,
        }
        with hearing(actions):
            for number in early:
                actions[number]()
            return line.run()


def _error(summary: Summary) -> str | None:
    failed, missed = _failed(summary), sum(summary.metrics.missed.values())
    if summary.failure is not None:
        return summary.failure
    if summary.outcome == "hung":
        return "a stage hangs, or the disk of the journal; the process ends so that its supervisor can start it again"
    if summary.outcome == "ended" and failed:
        frames = sum(summary.metrics.frames.values())
        return f"{failed} of {frames} images could not be judged; their lines say why"
    if summary.outcome == "ended" and missed:
        sinks = ", ".join(sink for sink, count in summary.metrics.missed.items() if count)
        return f"{missed} messages were lost: {sinks}"
    return None


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
