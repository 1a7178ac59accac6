"""One camera on one thread: opens it, numbers its frames, enters them in the books, and reconnects with back-off."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from reason_runtime.errors import ConfigurationError, ReasonError, SourceError
from reason_runtime.line.frame import Frame, Grab
from reason_runtime.line.queues import BoundedQueue
from reason_runtime.line.sources.source import Source
from reason_runtime.line.sources.web import WebSource
from reason_runtime.line.stage import Desk
from reason_runtime.line.work import Work

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
_IDLE = 2  # reads; a web whose camera is lost at once is idle for one of them, then says so
_ROOM_S = 0.005
_DROPPED = "dropped: the model cannot keep up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A source with a name.

    Attributes:
        name: Unique in the station; begins every part id.
        source: Gives the frames.
        stall_s: Seconds without a frame after which a live camera is a fault; None for triggered ones that may wait.
    """

    name: str
    source: Source
    stall_s: float | None = None


class Grabber:
    """Feeds the pipeline from one camera.

    Args:
        camera: To read.
        desk: Books, health and metrics.
        queue: Of the camera; what it pushes out is answered UNKNOWN.
        deadline_s: After the grab; None for none.
        has_room: Sinks can take what is in flight, and a part more. A file waits for them, a camera for nobody.
        ended: Called once when a file is at its end, with the error if that is why.
    """

    def __init__(
        self,
        camera: Camera,
        *,
        desk: Desk,
        queue: BoundedQueue[Work],
        deadline_s: float | None,
        has_room: Callable[[], bool],
        ended: Callable[[ReasonError | None], None],
    ) -> None:
        self._camera = camera
        self._desk = desk
        self._queue = queue
        self._deadline_ns = None if deadline_s is None else int(deadline_s * 1e9)
        self._has_room = has_room
        self._ended = ended
        self._stop = threading.Event()
        self._number = 0
        self._failure: ReasonError | None = None
        self._last_s = time.monotonic()
        started = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
        self._run_name = f"{camera.name}-{started}-{secrets.token_hex(2)}"  # the token: the clock may be stepped back
        self.thread = threading.Thread(target=self._run, name=f"grab {camera.name}", daemon=True)

    def stop(self) -> None:
        """Take no further frame."""
        self._stop.set()

    def check_stall(self) -> None:
        """Report a live camera from which nothing has come for too long."""
        stall_s = self._camera.stall_s
        if stall_s is not None and not self._stop.is_set() and time.monotonic() - self._last_s > stall_s:
            self._desk.health.fault(f"camera {self._camera.name}", f"no frame for more than {stall_s:g} s")

    def _run(self) -> None:
        try:
            self._read_until_end()
        finally:  # a camera whose thread is gone must never look like one that waits
            self._queue.close()
            self._ended(self._failure)

    def _read_until_end(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            before = self._number
            try:
                self._read_all()
                break
            except Exception as error:  # the fail-safe boundary: a camera may fail in any way and come back
                if not self._camera.source.live or isinstance(error, ConfigurationError):
                    self._failure = (
                        error if isinstance(error, ReasonError) else SourceError(f"{type(error).__name__}: {error}")
                    )
                    break
                pause_s = FIRST_PAUSE_S if self._number > before else min(2 * pause_s, LONGEST_PAUSE_S)
                self._desk.health.fault(f"camera {self._camera.name}", f"{error}; next try in {pause_s:g} s")
                self._stop.wait(pause_s)
            finally:
                self._camera.source.close()
        if isinstance(self._camera.source, WebSource):  # what came before a stop is answered
            for grab in self._camera.source.rest():
                self._enter(grab)
        if self._failure is not None and self._camera.source.live:  # of a file, the command says it in its one line
            self._desk.health.fault(f"camera {self._camera.name}", str(self._failure))

    def _read_all(self) -> None:
        source = self._camera.source
        source.open()
        idle = 0
        while not self._stop.is_set():
            if not (source.live or self._has_room()):
                self._stop.wait(_ROOM_S)
                continue
            grab = source.read()
            if grab == "end":
                return
            if self._stop.is_set() and (grab == "idle" or grab.strip is None):  # nobody promised it an answer
                if grab != "idle" and grab.reply is not None:
                    grab.reply(None)
                return
            if grab == "idle":
                idle += 1
                if idle == _IDLE and self._camera.stall_s is None:  # well, and waits for the trigger
                    self._desk.health.clear(f"camera {self._camera.name}")
            else:
                self._last_s = time.monotonic()
                self._desk.health.clear(f"camera {self._camera.name}")
                self._enter(grab)

    def _enter(self, grab: Grab) -> None:
        key = f"{self._run_name}-{self._number:08}"
        frame = Frame(
            camera=self._camera.name,
            number=self._number,
            key=key,
            part_id=grab.part_id or key,
            grab=grab,
            deadline_ns=None if self._deadline_ns is None else grab.grabbed_ns + self._deadline_ns,
            grabbed_at=time.time() - (time.monotonic_ns() - grab.grabbed_ns) / 1e9,
            checks_freezing=self._camera.source.checks_freezing,
        )
        self._number += 1
        self._desk.metrics.grabbed(frame.camera, complete=grab.failure is None)
        if not self._desk.ledger.take(frame):
            return
        if grab.failure is not None:
            self._desk.ledger.refuse(frame, "incomplete", grab.failure)
            return
        lost = self._queue.put(Work(frame=frame))
        if lost is not None:
            closed = lost.frame is frame
            self._desk.ledger.refuse(
                lost.frame, "stopped" if closed else "dropped", "the line is stopping" if closed else _DROPPED
            )
