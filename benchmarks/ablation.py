"""What each default setting brings: the default with one thing changed, on data that the final tables do not use.

    python benchmarks/ablation.py --data SHARED --photographs PHOTOGRAPHS [--steps 600] [--seeds 2] [--processes 1]

`--steps 0` trains each as long as the default does. `--out` names the result; what is in it already is not run again:
a command that was cut off, or one that asks for more of the same, goes on. Where a set fails no other is begun.
Sets and photographs: `choosing.py`. A memory of teacher patches (`nearest_neighbour.py`) is judged on the same images.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import tempfile
import time
from collections.abc import Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import torch
import typer
from choosing import choosing_sets
from nearest_neighbour import judge_by_memory
from result_file import require_place

from reason_runtime.atomic import write_text
from reason_runtime.entry import run_script
from reason_runtime.errors import ConfigurationError
from reason_train.config import Config, DeviceName, MethodConfig, TrainingConfig
from reason_train.datasets import DataSet, Sample, read_masks
from reason_train.device import find_device, multiplies_bf16
from reason_train.evaluation import Evaluation, evaluate_scores
from reason_train.fit import fit
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.plan import split
from reason_train.presets import Choices, resolve
from reason_train.run import library_versions
from reason_train.schedule import total_steps
from reason_train.teacher_weights import load_teacher
from reason_train.trained import input_format, judge
from reason_train.whitening import measure_maps

Change = tuple[dict[str, object], dict[str, object]]
"""Changes to the method's settings, and to the training's."""

HEAD = ("map_balance", "map_sigma_px", "score_exponent")
"""Settings that come after training: variants of these alone judge the default's own model anew."""

MEMORY = "nearest of 20000 teacher patches"
"""Not a variant of the method: what the same teacher does without a student."""

VARIANTS: dict[str, Change] = {
    "default": ({}, {}),
    "one student": ({"students": 1}, {}),
    "score: maximum, as published": ({"score_exponent": None}, {}),
    "score: exponent 8": ({"score_exponent": 8.0}, {}),
    "score: exponent 28": ({"score_exponent": 28.0}, {}),
    "scales as they are, as published": ({"map_balance": 0.0}, {}),
    "scales made equal": ({"map_balance": 1.0}, {}),
    "blur of 3 px": ({"map_sigma_px": 3.0}, {}),
    "rd4ad: no latent noise": ({"method": "rd4ad"}, {}),
    "with published suppression layers, lambda 0.01": ({"suppression_layers": True}, {}),
    "with published suppression layers, lambda 0.1": ({"suppression_layers": True, "suppression_weight": 0.1}, {}),
    "published noise and suppression: stem, 0.015": (
        {"suppression_layers": True, "noise_at": "stem", "noise_std": 0.015},
        {},
    ),
    "noise of up to 4 deviations": ({"noise_std": 4.0}, {}),
    "noise at the stem, 0.3": ({"noise_at": "stem", "noise_std": 0.3}, {}),
    "features divided by deviation only": ({"whitening": 0.0}, {}),
    "features whitened with a power of 0.5": ({"whitening": 0.5}, {}),
    "features whitened with a power of 0.75": ({"whitening": 0.75}, {}),
    "features fully whitened": ({"whitening": 1.0}, {}),
    "hard mining of any position": ({"easy_below": None}, {}),
    "no hard mining": ({"easy_share": 0.0}, {}),
    "no views": ({}, {"views": 0}),
    "batch 8, half the steps": ({}, {"batch_size": 8, "halved": True}),
    "batch 2, twice the steps": ({}, {"batch_size": 2, "doubled": True}),
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with `screw` and `alien`.")],
    photographs: Annotated[Path | None, typer.Option(help="Where `choosing.py`'s packages were unpacked.")] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps of every variant; 0: as many as the default takes.")
    ] = 600,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a variant.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Data sets.", show_default="all")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Variants.", show_default="all")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Data sets at a time, each on its share of the cores.")] = 1,
    device: Annotated[DeviceName, typer.Option(help="Where to train and judge.")] = "cpu",
    out: Annotated[Path, typer.Option(help="JSON result; rows already in it are kept.")] = Path("ablation.json"),
) -> None:
    """Train every variant on every set."""
    require_place(out)
    chosen = [*(f"--only={name}" for name in only or []), *(f"--variant={title}" for title in variant or [])]
    chosen += [f"--device={device}"] if device != "cpu" else []
    words = ["python", "benchmarks/ablation.py", "--data", "SHARED", "--photographs", "PHOTOGRAPHS"]
    command = shlex.join([*words, "--steps", str(steps), "--seeds", str(seeds), *chosen])
    sets = list(choosing_sets(data, photographs, Path()))  # by name; nothing is written before a set is made
    for asked, known in ((only or [], sets), (variant or [], [*VARIANTS, MEMORY])):
        if unknown := [name for name in asked if name not in known]:
            raise typer.BadParameter(f"{unknown[0]!r} is not one of {'; '.join(known)}")
    wanted = {
        (name, title, seed)
        for name in only or sets
        for title in variant or [*VARIANTS, MEMORY]
        for seed in range(seeds)
    }
    rows = kept_rows(out, steps=steps, device=device, wanted=wanted)
    done = {(row["data"], row["variant"], row["seed"]) for row in rows}
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        tasks = (
            (name, titles, seed)
            for seed in range(seeds)
            for name in only or sets
            if (titles := [t for t in variant or [*VARIANTS, MEMORY] if (name, t, seed) not in done])
        )

        def begun(count: int) -> set[Future]:
            return {
                pool.submit(
                    _rows_of, name, titles, data=data, photographs=photographs, seed=seed, steps=steps, device=device
                )
                for name, titles, seed in islice(tasks, count)
            }

        running, failures = begun(processes), []
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for task in ended:
                if (failure := task.exception()) is not None:
                    failures.append(failure)
                    continue
                rows += task.result()
                content = {"command": command, "libraries": library_versions(), "rows": rows}
                write_text(out, json.dumps(content, indent=1) + "\n")
            if not failures:
                running |= begun(len(ended))
    if failures:
        raise failures[0]


