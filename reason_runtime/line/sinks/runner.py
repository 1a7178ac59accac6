"""A sink on its own thread behind a bounded buffer: it may be down for hours and no decision waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from reason_runtime.errors import ConfigurationError, ReasonError
from reason_runtime.line.health import Health
from reason_runtime.line.messages import Answer, Beat, Event, Message
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.sinks.sink import Sink

_BATCH = 64
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_HANGS_S = 5.0  # a delivery that takes longer


class SinkRunner:
    """Delivers messages in order and counts what is lost: pushed out of a full buffer, or failed where nothing is kept.

    Of heartbeats only the newest waits, and none while the sink is closed. A closed sink is opened again after a pause,
    whether or not there is anything to deliver.

    Args:
        sink: Opened on the runner's thread.
        buffer: Messages kept at most.
        metrics: Counts what is missed.
        health: Told when the sink goes down and comes back.
        done: Told of every answer that was delivered or given up.
    """

    def __init__(
        self, sink: Sink, *, buffer: int, metrics: Metrics, health: Health, done: Callable[[Answer], None]
    ) -> None:
        self.sink = sink
        self._size = buffer
        self._metrics = metrics
        self._health = health
        self._done = done
        self._waiting: deque[Answer | Event] = deque()
        self._beat: Beat | None = None
        self._in_work: list[Message] = []
        self._changed = threading.Condition()
        self._delivers_since_s: float | None = None
        self._is_crowded = False  # pushed out messages, and has not caught up since
        self._open = False
        self._tried = threading.Event()  # to open it, once
        self._wrong: ConfigurationError | None = None
        self._ending = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    def start(self) -> None:
        """Open the sink and go."""
        self._thread.start()

    def has_tried(self, within_s: float) -> bool:
        """Whether the first try to open the sink is over, so that a wrong address is an error at the start.

        Raises:
            ConfigurationError: The address is wrong or an extra is missing.
        """
        has_tried = self._tried.wait(within_s)
        if self._wrong is not None:
            raise self._wrong
        return has_tried

    def put(self, message: Message) -> None:
        """Take a message; never waits."""
        if isinstance(message, Answer):
            wants = self.sink.wants
            if wants is not None and not wants(message):  # it would push out what is wanted
                self._done(message)
                return
            if not self.sink.wants_pictures or (wants is None and not message.is_reject):
                message = message.without_picture()
        lost: Message | None = None
        with self._changed:
            if isinstance(message, Beat):
                self._beat = message if self._open else None
            elif self.sink.drives_line and not self._open:  # a PLC must take it for no part that comes later
                lost = message if isinstance(message, Answer) else None
            else:
                if len(self._waiting) >= self._size:
                    lost = self._waiting.popleft()
                    self._is_crowded = True
                self._waiting.append(message)
            since_s, is_crowded = self._delivers_since_s, self._is_crowded and self._open
            self._changed.notify_all()
        if lost is not None:
            self._give_up([lost])
        if isinstance(message, Beat):  # they come whatever happens
            if since_s is not None and time.monotonic() - since_s > _HANGS_S:
                self._fault(f"a delivery has not returned for more than {_HANGS_S:g} s")
            elif is_crowded:
                self._fault("its buffer is full, since it takes messages too slowly; the oldest are lost")

    def end(self) -> None:
        """Close the sink as soon as everything is delivered."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def finish(self, until_s: float) -> int:
        """After `end`: wait until `time.monotonic()` is so late, give up, and say how many messages were left.

        What is still in work then counts as left: nobody knows whether it will arrive.
        """
        self._thread.join(max(0.0, until_s - time.monotonic()))
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            left = [message for message in (*self._in_work, *self._waiting) if not isinstance(message, Beat)]
        self._metrics.missed(self.sink.name, len(left))
        return len(left)

    def has_room(self, count: int) -> bool:
        """So many messages more push nothing out; a closed sink, which may stay so, is not waited for."""
        with self._changed:
            return not self._open or len(self._waiting) + count <= self._size

    def backlog(self) -> int:
        """Messages that an open sink has yet to deliver."""
        with self._changed:
            return len(self._waiting) + len(self._in_work) if self._open else 0

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while (batch := self._next()) is not None:
            try:
                if not self._open:
                    self.sink.open()
                    self._open = True
                    self._tried.set()
                if batch:
                    self._delivers_since_s = time.monotonic()
                    self.sink.deliver(batch)
                    self._delivers_since_s = None
            except Exception as error:  # the fail-safe boundary: a broken sink must not take its thread along
                self._open = False
                self._delivers_since_s = None
                if isinstance(error, ConfigurationError) and not self._tried.is_set():
                    self._wrong = error
                    self._tried.set()
                    return
                self._down(error)
                self._tried.set()
                self._close()
                self._after_failure(batch)
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            if not self._crowded():
                self._health.clear(f"sink {self.sink.name}")
            self._settle(batch)
        self._close()

    def _close(self) -> None:
        try:
            self.sink.close()
        except Exception as error:  # the same boundary: a disk whose quota is used up refuses even that
            logging.getLogger(__name__).warning("%s: did not close cleanly (%s)", self.sink.name, error)

    def _next(self) -> list[Message] | None:
        """What to deliver, which is nothing where a closed sink is to be opened; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_over() or not self._open or self._beat is not None or bool(self._waiting)
            )
            if self._is_over():
                return None
            self._in_work = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if self._beat is not None:
                self._in_work.append(self._beat)
                self._beat = None
            return self._in_work

    def _after_failure(self, batch: list[Message]) -> None:
        lost: list[Message] = []
        with self._changed:
            self._beat = None
            if self.sink.drives_line:
                lost += self._waiting
                self._waiting.clear()
            if self.sink.keeps:
                kept = [message for message in batch if not isinstance(message, Beat)]
                room = max(0, self._size - len(self._waiting))
                first = max(0, len(kept) - room)
                lost += kept[:first]
                self._waiting.extendleft(reversed(kept[first:]))
            else:
                lost += batch
            self._in_work = []
            self._changed.notify_all()
        self._give_up(lost)

    def _settle(self, batch: list[Message]) -> None:
        for message in batch:
            if isinstance(message, Answer):
                self._done(message)
        with self._changed:
            self._in_work = []
            self._changed.notify_all()

    def _give_up(self, messages: list[Message]) -> None:
        lost = [message for message in messages if not isinstance(message, Beat)]
        self._metrics.missed(self.sink.name, len(lost))
        for message in lost:
            if isinstance(message, Answer):
                self._done(message)

    def _down(self, error: Exception) -> None:
        text = str(error) if isinstance(error, ReasonError) else f"{type(error).__name__}: {error}"
        self._fault(text)

    def _fault(self, text: str) -> None:
        self._health.fault(f"sink {self.sink.name}", text, stops_heartbeat=self.sink.drives_line)

    def _crowded(self) -> bool:
        """It has pushed out messages and half of its buffer still waits: well at each delivery, it would flicker."""
        with self._changed:
            self._is_crowded = self._is_crowded and 2 * len(self._waiting) > self._size
            return self._is_crowded

    def _sleep(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(self._is_over, max(0.0, until_s - time.monotonic()))

    def _is_over(self) -> bool:
        return self._stopping or (self._ending and not (self._waiting or self._beat))
