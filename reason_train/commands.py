"""`reason-train`: train on good parts, judge, calibrate, import."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason_runtime.entry import new_app, run
from reason_train import options

if TYPE_CHECKING:
    from reason_runtime.manifest import Threshold
    from reason_train.evaluation import Evaluation

app = new_app("Train REASON on images of good parts; judge, calibrate and import models.")


@app.command()
def fit(
    data: options.Data,
    out: options.OutFolder,
    teacher: options.TeacherOption = "efficientnet_lite0",
    preset: options.PresetOption = None,
    method: options.MethodOption = None,
    category: options.Category = None,
    dataset: options.Dataset = None,
    teacher_weights: options.TeacherWeights = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    views: options.Views = None,
    learning_rate: options.LearningRate = None,
    image_size: options.ImageSize = None,
    crop_from: options.CropFrom = None,
    suppression_layers: options.SuppressionLayers = None,
    suppression_target: options.Target = None,
    suppression_weight: options.SuppressionWeight = None,
    noise_std: options.NoiseStd = None,
    held_out: options.HeldOut = None,
    roi: options.RoiOption = None,
    ignore_mask: options.IgnoreMask = None,
    bf16: options.Bf16 = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    resume: options.Resume = False,
    cache_mib: options.CacheMib = 4096,
    checkpoint_seconds: options.CheckpointSeconds = 60.0,
    as_json: options.Json = False,
) -> None:
    """Train on good images and set a threshold from held-out ones. Test images are never read."""
    from reason_train.datasets import load_dataset
    from reason_train.device import find_device
    from reason_train.presets import Choices
    from reason_train.progress import training_bar
    from reason_train.region import mask_sha256, parse_roi
    from reason_train.training_run import train

    # fmt: off
    choices = Choices(
        teacher=teacher, preset=preset, method=method, image_size_px=image_size, crop_from_px=crop_from,
        suppression_layers=suppression_layers, views=views,
        suppression_target=suppression_target, suppression_weight=suppression_weight, noise_std=noise_std,
        epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate, held_out_share=held_out,
        bf16=bf16, seed=seed, roi=parse_roi(roi) if roi is not None else None,
        ignore_mask_sha256=mask_sha256(ignore_mask) if ignore_mask is not None else None,
    )
    # fmt: on
    where = find_device(device)
    found = load_dataset(data, layout=dataset, category=category)
    with training_bar() as bar:
        finished = train(
            found,
            choices,
            out=out,
            device=where,
            teacher_weights=teacher_weights,
            ignore_mask=ignore_mask,
            resume=resume,
            cache_mib=cache_mib,
            checkpoint_seconds=checkpoint_seconds,
            announce=bar.start,
            report=bar.update,
        )
    images, kept = len(finished.run.train), len(finished.run.held_out)
    facts = {"run": str(out), "images": images, "held_out": kept, "steps": finished.steps, "seconds": bar.seconds}
    if as_json:
        threshold = dataclasses.asdict(finished.threshold) if finished.threshold else None
        print(json.dumps({**facts, "threshold": threshold}))
        return
    print(f"{out}: {finished.steps} steps on {images} good images in {bar.seconds:.0f} s, {kept} held out")
    if finished.threshold is None:
        print("no threshold: set one with reason-train calibrate RUN --data DIR")
    else:
        _print_threshold(finished.threshold)


@app.command()
def evaluate(
    run_folder: options.RunFolder,
    data: options.Data,
    category: options.Category = None,
    dataset: options.Dataset = None,
    device: options.Device = "auto",
    report: options.Report = None,
    as_json: options.Json = False,
) -> None:
    """Judge the test images of a data set: AUROC, AUPRO, F1, for each kind of defect too."""
    from reason_train.calibrate import read_threshold
    from reason_train.datasets import load_dataset
    from reason_train.device import find_device
    from reason_train.evaluate import evaluate as judge_all
    from reason_train.evaluate import report_settings
    from reason_train.progress import image_bar

    found = load_dataset(data, layout=dataset, category=category)
    with image_bar("judging", total=len(found.test)) as bar:
        result = judge_all(
            run_folder, found, device=find_device(device), keep_maps=report is not None, progress=bar.advance
        )
    facts = {"run": str(run_folder), "data": found.name, **result.evaluation.to_json()}
    if report is not None:
        from reason_train.report import write_report
        from reason_train.trained import input_format

        page = write_report(
            report,
            title=found.name,
            evaluation=result.evaluation,
            samples=result.samples,
            scores=result.judgement.scores,
            threshold=read_threshold(run_folder),
            maps=result.judgement.maps,
            masks=result.masks,
            input_format=input_format(result.run.config.method),
            settings=report_settings(result.run),
        )
        facts["report"] = str(page)
    if as_json:
        print(json.dumps(facts))
        return
    _print_evaluation(result.evaluation)
    if report is not None:
        print(f"report: {facts['report']}")


@app.command()
def calibrate(
    run_folder: options.RunFolder,
    data: options.Data,
    false_reject_rate: options.FalseRejectRate = 0.01,
    require_bound: options.RequireBound = False,
    category: options.Category = None,
    dataset: options.Dataset = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Set the threshold from good images that were not trained on; those that were are left out by content."""
    from reason_train.calibrate import calibrate as set_threshold
    from reason_train.calibrate import unseen
    from reason_train.datasets import load_dataset
    from reason_train.device import find_device
    from reason_train.image_store import ImageStore
    from reason_train.progress import image_bar
    from reason_train.trained import input_format, load_run

    found = load_dataset(data, layout=dataset, category=category)
    trained, model = load_run(run_folder)
    paths = unseen(trained, found)
    with image_bar("scoring", total=len(paths)) as bar:
        threshold = set_threshold(
            run_folder,
            model,
            ImageStore(paths, input_format=input_format(trained.config.method)),
            names=[path.relative_to(found.root).as_posix() for path in paths],
            device=find_device(device),
            false_reject_rate=false_reject_rate,
            progress=bar.advance,
        )
    if as_json:
        print(json.dumps(_threshold_facts(threshold)))
    else:
        _print_threshold(threshold)
    if require_bound and threshold.false_reject_upper_bound > false_reject_rate:
        print("error: the wanted false-reject rate cannot be promised with these images", file=sys.stderr)
        raise typer.Exit(1)


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT.pth", help="Published REASON checkpoint.")],
    out: options.OutFolder,
    teacher: options.TeacherOption = "wide_resnet50_2",
    teacher_weights: options.TeacherWeights = None,
    as_json: options.Json = False,
) -> None:
    """Make a run from a published checkpoint. It has no threshold until it is calibrated."""
    from reason_train.import_checkpoint import import_checkpoint

    import_checkpoint(checkpoint, teacher=teacher, out=out, teacher_weights=teacher_weights)
    if as_json:
        print(json.dumps({"run": str(out), "teacher": teacher, "threshold": None}))
    else:
        print(f"{out}: imported; set a threshold with reason-train calibrate {out} --data DIR")


