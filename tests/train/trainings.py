"""Small trainings on generated images, called as the library is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from reason_train.config import Config
from reason_train.datasets import load_dataset
from reason_train.presets import Choices, resolve
from reason_train.run import LOG, MODEL, read_tensors
from reason_train.training_run import Finished, train

CPU = torch.device("cpu")


def small_choices(**changes: object) -> Choices:
    """EfficientNet-Lite0 at 64 pixels, six steps of three images, with suppression layers, in float32."""
    settings = {"method": "reason", "suppression_layers": True, "image_size_px": 64, "bf16": False}
    return Choices(**{**settings, "steps": 6, "batch_size": 3, "seed": 3, **changes})  # type: ignore[arg-type]


def small_training(data: Path, out: Path, **more: object) -> Finished:
    """`train` on the CPU; what is not one of its arguments is a choice."""
    known = ("resume", "checkpoint_seconds", "report", "cache_mib", "teacher_weights")
    options = {name: more.pop(name) for name in known if name in more}
    return train(load_dataset(data), small_choices(**more), out=out, device=CPU, **options)  # type: ignore[arg-type]


def slow_config(choices: Choices) -> Config:
    """A configuration in which suppression layers, too, learn at the rate of `choices`."""
    config = resolve(choices, dataset="", bf16_is_fast=False)
    training = dataclasses.replace(config.training, suppression_learning_rate=config.training.learning_rate)
    return dataclasses.replace(config, training=training)


def model_tensors(run: Path) -> dict[str, Tensor]:
    return read_tensors(run / MODEL)[0]


def log_lines(run: Path) -> list[dict[str, object]]:
    """The log without what may differ between two equal trainings: how long things took."""
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    for line in lines:
        for name in [name for name in line if name == "seconds" or name.endswith("_s")]:
            assert line.pop(name) >= 0
    return lines


def assert_same_training(run: Path, other: Path) -> None:
    """Every tensor of the model bit for bit, every line of the log, the threshold and the held-out scores."""
    ours, theirs = model_tensors(run), model_tensors(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert log_lines(run) == log_lines(other)
    assert (run / "calibration.json").read_text() == (other / "calibration.json").read_text()


def assert_different_training(run: Path, other: Path) -> None:
    assert any(not torch.equal(tensor, model_tensors(other)[name]) for name, tensor in model_tensors(run).items())
