"""Where training stands, on disk: trained tensors, optimiser state, step; and the log beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from reason_runtime.atomic import reason, write_text
from reason_runtime.errors import ReasonError, RunError, TrainingError
from reason_train.model import ReasonModel
from reason_train.run import read_tensors, write_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What is known after a step; one line of the log."""

    step: int
    epoch: int
    loss: float
    distillation: float
    suppression: float
    learning_rate: float
    seconds: float
    """Since training was started or resumed."""
    reading_s: float
    """This step's wait for images; the first step's lines hold what is done once before it, too."""
    teacher_s: float
    student_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Tensors by name, and facts as text: what a checkpoint holds."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def current_state(model: ReasonModel, optimizer: torch.optim.Optimizer, *, step: int) -> State:
    """All that the next step depends on; the teacher is not part of it."""
    tensors = {f"model.{name}": tensor for name, tensor in trained_tensors(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return State(tensors={name: tensor.detach().cpu() for name, tensor in tensors.items()}, facts={"step": str(step)})


def save_checkpoint(
    path: Path, model: ReasonModel, optimizer: torch.optim.Optimizer, *, step: int, more: State | None = None
) -> None:
    """Write all that the next step depends on, and what is given with it.

    Raises:
        TrainingError: A tensor is not finite: such a state is no good one, and the old checkpoint is kept.
        ReasonError: The system refused to write; the old checkpoint is kept.
    """
    state, more = current_state(model, optimizer, step=step), more or State()
    for name, tensor in state.tensors.items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(
                f"{path.parent}: {name} is not finite after step {step}; {what_is_kept(path)}, "
                "start a new run with a lower --learning-rate, or check the images"
            )
    write_tensors(path, state.tensors | more.tensors, facts=state.facts | more.facts)


def what_is_kept(path: Path) -> str:
    """What a failed training leaves behind, for its message."""
    return "the last good checkpoint is kept" if path.exists() else "there was no checkpoint yet"


def read_checkpoint(path: Path) -> State:
    """What a checkpoint holds.

    Raises:
        RunError: The file cannot be read.
    """
    tensors, facts = read_tensors(path)
    return State(tensors=tensors, facts=facts)


def restore(checkpoint: State, model: ReasonModel, optimizer: torch.optim.Optimizer, *, path: Path) -> int:
    """Put a checkpoint into model and optimiser.

    Returns:
        Steps that are done.

    Raises:
        RunError: It is another model's; the message names `path`.
    """
    tensors, own = checkpoint.tensors, trained_tensors(model)
    found = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if found.keys() != own.keys() or any(found[name].shape != own[name].shape for name in own):
        raise RunError(f"{path}: its tensors are not this model's; train again in a new run")
    model.load_state_dict(found, strict=False)
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        if any(moments.keys() != {"step", "exp_avg", "exp_avg_sq"} for moments in state.values()):
            raise KeyError("a moment of the optimiser is missing")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        _lay_out_alike(optimizer)
        return int(checkpoint.facts["step"])
    except (KeyError, ValueError) as error:
        raise RunError(f"{path}: is no checkpoint of this version ({error}); train again in a new run") from error


def _lay_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give each moment its weight's memory layout: fused Adam walks both by address and would pair wrong elements."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def trained_tensors(model: ReasonModel) -> dict[str, Tensor]:
    """All of a model's tensors but the frozen teacher's."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("teacher.")}


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log that can be read; it only informs, so that a damaged line, or the whole, may be missing."""
    lines = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, RecursionError):  # of JSON, or no UTF-8
            found = json.loads(line)
            if isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values()):
                lines.append(found)
    return lines


class Log:
    """JSON lines. On resume the lines after the checkpoint are dropped, since those steps are done again.

    Each line is handed to the system as it is written, so that a killed process loses none before its checkpoint.
    """

    def __init__(self, path: Path, *, done: int) -> None:
        kept = [line for line in read_log(path) if line.get("step", math.inf) <= done] if done else []
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._path = path

    def write(self, line: StepReport) -> None:
        """Append one line.

        Raises:
            ReasonError: The system refused to write.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(line)) + "\n")
        except OSError as error:
            raise ReasonError(f"{self._path}: cannot be written ({reason(error)}); make room and --resume") from error

    def flush(self) -> None:
        """Put all lines on the disk, so that a power cut cannot undo them."""
        with self._path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())
