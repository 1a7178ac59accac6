"""Lines for people on stderr, written by a thread of their own: whoever speaks waits for nobody."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TextIO

_KEPT = 1_000  # lines that wait for room on a disk, or for a reader
_PAUSE_S = 1.0


class Log:
    """A log decides nothing: one that cannot be written, or that nobody reads, stops and delays nobody.

    What could not be written is tried again; of more than 1,000 lines the oldest are left out.

    Args:
        stream: To write to; None, which is what Python has for a closed one, forgets every line.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque(maxlen=_KEPT)
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Take a line; never waits, never fails."""
        with self._changed:
            self._lines.append(f"{text}\n".encode(errors="backslashreplace"))
            self._changed.notify_all()

    def finish(self, seconds: float) -> bool:
        """Write what is there for at most so long; False where a write still waits for somebody to read."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (line := self._next()) is not None:
            try:
                while line and self._stream is not None:
                    line = line[_write(self._stream, line) :]
            except (OSError, ValueError):  # a full disk, a pipe without a reader; a stream that somebody closed
                self._try_again(line)

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ending or bool(self._lines))
            return self._lines.popleft() if self._lines else None

    def _try_again(self, line: bytes) -> None:
        with self._changed:
            if self._ending:
                self._lines.clear()
                return
            if len(self._lines) < _KEPT:
                self._lines.appendleft(line)
            self._changed.wait_for(lambda: self._ending, _PAUSE_S)


def _write(stream: TextIO, line: bytes) -> int:
    """Past the stream's own buffer, which would keep what failed, and whose lock nobody could take at the end."""
    try:
        descriptor = stream.fileno()
    except OSError:  # not a file of the system's
        return len(line) if stream.write(line.decode()) else 0
    return os.write(descriptor, line)
