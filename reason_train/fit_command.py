"""`reason-train fit`: options in, a training called, its facts out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from reason_train import options
from reason_train.config import EDGE_TEACHER, PAPER_TEACHER
from reason_train.threshold_text import print_highest, print_threshold, run_highest

if TYPE_CHECKING:
    from reason_train.training_run import Finished


def fit(
    data: options.Data,
    out: options.OutFolder,
    teacher: options.FitTeacher = None,
    preset: options.PresetOption = None,
    method: options.MethodOption = None,
    category: options.CategoryOrAll = None,
    dataset: options.Dataset = None,
    teacher_weights: options.TeacherWeights = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    views: options.Views = None,
    learning_rate: options.LearningRate = None,
    image_size: options.ImageSize = None,
    crop_from: options.CropFrom = None,
    crop: options.CropOption = None,
    black_level: options.BlackLevel = None,
    white_level: options.WhiteLevel = None,
    tile: options.Tile = None,
    students: options.Students = None,
    suppression_layers: options.SuppressionLayers = None,
    suppression_target: options.Target = None,
    suppression_weight: options.SuppressionWeight = None,
    noise_std: options.NoiseStd = None,
    held_out: options.HeldOut = None,
    roi: options.RoiOption = None,
    ignore_mask: options.IgnoreMask = None,
    bf16: options.Bf16 = None,
    seed: options.Seed = None,
    paper_protocol: options.PaperProtocol = False,
    device: options.Device = "auto",
    resume: options.Resume = False,
    cache_mib: options.CacheMib = 4096,
    checkpoint_seconds: options.CheckpointSeconds = 60.0,
    as_json: options.Json = False,
) -> None:
    """Train on good images, set a threshold from held-out ones. Test images are never read, but by --paper-protocol."""
    from reason_train.all_categories import ALL, load_categories
    from reason_train.datasets import load_dataset
    from reason_train.device import find_device
    from reason_train.presets import Choices
    from reason_train.progress import training_bar
    from reason_train.ranks import joined_ranks
    from reason_train.region import mask_sha256, parse_crop, parse_roi
    from reason_train.training_run import check, train

    # fmt: off
    choices = Choices(
        teacher=teacher or (PAPER_TEACHER if preset == "paper" else EDGE_TEACHER), preset=preset, method=method,
        image_size_px=image_size, crop_from_px=crop_from, tile_px=tile,
        crop_px=parse_crop(crop) if crop is not None else None, black_level=black_level, white_level=white_level,
        students=students, suppression_layers=suppression_layers, views=views,
        suppression_target=suppression_target, suppression_weight=suppression_weight, noise_std=noise_std,
        epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate, held_out_share=held_out,
        bf16=bf16, seed=seed, roi=parse_roi(roi) if roi is not None else None, paper_protocol=paper_protocol,
        ignore_mask_sha256=mask_sha256(ignore_mask) if ignore_mask is not None else None,
    )
    # fmt: on
    every = category == ALL
    with joined_ranks(find_device(device)) as (ranks, where):
        if every:
            found = {out / name: part for name, part in load_categories(data, layout=dataset).items()}
        else:
            found = {out: load_dataset(data, layout=dataset, category=category)}
        facts = []
        for folder, images in found.items() if every and ranks.is_first else ():
            check(
                images,
                choices,
                out=folder,
                device=where,
                teacher_weights=teacher_weights,
                resume=resume,
                keep_finished=every,
            )
        for folder, images in found.items():
            with training_bar(shown=ranks.is_first) as bar:
                finished = train(
                    images,
                    choices,
                    out=folder,
                    device=where,
                    teacher_weights=teacher_weights,
                    ignore_mask=ignore_mask,
                    resume=resume,
                    keep_finished=every,
                    cache_mib=cache_mib,
                    checkpoint_seconds=checkpoint_seconds,
                    announce=bar.start,
                    say=bar.say,
                    report=bar.update,
                    ranks=ranks,
                )
            facts.append(_facts(folder, finished, seconds=bar.seconds))
            if ranks.is_first and not as_json:
                _print_finished(folder, finished, seconds=bar.seconds)
        if ranks.is_first and as_json:
            print(json.dumps({"runs": facts} if every else facts[0]))


def _facts(folder: Path, finished: Finished, *, seconds: float) -> dict[str, object]:
    return {
        "run": str(folder),
        "images": len(finished.run.train),
        "held_out": len(finished.run.held_out),
        "copies_left_out": finished.copies,
        "tiles": finished.tiles,
        "steps": finished.steps,
        "seconds": seconds,
        "was_there": finished.was_there,
        "timing": dataclasses.asdict(finished.timing) if finished.timing else None,
        "paper_protocol": finished.run.config.protocol_note,
        "threshold": dataclasses.asdict(finished.threshold) if finished.threshold else None,
        "highest_held_out": run_highest(folder, threshold=finished.threshold.value) if finished.threshold else None,
    }


def _print_finished(folder: Path, finished: Finished, *, seconds: float) -> None:
    if finished.was_there:
        print(f"{folder}: was finished before, left as it is")
        return
    images, kept = len(finished.run.train), len(finished.run.held_out)
    tiles = "" if finished.tiles is None else f" in {finished.tiles} tiles"
    print(f"{folder}: {finished.steps} steps on {images} good images{tiles} in {seconds:.0f} s, {kept} held out")
    if finished.copies:
        print(f"{finished.copies} more were to be held out; they are copies of other images and were left out")
    if finished.timing is not None:
        print(finished.timing.text())
    if finished.run.config.protocol_note is not None:
        print(finished.run.config.protocol_note)
    if finished.threshold is None:
        print("no threshold: set one with reason-train calibrate RUN --data DIR")
    else:
        print_threshold(finished.threshold, tile_px=finished.run.config.training.tile_px, training_known=True)
        print_highest(run_highest(folder, threshold=finished.threshold.value))
