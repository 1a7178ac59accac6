"""Write tables and figures of README.md and docs/ from the result files, so that none is typed by hand.

python benchmarks/tables.py            # rewrites what stands between <!-- NAME --> and <!-- /NAME -->
python benchmarks/tables.py --check    # exit 1 where a page differs from the results

A page with a mark that no table has, or half of a pair, is an error: what stands there would be kept for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import typer

from reason_export.parity import TOLERANCES
from reason_runtime.atomic import write_text
from reason_runtime.entry import run_script
from reason_runtime.errors import ReasonError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"<!-- (\S+) -->")
LEAST_PARTS = 300  # that a p99 is taken from
LEAST_CALLS = 30  # that a p90 is taken from
METHODS = {
    "{}_reason": "default (`reason`)",
    "{}_one_student": "`--students 1`",
    "{}_rd4ad": "`--method rd4ad`",
}
EARLIER = {
    "screw_reason": ("today",),
    "earlier/screw_one_student": ("one student with a wider embedding",),
    "earlier/screw_one_student_rd4ad": ("the same, `--method rd4ad`",),
    "earlier/screw_equal_scales": ("one such student, scales made equal",),
    "earlier/screw_any_mining": ("and hard mining of any position",),
    "earlier/screw_new_views": ("and new views in every round",),
    "earlier/screw_reason": ("and features whitened by a power of 0.5",),
}
"""Result files of the default and of those before it, the latest first."""

BY_SET = (
    "default",
    "scales as they are, as published",
    "scales made equal",
    "nearest of 20000 teacher patches",
)
"""Variants that the table of all choosing sets shows."""
LARGER = {
    "earlier/screw_reason": ("efficientnet_lite0", "256"),
    "screw_lite1": ("efficientnet_lite1", "256"),
    "screw_lite2": ("efficientnet_lite2", "256"),
    "screw_320px": ("efficientnet_lite0", "320"),
}
"""Result files of larger teachers and inputs, after those of the default that they were trained with."""
PART_SETS = ("alien, painted", "screw, painted", "screw, choosing half", "bulb", "wheel", "clock", "pizza", "mixer")
"""The choosing sets that show one part each; the others are surfaces."""
RUN_TITLES = ("runs", "image AUROC", "pixel AUROC", "AUPRO", "training, s, fastest")


def main(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 on a difference.")] = False,
) -> None:
    """Rewrite the tables."""
    tables = {
        "results": results_table(),
        "earlier": runs_table(("default",), EARLIER),
        "larger": runs_table(("teacher", "input, px"), LARGER),
        "tolerances": tolerances_table(),
        **figures(),
    }
    for name, (file, made) in TABLES.items():
        path = RESULTS / file
        tables[name] = made(_read(path)) if path.is_file() else "not run here\n"
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    rewritten = {page: with_tables(before, tables, name=str(page)) for page, before in pages.items()}
    for page, after in rewritten.items():
        if after == pages[page]:
            continue
        if check:
            raise ReasonError(f"{page}: differs from the result files; run python benchmarks/tables.py")
        write_text(page, after)


def with_tables(page: str, tables: Mapping[str, str], *, name: str) -> str:
    """A page with the tables that it has marks of.

    Args:
        page: Its text.
        tables: By name.
        name: Of the page, for errors.

    Raises:
        ReasonError: A mark that no table has, or that does not come in a pair.
    """
    marks = MARK.findall(page)
    for begin, end in zip_longest(marks[::2], marks[1::2], fillvalue=""):
        if begin not in tables or end != f"/{begin}":
            raise ReasonError(f"{name}: <!-- {begin} --> is no table's, or <!-- /{begin} --> does not come next")
    for title in marks[::2]:
        pattern = re.compile(f"(<!-- {title} -->\n?).*?(<!-- /{title} -->)", re.DOTALL)
        page = pattern.sub(lambda found, title=title: f"{found[1]}{tables[title]}{found[2]}", page)
    return page


def results_table() -> str:
    """Mean and range over runs of every method on every data set."""
    rows = [("data", "method", *RUN_TITLES, "parity, map")]
    for data in ("screw", "alien"):
        for name, title in METHODS.items():
            if runs := _runs(name.format(data)):
                parity = f"{max(run['parity']['map_difference_max'] for run in runs):.0e}"
                rows.append((data, title, *_run_cells(runs), parity))
        memory = RESULTS / f"{data}_nearest_neighbour.json"
        if memory.is_file():
            found = _read(memory)
            title = f"nearest of {found['patches']} teacher patches"
            rows.append((data, title, "1", *_detection([found]), f"{found['seconds']:.0f}", ""))
    return _table(rows)


def figures() -> dict[str, str]:
    """Figures inside sentences, by name."""
    aurocs = [run["evaluation"]["image_auroc"] for run in _runs("screw_reason")]
    seconds = [run["fit"]["seconds"] for run in _runs("alien_reason")]
    keys = ("image_auroc", "aupro")
    sets, today = _by_variant(_read(RESULTS / "choosing.json"), *keys)
    before = dict(zip(*_default_by_set(_read(RESULTS / "earlier" / "choosing_one_student.json"), *keys), strict=True))
    now = dict(zip(sets, today["default"], strict=True))
    apart = {key: [now[name][k] - before[name][k] for name in sets] for k, key in enumerate(keys)}
    gpu = _read(RESULTS / "screw_reason_gpu.json")
    found = {
        "screw-least": f"{min(aurocs):.3f}",
        "screw-most": f"{max(aurocs):.3f}",
        "alien-least-s": f"{min(seconds):.0f}",
        "alien-most-s": f"{max(seconds):.0f}",
        "gpu-auroc": f"{gpu['evaluation']['image_auroc']:.4f}",
        "gpu-s": f"{gpu['fit']['seconds']:.0f}",
        "plaster-before": f"{before['plaster'][0]:.3f}",
        "plaster-now": f"{now['plaster'][0]:.3f}",
    }
    return found | {f"students-{key}": _apart(values, digits=3) for key, values in apart.items()}


def _default_by_set(found: dict, *keys: str) -> tuple[list[str], list[list[float]]]:
    sets, cells = _by_variant(found, *keys)
    return sets, cells["default"]


def _apart(values: Sequence[float], *, digits: int = 4) -> str:
    """Mean of differences and its standard error."""
    return f"{mean(values):+.{digits}f} +- {stdev(values) / len(values) ** 0.5:.{digits}f}"


def runs_table(names: Sequence[str], files: Mapping[str, Sequence[str]]) -> str:
    """One row for the runs of each result file, after cells of its own.

    Args:
        names: Titles of these cells.
        files: The cells, by the name of the result file.
    """
    rows: list[Sequence[str]] = [(*names, *RUN_TITLES)]
    rows += [(*cells, *_run_cells(_runs(file))) for file, cells in files.items()]
    return _table(rows)


def _runs(name: str) -> list[dict]:
    """The results of `benchmarks/end_to_end.py` of that name, one a seed."""
    return [_read(path) for path in sorted(RESULTS.glob(f"{name}_seed*.json"))]


def _run_cells(runs: Sequence[dict]) -> list[str]:
    """What `RUN_TITLES` names."""
    if not runs:
        return ["not run here", *[""] * (len(RUN_TITLES) - 1)]
    seconds = f"{min(run['fit']['seconds'] for run in runs):.0f}"
    seeds = {re.search(r"--seed \d+|$", run["command"])[0] for run in runs}
    figures = _detection([run["evaluation"] for run in runs], independent=len(seeds) == len(runs))
    return [str(len(runs)), *figures, seconds]


def _detection(found: Sequence[dict], *, independent: bool = True) -> list[str]:
    return [
        _spread((each[key] for each in found), independent=independent)
        for key in ("image_auroc", "pixel_auroc", "aupro")
    ]


def mining_table(found: dict) -> str:
    """Image AUROC and AUPRO of every variant on every set, and their means over sets; means over seeds."""
    return _by_set(*_by_variant(found, "image_auroc", "aupro"))


def choosing_table(found: dict) -> str:
    """The same of what decided how scales are balanced, beside a memory."""
    sets, cells = _by_variant(found, "image_auroc", "aupro")
    return _by_set(sets, {variant: cells[variant] for variant in BY_SET})


def _by_set(sets: Sequence[str], cells: Mapping[str, Sequence[Sequence[float]]]) -> str:
    rows: list[Sequence[str]] = [("data", *cells)]
    rows += [(data, *(_pair(each[k]) for each in cells.values())) for k, data in enumerate(sets)]
    means = (_pair([mean(values) for values in zip(*each, strict=True)]) for each in cells.values())
    return _table([*rows, (f"mean of {len(sets)}", *means)])


def _pair(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def paired_table(found: dict) -> str:
    """Every variant on the same sets: means over sets, and how far it is from the default, with its standard error."""
    sets, cells = _by_variant(found, "image_auroc", "aupro", "seconds")
    seeds = len({row["seed"] for row in found["rows"]})
    rows: list[Sequence[str]] = [
        ("variant", f"image AUROC, {len(sets)} sets x {seeds}", "to the default", "AUPRO", "to the default", "s")
    ]
    for variant, each in cells.items():
        texts = []
        for figure in range(2):
            values = [one[figure] for one in each]
            apart = [value - one[figure] for value, one in zip(values, cells["default"], strict=True)]
            texts.append(f"{mean(values):.4f}")
            texts.append("" if variant == "default" else _apart(apart))
        seconds = mean(one[2] for one in each)
        rows.append((variant, *texts, f"{seconds:.0f}" if seconds >= 1 else "same model"))
    return _table(rows)


def ablation_table(found: dict) -> str:
    """Image AUROC and AUPRO of every variant: means over all sets, over single parts and over surfaces."""
    sets, cells = _by_variant(found, "image_auroc", "aupro")
    parts = [k for k, data in enumerate(sets) if data in PART_SETS]
    groups = {"all": range(len(sets)), "parts": parts, "surfaces": sorted({*range(len(sets))} - {*parts})}
    rows: list[Sequence[str]] = [("variant", *(f"{name}, {len(which)} sets" for name, which in groups.items()))]
    for variant, each in cells.items():
        means = ([mean(each[k][figure] for k in which) for figure in range(2)] for which in groups.values())
        rows.append((variant, *map(_pair, means)))
    return _table(rows)


def _by_variant(found: dict, *figures: str) -> tuple[list[str], dict[str, list[list[float]]]]:
    """The sets, and of every variant that ran on all of them each set's figures, means over seeds."""
    sets = list(dict.fromkeys(row["data"] for row in found["rows"]))
    cells: dict[str, list[list[float]]] = {}
    for variant in dict.fromkeys(row["variant"] for row in found["rows"]):
        own = [[row for row in found["rows"] if (row["data"], row["variant"]) == (data, variant)] for data in sets]
        if all(own):
            cells[variant] = [[mean(row[figure] for row in rows) for figure in figures] for rows in own]
    return sets, cells


