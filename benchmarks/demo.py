"""The whole product in one go, offline: real photographs, painted defects, a trained and exported model, pictures.

    python benchmarks/demo.py [--texture brick] [--out demo]

Every number that is printed was measured in this very run.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, get_args

import cv2
import numpy as np
import typer
from end_to_end import command, end_to_end
from numpy.typing import NDArray
from painted import Texture, write_dataset
from result_file import write_result

from reason_export.painted import DEFECTS
from reason_runtime.entry import run_script
from reason_runtime.errors import ConfigurationError, ReasonError

ROWS_PER_DEFECT = 2
CELL_PX = 256
LABEL_PX = 28
PARTS = {*get_args(Texture), "calibration", "run", "bundle", "report", "maps", "result.json", "sheet.png"}
"""Everything that a demo leaves in its folder."""


def main(
    texture: Annotated[Texture, typer.Option(help="Photograph to train on.")] = "brick",
    out: Annotated[
        Path, typer.Option(help="Folder for data, run, bundle and pictures; an earlier demo there is replaced.")
    ] = Path("demo"),
) -> None:
    """Train, export, check and inspect."""
    started = time.perf_counter()
    clear(out)
    data, calibration = out / texture, out / "calibration"
    write_dataset(data, texture, calibration=calibration)
    print(f"data: the photograph '{texture}' of scikit-image in crops; the defects on the test crops are painted")
    result = end_to_end(data, out, calibration=calibration, report=out / "report")
    lines = command("reason-run", "predict", out / "bundle", data / "test", "--json", "--save-maps", out / "maps")
    write_result(out / "result.json", result)
    predictions = {line["path"]: line for line in map(json.loads, lines.splitlines())}
    sheet = out / "sheet.png"
    write_sheet(sheet, data, out / "maps", predictions)
    print_table(result, predictions)
    print(
        "\nThe threshold comes from good crops beside the test crops: a bound speaks of parts like those that it\n"
        "was drawn from. On a line, calibrate on parts of that line."
    )
    print(f"\npicture sheet (input, map, painted mask): {sheet}")
    print(f"report page: {out / 'report' / 'report.html'}")
    print(f"bundle: {out / 'bundle'}; everything took {time.perf_counter() - started:.0f} s")


def clear(out: Path) -> None:
    """Remove an earlier demo.

    Raises:
        ConfigurationError: Something else is there.
    """
    if not out.exists():
        return
    if not out.is_dir() or (others := sorted({path.name for path in out.iterdir()} - PARTS)):
        what = "no folder" if not out.is_dir() else f"holds {others[0]!r}, which no demo left"
        raise ConfigurationError(f"{out}: {what}; nothing was removed, expected a new folder or that of a demo")
    shutil.rmtree(out)


def print_table(result: dict[str, object], predictions: dict[str, dict[str, object]]) -> None:
    """Print the figures of this run."""
    evaluation, threshold, latency = (dict(result[key]) for key in ("evaluation", "threshold", "latency"))
    parity, fit = dict(result["parity"]), dict(result["fit"])
    good = [line for path, line in predictions.items() if "/good/" in path]
    bad = [line for path, line in predictions.items() if "/good/" not in path]
    rows = [
        ("image AUROC", f"{evaluation['image_auroc']:.4f}"),
        ("pixel AUROC", f"{evaluation['pixel_auroc']:.4f}"),
        ("AUPRO (FPR <= 0.3)", f"{evaluation['aupro']:.4f}"),
        ("threshold", f"{threshold['value']:.4f} from {threshold['images']} good images"),
        ("false rejects, bound", f"{threshold['false_reject_upper_bound']:.1%} (95 % confidence)"),
        ("defects found", f"{sum(line['decision'] == 'NG' for line in bad)} of {len(bad)}"),
        ("good parts rejected", f"{sum(line['decision'] != 'OK' for line in good)} of {len(good)}"),
        ("parity error, map", f"{parity['map_difference_max']:.1e} of its largest value"),
        ("parity error, score", f"{parity['score_difference_max']:.1e} of the largest score"),
        ("training", f"{fit['seconds']:.0f} s for {fit['steps']} steps on {fit['images']} images"),
        ("runtime latency", f"p50 {latency['p50_ms']:.1f} ms, p99 {latency['p99_ms']:.1f} ms ({latency['backend']})"),
        ("runtime speed", f"{latency['fps']:.0f} FPS, one image at a time"),
    ]
    print()
    for name, value in rows:
        print(f"{name:22} {value}")


def write_sheet(path: Path, data: Path, maps: Path, predictions: dict[str, dict[str, object]]) -> None:
    """One row per example: input, map over input, painted mask."""
    rows = []
    for kind in ("good", *DEFECTS):
        for name in sorted((data / "test" / kind).iterdir())[:ROWS_PER_DEFECT]:
            mask = data / "ground_truth" / kind / f"{name.stem}_mask.png"
            overlay = next(maps.rglob(f"{kind}/{name.stem}*.png"))
            cells = [cv2.imread(str(name)), cv2.imread(str(overlay)), _read_or_black(mask)]
            line = predictions[str(name)]
            rows.append(_row(cells, f"{kind}  {name.name}   score {line['score']:.3f}   {line['decision']}"))
    half = (len(rows) + 1) // 2
    columns = [np.concatenate(rows[:half]), np.concatenate(rows[half:])]
    if not cv2.imwrite(str(path), np.concatenate(columns, axis=1)):
        raise ReasonError(f"{path}: could not be written")


def _row(cells: list[NDArray[np.uint8]], label: str) -> NDArray[np.uint8]:
    sized = [cv2.resize(cell, (CELL_PX, CELL_PX), interpolation=cv2.INTER_AREA) for cell in cells]
    picture = np.concatenate(sized, axis=1)
    strip = np.full((LABEL_PX, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, label, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def _read_or_black(path: Path) -> NDArray[np.uint8]:
    return cv2.imread(str(path)) if path.is_file() else np.zeros((CELL_PX, CELL_PX, 3), np.uint8)


if __name__ == "__main__":
    run_script(main, extra="demo")
