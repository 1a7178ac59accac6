"""Data sets of several categories as papers report them: one model a category, one table with a mean. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reason_train.config import Layout
from reason_train.datasets import DataSet, categories, load_dataset
from reason_train.evaluation import Evaluation

ALL = "all"
"""What stands for every category of a root."""
MEAN = "mean"
FIGURES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "aupro_per_image": "AUPRO per image",
}
"""Columns of the table, by their names in JSON."""
Figures = dict[str, float | None]


def load_categories(root: Path, *, layout: Layout | None) -> dict[str, DataSet]:
    """Every category of a root of MVTec AD or VisA by its name, checked before the first is trained.

    Raises:
        ConfigurationError: The layout has no categories.
        DataError: There is none, or one is not laid out as it should be.
    """
    return {name: load_dataset(root, layout=layout, category=name) for name in categories(root)}


def category_figures(evaluation: Evaluation) -> Figures:
    """The columns of one category's row, 0..1; None without masks."""
    facts = evaluation.to_json()
    return {name: value if isinstance(value := facts[name], float) else None for name in FIGURES}


def mean_figures(rows: Mapping[str, Figures]) -> Figures:
    """Unweighted means over categories; None where a category lacks the figure."""
    columns = {name: [row[name] for row in rows.values()] for name in FIGURES}
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    return {name: sum(known[name]) / len(rows) if len(known[name]) == len(rows) else None for name in FIGURES}


def category_table(rows: Mapping[str, Figures]) -> str:
    """A row a category and their mean, in percent, as papers print it."""
    lines = [f"{'%':14}" + "".join(f"{title:>17}" for title in FIGURES.values())]
    for name, row in {**rows, MEAN: mean_figures(rows)}.items():
        lines.append(f"{name:14}" + "".join(f"{percent(row[column]):>17}" for column in FIGURES))
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """Two decimals, or a dash for what is not defined."""
    return "-" if value is None else f"{100 * value:.2f}"