def whitening_table(found: dict) -> str:
    """What the measured power of whitening is on every set, and what it brings against the middle one."""
    rows: list[Sequence[str]] = [("data", "power", *RUN_TITLES[:-1])]
    for data in dict.fromkeys(row["data"] for row in found["rows"]):
        own = [row for row in found["rows"] if row["data"] == data]
        measured = [row for row in own if row["variant"] == "default"]
        middle = [row for row in own if row["variant"] == "features whitened with a power of 0.5"]
        power = f"measured, {mean(row['whitening_power'] for row in measured):.2f}"
        rows += [(data, name, str(len(runs)), *_detection(runs)) for name, runs in ((power, measured), ("0.5", middle))]
    return _table(rows)


def install_size_table(found: dict) -> str:
    """Disk that each set of extras takes, and what takes most of it."""
    rows: list[Sequence[str]] = [("extras", "MB", "largest, MB")]
    for row in found["rows"]:
        largest = ", ".join(f"{name} {size}" for name, size in row["largest_mb"].items())
        rows.append((f"`{row['extras']}`", str(row["mb"]), largest))
    return _table(rows)


def precision_table(found: dict) -> str:
    """What every backend and precision loses on screw."""
    titles = (
        "backend",
        "precision",
        "image AUROC",
        "lost",
        "AUPRO",
        "lost",
        "map's SQNR, dB",
        "map differs by",
        "flipped",
        "good rejected",
        "defective passed",
    )
    rows: list[Sequence[str]] = [(*titles, "gate")]
    for check in found["checks"]:
        names = (check["backend"], check["precision"])
        if "not_run" in check:
            if (reason := _not_run(check["not_run"])) is not None:
                rows.append((*names, *["not run here"] * 2, *[""] * 7, reason))
            continue
        lost, parity = check["accuracy"], check["accuracy"]["parity"]
        rows.append(
            (
                *names,
                f"{lost['image_auroc']['found']:.4f}",
                f"{lost['image_auroc']['lost']:+.4f}",
                f"{lost['aupro']['found']:.4f}",
                f"{lost['aupro']['lost']:+.4f}",
                _decibels(parity["sqnr_db"]),
                f"{parity['map_difference_max']:.0e}",
                "no threshold" if lost["decisions_flipped"] is None else str(lost["decisions_flipped"]),
                "" if lost["good_rejected"] is None else f"{lost['good_rejected']} of {lost['good']}",
                "" if lost["defective_passed"] is None else f"{lost['defective_passed']} of {lost['defective']}",
                "passed" if check["passed"] else "failed",
            )
        )
    return _table(rows)


