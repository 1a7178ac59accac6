"""Write the tables of README.md and docs/accuracy.md from the result files, so that no figure is typed by hand.

python benchmarks/tables.py            # rewrites what stands between <!-- NAME --> and <!-- /NAME -->
python benchmarks/tables.py --check    # exit 1 where a page differs from the results
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "accuracy.md")
METHODS = {"reason": "default (`reason`)", "rd4ad": "`--method rd4ad`"}


def main(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 on a difference.")] = False,
) -> None:
    """Rewrite the tables."""
    tables = {"results": results_table(), "ablation": ablation_table()}
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = before
        for name, table in tables.items():
            pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            after = pattern.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", after)
        if check and after != before:
            sys.exit(f"{page}: differs from the result files; run python benchmarks/tables.py")
        page.write_text(after, encoding="utf-8")


def results_table() -> str:
    """Mean and range over seeds of every method on every data set."""
    rows = [("data", "method", "seeds", "image AUROC", "pixel AUROC", "AUPRO", "training, s", "parity, map")]
    for data in ("screw", "alien"):
        for method, title in METHODS.items():
            runs = [_read(path) for path in sorted(RESULTS.glob(f"{data}_{method}_seed*.json"))]
            if runs:
                figures = [run["evaluation"] for run in runs]
                rows.append(
                    (
                        data,
                        title,
                        str(len(runs)),
                        *(
                            _spread(figure[key] for figure in figures)
                            for key in ("image_auroc", "pixel_auroc", "aupro")
                        ),
                        f"{mean(run['fit']['seconds'] for run in runs):.0f}",
                        f"{max(run['parity']['map_difference_max'] for run in runs):.0e}",
                    )
                )
        memory = RESULTS / f"{data}_nearest_neighbour.json"
        if memory.is_file():
            found = _read(memory)
            values = [_spread([found[key]]) for key in ("image_auroc", "pixel_auroc", "aupro")]
            title = f"nearest of {found['patches']} teacher patches"
            rows.append((data, title, "1", *values, f"{found['seconds']:.0f}", ""))
    return _table(rows)


def ablation_table() -> str:
    """Image AUROC of every variant, mean over seeds, and its difference from the default."""
    path = RESULTS / "ablation.json"
    if not path.is_file():
        return ""
    found = _read(path)["rows"]
    sets = list(dict.fromkeys(row["data"] for row in found))
    variants = list(dict.fromkeys(row["variant"] for row in found))
    rows: list[Sequence[str]] = [("variant", *sets, "mean", "seeds")]
    for variant in variants:
        own = [row for row in found if row["variant"] == variant]
        each = [[row["image_auroc"] for row in own if row["data"] == data] for data in sets]
        if all(each):
            means = [mean(values) for values in each]
            seeds = str(min(len(values) for values in each))
            rows.append((variant, *(f"{value:.3f}" for value in means), f"{mean(means):.4f}", seeds))
    return _table(rows)


def _spread(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "no masks"
    text = f"{mean(known):.4f}"
    return text if min(known) == max(known) else f"{text} ({min(known):.4f} - {max(known):.4f})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
