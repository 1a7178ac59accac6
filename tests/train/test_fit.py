from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from reason_runtime.errors import ConfigurationError, ImageError, RunError, TrainingError
from reason_train.checkpoint import StepReport, save_checkpoint
from reason_train.config import MethodConfig, TrainingConfig
from reason_train.device import find_device
from reason_train.model import build_model
from reason_train.run import CHECKPOINT, MODEL, RUN, read_run, read_tensors, write_model
from reason_train.schedule import batch_order, seeded, steps_per_epoch, total_steps
from reason_train.teacher_weights import load_teacher
from reason_train.trained import load_run
from tests.pictures import good_parts, good_picture, save
from tests.train.trainings import log_lines, model_tensors, small_training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_parts(tmp_path_factory.mktemp("fit") / "stripes", images=9)


def test_each_epoch_trains_on_every_image_once_in_a_new_order() -> None:
    training = TrainingConfig(epochs=3, batch_size=4)
    per_epoch = steps_per_epoch(training, images=10)
    assert (per_epoch, total_steps(training, images=10)) == (3, 9)
    batches = [batch_order(training, step=step, images=10) for step in range(9)]
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [[i for batch in batches[start : start + 3] for i in batch] for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(
    ("views", "rounds"),
    [(0, [(), (), ()]), (2, [(1, 2), (1, 2), (3, 4)]), (3, [(1, 2, 3), (1, 2, 3), (4, 5, 6), (4, 5, 6), (7, 8, 9)])],
)
def test_each_round_shows_every_image_itself_and_views_that_two_rounds_share(
    views: int, rounds: list[tuple[int, ...]]
) -> None:
    training = TrainingConfig(steps=100, batch_size=4, views=views)
    steps = math.ceil(10 * (1 + views) / 4)
    orders = []
    for number, shown in enumerate(rounds):
        batches = [batch_order(training, step=step, images=10) for step in range(number * steps, (number + 1) * steps)]
        expected = [view * 10 + image for view in (0, *shown) for image in range(10)]
        orders.append(tuple(index for batch in batches for index in batch))
        assert sorted(orders[-1]) == sorted(expected)
        assert {len(batch) for batch in batches[:-1]} == {4}
    assert len(set(orders)) == len(orders)


def test_steps_count_as_given() -> None:
    assert total_steps(TrainingConfig(steps=7, batch_size=4), images=10) == 7


def test_draws_depend_on_purpose_seed_and_step() -> None:
    keys = [("noise", 1, 0), ("order", 1, 0), ("noise", 2, 0), ("noise", 1, 1)]
    draws = [float(torch.rand((), generator=seeded(*key), dtype=torch.float64)) for key in keys]
    assert len(set(draws)) == 4
    assert draws[0] == float(torch.rand((), generator=seeded(*keys[0]), dtype=torch.float64))


def test_a_run_folder_holds_what_was_asked_for(data: Path, tmp_path: Path) -> None:
    finished = small_training(data, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "calibration.json",
        "calibration.npz",
        "log.jsonl",
        "model.safetensors",
        "run.json",
    ]
    run = json.loads((tmp_path / "run" / RUN).read_text())
    assert run["format"] == 2
    assert run["config"]["preset"] == "edge"
    assert run["config"]["method"]["teacher"] == "efficientnet_lite0"
    assert run["config"]["training"]["steps"] == 6
    assert (len(run["train"]), len(run["held_out"])) == (7, 2)
    assert {entry["name"] for entry in run["train"] + run["held_out"]} == {f"train/good/{i:03}.png" for i in range(9)}
    assert run["imported_from"] is None
    assert {"python", "torch", "timm", "numpy", "pillow"} <= set(run["libraries"])
    assert str(tmp_path) not in json.dumps(run)
    assert finished.run == read_run(tmp_path / "run")
    assert finished.threshold is not None
    assert finished.threshold.images == 2


def test_the_files_of_a_run_may_be_read_by_whom_the_system_lets(finished_run: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in finished_run.iterdir()}
    assert MODEL in modes
    assert set(modes.values()) == {modes[RUN]}


def test_the_log_has_a_finite_line_for_each_step(data: Path, tmp_path: Path) -> None:
    small_training(data, tmp_path / "run")
    lines = log_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    assert {tuple(line) for line in lines} == {
        ("step", "epoch", "loss", "distillation", "suppression", "learning_rate")
    }
    assert all(math.isfinite(value) for line in lines for value in line.values())  # type: ignore[arg-type]


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    small_training(data, tmp_path / "run", steps=40)
    losses = [float(line["loss"]) for line in log_lines(tmp_path / "run")]  # type: ignore[arg-type]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_teacher_is_not_changed_and_the_rest_is(data: Path, tmp_path: Path) -> None:
    small_training(data, tmp_path / "run", steps=2)
    tensors = model_tensors(tmp_path / "run")
    for name, published in load_teacher("efficientnet_lite0").state_dict().items():
        assert torch.equal(tensors[f"teacher.{name}"], published)
    small_training(data, tmp_path / "longer", steps=3)
    longer = model_tensors(tmp_path / "longer")
    trained = [name for name in tensors if name.endswith("weight") and not name.startswith("teacher.")]
    assert trained
    # convolutions before a normalisation keep what a bias or scale would change, so some may stay; most do not
    assert sum(not torch.equal(tensors[name], longer[name]) for name in trained) > 0.9 * len(trained)


def test_test_images_are_never_opened(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=6)
    for name in ("good", "hole"):
        (data / "test" / name).mkdir(parents=True)
        (data / "test" / name / "000.png").write_text("not an image")
    small_training(data, tmp_path / "run", steps=1)
    assert (tmp_path / "run" / MODEL).exists()


def test_an_unreadable_training_image_is_named(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=6)
    for path in (data / "train" / "good").iterdir():
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(
        ImageError, match=r"train/good/00\d.png: .*; of 6 good images 6 cannot be used: mend or remove them"
    ):
        small_training(data, tmp_path / "run", steps=1)


def test_an_unreadable_held_out_image_is_named_before_training_and_leaves_the_folder_free(tmp_path: Path) -> None:
    data, run = good_parts(tmp_path / "stripes", images=6), tmp_path / "run"
    first = small_training(data, run, steps=1)
    (broken,) = [data / entry.name for entry in first.run.held_out]
    shutil.rmtree(run)
    whole = broken.read_bytes()
    broken.write_bytes(whole[:400])
    steps: list[StepReport] = []
    with pytest.raises(ImageError, match=f"{broken.name}: .*; of 6 good images 1 cannot be used"):
        small_training(data, run, steps=1, report=steps.append)
    assert (steps, run.exists()) == ([], False)
    broken.write_bytes(whole)
    assert small_training(data, run, steps=1).threshold == first.threshold


def test_a_training_that_fails_before_its_first_checkpoint_leaves_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"there was no checkpoint yet, .*lower --learning-rate"):
        small_training(data, tmp_path / "run", steps=50, learning_rate=1e30)
    assert not (tmp_path / "run").exists()


