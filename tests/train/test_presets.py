from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from reason_runtime.errors import ConfigurationError
from reason_train.config import MethodConfig, TeacherName, TrainingConfig
from reason_train.datasets import load_dataset
from reason_train.plan import make_plan
from reason_train.presets import Choices, resolve
from tests.pictures import good_parts

LITE: tuple[TeacherName, ...] = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
RESNETS: tuple[TeacherName, ...] = ("resnet18", "resnet50", "wide_resnet50_2")


def paper(dataset: str, **choices: object):  # type: ignore[no-untyped-def]
    wanted = Choices(teacher="wide_resnet50_2", preset="paper", **choices)  # type: ignore[arg-type]
    return resolve(wanted, dataset=dataset, bf16_is_fast=True)


def test_paper_is_the_published_method_exactly() -> None:
    config = paper("bottle")
    assert (config.preset, config.departures) == ("paper", ())
    assert dataclasses.asdict(config.method) == {
        "teacher": "wide_resnet50_2",
        "method": "reason",
        "students": 1,
        "suppression_layers": True,
        "image_size_px": 256,
        "crop_from_px": None,
        "crop_px": None,
        "black_level": 0,
        "white_level": 65535,
        "suppression_target": "student",
        "suppression_weight": 0.01,
        "block_weight": 0.2,
        "noise_std": 0.015,
        "noise_at": "stem",
        "whitening": None,
        "easy_share": 0.0,
        "easy_below": None,
        "easy_gradient": 1.0,
        "map_balance": 0.0,
        "map_sigma_px": 4.0,
        "score_exponent": None,
        "roi": None,
        "ignore_mask_sha256": None,
    }
    assert dataclasses.asdict(config.training) == {
        "epochs": 200,
        "steps": None,
        "least_steps": None,
        "most_steps": None,
        "views": 0,
        "warmup_steps": 0,
        "batch_size": 16,
        "optimizer": "adam",
        "learning_rate": 0.005,
        "suppression_learning_rate": 0.001,
        "beta1": 0.5,
        "beta2": 0.999,
        "schedule": "constant",
        "bf16": False,
        "seed": 111,
        "held_out_share": 0.0,
        "tile_px": None,
    }


def test_a_category_folder_has_its_categorys_epochs(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "mvtec" / "carpet", images=2)
    wanted = Choices(teacher="wide_resnet50_2", preset="paper")
    for dataset in (load_dataset(data), load_dataset(data.parent, category="carpet")):
        plan = make_plan(dataset, wanted, bf16_is_fast=False, teacher_weights=None, cache_mib=0)
        assert plan.config.training.epochs == 10


@pytest.mark.parametrize(
    ("dataset", "epochs", "weight"),
    [
        ("carpet", 10, 0.01),
        ("leather", 10, 0.01),
        ("wood", 100, 0.01),
        ("hazelnut", 100, 0.01),
        ("screw", 200, 0.01),
        ("grid", 200, 0.01),
        ("oct2017", 20, 0.2),
    ],
)
def test_paper_has_the_published_epochs_and_lambda(dataset: str, epochs: int, weight: float) -> None:
    config = paper(dataset)
    assert (config.training.epochs, config.method.suppression_weight) == (epochs, weight)
    assert config.departures == ()


@pytest.mark.parametrize("teacher", [*LITE, "resnet18", "resnet50"])
def test_paper_with_another_teacher_names_that_and_nothing_else(teacher: TeacherName) -> None:
    config = resolve(Choices(teacher=teacher, preset="paper"), dataset="screw", bf16_is_fast=True)
    assert config.departures == (f"teacher {teacher} in place of wide_resnet50_2",)
    assert dataclasses.replace(config.method, teacher="wide_resnet50_2") == paper("screw").method
    assert config.training == paper("screw").training


def test_every_changed_setting_is_named() -> None:
    config = paper("carpet", method="rd4ad", epochs=3, batch_size=4, held_out_share=0.1, bf16=True, image_size_px=224)
    assert set(config.departures) == {
        "method rd4ad in place of reason",
        "image_size_px 224 in place of 256",
        "epochs 3 in place of 10",
        "batch_size 4 in place of 16",
        "held_out_share 0.1 in place of 0.0",
        "bf16 True in place of False",
    }


def test_another_seed_is_no_departure() -> None:
    config = paper("carpet", seed=5)
    assert (config.training.seed, config.departures) == (5, ())


@pytest.mark.parametrize("teacher", LITE)
@pytest.mark.parametrize("fast", [True, False])
def test_lite_teachers_start_from_edge_in_bf16_where_it_is_fast(teacher: TeacherName, fast: bool) -> None:
    config = resolve(Choices(teacher=teacher), dataset="screw", bf16_is_fast=fast)
    assert (config.preset, config.training.bf16) == ("edge", fast)
    assert f"teacher {teacher} in place of wide_resnet50_2" in config.departures
    chosen = resolve(Choices(teacher=teacher, bf16=not fast), dataset="screw", bf16_is_fast=fast)
    assert chosen.training.bf16 is not fast


