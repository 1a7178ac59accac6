"""A simulated line-scan camera: moves over a large image at a set speed, counts its encoder, and fails when told to.

Like a real one it does not wait: lines that nobody fetched from its small buffer in time are lost, and the encoder
count jumps. The moment of a block is when its last line was exposed, however late it is fetched.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from reason_runtime.detector import Pixels
from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.source import Nothing

_LONGEST_SLEEP_S = 0.5
FaultKind = Literal["unplug", "corrupt", "black", "freeze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong between two blocks, the second one excluded."""

    kind: FaultKind
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How the simulated web moves.

    Attributes:
        lines_per_s: Speed.
        block_lines: Lines that come at once.
        counts_per_line: Encoder counts from one line to the next.
        jitter: Largest deviation of a block's moment, as a share of its duration, 0..1.
        loops: Times that the image passes; None for ever.
        buffer_blocks: Blocks that the camera keeps for a reader that is late.
        faults: By block number.
        seed: Of the jitter.
    """

    lines_per_s: float
    block_lines: int = 64
    counts_per_line: int = 1
    jitter: float = 0.0
    loops: int | None = None
    buffer_blocks: int = 16
    faults: tuple[Fault, ...] = ()
    seed: int = 0


def read_faults(text: str) -> tuple[Fault, ...]:
    """Faults written as `unplug@100-120,corrupt@300`.

    Raises:
        ConfigurationError: Not written so.
    """
    faults = []
    for item in filter(None, text.split(",")):
        found = re.fullmatch(r"(unplug|corrupt|black|freeze)@(\d+)(?:-(\d+))?", item)
        if found is None:
            raise ConfigurationError(f"fault {item!r}: expected unplug|corrupt|black|freeze@BLOCK or @FIRST-END")
        kind, first, end = found.groups()
        faults.append(Fault(kind=kind, first=int(first), end=int(end) if end else int(first) + 1))  # type: ignore[arg-type]
    return tuple(faults)


class LineScanSource:
    """See `Source`. Each frame is one block of lines; see `reason_runtime.line.sources.web` for frames with overlap.

    Args:
        web: (L, W) or (L, W, 3): what passes below the camera, again and again.
        motion: How.
        name: For messages.

    Raises:
        ConfigurationError: The image has fewer lines than a block.
    """

    live = True
    checks_freezing = False  # the same image passes again and again

    def __init__(self, web: Pixels, *, motion: Motion, name: str) -> None:
        if motion.lines_per_s <= 0 or motion.block_lines < 1 or len(web) < motion.block_lines:
            raise ConfigurationError(f"{name}: needs lines_per_s above 0 and an image of at least one block of lines")
        self._web = web
        self._motion = motion
        self._name = name
        self._block_s = motion.block_lines / motion.lines_per_s
        self._random = np.random.default_rng(motion.seed)
        self._next = 0
        self._started_s: float | None = None
        self._frozen: Pixels | None = None
        blocks = len(web) * (motion.loops or 0) // motion.block_lines
        self._last = blocks if motion.loops is not None else None

    def open(self) -> None:
        """See `Source.open`; while unplugged, the web moves on."""
        if self._started_s is None:
            self._started_s = time.monotonic()
        now = int((time.monotonic() - self._started_s) / self._block_s)
        if self._fault(now, "unplug") and now >= self._next:
            raise SourceError(f"{self._name}: is not there")
        if any(fault.kind == "unplug" and fault.first <= self._next < fault.end for fault in self._motion.faults):
            self._next = max(self._next, now)

    def read(self) -> Grab | Nothing:
        """See `Source.read`."""
        if self._started_s is None:
            raise SourceError(f"{self._name}: is not open")
        if self._last is not None and self._next >= self._last:
            return "end"
        number = self._next
        if self._fault(number, "unplug"):
            raise SourceError(f"{self._name}: connection lost")
        due_s = self._started_s + (number + 1) * self._block_s
        due_s += self._motion.jitter * self._block_s * float(self._random.uniform(0, 1))
        wait_s = due_s - time.monotonic()
        while wait_s > 0:
            time.sleep(min(wait_s, _LONGEST_SLEEP_S))
            wait_s = due_s - time.monotonic()
        behind = int(-wait_s / self._block_s)
        if behind > self._motion.buffer_blocks:
            self._next += behind - self._motion.buffer_blocks  # overwritten in the camera: the count jumps
            return "idle"
        self._next += 1
        return self._block(number, due_s)

    def close(self) -> None:
        """See `Source.close`."""

    def _block(self, number: int, due_s: float) -> Grab:
        count = self._motion.block_lines
        rows = (np.arange(count) + number * count) % len(self._web)
        pixels = self._web[rows]
        if self._fault(number, "black"):
            pixels = np.zeros_like(pixels)
        if self._fault(number, "freeze"):
            pixels = self._frozen if self._frozen is not None else pixels
        self._frozen = pixels
        corrupt = self._fault(number, "corrupt")
        return Grab(
            grabbed_ns=int(due_s * 1e9),
            image=None if corrupt else pixels,
            failure="the block arrived incomplete" if corrupt else None,
            encoder_count=number * count * self._motion.counts_per_line,
        )

    def _fault(self, number: int, kind: FaultKind) -> bool:
        return any(fault.kind == kind and fault.first <= number < fault.end for fault in self._motion.faults)


def read_web(path: Path) -> Pixels:
    """The image that a simulated camera moves over, whatever its length.

    Raises:
        SourceError: It cannot be read.
    """
    if path.suffix == ".npy":
        try:
            pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: cannot be read ({error})") from error
        return pixels
    from reason_runtime.decode import decode
    from reason_runtime.errors import ImageError

    try:
        return decode(path, check_size=lambda *, width_px, height_px: None).colour
    except ImageError as error:
        raise SourceError(str(error)) from error