def test_a_failure_that_nobody_foresaw_leaves_nothing_either(data: Path, tmp_path: Path) -> None:
    def fail(_line: StepReport) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        small_training(data, tmp_path / "run", report=fail)
    assert not (tmp_path / "run").exists()


def test_a_held_out_picture_smaller_than_a_tile_leaves_the_folder_free(tmp_path: Path) -> None:
    data, tiled = good_parts(tmp_path / "stripes", images=5), {"tile_px": 64, "image_size_px": None, "steps": 1}
    held_out = small_training(data, tmp_path / "run", **tiled).run.held_out[0].name
    shutil.rmtree(tmp_path / "run")
    save(data / held_out, good_picture(7, size_px=32))
    with pytest.raises(ImageError, match=f"{held_out}: a picture of 32 x 32 pixels is smaller than a tile of 64"):
        small_training(data, tmp_path / "run", **tiled)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="the last good checkpoint is kept"):
        small_training(data, run, steps=50, learning_rate=1e30, checkpoint_seconds=0.0)
    assert not (run / MODEL).exists()
    tensors, facts = read_tensors(run / CHECKPOINT)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert int(facts["step"]) == len(log_lines(run))


def test_a_full_memory_of_a_gpu_is_one_clear_sentence(data: Path, tmp_path: Path) -> None:
    def fill(_line: StepReport) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    message = r"the GPU's memory is full; there was no checkpoint yet, train again with a smaller --batch-size"
    with pytest.raises(TrainingError, match=message):
        small_training(data, tmp_path / "run", report=fill)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_never_a_checkpoint(tmp_path: Path) -> None:
    model = build_model(MethodConfig(teacher="efficientnet_lite0", image_size_px=64))
    optimizer = torch.optim.AdamW(model.student.parameters())
    save_checkpoint(tmp_path / CHECKPOINT, model, optimizer, step=1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    next(model.student.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(
        TrainingError, match=r"student\..* is not finite after step 2; the last good checkpoint is kept"
    ):
        save_checkpoint(tmp_path / CHECKPOINT, model, optimizer, step=2)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_an_unfinished_run_is_no_model(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        small_training(data, tmp_path / "run", steps=50, learning_rate=1e30, checkpoint_seconds=0.0)
    with pytest.raises(RunError, match="training is not finished .* continue it with reason-train fit --resume"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_values_that_are_not_finite_is_refused(value: float, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    tensors = model_tensors(finished_run)
    name = next(name for name in tensors if name.startswith("student."))
    tensors[name].view(-1)[0] = value
    write_model(tmp_path / "run", tensors, facts={})
    with pytest.raises(RunError, match=f"{MODEL}: tensor {name} holds values that are not finite"):
        load_run(tmp_path / "run")


def test_a_model_without_a_tensor_is_refused(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    tensors = model_tensors(finished_run)
    name = next(name for name in tensors if name.startswith("bottleneck."))
    del tensors[name]
    write_model(tmp_path / "run", tensors, facts={})
    with pytest.raises(RunError, match=f"tensor {name} is missing or of another shape"):
        load_run(tmp_path / "run")


def test_one_good_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 good training image; expected at least 2"):
        small_training(good_parts(tmp_path / "stripes", images=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_good_images_are_enough(tmp_path: Path) -> None:
    finished = small_training(good_parts(tmp_path / "stripes", images=2), tmp_path / "run", batch_size=16, steps=2)
    assert finished.run.config.training.batch_size == 2
    assert finished.threshold is None
    assert not (tmp_path / "run" / "calibration.json").exists()


def test_nothing_held_out_means_no_threshold(data: Path, tmp_path: Path) -> None:
    finished = small_training(data, tmp_path / "run", steps=1, held_out_share=0.0)
    assert finished.threshold is None
    assert len(finished.run.train) == 9


def test_a_last_batch_of_one_image_trains(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=3)
    for preset, run in (("edge", tmp_path / "edge"), ("paper", tmp_path / "paper")):
        small_training(data, run, preset=preset, batch_size=2, steps=4, held_out_share=0.0)
        assert len(log_lines(run)) == 4


def test_a_bound_on_memory_changes_no_pixel(data: Path, tmp_path: Path) -> None:
    """With `preset="paper"` the teacher runs in every step, whatever is kept."""
    for name, cache_mib in (("kept", 4096), ("read", 0)):
        small_training(data, tmp_path / name, preset="paper", held_out_share=0.2, steps=4, cache_mib=cache_mib)
    kept, read = model_tensors(tmp_path / "kept"), model_tensors(tmp_path / "read")
    assert all(torch.equal(kept[name], read[name]) for name in kept)


def test_images_of_mixed_sizes_and_kinds_train(tmp_path: Path) -> None:
    data = good_parts(tmp_path / "stripes", images=3)
    save(data / "train" / "good" / "large.png", good_picture(7, size_px=150))
    save(data / "train" / "good" / "photo.jpg", good_picture(8, size_px=90))
    save(data / "train" / "good" / "mono.bmp", good_picture(9)[:, :, 0])
    small_training(data, tmp_path / "run", steps=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_is_never_replaced_by_the_cpu() -> None:
    with pytest.raises(ConfigurationError, match="--device cuda: PyTorch finds no CUDA GPU"):
        find_device("cuda")
    assert find_device("auto").type == "cpu"


@pytest.mark.parametrize(
    "place",
    [("config", "method", "score_exponent"), ("config", "training", "tile_px"), ("chosen_by",), ("highest_16_bit",)],
)
def test_a_run_that_lacks_a_setting_is_refused_and_gets_no_default(
    place: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    content = json.loads((finished_run / "run.json").read_text())
    found = content
    for name in place[:-1]:
        found = found[name]
    del found[place[-1]]
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"is not a run description of this version \('{place[-1]}'\); train again"):
        read_run(tmp_path)