@pytest.mark.parametrize("teacher", [*LITE, *RESNETS])
def test_edge_has_two_students_where_they_are_small(teacher: TeacherName) -> None:
    config = resolve(Choices(teacher=teacher, preset="edge"), dataset="screw", bf16_is_fast=True)
    assert config.method.students == (2 if teacher in LITE else 1)
    chosen = resolve(Choices(teacher=teacher, preset="edge", students=3), dataset="screw", bf16_is_fast=True)
    assert chosen.method.students == 3


@pytest.mark.parametrize("teacher", RESNETS)
def test_resnets_start_from_paper_and_never_in_bf16_by_themselves(teacher: TeacherName) -> None:
    config = resolve(Choices(teacher=teacher), dataset="screw", bf16_is_fast=True)
    assert (config.preset, config.training.bf16) == ("paper", False)


@pytest.mark.parametrize("teacher", ["efficientnet_lite0", "wide_resnet50_2"])
def test_steps_take_the_place_of_epochs_and_the_other_way_round(teacher: TeacherName) -> None:
    by_steps = resolve(Choices(teacher=teacher, steps=7), dataset="screw", bf16_is_fast=False).training
    by_epochs = resolve(Choices(teacher=teacher, epochs=9), dataset="screw", bf16_is_fast=False).training
    assert (by_steps.steps, by_steps.epochs) == (7, None)
    assert (by_epochs.steps, by_epochs.epochs) == (None, 9)


def test_epochs_and_steps_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--epochs and --steps are both given; choose one"):
        resolve(Choices(epochs=1, steps=1), dataset="screw", bf16_is_fast=False)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"suppression_weight": 5.0},
            "--suppression-weight is given, and without --suppression-layers",
        ),
        ({"suppression_target": "student"}, "--suppression-target is given, and without --suppression-layers"),
        (
            {"method": "rd4ad", "suppression_layers": True},
            "--suppression-layers is given, and with --method",
        ),
        ({"method": "rd4ad", "suppression_weight": 5.0}, "--suppression-weight is given"),
        ({"method": "rd4ad", "noise_std": 9.0}, "--noise-std is given, and with --method rd4ad there is no noise"),
    ],
)
def test_settings_of_what_the_run_has_not_are_refused(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve(Choices(**choices), dataset="screw", bf16_is_fast=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"image_size_px": 250}, "image size 250 px is not a multiple of 32 between 64 and 1024"),
        ({"image_size_px": 32}, "image size 32 px is not"),
        ({"image_size_px": 2048}, "image size 2048 px is not"),
        ({"image_size_px": 256, "crop_from_px": 224}, "crop from 224 px is smaller than the image size 256 px"),
        ({"batch_size": 1}, "batch size 1 is below 2"),
        ({"learning_rate": 0.0}, "learning rate 0.0 is not positive"),
        ({"learning_rate": float("nan")}, "learning rate nan is not positive"),
        ({"noise_std": -1.0}, "noise deviation -1.0 is not positive"),
        ({"held_out_share": 0.6}, r"held-out share 0.6 is not in \[0, 0.5\]"),
        ({"epochs": 0}, "epochs and steps must be positive"),
        ({"teacher": "vgg"}, "teacher 'vgg' is not one of efficientnet_lite0, "),
        ({"method": "stpm"}, "method 'stpm' is not one of reason, rd4ad"),
    ],
)
def test_settings_out_of_range_are_refused(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve(Choices(**choices), dataset="screw", bf16_is_fast=False)  # type: ignore[arg-type]


def test_a_configuration_has_either_epochs_or_steps() -> None:
    for wrong in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ConfigurationError, match="exactly one of epochs and steps must be given"):
            TrainingConfig(**wrong)
    assert MethodConfig(teacher="resnet18").method == "reason"


def test_a_batch_that_fewer_images_cut_is_a_departure(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "aebad_like", images=5)  # a name that begins like a published data set's
    wanted = Choices(teacher="wide_resnet50_2", preset="paper")
    plan = make_plan(load_dataset(data), wanted, bf16_is_fast=False, teacher_weights=None, cache_mib=0)
    assert plan.config.training.batch_size == 5
    assert plan.config.departures == ("batch_size 5 in place of 16",)
    assert plan.config.method.crop_from_px is None


@pytest.mark.parametrize("dataset", ["aebad-s", "aebad-v"])
def test_paper_crops_aebad_as_its_pipeline_does(dataset: str) -> None:
    config = paper(dataset)
    assert (config.method.image_size_px, config.method.crop_from_px) == (224, 256)
