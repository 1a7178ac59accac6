"""The clock of a line: deadlines, heartbeats, cameras that went quiet, calls that hang. Waits for no other thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from reason_runtime.errors import SinkError
from reason_runtime.line.grabber import Grabber
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Message
from reason_runtime.line.stage import Desk

_PAUSE_S = 0.05  # after a turn that failed


class Timekeeper:
    """Runs until it is stopped, whatever fails in a turn; the next one follows.

    Args:
        desk: Books, health and what is being worked on.
        grabbers: Whose cameras may stall.
        journal: Tried at each beat while it is a fault, since no part may come until the heartbeat goes on.
        hang_s: A stage busy for longer with one piece of work hangs.
        heartbeat_s: From beat to beat.
        publish: Takes heartbeats.
        hung: Told once, with the stage and its seconds.
    """

    def __init__(
        self,
        *,
        desk: Desk,
        grabbers: Sequence[Grabber],
        journal: Journal | None,
        hang_s: float,
        heartbeat_s: float,
        publish: Callable[[Message], None],
        hung: Callable[[str, float], None],
    ) -> None:
        self._desk = desk
        self._grabbers = grabbers
        self._journal = journal
        self._hang_s = hang_s
        self._heartbeat_s = heartbeat_s
        self._publish = publish
        self._hung = hung
        self._stop = threading.Event()
        self._next_beat_s = time.monotonic()
        self._reported = False
        self._turned_s = time.monotonic()
        self.thread = threading.Thread(target=self._run, name="timekeeper", daemon=True)

    def stop(self) -> None:
        """Keep time no more."""
        self._stop.set()

    @property
    def stands_still(self) -> bool:
        """A turn takes longer than a stage may: somebody holds a lock in a call that does not return."""
        return time.monotonic() - self._turned_s > self._hang_s + self._heartbeat_s

    def _run(self) -> None:
        while not self._stop.is_set():
            self._turned_s = time.monotonic()
            try:
                self._turn()
            except Exception as error:  # the fail-safe boundary: without a clock no deadline would be kept
                self._desk.health.fault("timekeeper", f"{type(error).__name__}: {error}")
                self._stop.wait(_PAUSE_S)
            else:
                self._desk.health.clear("timekeeper")

    def _turn(self) -> None:
        self._desk.ledger.expire()
        if time.monotonic() >= self._next_beat_s:
            for grabber in self._grabbers:
                grabber.check_stall()
            self._check_journal()
            self._next_beat_s += self._heartbeat_s
            self._next_beat_s = max(self._next_beat_s, time.monotonic())  # after a pause of the whole process: no burst
            self._publish(self._desk.health.beat(busy=len(self._desk.ledger) > 0))
        longest = self._desk.watch.longest()
        if longest is not None and longest[1] > self._hang_s and not self._reported:
            self._hung(*longest)
            self._reported = True
        self._desk.ledger.sleep(int(self._next_beat_s * 1e9))

    def _check_journal(self) -> None:
        if self._journal is not None and "journal" in self._desk.health.faults:
            with suppress(SinkError):
                self._journal.check()
                self._desk.health.clear("journal")
