"""Several processes train as one does: same draws, same batch statistics, same loss, one run folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Generator, Tensor, nn

from reason_runtime.errors import TrainingError
from reason_runtime.image import square_format
from reason_train.checkpoint import StepReport
from reason_train.config import Config
from reason_train.datasets import load_dataset
from reason_train.fit import fit
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.presets import Choices
from reason_train.ranks import ALONE, Part, Ranks
from reason_train.run import CHECKPOINT, LOG
from reason_train.schedule import seeded
from reason_train.step import TeacherView, training_losses, view_features, view_images
from reason_train.synchronised_norm import synchronise_batch_norms
from reason_train.synthesis import synthesise, synthesise_in_features
from reason_train.teacher import normalise
from reason_train.teacher_weights import load_teacher
from reason_train.training_run import train
from reason_train.whitening import measure_features
from tests.pictures import good_parts, good_picture
from tests.train.processes import run_together
from tests.train.trainings import CPU, log_lines, model_tensors, slow_config, small_choices, small_training

TOLERANCE = 1e-4
"""Of the loss, in float32: sums over processes round in another order."""
RATE = {"edge": 1e-5, "paper": 1e-6}
"""Learning rates at which one process, its first weights changed by 1e-7, stays within 2e-5 of itself for 20 steps. At
the presets' own it does not (edge 5e-4, ResNet18 at 64 pixels 1e-2): Adam divides by the gradient's size, so that
rounding decides where a gradient is next to nothing, and mining gives a position all of its gradient or a tenth. What
so small a step would hide, the gradients' test shows."""
SLOW = {"learning_rate": RATE["edge"], "held_out_share": 0.2, "batch_size": 4, "suppression_layers": False}
"""Suppression layers have a learning rate of their own, a hundred times as high."""


class Stopped(Exception):
    """What ends a training in these tests, as Ctrl-C would."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # as many as the processes have, so that both round alike


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images train in batches of 4, 4 and 1: of the last one, a second process has none."""
    return good_parts(tmp_path_factory.mktemp("together") / "stripes", images=11)


