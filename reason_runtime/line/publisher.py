"""Every message to every sink; the journal forgets a part when all of them are done with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.health import Health
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Answer, Event, Message
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.sinks.runner import SinkRunner
from reason_runtime.line.sinks.sink import Sink

_BUFFER = 10_000
_PICTURE_BUFFER = 16  # with pixels: megabytes each
_POLL_S = 0.05  # whether somebody says stop


class Publisher:
    """Fans messages out; never waits for a sink.

    Args:
        metrics: Counts what sinks miss.
        journal: Told when a part is done with; None keeps none.
        tell: Hears every event besides, for people: where a sink is down, it cannot say so itself. It must
            neither wait nor fail: many threads call it, some of them under the ledger's lock.
    """

    def __init__(
        self, *, metrics: Metrics, journal: Journal | None, tell: Callable[[Event], None] = lambda _: None
    ) -> None:
        self.health = Health(self.publish)
        self._tell = tell
        self._metrics = metrics
        self._journal = journal
        self._runners: list[SinkRunner] = []
        self._lock = threading.Lock()
        self._pending: dict[str, int] = {}

    def start(self, sinks: Sequence[Sink], *, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Open the sinks side by side; what cannot be reached is tried again later, and not waited for at the end.

        Args:
            sinks: Each with an address of its own.
            is_stopping: Asked while they open.

        Raises:
            ConfigurationError: An address is wrong or given twice, or an extra is missing.
        """
        names = [runner.sink.name for runner in self._runners]
        for sink in sinks:
            if sink.name in names:  # its faults would be one, and the PLC of one could read the results of the other
                raise ConfigurationError(f"{sink.name}: two sinks have this address; give each its own")
            names.append(sink.name)
        for sink in sinks:
            runner = SinkRunner(
                sink,
                buffer=_PICTURE_BUFFER if sink.wants_pictures else _BUFFER,
                metrics=self._metrics,
                health=self.health,
                done=self._done,
            )
            self._metrics.watch_queue(f"sink {sink.name}", runner)
            self._runners.append(runner)
            runner.start()
        for runner in self._runners:
            while not (runner.has_tried(_POLL_S) or is_stopping()):
                pass

    def publish(self, message: Message) -> None:
        """Hand a message to every sink."""
        if isinstance(message, Event):
            self._tell(message)
        self._send(message, self._runners)

    def hand_on(self, answer: Answer) -> None:
        """Hand an answer that the process before did not get out to the sinks that keep what they missed.

        A PLC, which would take it for the part that is before it now, hears only of parts that were in flight, and
        that once: the journal has the answer from here on.
        """
        in_flight = self._journal is not None and not self._journal.has_answer(answer.key)
        if self._journal is not None and in_flight:
            try:
                self._journal.answered(answer)
            except SinkError as error:
                self.health.fault("journal", str(error))
        self._send(
            answer, [runner for runner in self._runners if runner.sink.keeps or (runner.sink.drives_line and in_flight)]
        )

    def _send(self, message: Message, runners: Sequence[SinkRunner]) -> None:
        if isinstance(message, Answer):
            with self._lock:
                self._pending[message.key] = len(runners)
            if not runners:
                self._done(message)
        for runner in list(runners):
            runner.put(message)

    def wants_picture(self, answer: Answer) -> bool:
        """A sink asks for the pixels of this part, though it may be OK."""
        sinks = [runner.sink for runner in self._runners if runner.sink.wants_pictures]
        return any(sink.wants is not None and sink.wants(answer) for sink in sinks)

    def has_room(self, count: int) -> bool:
        """No sink that is open loses anything by so many messages more."""
        return all(runner.has_room(count) for runner in self._runners)

    def backlog(self) -> int:
        """Messages that sinks which are open have yet to deliver."""
        return sum(runner.backlog() for runner in self._runners)

    def finish(self, seconds: float) -> int:
        """Let every sink deliver what it has, for at most so long together; gives how many messages were left."""
        until_s = time.monotonic() + seconds
        for runner in self._runners:
            runner.end()
        return sum(runner.finish(until_s) for runner in self._runners)

    def _done(self, answer: Answer) -> None:
        with self._lock:
            left = self._pending.get(answer.key, 0) - 1
            if left > 0:
                self._pending[answer.key] = left
                return
            self._pending.pop(answer.key, None)
        if self._journal is None:
            return
        try:
            self._journal.delivered(answer.key)
        except SinkError as error:
            self.health.fault("journal", str(error))