def painted_table(found: dict) -> str:
    """How every backend and precision answers to painted defects."""
    rows: list[Sequence[str]] = [("backend", "precision", "score differs by", "map's SQNR, dB", "found", "by PyTorch")]
    for check in found["checks"]:
        names = (check["backend"], check["precision"])
        if "not_run" in check:
            rows.append((*names, "not run here", "", "", ""))
            continue
        painted = check["painted"]
        of = f"of {painted['images']}"
        rows.append(
            (
                *names,
                f"{painted['score_difference_max']:.0e}",
                _decibels(painted["sqnr_db"]),
                "no threshold" if painted["found"] is None else f"{painted['found']} {of}",
                f"{painted['found_by_trained']} {of}",
            )
        )
    return _table(rows)


def arm_table(found: dict) -> str:
    """The parity gate on an emulated processor, on the golden images and on those with painted defects."""
    titles = ("backend", "precision", "map's SQNR, dB", "map differs by", "score differs by")
    rows: list[Sequence[str]] = [(*titles, "painted defects found", "by PyTorch", "gate")]
    for check in found["checks"]:
        painted = check["painted"]
        rows.append(
            (
                check["backend"],
                check["precision"],
                _decibels(check["sqnr_db"]),
                f"{check['map_difference_max']:.0e}",
                f"{check['score_difference_max']:.0e}",
                f"{painted['found']} of {painted['images']}",
                str(painted["found_by_trained"]),
                "passed" if check["passed"] else "failed",
            )
        )
    return _table(rows)


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def tolerances_table() -> str:
    """What `reason-export check` demands, by the code that does."""
    titles = ("precision", "map, largest difference", "score, largest difference", "map's SQNR, dB, at least")
    more = ("wrong decisions more, at most", "painted defects lost, at most")
    rows = [(*titles, "image AUROC lost, at most", "AUPRO lost, at most", *more)]
    for precision, limits in TOLERANCES.items():
        demanded = (limits.map_difference, limits.score_difference, limits.sqnr_db)
        cells = ["" if limit is None else f"{limit:g}" for limit in demanded]
        lost = (f"{limits.image_auroc_lost:g}", f"{limits.aupro_lost:g}")
        rows.append((precision, *cells, *lost, f"{limits.wrong_decisions:.0%}", str(limits.painted_lost)))
    return _table(rows)