@pytest.fixture(scope="module")
def resnet18(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, normalised on the images: unlike raw ones they tell the images apart."""
    path = tmp_path_factory.mktemp("teacher") / "resnet18.pth"
    torch.manual_seed(0)
    network = torchvision.models.get_model("resnet18", weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    images = torch.from_numpy(np.stack([good_picture(number) for number in range(11)]))
    with torch.no_grad():
        network(normalise(images, mean=torch.tensor(0.45), std=torch.tensor(0.22)))
    torch.save(network.state_dict(), path)
    return path


def train_together(
    ranks: Ranks, data: Path, out: Path, choices: dict[str, object], options: dict[str, object], stop: int | None
) -> None:
    def report(line: StepReport) -> None:
        if line.step == stop:
            raise Stopped

    train(load_dataset(data), small_choices(**choices), out=out, device=CPU, ranks=ranks, report=report, **options)  # type: ignore[arg-type]


def train_in_two(tmp_path: Path, data: Path, *, choices: dict[str, object], **options: object) -> None:
    stop = options.pop("stop", None)
    codes = run_together(tmp_path, train_together, data, tmp_path / "run", choices, options, stop)
    assert (codes == [0, 0]) == (stop is None)


def losses(run: Path) -> list[float]:
    return [float(line["loss"]) for line in log_lines(run)]  # type: ignore[arg-type]


def prepared(preset: str, data: Path, weights: Path | None) -> tuple[Config, ReasonModel, ImageStore]:
    """Configuration, fresh model and images: batches of 4, 4 and 1 (edge), of 4, 4 and 2 (paper)."""
    teacher = "efficientnet_lite0" if preset == "edge" else "resnet18"
    choices = Choices(
        preset=preset, teacher=teacher, image_size_px=64, steps=20, batch_size=4, learning_rate=RATE[preset], views=0
    )
    config = slow_config(choices)
    torch.manual_seed(1)
    model = ReasonModel(config.method, teacher=load_teacher(config.method.teacher, weights=weights))
    paths = sorted((data / "train" / "good").iterdir())[: 9 if preset == "edge" else 10]
    return config, model, ImageStore(paths, input_format=square_format(64))


def fit_twenty_steps(ranks: Ranks, preset: str, data: Path, weights: Path | None, out: Path) -> None:
    config, model, store = prepared(preset, data, weights)
    fit(model, config, store=store, run=out, device=CPU, ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["edge", "paper"])
def test_two_processes_train_as_one(preset: str, data: Path, resnet18: Path, tmp_path: Path) -> None:
    weights = resnet18 if preset == "paper" else None
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    fit_twenty_steps(ALONE, preset, data, weights, alone)
    assert run_together(tmp_path, fit_twenty_steps, preset, data, weights, together) == [0, 0]
    assert len(losses(together)) == 20
    np.testing.assert_allclose(losses(together), losses(alone), rtol=TOLERANCE)
    assert losses(alone)[-1] < losses(alone)[0]
    assert sorted(os.listdir(together)) == sorted(os.listdir(alone))
    one, two = model_tensors(alone), model_tensors(together)
    assert one.keys() == two.keys()
    name = next(name for name in one if name.startswith("student.") and name.endswith("running_var"))
    torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-4)


def first_gradients(ranks: Ranks, preset: str, data: Path, weights: Path | None, order: list[int], out: Path) -> None:
    """Of one batch, the trained parts in float64: in float32 rounding flips a rectifier now and then, which is 1 %."""
    config, model, store = prepared(preset, data, weights)
    measure_features(model.eval(), store, device=CPU)
    images, noise = torch.from_numpy(next(store.batches([order]))), seeded("noise", 1, 0)
    if config.method.has_stem_noise:
        whole = view_images(model, images, config, noise=noise)
    else:
        with torch.no_grad():
            whole = view_features(model.features(images), config, noise=noise, part=ALONE.part(len(images)))
    for module in filter(None, (model.suppression, *model.rebuilding_parts())):
        module.double()
    reconstruct, part = ranks.reconstruct(model.train()), ranks.part(len(order))
    clean, seen = ([scale[part.start : part.stop].double() for scale in scales] for scales in (whole.clean, whole.seen))
    view = TeacherView(clean=clean, seen=seen, part=part)
    found = training_losses(model, view, config, progress=0.5, reconstruct=reconstruct)
    (found.total * part.weight).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    torch.save(gradients, out / f"gradients{ranks.rank}of{ranks.size}.pt")


@pytest.mark.parametrize(
    ("preset", "order"),
    [
        pytest.param("edge", [0, 3, 1, 2], marks=pytest.mark.slow),
        pytest.param("edge", [5], marks=pytest.mark.slow),
        ("paper", [4, 0, 2]),
    ],
    ids=["edge", "edge, one process without images", "paper, uneven"],
)
def test_gradients_are_those_of_the_whole_batch(
    preset: str, order: list[int], data: Path, resnet18: Path, tmp_path: Path
) -> None:
    weights = resnet18 if preset == "paper" else None
    first_gradients(ALONE, preset, data, weights, order, tmp_path)
    assert run_together(tmp_path, first_gradients, preset, data, weights, order, tmp_path) == [0, 0]
    alone, first, second = (torch.load(tmp_path / f"gradients{name}.pt") for name in ("0of1", "0of2", "1of2"))
    assert alone.keys() == first.keys() == second.keys()
    largest = max(float(gradient.norm()) for gradient in alone.values())
    for name, gradient in alone.items():
        assert torch.equal(first[name], second[name]), name
        error = float((first[name] - gradient).norm())
        assert error <= 1e-5 * float(gradient.norm()) + 1e-6 * largest, name  # the loss itself is float32


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_is_resumed_by_another_number_of_processes(first: int, data: Path, tmp_path: Path) -> None:
    choices = {**SLOW, "steps": 8}
    small_training(data, tmp_path / "whole", **choices)
    if first == 2:
        train_in_two(tmp_path, data, choices=choices, checkpoint_seconds=0.0, stop=5)
    else:
        with pytest.raises(Stopped):
            train_together(ALONE, data, tmp_path / "run", choices, {"checkpoint_seconds": 0.0}, 5)
    assert (tmp_path / "run" / CHECKPOINT).exists()
    if first == 1:
        train_in_two(tmp_path, data, choices=choices, resume=True)
    else:
        small_training(data, tmp_path / "run", **choices, resume=True)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=TOLERANCE)
    assert len(losses(tmp_path / "run")) == 8


def train_on_own_data(ranks: Ranks, folders: list[Path], out: Path) -> None:
    with pytest.raises(TrainingError, match="process 1 of 2 has other settings or images than process 0"):
        train_together(ranks, folders[ranks.rank], out, {}, {}, None)
    assert ranks.rank == 1


def test_processes_that_see_other_images_are_refused(data: Path, tmp_path: Path) -> None:
    other = good_parts(tmp_path / "stripes", images=8)
    codes = run_together(tmp_path, train_on_own_data, [data, other], tmp_path / "run")
    assert codes[1] == 0  # it met what it was to meet; the other was waiting for it


def train_with_own_weights(ranks: Ranks, data: Path, weights: list[Path], out: Path) -> None:
    options: dict[str, object] = {"teacher_weights": weights[ranks.rank]}
    with pytest.raises(TrainingError, match="process 1 of 2 has other teacher weights than process 0"):
        train_together(ranks, data, out, {"teacher": "resnet18"}, options, None)
    assert ranks.rank == 1


def test_processes_with_other_teacher_weights_are_refused(data: Path, tmp_path: Path) -> None:
    weights = [tmp_path / "ours.pth", tmp_path / "theirs.pth"]
    for path in weights:
        path.write_text(path.name)
    assert run_together(tmp_path, train_with_own_weights, data, weights, tmp_path / "run")[1] == 0


def torchrun(data: Path, out: Path, *more: object) -> tuple[subprocess.CompletedProcess[str], float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "reason_train", "fit", "--data", str(data), "--out", str(out), "--device", "cpu"]
    command += ["--steps", "3", "--batch-size", "4", "--image-size", "64", *map(str, more)]
    started = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    return done, time.monotonic() - started


@pytest.mark.slow
def test_torchrun_trains_and_says_so_once(data: Path, tmp_path: Path) -> None:
    done, _ = torchrun(data, tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3  # one document, so one process printed
    assert done.stderr.count("training reason with efficientnet_lite0, 3 steps") == 1
    assert len((tmp_path / "run" / LOG).read_text().splitlines()) == 3


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(data: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(data, tmp_path / "broken"))
    path = broken / "train" / "good" / "003.png"
    path.write_bytes(path.read_bytes()[:400])
    done, seconds = torchrun(broken, tmp_path / "run", "--preset", "paper", "--teacher", "efficientnet_lite0")
    assert done.returncode == 1
    assert f"error: {path}" in done.stderr
    assert seconds < 60


def batch(images: int) -> Tensor:
    return torch.randn((images, 3, 4, 4), generator=Generator().manual_seed(1), dtype=torch.float32)


def normalise_together(ranks: Ranks, images: int, out: Path) -> None:
    """The part's output, its gradient and the layer's tensors after one batch."""
    layers = nn.Sequential(nn.BatchNorm2d(3))
    synchronise_batch_norms(layers)
    part = ranks.part(images)
    feature = batch(images)[part.start : part.stop].requires_grad_()
    weights = batch(images).square()[part.start : part.stop]
    normalised = layers(feature)
    (normalised * weights).sum().backward()
    state = {name: tensor.detach() for name, tensor in layers.state_dict().items()}
    found = {**state, "out": normalised.detach(), "gradient": feature.grad, "weight_gradient": layers[0].weight.grad}
    torch.save(found, out / f"{ranks.rank}.pt")


@pytest.mark.parametrize("images", [1, 2, 5])
def test_batch_statistics_are_those_of_the_whole_batch(images: int, tmp_path: Path) -> None:
    assert run_together(tmp_path, normalise_together, images, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    layers = nn.Sequential(nn.BatchNorm2d(3))
    feature = batch(images).requires_grad_()
    normalised = layers(feature)
    (normalised * batch(images).square()).sum().backward()
    near = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]), normalised.detach(), **near)
    torch.testing.assert_close(torch.cat([first["gradient"], second["gradient"]]), feature.grad, **near)
    torch.testing.assert_close(first["weight_gradient"] + second["weight_gradient"], layers[0].weight.grad, **near)
    for name, tensor in layers.state_dict().items():
        torch.testing.assert_close(first[name], tensor, **near)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize(("images", "size"), [(4, 2), (5, 2), (1, 2), (2, 3), (7, 3)])
def test_every_image_of_a_batch_is_one_processs(images: int, size: int) -> None:
    parts = [Ranks(rank=rank, size=size).part(images) for rank in range(size)]
    assert [i for part in parts for i in part.of(range(images))] == list(range(images))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert sum(part.weight for part in parts) == pytest.approx(size)


@pytest.mark.parametrize(("images", "size"), [(4, 2), (5, 2), (1, 2), (7, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_latent_noise_is_drawn_for_the_whole_batch(images: int, size: int, seed: int) -> None:
    stem = torch.randn((images, 2, 16, 16), generator=Generator().manual_seed(seed))

    def noisy(feature: Tensor, part: Part | None) -> Tensor:
        half = synthesise(feature, std=1.0, generator=Generator().manual_seed(seed), part=part)
        return feature.index_copy(0, half.indices, half.stem)

    def noisy_features(feature: Tensor, part: Part | None) -> Tensor:
        return synthesise_in_features([feature], std=1.0, generator=Generator().manual_seed(seed), part=part)[0]

    both: tuple[Callable[[Tensor, Part | None], Tensor], ...] = (noisy, noisy_features)
    for draw in both:
        whole = draw(stem, None)
        parts = [Ranks(rank=rank, size=size).part(images) for rank in range(size)]
        assert torch.equal(torch.cat([draw(stem[part.start : part.stop], part) for part in parts]), whole)
        assert images == 1 or not torch.equal(whole, stem)
