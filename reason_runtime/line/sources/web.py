"""Any source whose frames are blocks of lines, made into frames of a web with overlap."""

from __future__ import annotations

from collections import deque

import numpy as np

from reason_runtime.blind import FROZEN, same_pixels
from reason_runtime.detector import Pixels
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.source import Nothing, Source
from reason_runtime.line.web.assemble import Assembler, Lines


class WebSource:
    """See `Source`.

    Args:
        source: Gives blocks of lines of one width.
        assembler: Makes frames of them.
    """

    checks_freezing = False  # told here, from blocks: frames share lines and so are never the same

    def __init__(self, source: Source, *, assembler: Assembler) -> None:
        self.live = source.live
        self._source = source
        self._assembler = assembler
        self._ready: deque[Grab] = deque()
        self._failure: Exception | None = None
        self._ended = False
        self._shape: tuple[int, ...] | None = None
        self._last: Pixels | None = None

    def open(self) -> None:
        """See `Source.open`."""
        self._source.open()

    def read(self) -> Grab | Nothing:
        """See `Source.read`; when the camera is lost, the lines it gave come first, as a partial frame."""
        if self._ready:
            return self._ready.popleft()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._ended:
            return "end"
        try:
            grab = self._source.read()
        except Exception as error:  # of whatever kind: it is raised again, behind the lines that came before it
            self._failure = error
            self._ready.extend(self._assembler.flush())
            return "idle"
        if grab == "end":
            self._ended = True
            self._ready.extend(self._assembler.flush())
        elif grab != "idle":
            self._take(grab)
        return self._ready.popleft() if self._ready else "idle"

    def rest(self) -> list[Grab]:
        """The frames of all lines that came and that no `read` gave, once the line stops; the last is partial."""
        rest = [*self._ready, *self._assembler.flush()]
        self._ready.clear()
        return rest

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()

    def _take(self, grab: Grab) -> None:
        if grab.image is None:
            if self._shape is None:  # nobody knows how many lines these were
                self._ready.append(grab)
                return
            pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.zeros(self._shape, np.uint8)
        else:
            pixels = grab.image  # type: ignore[assignment]  # uint8 or uint16
            self._shape = pixels.shape
        failure = grab.failure
        if self._source.checks_freezing and grab.image is not None:
            frozen = self._last is not None and same_pixels(self._last, grab.image)
            failure, self._last = FROZEN if frozen else None, grab.image
        lines = Lines(pixels=pixels, encoder_count=grab.encoder_count, grabbed_ns=grab.grabbed_ns, failure=failure)
        self._ready.extend(self._assembler.add(lines))
