"""What a soak run has to show: every part exactly one decision, and no defect that passed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Figures of one run; the first four must be 0.

    Attributes:
        lost: Parts whose number is missing before the last of a process, or between its first and last in the files
            where the sink has removed older ones.
        contradicted: Parts with two different decisions, in the files or between files and broker.
        passed_defects: Frames that own a line of a defect and are OK.
        late: Judged answers later than twice the deadline.
        parts: Different part ids.
        decisions: By decision.
        causes: UNKNOWN by cause.
        processes: Lives of the station.
        heard: Parts that the broker's client heard of.
        quiet: Decisions of the last life, in which nothing was done from outside, UNKNOWN by cause.
        events: Faults that were reported, by what they were about.
    """

    lost: int
    contradicted: int
    passed_defects: int
    late: int
    parts: int
    decisions: dict[str, int]
    causes: dict[str, int]
    processes: int
    heard: int
    quiet: dict[str, int]
    events: dict[str, int]

    def figures(self) -> dict[str, object]:
        """For the report."""
        return {name: getattr(self, name) for name in self.__slots__}


def check(
    files: Sequence[Path],
    heard: Mapping[str, set[str]],
    *,
    spots: Sequence[tuple[int, int]],
    web_lines: int,
    frame_lines: int,
    overlap_lines: int,
    deadline_ms: float,
    kept_files: int,
) -> Verdict:
    """Read all results of a run.

    Args:
        files: Result files, rotated ones too.
        heard: Decisions by part id, as an MQTT client heard them; may hold other runs.
        spots: First row and rows of each defect of the web.
        web_lines: After which it repeats.
        frame_lines: Of a frame.
        overlap_lines: Of two frames.
        deadline_ms: Of a part.
        kept_files: Rotated files that the sink keeps; once there are as many, older ones may be gone.
    """
    files = sorted(files, key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdecimal() else 1)  # oldest first
    lines = [json.loads(line) for path in files for line in path.read_bytes().splitlines() if line.strip()]
    results = [line for line in lines if line["kind"] == "result"]
    decisions: dict[str, set[str]] = {}
    for line in results:
        decisions.setdefault(line["part_id"], set()).add(line["decision"])
    for part_id, also in heard.items():
        if part_id in decisions:
            decisions[part_id] |= also
    runs: dict[str, set[int]] = {}
    for part_id in decisions:
        run, _, number = part_id.rpartition("-")
        runs.setdefault(run, set()).add(int(number))
    cut = _run(results[0]) if len(files) > kept_files else None
    first = {line["part_id"]: line for line in reversed(results)}
    defective = {row + k for row, rows in spots for k in range(rows)}
    margin = overlap_lines // 2
    partial = {(_run(line), line["frame"]) for line in first.values() if line["valid_lines"] != frame_lines}

    def owned(line: Mapping[str, Any]) -> range:
        """The rows of a frame that it decided about: beside a break, and at either end, no other frame does."""
        run, number, valid = _run(line), line["frame"], line["valid_lines"]
        begins, ends = number == 0 or (run, number - 1) in partial, (run, number) in partial
        return range(0 if begins else margin, valid if ends else valid - margin)

    return Verdict(
        lost=sum(
            max(numbers) + 1 - len(numbers) - (min(numbers) if run == cut else 0) for run, numbers in runs.items()
        ),
        contradicted=sum(len(found) > 1 for found in decisions.values()),
        passed_defects=sum(
            line["decision"] == "OK"
            and any((line["encoder_count"] + row) % web_lines in defective for row in owned(line))
            for line in first.values()
        ),
        late=sum(line["cause"] == "judged" and (line["latency_ms"] or 0) > 2 * deadline_ms for line in first.values()),
        parts=len(decisions),
        decisions=dict(Counter(line["decision"] for line in first.values())),
        causes=dict(Counter(line["cause"] for line in first.values() if line["decision"] == "UNKNOWN")),
        processes=len(runs),
        heard=sum(part_id in heard for part_id in decisions),
        quiet=dict(Counter(_kind(line) for line in first.values() if _run(line) == _run(results[-1]))),
        events=dict(Counter(_about(line) for line in lines if line["kind"] == "event" and line["level"] == "fault")),
    )


def broken(found: dict[str, Any]) -> list[str]:
    """What must hold of a soak's result and does not, in words."""
    failures = []
    for load, report in found["loads"].items():
        failures += [
            f"{name} is {report[name]} at load {load}, expected 0"
            for name in ("lost", "contradicted", "passed_defects", "late")
            if report[name] != 0
        ]
        failures += [
            f"{name} grew from {report[name][0]} to {report[name][1]} at load {load}"
            for name, allowed in (("threads", 1), ("descriptors", 3))
            if report[name][1] > report[name][0] + allowed
        ]
        slope = report["rss_slope_mib_per_10000_frames"]
        if slope is not None and slope >= 1:
            failures.append(f"memory grows by {slope:.2f} MiB per 10,000 frames at load {load}, at most 1")
    return failures


def _run(line: Mapping[str, Any]) -> str:
    """Part ids without their number: the life of the process."""
    return str(line["part_id"]).rpartition("-")[0]


def _about(line: Mapping[str, Any]) -> str:
    """What an event is about, without the address of a sink."""
    return " ".join(str(line["name"]).split()[:2])


def _kind(line: Mapping[str, Any]) -> str:
    return str(line["decision"] if line["decision"] != "UNKNOWN" else line["cause"])
