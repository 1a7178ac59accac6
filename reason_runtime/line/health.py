"""What is wrong at present, and the heartbeat that counts only while nothing is."""

from __future__ import annotations

import threading
from collections.abc import Callable

from reason_runtime.line.messages import Beat, Event, now_text


class Health:
    """Faults by what they are about; each is reported once when it comes and once when it goes.

    Args:
        report: Takes events; called without the lock.
    """

    def __init__(self, report: Callable[[Event], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        self._harmless: set[str] = set()
        self._beats = 0

    def fault(self, about: str, text: str, *, stops_heartbeat: bool = True) -> None:
        """Something is wrong from now on; the heartbeat goes on where no decision depends on it (a log, a broker)."""
        with self._lock:
            known = about in self._faults
            self._faults[about] = text
            if not stops_heartbeat:
                self._harmless.add(about)
        if not known:
            self._report(Event(level="fault", name=about, text=text, at=now_text()))

    def clear(self, about: str) -> None:
        """It is right again."""
        with self._lock:
            was = self._faults.pop(about, None)
            self._harmless.discard(about)
        if was is not None:
            self._report(Event(level="info", name=about, text=f"well again; was: {was}", at=now_text()))

    def note(self, about: str, text: str) -> None:
        """Something happened that is no fault."""
        self._report(Event(level="info", name=about, text=text, at=now_text()))

    @property
    def faults(self) -> dict[str, str]:
        """A copy of what is wrong."""
        with self._lock:
            return dict(self._faults)

    def beat(self, *, busy: bool) -> Beat:
        """The next heartbeat."""
        with self._lock:
            healthy = set(self._faults) <= self._harmless
            self._beats += healthy
            return Beat(count=self._beats, healthy=healthy, faults=dict(self._faults), busy=busy)
