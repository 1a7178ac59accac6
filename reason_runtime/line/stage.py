"""One stage on one thread: from its queue to the next; whatever goes wrong rejects the part and the stage goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reason_runtime.line.health import Health
from reason_runtime.line.ledger import Ledger
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.queues import BoundedQueue
from reason_runtime.line.watch import Watch
from reason_runtime.line.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What every stage shares."""

    ledger: Ledger
    health: Health
    metrics: Metrics
    watch: Watch


class Stage:
    """A thread that hands the work in a queue to a function, and what comes of it to the next queue.

    Args:
        name: For metrics, events and the thread.
        desk: Books, health and metrics.
        queue: To take from.
        handle: Does the work and gives what goes on; parts that were answered meanwhile never reach it.
        onward: Takes what goes on; None after the last stage. To wait for room there is no work and cannot hang.
        ended: Called once when the queue is closed and empty.
        most: Frames handed over at once.
        wait_s: How long to wait for further frames once there is one.
        apart: By what a failure is called, the frames that go through together: one of others rejects none of these,
            and what goes well with others does not clear it. None: all of them, by the stage's name.
    """

    def __init__(
        self,
        name: str,
        *,
        desk: Desk,
        queue: BoundedQueue[Work],
        handle: Callable[[list[Work]], list[Work]],
        onward: BoundedQueue[Work] | None,
        ended: Callable[[], None],
        most: int = 1,
        wait_s: float = 0.0,
        apart: Callable[[list[Work]], Mapping[str, list[Work]]] | None = None,
    ) -> None:
        self._name = name
        self._desk = desk
        self._queue = queue
        self._handle = handle
        self._onward = onward
        self._ended = ended
        self._most = most
        self._wait_s = wait_s
        self._apart = apart or (lambda works: {name: works})
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        while taken := self._queue.take(most=self._most, wait_s=self._wait_s):
            works = [work for work in taken if self._desk.ledger.is_open(work.frame)]
            if not works:
                continue
            started_ns = time.monotonic_ns()
            stage = self._name.partition(" ")[0]
            for work in works:
                self._desk.metrics.stage(f"wait for {stage}", (started_ns - work.waits_since_ns) / 1e9)
            done: list[Work] = []
            for about, own in self._apart(works).items():
                try:
                    with self._desk.watch.busy(self._name):
                        done += self._handle(own)
                except Exception as error:  # the fail-safe boundary: no error, of whatever kind, may let a part pass
                    self._fail(about, own, error)
                else:
                    self._desk.health.clear(about)
            self._desk.metrics.stage(stage, (time.monotonic_ns() - started_ns) / 1e9)
            self._hand_on(done)
        self._ended()

    def _hand_on(self, works: list[Work]) -> None:
        for work in works:
            work.waits_since_ns = time.monotonic_ns()
            if self._onward is not None and self._onward.put(work) is not None:
                self._desk.ledger.refuse(work.frame, "stopped", "the line is stopping")

    def _fail(self, about: str, works: list[Work], error: Exception) -> None:
        text = f"{about} failed ({type(error).__name__}: {error})"
        self._desk.health.fault(about, text)
        for work in works:
            self._desk.ledger.refuse(work.frame, "error", text)
