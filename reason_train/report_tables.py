"""The tables of a report, as HTML that is safe for any name and readable by a screen reader."""

import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version

from reason_train.datasets import Sample
from reason_train.evaluation import Evaluation, PartResult
from reason_train.ranking import Values

LIBRARIES = ("reason-edge", "torch", "torchvision", "timm", "onnxruntime", "numpy", "scipy", "pillow")
NOT_DEFINED = "–"


def defect_table(evaluation: Evaluation, *, samples: Sequence[Sample], scores: Values, limit: float | None) -> str:
    """Rows of defect types; how many are missed where a threshold is known, pixel figures where there are masks."""
    pixel = evaluation.pixel is not None
    head = ["Defect", "Images", *(["Missed"] if limit is not None else []), "Image AUROC"]
    rows = []
    for name, part in evaluation.per_defect.items():
        row = [name, str(part.defective)]
        if limit is not None:
            of_defect = [score for sample, score in zip(samples, scores, strict=True) if sample.defect == name]
            row.append(str(sum(score < limit for score in of_defect)))
        rows.append([*row, figure(part.image_auroc), *_pixel_cells(part, pixel)])
    return _table(
        [*head, *(["Pixel AUROC", "AUPRO"] if pixel else [])],
        rows,
        caption=f"Each defect type against all {evaluation.good} good test images.",
    )


def group_section(evaluation: Evaluation) -> str:
    """The section of domains or videos with its heading; nothing for data sets without groups."""
    if evaluation.group_mean is None:
        return ""
    pixel = evaluation.pixel is not None
    head = ["Group", "Good", "Defective", "Image AUROC", *(["Pixel AUROC", "AUPRO"] if pixel else [])]
    parts = [*evaluation.per_group.items(), ("mean over groups", evaluation.group_mean)]
    rows = [
        [name, str(part.good), str(part.defective), figure(part.image_auroc), *_pixel_cells(part, pixel)]
        for name, part in parts
    ]
    table = _table(head, rows, caption="Each domain or video on its own, and their unweighted mean.")
    return f'<section aria-labelledby="groups"><h2 id="groups">By group</h2>\n{table}</section>\n'


def settings_table(caption: str, settings: Mapping[str, object]) -> str:
    """Names and values, one a row."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in settings.items()
    )
    return f'<div class="card"><table class="settings"><caption>{caption}</caption><tbody>{rows}</tbody></table></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> str:
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="card scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _pixel_cells(part: PartResult, pixel: bool) -> list[str]:
    return [figure(part.pixel_auroc), figure(part.aupro)] if pixel else []


def figure(value: float | None) -> str:
    """Four decimals, or a dash for what is not defined."""
    return NOT_DEFINED if value is None else f"{value:.4f}"


def versions() -> dict[str, str]:
    """Of Python, the system and the libraries that the figures depend on; nothing is imported."""
    found = {"Python": platform.python_version(), "system": platform.platform(terse=True)}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found
