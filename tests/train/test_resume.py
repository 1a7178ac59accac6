"""A training that is stopped anywhere and resumed gives what an uninterrupted one gives, bit for bit on the CPU."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reason_runtime.errors import ConfigurationError, RunError
from reason_train.checkpoint import StepReport, read_checkpoint
from reason_train.datasets import load_dataset
from reason_train.run import CHECKPOINT, LOG, MODEL, RUN, read_tensors, write_tensors
from reason_train.teacher import timm_network
from reason_train.training_run import train
from tests.pictures import good_parts
from tests.train.trainings import (
    CPU,
    assert_different_training,
    assert_same_training,
    log_lines,
    small_choices,
    small_training,
)

STEPS = 6
KILLS = 8
LONGEST_S = 120.0


class Stopped(KeyboardInterrupt):
    """What ends a training in these tests, as Ctrl-C does."""


def stop_after(step: int) -> Callable[[StepReport], None]:
    def report(line: StepReport) -> None:
        if line.step == step:
            raise Stopped

    return report


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_parts(tmp_path_factory.mktemp("resume") / "stripes", images=9)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    small_training(data, out)
    return out


def train_and_keep_stages(data: Path, folder: Path, **more: object) -> None:
    """A training that saves after every step: in `run` as it ended, in `1`, `2`, ... as a kill then leaves it."""

    def keep(line: StepReport) -> None:
        shutil.copytree(folder / "run", folder / str(line.step))

    small_training(data, folder / "run", checkpoint_seconds=0.0, resume=True, report=keep, **more)


@pytest.fixture(scope="module")
def stages(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    train_and_keep_stages(data, folder)
    return folder


@pytest.fixture
def stopped(stages: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Gives the run that was stopped in a step; a checkpoint is of the step before."""
    return lambda step: Path(shutil.copytree(stages / str(step), tmp_path / "run"))


def test_equal_seeds_give_equal_trainings_and_others_do_not(
    data: Path, stages: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    assert_same_training(stages / "run", uninterrupted)  # saving changes nothing, nor resuming what is not there
    small_training(data, tmp_path / "other", seed=4)
    assert_different_training(tmp_path / "other", uninterrupted)


@pytest.mark.parametrize("step", [1, 2, 4, STEPS])
def test_a_stopped_training_resumes_bit_for_bit(
    step: int, stopped: Callable[[int], Path], data: Path, uninterrupted: Path
) -> None:
    run = stopped(step)
    assert (run / CHECKPOINT).exists() == (step > 1)
    small_training(data, run, resume=True)
    assert_same_training(run, uninterrupted)
    assert not (run / CHECKPOINT).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "rd4ad", "suppression_layers": None},
        {"bf16": True},
        {"preset": "paper", "held_out_share": 0.2},
        {"cache_mib": 0},
    ],
    ids=["rd4ad", "bf16", "paper", "nothing cached"],
)
def test_other_settings_resume_bit_for_bit_too(changes: dict[str, object], data: Path, tmp_path: Path) -> None:
    train_and_keep_stages(data, tmp_path, steps=4, **changes)
    small_training(data, tmp_path / "3", steps=4, **changes, resume=True)
    assert_same_training(tmp_path / "3", tmp_path / "run")