def kept_rows(out: Path, *, steps: int, device: DeviceName, wanted: Set[tuple[str, str, int]]) -> list[dict]:
    """The rows of an earlier command, where the one that is written down now would make all of them.

    Raises:
        ConfigurationError: It would not.
    """
    if not out.is_file():
        return []
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        words = shlex.split(found["command"])
        before = words[words.index("--steps") + 1], _device_of(words), found["libraries"]
        there = {(row["data"], row["variant"], row["seed"]) for row in found["rows"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{out}: is no result of this script; name another --out") from error
    if before != (str(steps), device, library_versions()) or not there <= wanted:
        raise ConfigurationError(
            f"{out}: was made by `{found['command']}`; a result file holds rows of one number of steps, one device and "
            "the same versions of libraries, and what it has must be asked for again: name another --out"
        )
    return found["rows"]


def _device_of(words: Sequence[str]) -> str:
    return next((word.removeprefix("--device=") for word in words if word.startswith("--device=")), "cpu")


def _rows_of(
    name: str,
    titles: Sequence[str],
    *,
    data: Path,
    photographs: Path | None,
    seed: int,
    steps: int,
    device: DeviceName,
) -> list[dict[str, object]]:
    """Variants on one set with one seed."""
    rows, where = [], find_device(device)
    with tempfile.TemporaryDirectory() as folder:
        dataset, samples = choosing_sets(data, photographs, Path(folder))[name]()
        for title in sorted(titles, key=lambda each: each != "default"):  # whose model those of its head take
            figures = _run(dataset, samples, title, seed=seed, steps=steps, folder=Path(folder), device=where)
            rows.append({"data": name, "variant": title, "seed": seed, **figures})
            print(name, title, seed, figures, flush=True)
    return rows


def _run(
    dataset: DataSet,
    samples: tuple[Sample, ...],
    title: str,
    *,
    seed: int,
    steps: int,
    folder: Path,
    device: torch.device,
) -> dict[str, object]:
    """One variant; `folder` is of this set and seed, and keeps the default's model for the variants of its head."""
    images = split(dataset, held_out_share=0.2, seed=0).train
    if title == MEMORY:
        judged_so = judge_by_memory(images, samples, seed=seed)
        return _figures(judged_so.evaluation, seconds=judged_so.seconds)
    steps = steps or total_steps(_default(seed=seed, steps=None, device=device).training, images=len(images))
    config = _configured(title, seed=seed, steps=steps, device=device)
    store = ImageStore(images, input_format=input_format(config.method), seed=seed)
    kept = folder / "default.pt"
    method_changes, training_changes = VARIANTS[title]
    torch.manual_seed(seed)
    model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher))
    started = time.perf_counter()
    if kept.is_file() and set(method_changes) <= set(HEAD) and not training_changes:
        model.load_state_dict(torch.load(kept, weights_only=True, map_location="cpu"))
        model.to(device)
        for k in range(len(model.teacher.shape.channels)):
            model.head.get_buffer(f"weight_{k}").fill_(1.0)
        measure_maps(model.eval(), store, device=device)
    else:
        run = folder / "run"
        run.mkdir(exist_ok=True)
        fit(model, config, store=store, run=run, device=device, checkpoint_seconds=1e9)
    if title == "default":
        torch.save(model.state_dict(), kept)
    seconds = time.perf_counter() - started
    shown = ImageStore([sample.path for sample in samples], input_format=input_format(config.method))
    judged = judge(model, shown, device=device)
    masks = read_masks(samples, size_px=config.method.image_size_px)
    figures = _figures(evaluate_scores(samples, judged.scores, maps=judged.maps, masks=masks), seconds=seconds)
    return {"steps": steps, **figures, **model.measured()}


def _figures(evaluation: Evaluation, *, seconds: float) -> dict[str, object]:
    facts = evaluation.to_json()
    return {**{key: facts[key] for key in ("image_auroc", "pixel_auroc", "aupro")}, "seconds": seconds}


def _default(*, seed: int, steps: int | None, device: torch.device) -> Config:
    return resolve(Choices(seed=seed, steps=steps), dataset="", bf16_is_fast=multiplies_bf16(device))


def _configured(title: str, *, seed: int, steps: int, device: torch.device) -> Config:
    method_changes, training_changes = VARIANTS[title]
    config = _default(seed=seed, steps=steps, device=device)
    changes = dict(training_changes)
    if changes.pop("halved", False):
        changes["steps"] = steps // 2
    if changes.pop("doubled", False):
        changes["steps"] = steps * 2
    method: MethodConfig = dataclasses.replace(config.method, **method_changes)
    training: TrainingConfig = dataclasses.replace(config.training, **changes)
    return dataclasses.replace(config, method=method, training=training)


if __name__ == "__main__":
    run_script(main)
