"""Since when each stage has been busy with the same work, so that a native call that hangs is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Watch:
    """Start times of what is being worked on at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since_ns: dict[str, int] = {}

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """The block is one piece of work of a stage."""
        with self._lock:
            self._since_ns[stage] = time.monotonic_ns()
        try:
            yield
        finally:
            with self._lock:
                self._since_ns.pop(stage, None)

    def longest(self) -> tuple[str, float] | None:
        """The stage that has been busy longest and for how many seconds; None where all wait for work."""
        with self._lock:
            if not self._since_ns:
                return None
            stage = min(self._since_ns, key=lambda name: self._since_ns[name])
            return stage, (time.monotonic_ns() - self._since_ns[stage]) / 1e9
