"""Train, calibrate, evaluate, export, check and time one data set, with the commands a user types.

    python benchmarks/end_to_end.py --data DIR [--category NAME] [--out FILE.json] [-- FIT OPTIONS]

Writes one JSON result: detection figures, seconds of training, parity error, threshold, runtime latency, versions.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from result_file import require_place, write_result

from reason_runtime.entry import run_script
from reason_runtime.errors import ReasonError

SCRIPTS = Path(sys.executable).parent


class StepFailed(ReasonError):
    """A command did not end with 0; its own words were on stderr."""


def command(*words: str | Path, quiet: bool = False) -> str:
    """Run one of the project's commands and give what it printed; stderr passes through."""
    line = [str(word) for word in words]
    if not quiet:
        print(f"$ {shlex.join(line)}", file=sys.stderr, flush=True)
    run = subprocess.run([str(SCRIPTS / line[0]), *line[1:]], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        sys.stderr.write(run.stdout)
        raise StepFailed(f"{shlex.join(line)} ended with {run.returncode}")
    return run.stdout


def end_to_end(
    data: Path,
    work: Path,
    *,
    fit_options: Sequence[str] = (),
    calibration: Path | None = None,
    report: Path | None = None,
) -> dict[str, object]:
    """Run the whole chain into the folder `work` and collect its figures.

    Args:
        data: Data set.
        work: Folder for run and bundle.
        fit_options: Passed to `reason-train fit` (and `--category` to every command that reads data).
        calibration: Folder of good images for the threshold; none: those that fit held out.
        report: Folder for the HTML page; none: no page.
    """
    run, bundle = work / "run", work / "bundle"
    where = ["--data", data]
    options = [part for option in fit_options for part in _parts(option)]
    if "--category" in options:
        position = options.index("--category")
        where += options[position : position + 2]
        del options[position : position + 2]
    started = time.perf_counter()
    fitted = json.loads(command("reason-train", "fit", *where, "--out", run, *options, "--json"))
    fit_seconds = time.perf_counter() - started
    calibrated_on = where if calibration is None else ["--data", calibration]
    threshold = json.loads(command("reason-train", "calibrate", run, *calibrated_on, "--json"))
    page = ["--report", report] if report is not None else []
    evaluated = json.loads(command("reason-train", "evaluate", run, *where, *page, "--json"))
    exported = json.loads(command("reason-export", "onnx", run, "--out", bundle, "--json"))
    checked = json.loads(command("reason-export", "check", bundle, "--json"))
    latency = json.loads(command("reason-bench", "latency", bundle, "--json"))
    return {
        "data": data.name,
        "fit": {**fitted, "run": None, "process_seconds": fit_seconds},
        "threshold": threshold,
        "evaluation": {**evaluated, "run": None, "report": None},
        "bundle_mib": exported["size_mib"],
        "parity": checked,
        "latency": latency,
    }


def _parts(option: str) -> list[str]:
    """`--category=NAME` as the two words that it is short for; all else as it is."""
    return option.split("=", 1) if option.startswith("--category=") else [option]


def main(
    data: Annotated[Path, typer.Option(help="Data set folder.")],
    out: Annotated[Path | None, typer.Option(help="JSON result to write.", show_default="stdout")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep run and bundle in.")] = None,
    fit_options: Annotated[list[str] | None, typer.Argument(help="After --: options of `reason-train fit`.")] = None,
) -> None:
    """Run the chain on one data set."""
    require_place(out)
    with tempfile.TemporaryDirectory() as folder:
        result = end_to_end(data, keep or Path(folder), fit_options=fit_options or [])
    options = f" -- {shlex.join(fit_options)}" if fit_options else ""
    result["command"] = f"python benchmarks/end_to_end.py --data {data.name}{options}"
    write_result(out, result)


if __name__ == "__main__":
    run_script(main)