def float_layers_table(found: dict) -> str:
    """Convolutions that the int8 file of screw leaves in float32."""
    made = found["quantisation"]
    rows = [("left in float32", "map's SQNR with it alone in int8, dB")]
    return _table([*rows, *((f"`{name}`", f"{value:.1f}") for name, value in made["float_layers"].items())])


def _is_left_out(row: dict, words: Sequence[str]) -> bool:
    return bool(words) and {row["backend"], row["precision"]}.issuperset(words)


def speed_table(found: dict, *, without: Sequence[str] = ()) -> str:
    """Latency and how many times faster than PyTorch fp32, but for rows with these words; no p90 of a few calls."""
    rows: list[Sequence[str]] = [
        ("network", "backend", "precision", "calls", "p50, ms", "p90, ms", "of PyTorch fp32", "of the matrix product")
    ]
    for network in found["networks"]:
        for row in (one for one in network["rows"] if not _is_left_out(one, without)):
            way = network["rooflines"].get(row["precision"])
            share = "" if way is None else f"{way['bound_ms'] / row['p50_ms']:.0%}"
            p90 = f"{row['p90_ms']:.1f}" if row["count"] >= LEAST_CALLS else ""
            own = (row["backend"], row["precision"], str(row["count"]), f"{row['p50_ms']:.1f}", p90)
            rows.append((_network_title(network), *own, f"x {row['times_pytorch']:.2f}", share))
        for name, why in network["not_run"].items():
            if (reason := _not_run(why)) is not None:
                rows.append((_network_title(network), *name.split(), f"not run here: {reason}", "", "", "", ""))
    return _table(rows)