def _threshold_facts(threshold: Threshold) -> dict[str, object]:
    from reason_train.calibration import images_needed

    needed = images_needed(threshold.target_false_reject_rate)
    kept = threshold.false_reject_upper_bound <= threshold.target_false_reject_rate
    return {**dataclasses.asdict(threshold), "images_needed": needed, "bound_kept": kept}


def _print_threshold(threshold: Threshold) -> None:
    facts = _threshold_facts(threshold)
    print(f"threshold {threshold.value:.6g} from {threshold.images} good images, {threshold.rejected} of them rejected")
    print(f"false rejects: at most {threshold.false_reject_upper_bound:.2%} with 95 % confidence", end="")
    wanted = threshold.target_false_reject_rate
    print("" if facts["bound_kept"] else f"; promising {wanted:.2%} takes {facts['images_needed']} good images")


def _print_evaluation(evaluation: Evaluation) -> None:
    facts = evaluation.to_json()
    print(f"{evaluation.good} good, {evaluation.defective} defective test images")
    for key, name in (
        ("image_auroc", "image AUROC"),
        ("pixel_auroc", "pixel AUROC"),
        ("aupro", "AUPRO (FPR <= 0.3)"),
        ("aupro_per_image", "AUPRO per image"),
        ("f1_max", "best F1"),
    ):
        value = facts[key]
        print(f"{name:20}", "no masks" if value is None else f"{value:.4f}")
    for title, parts in (("defect", evaluation.per_defect), ("group", evaluation.per_group)):
        for name, part in parts.items():
            figure = "-" if part.image_auroc is None else f"{part.image_auroc:.4f}"
            print(f"{title} {name:28} image AUROC {figure} ({part.defective} defective)")


def main() -> None:
    """Entry point."""
    run(app)
