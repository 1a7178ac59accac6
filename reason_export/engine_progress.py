"""What an engine builder is doing, on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt


@contextmanager
def watch(trt: ModuleType, config: tensorrt.IBuilderConfig) -> Iterator[None]:
    """Show the phase and step of the build that runs inside; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return

    class Phases(trt.IProgressMonitor):  # type: ignore[name-defined,misc]  # a class of a module chosen at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self.steps.get(phase_name, step + 1)
            print(f"\r\x1b[K{phase_name} {step + 1}/{steps}", end="", file=sys.stderr, flush=True)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    phases = Phases()
    config.progress_monitor = phases  # `phases` lives until the build is over, as the library asks
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