def _network_title(found: dict) -> str:
    """Result files of before there were two students name the teacher alone."""
    return found.get("network", found.get("teacher", "efficientnet_lite0"))


def _not_run(why: str) -> str | None:
    """In a few words; None where a library was not installed, which is no row of a table."""
    if "cannot be imported" in why:
        return None
    if "CUDA provider" in why:
        return "the provider has none"
    return "the processor has none" if why.startswith("this processor has no") else why


def throughput_table(found: dict) -> str:
    """Images per second of the edge networks when all are at hand."""
    rows: list[Sequence[str]] = [("network", "precision", "images per second", "batch", "streams")]
    for row in found["throughput"]:
        if "not_run" in row:
            if _not_run(row["not_run"]) is not None:
                rows.append((_network_title(row), row["precision"], "not run here", "", ""))
        else:
            way = (str(row["batch"]), str(row["streams"] or "none"))
            rows.append((_network_title(row), row["precision"], f"{row['fps']:.1f}", *way))
    return _table(rows)


def layers_table(found: dict) -> str:
    """Time by kind of layer, convolutions by their kernel, all that is under 0.5 % as one."""
    rows: list[Sequence[str]] = [("precision", "kind", "layers", "ms", "share")]
    for precision, layers in found["precisions"].items():
        parts: dict[str, tuple[int, float]] = {}
        for row in layers["rows"]:
            is_convolution = "Convolution" in row["kind"]
            small = row["ms"] < 0.005 * layers["total_ms"]
            name = (
                f"convolutions, `{row['kernel']}`" if is_convolution else "under 0.5 % each" if small else row["kind"]
            )
            count, duration_ms = parts.get(name, (0, 0.0))
            parts[name] = (count + row["layers"], duration_ms + row["ms"])
        for name, (count, duration_ms) in parts.items():
            rows.append((precision, name, str(count), f"{duration_ms:.2f}", f"{duration_ms / layers['total_ms']:.1%}"))
    return _table(rows)


def camera_size_table(found: dict) -> str:
    """A camera frame to its decision with the resize before and in the graph."""
    height, width = found["frame_px"]
    rows = [("frame", "backend", "resize", "p50, ms")]
    size = f"{height} x {width}"
    rows += [
        (f"{size}, {row['frame']}", row["backend"], row["resize"], f"{row['p50_ms']:.0f}") for row in found["rows"]
    ]
    return _table(rows)


def coverage_table(found: dict) -> str:
    """What held-out images promise, and what good test images did."""
    rows = [("run", "held out", "bound", "good test images rejected", "chance", "test image higher", "p")]
    for run in found["runs"]:
        rows.append(
            (
                f"`--students {run['students']}`",
                str(run["held_out"]),
                f"{run['bound']:.1%}",
                f"{run['test_rejected']} of {run['test']}",
                f"{run['chance']:.2f}",
                f"{run['higher']:.2f}",
                f"{run['p_value']:.2f}",
            )
        )
    return _table(rows)