def test_a_training_stopped_before_its_calibration_calibrates(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    small_training(data, tmp_path / "run", resume=True)
    assert_same_training(tmp_path / "run", uninterrupted)


def test_files_left_half_written_are_removed(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".run.0123abcd.json").write_text("{")  # killed while the very first file was written
    with pytest.raises(Stopped):
        small_training(data, run, checkpoint_seconds=0.0, report=stop_after(2))
    (run / ".checkpoint.0123abcd.safetensors").write_bytes(b"half")
    (run / ".tmpy0me11").write_bytes(b"half")  # as safetensors itself names what it has not finished
    small_training(data, run, resume=True)
    assert_same_training(run, uninterrupted)
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_is_there_is_continued_only_on_request(stopped: Callable[[int], Path], data: Path) -> None:
    run = stopped(2)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(RunError, match="a run is there already; continue it with --resume or choose another --out"):
        small_training(data, run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_finished_run_is_not_trained_again(data: Path, uninterrupted: Path) -> None:
    with pytest.raises(RunError, match="training is finished; evaluate or export it, or choose another --out"):
        small_training(data, uninterrupted, resume=True)


@pytest.mark.parametrize("changes", [{"seed": 4}, {"steps": 7}, {"batch_size": 2}])
def test_another_run_is_not_continued(changes: dict[str, object], stopped: Callable[[int], Path], data: Path) -> None:
    with pytest.raises(RunError, match="was started with other settings; give the same options and images"):
        small_training(data, stopped(1), resume=True, **changes)


def test_a_run_whose_departures_were_told_in_other_words_is_continued(
    stopped: Callable[[int], Path], data: Path, uninterrupted: Path
) -> None:
    run = stopped(STEPS)
    content = json.loads((run / RUN).read_text())
    content["config"]["departures"] = ["as a version of before said it"]
    (run / RUN).write_text(json.dumps(content))
    small_training(data, run, resume=True)
    assert_same_training(run, uninterrupted)


def test_changed_images_are_noticed(stopped: Callable[[int], Path], data: Path, tmp_path: Path) -> None:
    changed, run = Path(shutil.copytree(data, tmp_path / data.name)), stopped(1)
    entries = json.loads((run / RUN).read_text())["train"]
    shutil.copyfile(changed / entries[1]["name"], changed / entries[0]["name"])
    with pytest.raises(RunError, match="was started with other training images"):
        small_training(changed, run, resume=True)


def test_another_teacher_is_noticed(data: Path, tmp_path: Path) -> None:
    weights = {name: tmp_path / name for name in ("ours.pth", "theirs.pth")}
    for seed, path in enumerate(weights.values()):
        torch.manual_seed(seed)
        torch.save(timm_network("efficientnet_lite0").state_dict(), path)
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        small_training(data, run, teacher_weights=weights["ours.pth"], checkpoint_seconds=0.0, report=stop_after(2))
    for others in (None, weights["theirs.pth"]):
        with pytest.raises(RunError, match="was started with other teacher weights"):
            small_training(data, run, resume=True, teacher_weights=others)
    moved = weights["ours.pth"].rename(tmp_path / "moved.pth")
    small_training(data, run, resume=True, teacher_weights=moved)
    expected = hashlib.sha256(moved.read_bytes()).hexdigest()
    assert json.loads((run / RUN).read_text())["teacher_weights_sha256"] == expected


@pytest.mark.parametrize("content", [b"", b"not tensors", None], ids=["empty", "text", "cut"])
def test_a_broken_checkpoint_is_refused_by_name(
    content: bytes | None, stopped: Callable[[int], Path], data: Path
) -> None:
    run = stopped(3)
    found = (run / CHECKPOINT).read_bytes()
    (run / CHECKPOINT).write_bytes(found[: len(found) // 2] if content is None else content)
    with pytest.raises(RunError, match=f"{CHECKPOINT}: cannot be read as a safetensors file"):
        small_training(data, run, resume=True)


@pytest.mark.parametrize(
    "name", [b'"step', b"optimizer.1.exp_avg", b"optimizer.1.step", b"optimizer.2.exp_avg_sq", b"model.student.", None]
)
def test_a_checkpoint_with_a_changed_name_or_without_its_hash_is_refused(
    name: bytes | None, stages: Path, tmp_path: Path
) -> None:
    found, path = (stages / "3" / CHECKPOINT).read_bytes(), tmp_path / CHECKPOINT
    if name is None:
        save_file(read_tensors(stages / "3" / CHECKPOINT)[0], path, {"step": "2"})
    else:
        place = found.index(name) + len(name) - 2
        path.write_bytes(found[:place] + b"x" + found[place + 1 :])
    with pytest.raises(RunError, match=f"^{path}: "):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.student.", "its tensors are not this model's"),
        ("optimizer.1.exp_avg", "is no checkpoint of this version"),
        ("optimizer.1.step", "is no checkpoint of this version"),
        ("step", "is no checkpoint of this version"),
    ],
)
def test_a_whole_checkpoint_of_another_model_or_version_is_refused(
    name: str, message: str, stopped: Callable[[int], Path], data: Path
) -> None:
    run = stopped(3)
    tensors, facts = read_tensors(run / CHECKPOINT)
    of = facts if name in facts else tensors
    found = next(each for each in of if each.startswith(name))
    of[f"{found}x"] = of.pop(found)  # type: ignore[assignment]
    write_tensors(run / CHECKPOINT, tensors, facts=facts)
    with pytest.raises(RunError, match=f"^{run / CHECKPOINT}: {message}"):
        small_training(data, run, resume=True)


def test_damaged_lines_of_the_log_are_left_out(stopped: Callable[[int], Path], data: Path) -> None:
    run = stopped(4)
    damaged = [b'{"step": \xff}', b'{"step": 1', b'{"stxp": 1}', b'{"step": "1"}', b"[" * 10**5, b"1"]
    lines = (run / LOG).read_bytes().splitlines()
    (run / LOG).write_bytes(b"\n".join([lines[0], *damaged, *lines[2:]]) + b"\n")
    finished = small_training(data, run, resume=True)
    assert [found["step"] for found in log_lines(run)] == [1, 3, 4, 5, 6]
    assert finished.timing is not None


@pytest.mark.parametrize("content", ["", "{}", "[]", "text", '{"format": 1}', "[" * 10**5])
def test_a_broken_run_description_is_refused_by_name(content: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / RUN).write_text(content)
    with pytest.raises(RunError, match=f"{RUN}: .*train again"):
        small_training(data, run, resume=True)


def test_a_training_has_its_run_for_itself(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def try_another(line: StepReport) -> None:
        if line.step != 2:
            return
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(ConfigurationError, match=f"{run}: another training or calibration writes there"):
            small_training(data, run, resume=True)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    small_training(data, run, report=try_another)
    assert_same_training(run, uninterrupted)


# Has a run for itself, as a training does, until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from reason_runtime.alone import alone_in
with alone_in(Path(sys.argv[1]), otherwise="is held"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_that_another_process_trains_is_left_to_it(
    stopped: Callable[[int], Path], data: Path, uninterrupted: Path
) -> None:
    run = stopped(STEPS)
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigurationError, match=f"{run}: another training or calibration writes there"):
            small_training(data, run, resume=True)
        other.kill()
    small_training(data, run, resume=True)  # a kill leaves no lock
    assert_same_training(run, uninterrupted)
    assert sorted(os.listdir(run)) == sorted(os.listdir(uninterrupted))


def kill_at_random(start: Callable[[], BaseProcess], run: Path, *, seed: int, whole_s: float) -> tuple[int, int]:
    """Start, kill and start again; how often it was killed, and how often with a checkpoint there already.

    The moments are spread over the time that the whole training takes. After `KILLS` it may finish.
    """
    moments, killed, with_checkpoint = random.Random(seed), 0, 0
    deadline = time.monotonic() + LONGEST_S
    while True:
        process = start()
        process.start()
        if killed < KILLS:
            process.join(moments.uniform(0.2, 0.9) * whole_s)
        else:
            process.join(max(1.0, deadline - time.monotonic()))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return killed, with_checkpoint
        process.kill()  # SIGKILL
        process.join()
        assert time.monotonic() < deadline
        killed += 1
        with_checkpoint += (run / CHECKPOINT).exists()
        for path in run.glob("[!.]*.safetensors"):
            read_tensors(path)  # whole, whenever it is seen


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_until_done(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["reason_train.training_run"])
    data = load_dataset(good_parts(tmp_path / "stripes", images=9))
    choices = small_choices(steps=40)

    def start(run: Path) -> BaseProcess:
        options = {"out": run, "device": CPU, "resume": True, "checkpoint_seconds": 0.0}
        return processes.Process(target=train, args=(data, choices), kwargs=options)

    whole = start(tmp_path / "whole")
    started = time.monotonic()
    whole.start()
    whole.join(LONGEST_S)
    whole_s = time.monotonic() - started
    assert whole.exitcode == 0
    run = tmp_path / "run"
    killed, with_checkpoint = kill_at_random(lambda: start(run), run, seed=seed, whole_s=whole_s)
    assert killed >= 1, f"seed {seed}"
    assert with_checkpoint >= 1, f"seed {seed}"
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(os.listdir(tmp_path / "whole"))
    assert {LOG, MODEL, RUN} <= set(os.listdir(tmp_path / "run"))
