"""Processes that train together over gloo, as torchrun would start them, without its start-up time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from reason_train.ranks import Ranks

LONGEST_S = 120.0


def run_together(folder: Path, target: Callable[..., None], *arguments: object, size: int = 2) -> list[int | None]:
    """Call `target(ranks, *arguments)` in so many processes; their exit codes. Where one fails the others are ended."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["reason_train.training_run"])
    started = [
        processes.Process(target=_joined, args=(rank, size, folder / "store", target, arguments))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    deadline = time.monotonic() + LONGEST_S
    while any(process.is_alive() for process in started) and not any(process.exitcode for process in started):
        assert time.monotonic() < deadline, "the processes wait for each other"
        time.sleep(0.02)
    return [_end(process) for process in started]


def _end(process: BaseProcess) -> int | None:
    process.join(1.0)
    process.kill()
    process.join()
    return process.exitcode


def _joined(rank: int, size: int, store: Path, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    target(Ranks(rank=rank, size=size), *arguments)
    dist.destroy_process_group()
