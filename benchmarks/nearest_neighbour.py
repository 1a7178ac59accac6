"""Baseline: a memory of teacher patches, judged by the distance to the nearest one (PatchCore without its coreset).

    python benchmarks/nearest_neighbour.py --data DIR [--patches 20000] [--seed 0] [--out FILE.json]

Uses the very features that the student of the same teacher is trained on: both scales divided by their deviation per
channel, averaged over 3 x 3 neighbours, the coarse one upsampled, concatenated. The memory is a random sample of
patches of the good training images; no test image and no held-out image enters it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from result_file import require_place, write_result
from scipy.ndimage import gaussian_filter
from torch import Tensor

from reason_runtime.entry import run_script
from reason_train.config import MethodConfig, TeacherName
from reason_train.datasets import Sample, load_dataset, read_masks, require_test
from reason_train.evaluation import Evaluation, evaluate_scores
from reason_train.image_store import ImageStore, all_images
from reason_train.model import ReasonModel
from reason_train.plan import split
from reason_train.run import library_versions
from reason_train.teacher_weights import load_teacher
from reason_train.trained import input_format


@torch.no_grad()
def patches(
    model: ReasonModel, store: ImageStore, deviations: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """(images, side, side, C) patch vectors of every image, and the deviations they were divided by."""
    parts = [model.teacher.stages(model.stem(torch.from_numpy(batch))) for batch in all_images(store)]
    scales = [torch.cat(scale) for scale in zip(*parts, strict=True)]
    if deviations is None:
        deviations = [scale.std((0, 2, 3), keepdim=True).clamp_min(1e-4) for scale in scales]
    side = scales[0].shape[-1]
    smooth = [F.avg_pool2d(s / d, 3, stride=1, padding=1) for s, d in zip(scales, deviations, strict=True)]
    grown = [F.interpolate(s, size=(side, side), mode="bilinear", align_corners=False) for s in smooth]
    return torch.cat(grown, dim=1).permute(0, 2, 3, 1), deviations


@torch.no_grad()
def nearest_distance(queries: Tensor, memory: Tensor) -> Tensor:
    """Euclidean distance of each query to its nearest memory vector."""
    return torch.cat([torch.cdist(chunk, memory).amin(1) for chunk in queries.split(1024)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a memory of patches says of test images."""

    evaluation: Evaluation
    patches: int
    memory_mib: float
    seconds: float
    """To make the memory."""


def judge_by_memory(
    train: Sequence[Path],
    samples: Sequence[Sample],
    *,
    teacher: TeacherName = "efficientnet_lite0",
    patches_kept: int = 20_000,
    seed: int = 0,
) -> Judged:
    """Judge test images by their farthest patch from a random sample of the training images' patches."""
    method = MethodConfig(teacher=teacher, method="rd4ad")
    model = ReasonModel(method, teacher=load_teacher(teacher)).eval()
    form = input_format(method)
    started = time.perf_counter()
    vectors, deviations = patches(model, ImageStore(train, input_format=form))
    flat = vectors.flatten(0, 2)
    chosen = np.random.default_rng(seed).choice(len(flat), min(patches_kept, len(flat)), replace=False)
    memory = flat[torch.from_numpy(np.sort(chosen))]
    built = time.perf_counter() - started
    queries, _ = patches(model, ImageStore([s.path for s in samples], input_format=form), deviations)
    distances = torch.stack([nearest_distance(image.flatten(0, 1), memory) for image in queries])
    side = queries.shape[1]
    maps = F.interpolate(distances.view(-1, 1, side, side), size=(method.image_size_px,) * 2, mode="bilinear")[:, 0]
    blurred = np.stack([gaussian_filter(image, 4.0) for image in maps.numpy()])
    masks = read_masks(samples, size_px=method.image_size_px)
    evaluation = evaluate_scores(
        samples, distances.amax(1).numpy(), maps=blurred if masks is not None else None, masks=masks
    )
    return Judged(evaluation=evaluation, patches=len(memory), memory_mib=memory.numel() * 4 / 2**20, seconds=built)


def main(
    data: Annotated[Path, typer.Option(help="Data set folder.")],
    teacher: Annotated[TeacherName, typer.Option(help="Teacher.")] = "efficientnet_lite0",
    category: Annotated[str | None, typer.Option(help="Category inside a root of several.")] = None,
    patches_kept: Annotated[int, typer.Option("--patches", min=1, help="Size of the memory.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the sample and of the split.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON result to write.", show_default="stdout")] = None,
) -> None:
    """Judge a data set's test images by nearest neighbours."""
    require_place(out)
    dataset = load_dataset(data, category=category)
    judged = judge_by_memory(
        split(dataset, held_out_share=0.2, seed=seed).train,
        require_test(dataset),
        teacher=teacher,
        patches_kept=patches_kept,
        seed=seed,
    )
    facts = judged.evaluation.to_json()
    result = {
        "data": dataset.name,
        "method": "nearest neighbour",
        "teacher": teacher,
        "patches": judged.patches,
        "memory_mib": judged.memory_mib,
        "seed": seed,
        "seconds": judged.seconds,
        **{key: facts[key] for key in ("image_auroc", "pixel_auroc", "aupro", "f1_max")},
        "libraries": library_versions(),
        "command": f"python benchmarks/nearest_neighbour.py --data {data.name} "
        f"{f'--category {category} ' if category else ''}--teacher {teacher} --patches {patches_kept} --seed {seed}",
    }
    write_result(out, result)


if __name__ == "__main__":
    run_script(main)
