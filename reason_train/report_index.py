"""The page that leads to the pages of several categories: their figures in one table, with the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import quote

from reason_runtime.atomic import write_bytes
from reason_train.all_categories import FIGURES, MEAN, Figures, mean_figures, percent
from reason_train.report import FILE_NAME

INDEX = "index.html"


def write_index(folder: Path, *, title: str, rows: Mapping[str, Figures], notes: Sequence[str]) -> Path:
    """Write `<folder>/index.html` and return its path.

    Args:
        folder: Holds a folder with a report for each category.
        title: Heading, such as the data set's name.
        rows: Figures by category.
        notes: Sentences that a reader must know before the figures.

    Raises:
        ReasonError: The page cannot be written.
    """
    page = Template(files("reason_train").joinpath("report_index.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        count=len(rows),
        notes="".join(f"<p><strong>{escape(note)}</strong></p>" for note in notes),
        head="".join(f'<th scope="col">{escape(name)}</th>' for name in FIGURES.values()),
        rows="".join(
            _row(f'<a href="{quote(name)}/{FILE_NAME}">{escape(name)}</a>', row) for name, row in rows.items()
        ),
        mean=_row(MEAN, mean_figures(rows)),
    )
    path = folder / INDEX
    write_bytes(path, page.encode(errors="backslashreplace"))  # the name of a folder may be no UTF-8
    return path


def _row(name: str, figures: Figures) -> str:
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{percent(figures[key])}</td>" for key in FIGURES)}</tr>\n'
