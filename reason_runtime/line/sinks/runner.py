"""A sink on its own thread behind a bounded buffer: it may be down for hours and no decision waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.health import Health
from reason_runtime.line.messages import Answer, Beat, Message
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.sinks.sink import Sink

_BATCH = 64
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class SinkRunner:
    """Delivers messages in order and counts what is lost: pushed out of a full buffer, or failed where nothing is kept.

    Args:
        sink: Opened by `start`.
        buffer: Messages kept at most.
        metrics: Counts what is missed.
        health: Told when the sink goes down and comes back.
        done: Told of every answer that was delivered or given up.
    """

    def __init__(
        self, sink: Sink, *, buffer: int, metrics: Metrics, health: Health, done: Callable[[Answer], None]
    ) -> None:
        self._sink = sink
        self._size = buffer
        self._metrics = metrics
        self._health = health
        self._done = done
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._open = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    def start(self) -> None:
        """Open the sink once, so that a wrong address is an error at the start, and go.

        Raises:
            ConfigurationError: The address is wrong or an extra is missing.
        """
        try:
            self._sink.open()
            self._open = True
        except ConfigurationError:
            raise
        except Exception as error:  # of whatever kind: it is down for now, and tried again with the first message
            self._down(error)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Take a message; never waits."""
        if isinstance(message, Answer) and not self._sink.wants_pictures:
            message = message.without_picture()
        lost: Message | None = None
        with self._changed:
            if isinstance(message, Beat) and not self._open:
                return  # an old heartbeat is worth nothing
            if len(self._waiting) >= self._size:
                lost = self._waiting.popleft()
            self._waiting.append(message)
            self._changed.notify_all()
        if lost is not None:
            self._give_up([lost])

    def finish(self, seconds: float) -> int:
        """Deliver what is there for at most so long, close the sink, and say how many messages were left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy, seconds)
            left = [message for message in self._waiting if not isinstance(message, Beat)]
            self._waiting.clear()
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)
        self._metrics.missed(self._sink.name, len(left))
        return len(left)

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while batch := self._next():
            try:
                if not self._open:
                    self._sink.open()
                    self._open = True
                self._sink.deliver(batch)
            except Exception as error:  # the fail-safe boundary: a broken sink must not take its thread along
                self._open = False
                self._sink.close()
                self._down(error)
                self._after_failure(batch)
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            self._health.clear(f"sink {self._sink.name}")
            self._settle(batch)
        self._sink.close()

    def _next(self) -> list[Message]:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or bool(self._waiting))
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._busy = bool(batch)
            return batch

    def _after_failure(self, batch: list[Message]) -> None:
        kept = [message for message in batch if self._sink.keeps and not isinstance(message, Beat)]
        with self._changed:
            room = max(0, self._size - len(self._waiting))
            back = kept[len(kept) - min(room, len(kept)) :]
            self._waiting.extendleft(reversed(back))
            self._busy = False
            self._changed.notify_all()
        self._give_up([message for message in batch if message not in back])

    def _settle(self, batch: list[Message]) -> None:
        for message in batch:
            if isinstance(message, Answer):
                self._done(message)
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _give_up(self, messages: list[Message]) -> None:
        lost = [message for message in messages if not isinstance(message, Beat)]
        self._metrics.missed(self._sink.name, len(lost))
        for message in lost:
            if isinstance(message, Answer):
                self._done(message)

    def _down(self, error: Exception) -> None:
        text = str(error) if isinstance(error, SinkError) else f"{type(error).__name__}: {error}"
        self._health.fault(f"sink {self._sink.name}", text, stops_heartbeat=self._sink.drives_line)

    def _sleep(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, max(0.0, until_s - time.monotonic()))
