"""The ledger: every part that entered gets exactly one answer, in order per camera, at its deadline at the latest."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from reason_runtime.errors import SinkError
from reason_runtime.line.frame import Frame
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Answer, Cause, wall_text
from reason_runtime.line.metrics import Metrics

_REMEMBERED = 1_000  # part ids that are refused when they come again: a reader that reads twice, not a part fed again
_LATE = "not judged within its deadline"


@dataclass(slots=True)
class _Place:
    frame: Frame
    answer: Answer | None = None


class Ledger:
    """Books of the parts in flight.

    An answer is recorded in the journal before it is handed on. Where that fails it becomes UNKNOWN, which is what a
    restart would say, so that no part ever gets two different answers.

    Args:
        publish: Takes each answer, in order per camera; called under the ledger's lock, so it must not wait.
        journal: Of parts in flight; None keeps none.
        metrics: Counts answers.
        journal_failed: Told of each failure what the journal said.
    """

    def __init__(
        self,
        *,
        publish: Callable[[Answer], None],
        journal: Journal | None,
        metrics: Metrics,
        journal_failed: Callable[[str], None],
    ) -> None:
        self._publish = publish
        self._journal = journal
        self._metrics = metrics
        self._journal_failed = journal_failed
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[_Place]] = {}
        self._places: dict[str, _Place] = {}
        recovered = [] if journal is None else journal.recovered()  # answered by, or on behalf of, the process before
        self._seen: OrderedDict[str, None] = OrderedDict.fromkeys(answer.part_id for answer in recovered)
        self._sleeps_until_ns: int | None = None  # the timekeeper

    def take(self, frame: Frame) -> bool:
        """Enter a part.

        Returns:
            False where it is answered already: its id came before, or the journal refused it.
        """
        with self._changed:
            repeated = frame.part_id in self._seen
            if repeated:
                # the first part of that name keeps its answer; this one gets a name of its own
                frame = replace(frame, part_id=f"{frame.part_id}#{frame.camera}-{frame.number}")
            self._seen[frame.part_id] = None
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            place = _Place(frame)
            self._waiting.setdefault(frame.camera, deque()).append(place)
            self._places[frame.key] = place
            try:
                if self._journal is not None:
                    self._journal.taken(frame)
            except SinkError as error:
                self._journal_failed(str(error))
                self._settle(place, unknown(frame, "journal", str(error)))
                return False
            if repeated:
                self._settle(place, unknown(frame, "repeated", "a part of this id came before"))
                return False
            if self._sleeps_until_ns is not None and (frame.deadline_ns or math.inf) < self._sleeps_until_ns:
                self._changed.notify_all()  # only where it would sleep too long: each wake-up costs the stages time
            return True

    def answer(self, frame: Frame, answer: Answer) -> bool:
        """Answer a part.

        Returns:
            False where another answer goes out: it had one before, its deadline is over, or the journal failed.
        """
        with self._changed:
            place = self._places.get(frame.key)
            if place is None or place.answer is not None:
                return False
            in_time = unknown(frame, "deadline", _LATE) if _is_late(frame) else answer
            return self._settle(place, in_time).cause == answer.cause

    def refuse(self, frame: Frame, cause: Cause, text: str) -> bool:
        """Answer a part UNKNOWN; see `answer`."""
        return self.answer(frame, unknown(frame, cause, text))

    def is_open(self, frame: Frame) -> bool:
        """The part still waits for its answer."""
        with self._changed:
            place = self._places.get(frame.key)
            return place is not None and place.answer is None

    def expire(self) -> None:
        """Answer UNKNOWN whatever is past its deadline."""
        with self._changed:
            now_ns = time.monotonic_ns()
            for place in list(self._places.values()):
                deadline_ns = place.frame.deadline_ns
                if place.answer is None and deadline_ns is not None and deadline_ns <= now_ns:
                    self._settle(place, unknown(place.frame, "deadline", _LATE))

    def sleep(self, until_ns: int) -> None:
        """Sleep of the timekeeper, until the next deadline if that comes before, even that of a part yet to enter."""
        with self._changed:
            ahead = (
                place.frame.deadline_ns
                for place in self._places.values()
                if place.answer is None and place.frame.deadline_ns is not None
            )
            self._sleeps_until_ns = min([until_ns, *ahead])
            self._changed.wait(max(0, self._sleeps_until_ns - time.monotonic_ns()) / 1e9)
            self._sleeps_until_ns = None

    def wake(self) -> None:
        """End a sleep."""
        with self._changed:
            self._changed.notify_all()

    def refuse_all(self, cause: Cause, text: str) -> int:
        """Answer everything that is open UNKNOWN, and say how many that were."""
        with self._changed:
            open_places = [place for place in self._places.values() if place.answer is None]
            for place in open_places:
                self._settle(place, unknown(place.frame, cause, text))
            return len(open_places)

    def wait_empty(self, seconds: float) -> bool:
        """Wait until every part has left; False where that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._places, seconds)

    def __len__(self) -> int:
        with self._changed:
            return len(self._places)

    def _settle(self, place: _Place, answer: Answer) -> Answer:
        """Gives what goes out."""
        place.answer = recorded = self._recorded(place.frame, answer)
        places = self._waiting[place.frame.camera]
        while places and places[0].answer is not None:
            done = places.popleft()
            del self._places[done.frame.key]
            left = done.answer
            assert left is not None  # checked by the loop
            latency_ms = (time.monotonic_ns() - done.frame.grab.grabbed_ns) / 1e6
            self._metrics.answered(left.camera, decision=left.decision, cause=left.cause, latency_ms=latency_ms)
            self._publish(left)
            if done.frame.grab.reply is not None:
                done.frame.grab.reply(left.line())
        if not self._places:
            self._changed.notify_all()
        return recorded

    def _recorded(self, frame: Frame, answer: Answer) -> Answer:
        """The answer that the journal has; a disk that stalls may make it one that comes too late."""
        timed = _timed(frame, answer)
        if self._journal is None:
            return timed

        def late() -> Answer | None:
            is_late = timed.decision != "UNKNOWN" and _is_late(frame)
            return _timed(frame, unknown(frame, "deadline", _LATE)) if is_late else None

        try:
            return self._journal.answered(timed, instead=late)
        except SinkError as error:
            self._journal_failed(str(error))
            return _timed(frame, unknown(frame, "journal", str(error)))


def _is_late(frame: Frame) -> bool:
    return frame.deadline_ns is not None and time.monotonic_ns() > frame.deadline_ns


def _timed(frame: Frame, answer: Answer) -> Answer:
    return replace(answer, latency_ms=(time.monotonic_ns() - frame.grab.grabbed_ns) / 1e6)


def unknown(frame: Frame, cause: Cause, text: str) -> Answer:
    """UNKNOWN for a frame, with the reason."""
    return replace(blank(frame), cause=cause, reason=text)


def blank(frame: Frame) -> Answer:
    """What is known of a frame before it is judged; UNKNOWN until somebody says otherwise."""
    strip = frame.grab.strip
    return Answer(
        camera=frame.camera,
        number=frame.number,
        key=frame.key,
        part_id=frame.part_id,
        decision="UNKNOWN",
        cause="error",
        grabbed=wall_text(frame.grabbed_at),
        path=frame.grab.path,
        encoder_count=frame.grab.encoder_count,
        first_line=strip.first_line if strip else None,
        valid_lines=strip.valid_lines if strip else None,
    )
