"""What a person sees while a training or an evaluation runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reason_train.checkpoint import StepReport
from reason_train.config import PAPER_PROTOCOL_NOTE, Config


class TrainingBar:
    """Steps, loss and time left on stderr, where that is a terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("preparing", total=None)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the bar was opened."""
        return time.monotonic() - self._started

    def start(self, config: Config, steps: int) -> None:
        """Say what is trained, and how long."""
        self._bar.console.print(f"training {config.method.method} with {config.method.teacher}, {steps} steps")
        for departure in config.departures if config.preset == "paper" else ():
            self._bar.console.print(f"not the published method: {departure}")
        if config.paper_protocol:
            self._bar.console.print(PAPER_PROTOCOL_NOTE)
        self._bar.update(self._task, total=steps, description="training")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line)

    def update(self, line: StepReport) -> None:
        """Show a step."""
        self._bar.update(self._task, completed=line.step, description=f"loss {line.loss:.4f}")


def _bar(*, shown: bool = True) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    return Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))


@contextmanager
def training_bar(*, shown: bool = True) -> Iterator[TrainingBar]:
    """A bar for `reason_train.training_run.train`; where it is not shown, nothing is said either."""
    with _bar(shown=shown) as bar:
        bar.console.quiet = not shown
        yield TrainingBar(bar)


class ImageBar:
    """Images done, on stderr, where that is a terminal."""

    def __init__(self, bar: Progress, what: str, total: int) -> None:
        self._bar, self._task = bar, bar.add_task(what, total=total)

    def advance(self, images: int) -> None:
        """Add to the count."""
        self._bar.advance(self._task, images)


@contextmanager
def image_bar(what: str, *, total: int) -> Iterator[ImageBar]:
    """A bar that counts images."""
    with _bar() as bar:
        yield ImageBar(bar, what, total)