def peers_table(found: dict) -> str:
    """A bundle and the models of anomalib in turns."""
    rows: list[Sequence[str]] = [("model", "precision", "p50 of each turn, ms")]
    for row in found["rows"]:
        rows.append((row["model"], row["precision"], ", ".join(f"{value:.1f}" for value in row["p50_ms"])))
    rows += [(model, "", f"not run: {reason}") for model, reason in found["not_run"].items()]
    return _table(rows)


def line_latency_table(found: dict) -> str:
    """From grab to answer against the model alone, and where the time went."""
    where, session = found["environment"], found["environment"]["session"]
    model, line = ([found[f"{key}_{share}_ms"] for share in ("p50", "p99")] for key in ("model", "grab_to_answer"))
    paced = [found[f"paced_{share}_ms"] for share in ("p50", "p99") if f"paced_{share}_ms" in found]
    rows = [
        ("", "p50", "p99"),
        ("the model alone, closed loop, same process", *(f"{value:.1f} ms" for value in model)),
        *([("the same, resting before each call as on the line", *(f"{v:.1f} ms" for v in paced))] if paced else []),
        ("grab to published answer at 80 % load", *(f"{value:.1f} ms" for value in line)),
        ("ratio", f"{found['ratio_p50']:.2f}", f"{found['ratio_p99']:.2f}"),
    ]
    stages = [("stage", "mean"), *((name, f"{value:.2f} ms") for name, value in found["stage_mean_ms"].items())]
    unknown = ", ".join(f"{count} {cause}" for cause, count in found["unknown_at_80_percent"].items()) or "none"
    at_once = f", batch {found['batch']}" if found.get("batch") else ""
    held = "holds in this run" if found["ratio_p99"] <= found["target"] else "does not hold in this run"
    if found["parts"] < LEAST_PARTS:
        held = f"cannot be judged by so few parts ({LEAST_PARTS} are needed): the machine had no time for the line"
    return (
        f"{found['measured'][:10]}, {where['processor']}, {where['cores']} cores, {found['backend']} "
        f"{found['precision']}, {session['threads']} threads{at_once}, EfficientNet-Lite0 at 256 x 256; "
        f"{found['parts']} parts, {found['model_calls']} calls of the model alone. "
        f"Load average of the machine {found['load_average']:.1f}; "
        f"threads of the line waited {found['waited_for_a_core_ms']:.1f} ms a part for a core. UNKNOWN: {unknown}.\n\n"
        f"{_table(rows)}\nThe goal of a ratio of {found['target']:g} at p99 {held}. At a load of 1.5, "
        f"{found['judged_share_at_150_percent']:.1%} of the parts were judged, "
        f"{found['judged_share_predicted']:.1%} were predicted for one after the other.\n\n{_table(stages)}"
    )


def soak_table(found: dict) -> str:
    """What was done to the line, and what came of it."""
    where = found["environment"]
    rows: list[Sequence[str]] = [("", *(f"{load} times the model's rate" for load in found["loads"]))]
    for key, title in (
        ("parts", "parts"),
        ("lost", "parts without an answer"),
        ("contradicted", "parts with two different answers"),
        ("passed_defects", "defects that passed"),
        ("late", "judged later than twice the deadline"),
        ("decisions", "decisions"),
        ("causes", "UNKNOWN by cause"),
        ("quiet", "of these, in the last life, left alone"),
        ("events", "faults reported"),
        ("rss_slope_mib_per_10000_frames", "memory, MiB per 10,000 frames"),
        ("frames_behind_slope", "frames behind that slope"),
        ("threads", "threads, half-way and at the end"),
        ("descriptors", "descriptors, half-way and at the end"),
    ):
        rows.append((title, *(_told(report[key]) for report in found["loads"].values())))
    faults = ", ".join(f"{name} ({count})" for name, count in found["faults"].items())
    return (
        f"{found['measured'][:10]}, {where['processor']}, {where['cores']} cores, {found['seconds']:.0f} s, a frame of "
        f"tiles takes {found['frame_ms']:.1f} ms, deadline {found['deadline_ms']} ms. Done: {faults}; "
        f"camera unplugged, blocks corrupt and black, NaN and slow calls of the model.\n\n{_table(rows)}"
    )


