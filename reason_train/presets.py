"""Which settings a run starts from: this project's for edge teachers, or the published ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from reason_runtime.errors import ConfigurationError
from reason_train.config import (
    PAPER_TEACHER,
    Config,
    Method,
    MethodConfig,
    Preset,
    SuppressionTarget,
    TeacherName,
    TrainingConfig,
    is_lite,
)

Settings = TypeVar("Settings", bound=MethodConfig | TrainingConfig)
PAPER_EPOCHS = {"carpet": 10, "leather": 10, "wood": 100, "hazelnut": 100, "oct2017": 20}
"""MVTec AD categories that do not train for 200 epochs, and OCT2017. Source: the paper's released scripts."""
PAPER_EPOCHS_ELSE = 200
OCT2017_SUPPRESSION_WEIGHT = 0.2
NO_DEPARTURES = ("seed", "black_level", "white_level")
"""Settings that the published method leaves to whoever trains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the user asked for; None where nothing was said."""

    teacher: TeacherName = "efficientnet_lite0"
    preset: Preset | None = None
    method: Method | None = None
    image_size_px: int | None = None
    crop_from_px: int | None = None
    crop_px: tuple[int, int, int, int] | None = None
    black_level: int | None = None
    white_level: int | None = None
    tile_px: int | None = None
    students: int | None = None
    suppression_layers: bool | None = None
    suppression_target: SuppressionTarget | None = None
    suppression_weight: float | None = None
    noise_std: float | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    views: int | None = None
    learning_rate: float | None = None
    held_out_share: float | None = None
    roi: tuple[float, float, float, float] | None = None
    ignore_mask_sha256: str | None = None
    bf16: bool | None = None
    seed: int | None = None
    paper_protocol: bool = False


def resolve(choices: Choices, *, dataset: str, bf16_is_fast: bool) -> Config:
    """The configuration of a run: a preset's settings with the user's choices on top.

    Without a preset, edge teachers start from `edge` and ResNets from `paper`.

    Args:
        choices: The command line.
        dataset: Category, or layout where there is none; the paper's epochs and lambda depend on it.
        bf16_is_fast: Whether the device multiplies in bf16 by itself; `edge` then trains in it.

    Raises:
        ConfigurationError: A setting is out of its range, or two of them conflict.
    """
    preset: Preset = choices.preset or ("edge" if is_lite(choices.teacher) else "paper")
    _check_conflicts(choices, preset=preset)
    method, training = (_edge if preset == "edge" else _paper)(choices, dataset=dataset)
    method = _changed(method, _given(choices, MethodConfig) | _tiled(choices))
    _check_used(choices, method)
    if preset == "edge" and choices.bf16 is None:
        training = _changed(training, {"bf16": bf16_is_fast})
    changes = _given(choices, TrainingConfig)
    if choices.epochs is not None:
        changes |= {"least_steps": None, "most_steps": None}
    if choices.steps is not None:
        changes |= {"epochs": None, "least_steps": None, "most_steps": None}
    training = _changed(training, changes)
    reference = _paper(choices, dataset=dataset)
    return Config(
        preset=preset,
        method=method,
        training=training,
        departures=_departures(method, training, reference),
        paper_protocol=choices.paper_protocol,
    )


def with_batch_size(config: Config, size: int, *, choices: Choices, dataset: str) -> Config:
    """The configuration with another batch size, which is a departure where it is not the published one."""
    training = dataclasses.replace(config.training, batch_size=size)
    departures = _departures(config.method, training, _paper(choices, dataset=dataset))
    return dataclasses.replace(config, training=training, departures=departures)


def _check_conflicts(choices: Choices, *, preset: Preset) -> None:
    if choices.epochs is not None and choices.steps is not None:
        raise ConfigurationError("--epochs and --steps are both given; choose one")
    if choices.tile_px is not None:
        _check_tiles(choices)
    if choices.paper_protocol and preset != "paper":
        raise ConfigurationError(
            f"--paper-protocol chooses by test images; the preset {preset} never sees any, use paper"
        )
    if choices.paper_protocol and choices.crop_px is not None:
        raise ConfigurationError("--paper-protocol judges whole pictures, as published; leave --crop out")
    if choices.paper_protocol and choices.steps is not None:
        raise ConfigurationError("--paper-protocol chooses an epoch; give --epochs in place of --steps")


