"""Published REASON checkpoints (`.pth`) become runs that can be evaluated and exported."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from reason_runtime.alone import alone_in
from reason_runtime.atomic import make_folder
from reason_runtime.errors import ConfigurationError, DataError, ReasonError, RunError
from reason_runtime.image import list_images
from reason_train.config import TeacherName, is_lite
from reason_train.model import ReasonModel
from reason_train.preparation import TAKEN, forget_unstarted
from reason_train.presets import Choices, resolve
from reason_train.run import ImageEntry, Run, describe_images, library_versions, write_model, write_run
from reason_train.teacher_weights import load_teacher, read_checkpoint, weights_sha256

PARTS = {"lns_layer": "suppression", "bottleneck": "bottleneck", "decoder": "student"}
"""Key of the published dict -> part of the model."""


def import_checkpoint(
    checkpoint: Path,
    *,
    teacher: TeacherName,
    out: Path,
    teacher_weights: Path | None = None,
    trained_on: Path | None = None,
    black_level: int | None = None,
    white_level: int | None = None,
) -> Run:
    """Write a run from a published checkpoint; it has no threshold until it is calibrated.

    Args:
        checkpoint: A dict of `lns_layer`, `bottleneck` and `decoder`; keys with `memory` in them are dropped.
        teacher: The teacher it was trained with.
        out: The run folder to make.
        teacher_weights: File in place of the published ImageNet weights.
        trained_on: Folder of the good images that the checkpoint was trained on; None where they are not at hand: then
            nobody can tell whether an image was among them.
        black_level: Value of 16-bit images that becomes 0; 0 where none is given.
        white_level: Value of 16-bit images that becomes 255; 65535 where none is given.

    Raises:
        RunError: Not such a checkpoint, tensors of another network, or `out` is not empty.
        ConfigurationError: The teacher is one that no published checkpoint has, the levels are none, or another process
            writes to `out`.
        DataError: The folder of training images holds none.
        ImageError: One of them cannot be read.
    """
    if is_lite(teacher):
        raise ConfigurationError(
            f"{teacher}: published checkpoints have ResNet teachers; name the one it was trained with"
        )
    _require_free(out)
    train = () if trained_on is None else _described(trained_on)
    content = read_checkpoint(checkpoint)
    choices = Choices(teacher=teacher, preset="paper", black_level=black_level, white_level=white_level)
    config = resolve(choices, dataset="mvtec", bf16_is_fast=False)
    model = ReasonModel(config.method, teacher=load_teacher(teacher, weights=teacher_weights))
    for key, part in PARTS.items():
        state = content.get(key)
        if not isinstance(state, dict):
            raise RunError(f"{checkpoint}: has no {key}; expected a dict of {', '.join(PARTS)}")
        _fill(model.get_submodule(part), state, where=f"{checkpoint}: {key}")
    make_folder(out)
    name = checkpoint.name.encode(errors="replace").decode()  # facts of a safetensors file are UTF-8
    run = Run(
        config=config,
        dataset="",
        train=train,
        held_out=(),
        libraries=library_versions(),
        imported_from=name,
        teacher_weights_sha256=None if teacher_weights is None else weights_sha256(teacher_weights),
    )
    with alone_in(out, otherwise=TAKEN):
        _require_free(out)  # as another may have left it
        try:
            write_run(out, run)
            write_model(out, model.state_dict(), facts={"imported_from": name})
        except ReasonError:
            forget_unstarted(out)
            raise
    return run


def _require_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and all(path.name.startswith(".") for path in out.iterdir())):
        raise RunError(f"{out}: exists; choose another --out")


def _described(folder: Path) -> tuple[ImageEntry, ...]:
    paths = list_images(folder)
    if not paths:
        raise DataError(f"{folder}: holds no image; expected the good images that the checkpoint was trained on")
    return describe_images(paths, root=folder)


def _fill(module: nn.Module, state: dict[object, object], *, where: str) -> None:
    """Load one part strictly, naming the first tensor that does not fit."""
    found = {str(key): value for key, value in state.items() if "memory" not in str(key)}
    own = module.state_dict()
    for name in [*own, *found]:
        value = found.get(name)
        if name not in own:
            raise RunError(f"{where}: has an unknown tensor {name}; is it another teacher's checkpoint?")
        if not isinstance(value, Tensor) or value.shape != own[name].shape:
            what = "is missing" if value is None else "has another shape"
            raise RunError(f"{where}: tensor {name} {what}; is it another teacher's checkpoint?")
        if not torch.isfinite(value.float()).all():
            raise RunError(f"{where}: tensor {name} holds values that are not finite")
    module.load_state_dict(found)
