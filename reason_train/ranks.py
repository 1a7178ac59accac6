"""Several processes train one model: who they are, which images of a batch are whose, and what they share.

`torchrun` starts the processes, one a device. Every draw is a function of seed and step, so all of them draw for the
whole batch and take their part of it; `ALONE` is one process, for which all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reason_runtime.errors import TrainingError
from reason_train.model import ReasonModel, Reconstruct
from reason_train.synchronised_norm import synchronise_batch_norms

T = TypeVar("T")
LOST = ("gloo", "NCCL", "Connection", "store")
"""Words of PyTorch's errors where another process, or the network to it, is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A process's images [start, stop) of a batch of `images`; none at all where a last batch is smaller than that."""

    ranks: Ranks
    images: int
    start: int
    stop: int

    def of(self, order: Sequence[int]) -> Sequence[int]:
        """This process's entries of the whole batch's."""
        return order[self.start : self.stop]

    @property
    def weight(self) -> float:
        """Factor on a mean over this process's images, so that the mean over processes is that over all images."""
        return (self.stop - self.start) * self.ranks.size / self.images

    def means(self, values: Sequence[Tensor]) -> list[float]:
        """Means over all images of scalars that are means over this process's."""
        stacked = torch.stack([value.detach().float() for value in values])
        if self.ranks.size > 1:
            stacked = stacked * (self.stop - self.start) / self.images if self.weight else torch.zeros_like(stacked)
            dist.all_reduce(stacked)
        means: list[float] = stacked.tolist()
        return means

    def gather(self, values: Tensor) -> Tensor:
        """(n, ...) values of this process's images to the whole batch's (N, ...), without gradient."""
        if self.ranks.size == 1:
            return values
        parts = [self.ranks.part(self.images, rank=rank) for rank in range(self.ranks.size)]
        sizes = [part.stop - part.start for part in parts]
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values.detach()
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def part(self, images: int, *, rank: int | None = None) -> Part:
        """What this process, or another, takes of a batch of so many images; parts differ by one image at most."""
        rank = self.rank if rank is None else rank
        return Part(ranks=self, images=images, start=rank * images // self.size, stop=(rank + 1) * images // self.size)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them; where it fails there, `torchrun` ends all."""
        if self.size == 1:
            return make()
        shared = [make() if self.is_first else None]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]  # type: ignore[return-value]  # of the first process, so a T

    def require_equal(self, value: object, *, what: str) -> None:
        """Check that every process has what the first one has.

        Raises:
            TrainingError: It has not.
        """
        if self.from_first(lambda: value) != value:
            raise TrainingError(
                f"process {self.rank} of {self.size} has other {what} than process 0; "
                "give every machine the same data, options and library versions"
            )

    def reconstruct(self, model: ReasonModel) -> Reconstruct:
        """The trained parts as a function that all processes train together; the frozen teacher stays outside."""
        if self.size == 1:
            return model.reconstruct
        synchronise_batch_norms(model)
        wrapped: Reconstruct = DistributedDataParallel(_TrainedParts(model))
        return wrapped


class _TrainedParts(nn.Module):
    """A model's suppression, bottlenecks and students, without its teacher."""

    def __init__(self, model: ReasonModel) -> None:
        super().__init__()
        self.parts = nn.ModuleList(filter(None, [model.suppression, *model.rebuilding_parts()]))
        self._reconstruct = model.reconstruct  # a function, so the model does not become a part of this module

    def forward(self, seen: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        return self._reconstruct(seen)


ALONE = Ranks()


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """This process among those that `torchrun` started, and its own device; without `torchrun`, alone.

    NCCL connects GPUs, gloo CPUs.

    Raises:
        TrainingError: Another process ended, or the network to it broke.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(rank=dist.get_rank(), size=dist.get_world_size())
    try:
        yield ranks, device
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        raise TrainingError(
            f"process {ranks.rank} of {ranks.size} lost the others ({str(error).splitlines()[0]}); "
            "what ended them is said above, resume with --resume"
        ) from error
    dist.destroy_process_group()