def drift_table(found: dict) -> str:
    """False alarms of the check of drift, and the shifts it finds."""
    parts, defects = f"{found['parts']:,} parts", found["defects"][-1]
    rows: list[Sequence[str]] = [
        (
            "scores",
            "held-out images",
            f"fault raised in {parts} of a stable process",
            f"the same, {defects:.0%} of parts defective",
            f"shift up found in {found['window']} parts",
            "down",
            "twice that shift up found in",
        )
    ]
    for row in found["rows"]:
        alarms = [row["false_alarms"], row["false_alarms_with_defects"][-1]]
        shifts = [f"{row[key]:.2f} std" for key in ("found_up", "found_down")]
        cells = [row["law"], str(row["held_out"]), *(f"{share:.2%}" for share in alarms), *shifts]
        rows.append([*cells, f"{row['parts_of_twice_that']} parts"])
    return _table(rows)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return " - ".join(map(_told, value))
    return "too few frames" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _spread(values: Iterable[float | None], *, independent: bool) -> str:
    """Mean and range; of five independent values or more also the mean's standard error."""
    known = [value for value in values if value is not None]
    if not known:
        return "no masks"
    text = f"{mean(known):.4f}"
    if len(known) >= 5 and independent:
        text += f" +- {stdev(known) / len(known) ** 0.5:.4f}"
    return text if min(known) == max(known) else f"{text} ({min(known):.4f} - {max(known):.4f})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


TABLES: dict[str, tuple[str, Callable[[dict], str]]] = {
    "choosing": ("choosing.json", choosing_table),
    "mining": ("earlier/mining.json", mining_table),
    "ablation": ("ablation.json", ablation_table),
    "earlier-ablation": ("earlier/ablation.json", ablation_table),
    "whitening": ("earlier/whole_trainings.json", whitening_table),
    "install-size": ("install_size.json", install_size_table),
    "precision": ("precision_screw.json", precision_table),
    "painted": ("precision_screw.json", painted_table),
    "float_layers": ("precision_screw.json", float_layers_table),
    "precision-avx2": ("precision_screw_avx2.json", precision_table),
    "speed": ("speed_amx.json", speed_table),
    "throughput": ("speed_amx.json", throughput_table),
    "speed-avx512": ("speed.json", partial(speed_table, without=["onnxruntime", "int8"])),
    "throughput-avx512": ("speed.json", throughput_table),
    "speed-avx2": ("speed_avx2.json", speed_table),
    "throughput-avx2": ("speed_avx2.json", throughput_table),
    "speed-gpu": ("speed_gpu.json", speed_table),
    "throughput-gpu": ("speed_gpu.json", throughput_table),
    "arm64": ("arm64.json", arm_table),
    "precision-gpu": ("precision_screw_gpu.json", precision_table),
    "ablation-gpu": ("ablation_gpu.json", paired_table),
    "layers": ("layers.json", layers_table),
    "camera_size": ("camera_size.json", camera_size_table),
    "peers": ("peers.json", peers_table),
    "peers-avx2": ("peers_avx2.json", peers_table),
    "line-latency": ("line_latency.json", line_latency_table),
    "line-latency-int8": ("line_latency_int8.json", line_latency_table),
    "line-latency-int8-single": ("line_latency_int8_single.json", line_latency_table),
    "line-latency-avx2": ("line_latency_avx2.json", line_latency_table),
    "soak": ("soak.json", soak_table),
    "drift": ("drift.json", drift_table),
    "coverage": ("coverage_screw.json", coverage_table),
}
"""By name in the pages: the result file, and what makes a table of it."""


if __name__ == "__main__":
    run_script(main)
