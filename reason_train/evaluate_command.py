"""`reason-train evaluate`: one run judged on one test set, or a run a category with one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reason_runtime.errors import ReasonError
from reason_train import options

if TYPE_CHECKING:
    from reason_train.config import DeviceName, Layout
    from reason_train.datasets import DataSet
    from reason_train.evaluate import Evaluated
    from reason_train.evaluation import Evaluation


def evaluate(
    run_folder: options.RunFolders,
    data: options.Data,
    category: options.CategoryOrAll = None,
    dataset: options.Dataset = None,
    device: options.Device = "auto",
    report: options.Report = None,
    as_json: options.Json = False,
) -> None:
    """Judge the test images of a data set: AUROC, AUPRO, F1, for each kind of defect too."""
    from reason_train.all_categories import ALL
    from reason_train.datasets import load_dataset
    from reason_train.report import check_folder

    if report is not None:
        check_folder(report)
    if category == ALL:
        _evaluate_all(run_folder, data, layout=dataset, device=device, report=report, as_json=as_json)
        return
    found = load_dataset(data, layout=dataset, category=category)
    result, facts, failure = _judge(run_folder, found, device=device, report=report)
    if as_json:
        print(json.dumps(facts))
    else:
        _print_evaluation(result.evaluation, found)
        _print_wrong(facts)
        for note in result.notes:
            print(note)
        if "report" in facts:
            print(f"report: {facts['report']}")
    if failure is not None:
        raise failure


def _judge(
    run_folder: Path, found: DataSet, *, device: DeviceName, report: Path | None
) -> tuple[Evaluated, dict[str, object], ReasonError | None]:
    """Evaluate a run, write its page where one is wanted; the figures, what JSON says of them, and why no page."""
    import numpy as np

    from reason_train.device import find_device
    from reason_train.evaluate import evaluate as judge_all
    from reason_train.evaluate import report_settings
    from reason_train.metrics import wrong_decisions
    from reason_train.progress import image_bar

    with image_bar(f"judging {found.name}", total=len(found.test)) as bar:
        result = judge_all(
            run_folder, found, device=find_device(device), keep_maps=report is not None, progress=bar.advance
        )
    facts: dict[str, object] = {"run": str(run_folder), "data": found.name, **result.evaluation.to_json()}
    anomalous = np.array([sample.anomalous for sample in result.samples], np.bool_)
    limit = None if result.threshold is None else result.threshold.value
    rejected, passed = wrong_decisions(result.judgement.scores, anomalous, limit=limit)
    facts |= {
        "threshold": limit,
        "good_rejected": rejected,
        "defective_passed": passed,
        "good_of_threshold": result.good_of_threshold,
        "paper_protocol": result.protocol,
    }
    failure = None
    if report is not None:
        from reason_train.report import write_report
        from reason_train.trained import input_format

        try:
            page = write_report(
                report,
                title=found.name,
                notes=result.notes,
                evaluation=result.evaluation,
                samples=result.samples,
                scores=result.judgement.scores,
                threshold=result.threshold,
                pixel_threshold=result.pixel_threshold,
                maps=result.judgement.maps,
                input_format=input_format(result.run.config.method),
                settings=report_settings(result),
                tile_px=result.run.config.training.tile_px,
                training_known=result.run.training_known,
            )
            facts["report"] = str(page)
        except ReasonError as error:  # a full disk costs the page, not the figures
            failure = error
    return result, facts, failure


def _evaluate_all(
    runs: Path,
    data: Path,
    *,
    layout: Layout | None,
    device: DeviceName,
    report: Path | None,
    as_json: bool,
) -> None:
    from reason_train.all_categories import category_figures, category_table, load_categories, mean_figures
    from reason_train.evaluate import check
    from reason_train.report_index import write_index

    judged: dict[str, dict[str, object]] = {}
    rows, notes, failures = {}, [], []
    categories = load_categories(data, layout=layout)
    for name, found in categories.items():
        check(runs / name, found)
    for name, found in categories.items():
        page = report / name if report is not None else None
        result, judged[name], failure = _judge(runs / name, found, device=device, report=page)
        rows[name] = category_figures(result.evaluation)
        notes += [f"{name}: {note}" for note in result.notes]
        failures += [] if failure is None else [failure]
    facts: dict[str, object] = {"runs": str(runs), "categories": judged, "mean": mean_figures(rows)}
    if report is not None and not failures:
        try:
            facts["report"] = str(write_index(report, title=data.resolve().name, rows=rows, notes=notes))
        except ReasonError as error:
            failures.append(error)
    if as_json:
        print(json.dumps(facts))
    else:
        print("\n".join([category_table(rows), *notes]))
        if "report" in facts:
            print(f"report: {facts['report']}")
    if failures:
        raise failures[0]


def _print_wrong(facts: dict[str, object]) -> None:
    if facts["threshold"] is None:
        print("no threshold: nothing is rejected or passed; set one with reason-train calibrate RUN --data DIR")
        return
    print(
        f"{facts['good_rejected']} of {facts['good']} good images rejected, {facts['defective_passed']} of "
        f"{facts['defective']} defective ones passed, at the run's threshold {facts['threshold']:.6g}"
    )


def _print_evaluation(evaluation: Evaluation, found: DataSet) -> None:
    facts = evaluation.to_json()
    fifth = "; the good ones are the fifth of good/ that training leaves out" if found.layout == "folder" else ""
    print(f"{evaluation.good} good, {evaluation.defective} defective test images (layout {found.layout}{fifth})")
    for key, name in (
        ("image_auroc", "image AUROC"),
        ("pixel_auroc", "pixel AUROC"),
        ("aupro", "AUPRO (FPR <= 0.3)"),
        ("aupro_per_image", "AUPRO per image"),
        ("f1_max", "best F1"),
    ):
        value = facts[key]
        missing = "no masks" if evaluation.pixel is None else "-"
        print(f"{name:20}", missing if value is None else f"{value:.4f}")
    for title, parts in (("defect", evaluation.per_defect), ("group", evaluation.per_group)):
        for name, part in parts.items():
            figure = "-" if part.image_auroc is None else f"{part.image_auroc:.4f}"
            print(f"{title} {name:28} image AUROC {figure} ({part.defective} defective)")
