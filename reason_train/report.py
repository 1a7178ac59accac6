"""The page that `evaluate --report` writes: one HTML file that needs nothing but a browser, not even a network."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from os.path import commonpath
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from reason_runtime.atomic import make_folder, write_bytes
from reason_runtime.errors import ReasonError
from reason_runtime.image import InputFormat
from reason_runtime.manifest import Threshold
from reason_train.aupro import FPR_LIMIT
from reason_train.calibration import images_needed
from reason_train.datasets import Sample
from reason_train.evaluation import Evaluation, PixelResult
from reason_train.metrics import wrong_decisions
from reason_train.ranking import Values, rank, roc_curve
from reason_train.report_cases import Painter, case_section, map_key, worst
from reason_train.report_charts import Curve, histogram, line_chart
from reason_train.report_tables import defect_table, figure, group_section, settings_table, versions

FILE_NAME = "report.html"


def write_report(
    folder: Path,
    *,
    title: str,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    scores: Values,
    threshold: Threshold | None,
    pixel_threshold: float | None,
    maps: NDArray[np.float32] | None,
    input_format: InputFormat,
    settings: Mapping[str, object],
    notes: Sequence[str] = (),
    tile_px: int | None = None,
    training_known: bool = True,
) -> Path:
    """Write `<folder>/report.html` and return its path.

    Args:
        folder: Made if it is not there; an older report in it is replaced.
        title: Heading of the page, such as the data set's name.
        evaluation: Of these samples.
        samples: N test images.
        scores: (N,) raw.
        threshold: What the line would judge with; None where there is none.
        pixel_threshold: Map value from which on a pixel counts as defective; None where none is known.
        maps: (N, S, S) raw anomaly maps; None leaves the map pictures out.
        input_format: How the images are read and which part of them the maps cover.
        settings: What was run; names and values as they shall be read.
        notes: Sentences that a reader must know before the figures.
        tile_px: Side of the tiles that the run was trained on; None where it was not.
        training_known: See `Run.training_known`: where it is not, no bound is known to hold.

    Raises:
        ImageError: A picture that the page shows cannot be read.
        ReasonError: The page cannot be written.
    """
    make_folder(folder)
    anomalous = np.array([sample.anomalous for sample in samples], dtype=np.bool_)
    limit = None if threshold is None else threshold.value
    top = 2 * (float(scores[~anomalous].max()) if pixel_threshold is None else pixel_threshold)
    painter = Painter(
        input_format=input_format,
        scale=top if top > 0 else 1.0,
        threshold=limit,
        pixel_threshold=pixel_threshold,
    )
    misses = worst("defective", samples=samples, scores=scores, maps=maps, painter=painter)
    alarms = worst("good", samples=samples, scores=scores, maps=maps, painter=painter)
    false_alarms, missed = wrong_decisions(scores, anomalous, limit=limit)
    root = Path(commonpath([sample.path.parent for sample in samples]))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    page = Template(files("reason_train").joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=f"{evaluation.good} good and {evaluation.defective} defective test images · written {now}",
        notes="".join(f"<p><strong>{escape(note)}</strong></p>" for note in notes),
        figures=_figures(evaluation),
        threshold=_threshold_text(
            threshold,
            evaluation,
            false_alarms=false_alarms,
            missed=missed,
            tile_px=tile_px,
            training_known=training_known,
        ),
        charts=_charts(scores, anomalous, limit=limit, pixel=evaluation.pixel),
        defects=defect_table(evaluation, samples=samples, scores=scores, limit=limit),
        groups=group_section(evaluation),
        map_key="" if maps is None else map_key(painter),
        misses=case_section(misses, kind="defective", of=evaluation.defective, wrong=missed, root=root),
        alarms=case_section(alarms, kind="good", of=evaluation.good, wrong=false_alarms, root=root),
        settings=settings_table("Settings", settings) + settings_table("Versions", versions()),
    )
    path = folder / FILE_NAME
    write_bytes(path, page.encode(errors="backslashreplace"))  # the name of an image may be no UTF-8
    return path


def check_folder(folder: Path) -> None:
    """Refuse a place where no page can be written, before anything is judged; nothing is made.

    Raises:
        ReasonError: A file is in the way, or the system lets nothing be written there.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ReasonError(f"{there}: is a file; expected a folder for the report, or a place for one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ReasonError(f"{there}: may not be written to; expected a folder for the report, or a place for one")


def _figures(evaluation: Evaluation) -> str:
    pixel = evaluation.pixel
    shown = [
        ("Image AUROC", evaluation.image_auroc, ""),
        ("Pixel AUROC", pixel.auroc if pixel else None, ""),
        ("AUPRO", pixel.aupro if pixel else None, f"whole test set, false-positive rate to {FPR_LIMIT}"),
        ("AUPRO per image", pixel.aupro_per_image if pixel else None, "the published code's convention"),
        ("Best F1", evaluation.best_f1.f1, f"of images, at score {evaluation.best_f1.threshold:.4g}"),
        ("Average precision", evaluation.average_precision, "of images"),
    ]
    return "".join(
        f'<div class="card"><dt>{name}</dt><dd>{figure(value)}'
        f"<small>{note if value is not None or pixel is not None else 'needs masks'}</small></dd></div>"
        for name, value, note in shown
    )


def _threshold_text(
    threshold: Threshold | None,
    evaluation: Evaluation,
    *,
    false_alarms: int | None,
    missed: int | None,
    tile_px: int | None,
    training_known: bool,
) -> str:
    if threshold is None:
        return (
            "<p>No threshold is known, so no image is judged here. "
            "<code>reason-train calibrate</code> draws one from held-out good images.</p>"
        )
    bound, wanted = threshold.false_reject_upper_bound, threshold.target_false_reject_rate
    if not training_known:
        promise = (
            f"Wanted: at most {wanted:.2%} of good parts rejected. {threshold.rejected} of {threshold.images} good "
            "images are rejected, which the checkpoint may have been trained on: no bound is known to hold."
        )
    elif tile_px is not None:
        promise = (
            f"Wanted: at most {wanted:.2%} of good tiles rejected. {threshold.rejected} of these {threshold.images} "
            f"are, so the true rate is at most {bound:.2%} of tiles with 95 % confidence, were those of a picture "
            "independent of each other. A picture of K tiles is rejected up to K times as often."
        )
    else:
        kept = (
            "which keeps the wanted rate"
            if bound <= wanted
            else f"which misses it: that would take {images_needed(wanted)} images without a reject"
        )
        promise = (
            f"Wanted: at most {wanted:.2%} of good parts rejected. {threshold.rejected} of {threshold.images} held-out "
            f"good images are rejected, so the true rate is at most {bound:.2%} with 95 % confidence, {kept}."
        )
    return (
        f"<p>An image is anomalous at a score of <strong>{threshold.value:.6g}</strong> or more. On this test set that "
        f"rejects <strong>{false_alarms} of {evaluation.good}</strong> good images and misses "
        f"<strong>{missed} of {evaluation.defective}</strong> defective ones.</p>"
        f'<p class="soft">Source: {escape(threshold.source)}. {promise}</p>'
    )


def _charts(scores: Values, anomalous: NDArray[np.bool_], *, limit: float | None, pixel: PixelResult | None) -> str:
    key = " ".join(
        f'<span class="keyed"><span class="key {kind}"></span>{kind}, {way}</span>'
        for kind, way in (("good", "up"), ("defective", "down"))
    )
    drawn = histogram(
        good=scores[~anomalous],
        defective=scores[anomalous],
        threshold=limit,
        title="Histogram of image scores, good images above the axis, defective ones below",
    )
    charts = [(f"Scores {key}", drawn)]
    image_x, image_y = roc_curve(rank(scores, anomalous))
    curves = [Curve(name="images", style="first", x=image_x, y=image_y)]
    if pixel is not None:
        pixel_x, pixel_y = pixel.roc
        curves.append(Curve(name="pixels", style="second", x=pixel_x, y=pixel_y))
    drawn = line_chart(curves, title="ROC curve", x_label="false-positive rate", y_label="share of defects found")
    charts.append(("ROC", drawn))
    if pixel is not None:
        pro_x, pro_y = pixel.pro
        drawn = line_chart(
            [Curve(name="regions", style="first", x=pro_x, y=pro_y)],
            title="Per-region overlap curve",
            x_label="false-positive rate of pixels",
            y_label="mean overlap of regions",
            x_limit=FPR_LIMIT,
        )
        charts.append(("Per-region overlap (PRO)", drawn))
    return "".join(f'<figure class="card"><figcaption>{name}</figcaption>{chart}</figure>' for name, chart in charts)
