"""Any source whose frames are blocks of lines, made into frames of a web with overlap."""

from __future__ import annotations

from collections import deque

import numpy as np

from reason_runtime.blind import FROZEN, same_pixels
from reason_runtime.detector import Pixels
from reason_runtime.errors import SourceError
from reason_runtime.line.frame import Grab
from reason_runtime.line.sources.source import Nothing, Source
from reason_runtime.line.web.assemble import Assembler, Lines


class WebSource:
    """See `Source`.

    Args:
        source: Gives blocks of lines of one width; one of another width is the end of a file, and a lost camera.
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
        self._before: Pixels | None = None  # the last block that came whole

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
            if grab != "end" and grab != "idle":
                self._take(grab)
        except Exception as error:  # of whatever kind: it is raised again, behind the lines that came before it
            self._failure = error
            self._ready.extend(self._assembler.flush())
            return "idle"
        if grab == "end":
            self._ended = True
            self._ready.extend(self._assembler.flush())
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
        failure, before = grab.failure, self._before
        if grab.image is None:
            if before is None:  # nobody knows how many lines these were
                self._ready.append(grab)
                return
            pixels: Pixels = np.zeros_like(before)
        else:
            pixels, self._before = grab.image, None  # what is refused is compared with no more
            if before is not None:
                _check_kind(grab.path or "a block", pixels, before)
                if self._source.checks_freezing and same_pixels(before, pixels):
                    failure = FROZEN
            self._before = pixels
        lines = Lines(pixels=pixels, encoder_count=grab.encoder_count, grabbed_ns=grab.grabbed_ns, failure=failure)
        self._ready.extend(self._assembler.add(lines))


def _check_kind(name: str, pixels: Pixels, before: Pixels) -> None:
    """Refuse lines that cannot follow those before them.

    Raises:
        SourceError: They have another width, other channels or another type.
    """
    found, expected = _kind(pixels), _kind(before)
    if found != expected:
        raise SourceError(
            f"{name}: lines of {found}; expected {expected} as in those before; a web has one width, take this out"
        )


def _kind(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} px and {1 if pixels.ndim == 2 else pixels.shape[2]} channels, {pixels.dtype}"