def _check_used(choices: Choices, method: MethodConfig) -> None:
    """Refuse settings of a part that the run does not have."""
    for name, given, used, part in (
        ("--suppression-layers", choices.suppression_layers is True, method.has_suppression, "no suppression"),
        ("--suppression-target", choices.suppression_target is not None, method.has_suppression, "no suppression"),
        ("--suppression-weight", choices.suppression_weight is not None, method.has_suppression, "no suppression"),
        ("--noise-std", choices.noise_std is not None, method.method == "reason", "no noise"),
    ):
        if given and not used:
            why = "without --suppression-layers" if method.method == "reason" else f"with --method {method.method}"
            raise ConfigurationError(f"{name} is given, and {why} there is {part}; leave it out")


def _check_tiles(choices: Choices) -> None:
    if choices.crop_px is not None and choices.tile_px is not None and min(choices.crop_px[2:]) < choices.tile_px:
        raise ConfigurationError(f"--crop takes a part that is smaller than a tile of {choices.tile_px} px")
    for name, given in (
        ("--image-size", choices.image_size_px not in (None, choices.tile_px)),
        ("--crop-from", choices.crop_from_px is not None),
        ("--roi", choices.roi is not None),
        ("--ignore-mask", choices.ignore_mask_sha256 is not None),
        ("--paper-protocol", choices.paper_protocol),
    ):
        if given:
            raise ConfigurationError(f"--tile trains on tiles at native resolution and {name} on whole pictures")


def _tiled(choices: Choices) -> dict[str, object]:
    """What tiles ask of the method: no resize, and the map's maximum as score, as frames of a web are judged."""
    if choices.tile_px is None:
        return {}
    return {"image_size_px": choices.tile_px, "crop_from_px": None, "score_exponent": None}


def _changed(config: Settings, changes: dict[str, object]) -> Settings:
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]  # names and values of these very fields


def _given(choices: Choices, kind: type[MethodConfig] | type[TrainingConfig]) -> dict[str, object]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in dataclasses.asdict(choices).items() if name in names and value is not None}


def _paper(choices: Choices, *, dataset: str) -> tuple[MethodConfig, TrainingConfig]:
    """The published method and training, with whatever teacher was chosen."""
    weight = OCT2017_SUPPRESSION_WEIGHT if dataset == "oct2017" else 0.01
    size, crop_from = (224, 256) if dataset in ("aebad-s", "aebad-v") else (256, None)
    return (
        MethodConfig(
            teacher=choices.teacher,
            image_size_px=size,
            crop_from_px=crop_from,
            suppression_target="student",
            suppression_weight=weight,
        ),
        TrainingConfig(epochs=PAPER_EPOCHS.get(dataset, PAPER_EPOCHS_ELSE), held_out_share=0.0),
    )


def _edge(choices: Choices, *, dataset: str) -> tuple[MethodConfig, TrainingConfig]:
    """This project's settings for small teachers, the same for every data set; `docs/accuracy.md` says why."""
    method = MethodConfig(
        teacher=choices.teacher,
        students=2 if is_lite(choices.teacher) else 1,
        suppression_layers=False,
        noise_at="features",
        noise_std=2.0,
        whitening="measured",
        easy_share=0.9,
        easy_below=0.5,
        easy_gradient=0.1,
        map_balance=0.5,
        score_exponent=14.0,
    )
    training = TrainingConfig(
        epochs=40,
        least_steps=600,
        most_steps=3200,
        views=3,
        warmup_steps=50,
        batch_size=4,
        optimizer="adamw",
        learning_rate=0.005,
        beta1=0.9,
        beta2=0.99,
        schedule="cosine",
        seed=0,
    )
    return method, training


def _departures(
    method: MethodConfig, training: TrainingConfig, reference: tuple[MethodConfig, TrainingConfig]
) -> tuple[str, ...]:
    """Every way in which a run is not the published one, in words."""
    said = [] if method.teacher == PAPER_TEACHER else [f"teacher {method.teacher} in place of {PAPER_TEACHER}"]
    for ours, theirs in (
        (dataclasses.asdict(method), dataclasses.asdict(reference[0])),
        (dataclasses.asdict(training), dataclasses.asdict(reference[1])),
    ):
        changed = [name for name in ours if ours[name] != theirs[name] and name not in NO_DEPARTURES]
        said += [f"{name} {ours[name]} in place of {theirs[name]}" for name in changed]
    return tuple(said)
