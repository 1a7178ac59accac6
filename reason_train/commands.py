"""`reason-train`: train on good parts, judge, calibrate, import."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from reason_runtime.entry import new_app, run
from reason_train import options
from reason_train.evaluate_command import evaluate
from reason_train.fit_command import fit
from reason_train.threshold_text import print_highest, print_threshold, run_highest, threshold_facts

app = new_app("Train REASON on images of good parts; judge, calibrate and import models.")


app.command()(fit)
app.command()(evaluate)


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
    from reason_runtime.alone import alone_in
    from reason_runtime.errors import ConfigurationError
    from reason_train.calibrate import calibrate as set_threshold
    from reason_train.calibrate import calibration_images, unseen
    from reason_train.datasets import load_dataset
    from reason_train.device import find_device
    from reason_train.image_store import unused_levels
    from reason_train.preparation import TAKEN
    from reason_train.progress import image_bar
    from reason_train.trained import load_run

    found = load_dataset(data, layout=dataset, category=category)
    trained, model = load_run(run_folder)
    if require_bound and trained.config.training.tile_px is not None:
        raise ConfigurationError(
            f"{run_folder}: was trained on tiles; a bound is of images that are independent, which tiles of one "
            "picture are not, so leave --require-bound out"
        )
    new = unseen(trained, found)
    store = calibration_images(trained, new.paths)
    with alone_in(run_folder, otherwise=TAKEN), image_bar("scoring", total=store.images) as bar:
        threshold = set_threshold(
            run_folder,
            model,
            store,
            entries=new.entries,
            device=find_device(device),
            false_reject_rate=false_reject_rate,
            training_known=trained.training_known,
            require_bound=require_bound,
            progress=bar.advance,
        )
    hint = unused_levels(store.highest_16_bit, input_format=store.input_format)
    if hint is not None:
        print(hint, file=sys.stderr)
    highest, tile_px = run_highest(run_folder, threshold=threshold.value), trained.config.training.tile_px
    if as_json:
        facts = threshold_facts(threshold, tile_px=tile_px, training_known=trained.training_known)
        print(json.dumps({**facts, "copies_left_out": new.copies, "highest_held_out": highest}))
    else:
        if new.copies:
            print(f"{new.copies} good images are copies of others and were left out")
        print_threshold(threshold, tile_px=tile_px, training_known=trained.training_known)
        print_highest(highest)


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT.pth", help="Published REASON checkpoint.")],
    out: options.OutFolder,
    teacher: options.TeacherOption = "wide_resnet50_2",
    teacher_weights: options.TeacherWeights = None,
    trained_on: options.TrainedOn = None,
    black_level: options.BlackLevel = None,
    white_level: options.WhiteLevel = None,
    as_json: options.Json = False,
) -> None:
    """Make a run from a published checkpoint. It has no threshold until it is calibrated."""
    from reason_train.import_checkpoint import import_checkpoint

    made = import_checkpoint(
        checkpoint,
        teacher=teacher,
        out=out,
        teacher_weights=teacher_weights,
        trained_on=trained_on,
        black_level=black_level,
        white_level=white_level,
    )
    if as_json:
        facts = {"run": str(out), "teacher": teacher, "threshold": None, "training_images": len(made.train)}
        print(json.dumps(facts))
    else:
        print(f"{out}: imported; set a threshold with reason-train calibrate {out} --data DIR")
        if not made.training_known:
            print(
                "what it was trained on is not known, so that no bound can be promised; --trained-on DIR says it",
                file=sys.stderr,
            )


def main() -> None:
    """Entry point."""
    run(app, extra="train")
