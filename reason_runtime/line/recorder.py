"""Frames of a camera as pictures for training, before there is any bundle."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from reason_runtime.alone import alone_in
from reason_runtime.atomic import make_folder
from reason_runtime.blind import FROZEN, same_pixels
from reason_runtime.detector import Pixels
from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.line.frame import Grab
from reason_runtime.line.grabber import FIRST_PAUSE_S, LONGEST_PAUSE_S
from reason_runtime.line.health import Health
from reason_runtime.line.lossless import save_frame
from reason_runtime.line.messages import Event
from reason_runtime.line.sources.source import Source

_POLL_S = 0.05  # whether somebody says stop
_NAME = re.compile(r"(\d{8,})-\d{8}T\d{6}Z\.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """What is recorded.

    Attributes:
        every: Keep one of so many frames.
        count: End with so many pictures; None for no limit.
        seconds: End after so long; None for no limit.

    Raises:
        ConfigurationError: A value out of range.
    """

    every: int = 1
    count: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or (self.count is not None and self.count < 1):
            raise ConfigurationError("one picture or more is recorded, of every frame or of one of several")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ConfigurationError(f"a recording of {self.seconds} s is not a positive time")


class Recorder:
    """One recording; its counts can be read at any time, and what it has kept stays whatever happens.

    Names begin with a number that goes on from the last one in the folder, then the wall clock in UTC.

    Args:
        source: Not yet opened. A live one that is lost is waited for.
        folder: To write into; made if need be. Nothing in it is ever replaced.
        settings: What to keep.
        tell: Hears when the camera is lost and when it is back.

    Attributes:
        frames: That had pixels.
        skipped: Frames without pixels, partial ones of a web, and frozen ones.
        skipped_reason: Why the last of these was.
        first: Name of the first picture.
        last: Name of the last one.
        pictures: How many were kept.
    """

    def __init__(
        self, source: Source, *, folder: Path, settings: RecordSettings, tell: Callable[[Event], None]
    ) -> None:
        self._source = source
        self._folder = folder
        self._settings = settings
        self._health = Health(tell)
        self._is_stopping = False  # and no lock to take: it is a signal handler that says so
        self._end_s = float("inf")
        self._before: Pixels | None = None
        self.frames = self.skipped = self.pictures = 0
        self.skipped_reason: str | None = None
        self.first: str | None = None
        self.last: str | None = None

    def stop(self) -> None:
        """End with the next frame; may be called by a signal handler."""
        self._is_stopping = True

    def run(self) -> None:
        """Record until the end of a file, a limit, or `stop`.

        Raises:
            ReasonError: A picture could not be written, the camera's address is wrong, a file could not be read, or
                another recording writes into the folder.
            SourceError: Nothing came, and nobody stopped it.
        """
        if self._settings.seconds is not None:
            self._end_s = time.monotonic() + self._settings.seconds
        make_folder(self._folder)
        with alone_in(self._folder, otherwise="another recording writes there; give each its own folder"):
            number = 1 + max(
                (int(name[1]) for name in map(_NAME.fullmatch, os.listdir(self._folder)) if name), default=0
            )
            for grab in self._grabs():
                image, name = self._usable(grab), None
                if image is not None and (self.frames - 1) % self._settings.every == 0:
                    name = f"{number + self.pictures:08}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.png"
                    save_frame(self._folder / name, image)
                    self.pictures += 1
                    self.first, self.last = self.first or name, name
                if grab.reply is not None:
                    skipped = self.skipped_reason if image is None else None
                    grab.reply({"kind": "recorded", "picture": name, "skipped_reason": skipped})
        if not (self.pictures or self._is_stopping):
            reason = (
                f"; {self.skipped} frames were skipped, the last one: {self.skipped_reason}" if self.skipped else ""
            )
            raise SourceError(f"no picture was recorded{reason}")

    def _is_over(self) -> bool:
        is_full = self._settings.count is not None and self.pictures >= self._settings.count
        return is_full or self._is_stopping or time.monotonic() >= self._end_s

    def _grabs(self) -> Iterator[Grab]:
        pause_s = FIRST_PAUSE_S
        while not self._is_over():
            try:
                self._source.open()
                while not self._is_over():
                    grab = self._source.read()
                    if grab == "end":
                        return
                    if grab != "idle":
                        self._health.clear("camera")
                        pause_s = FIRST_PAUSE_S
                        yield grab
            except Exception as error:  # as on the line: a camera may fail in any way and come back
                if not self._source.live or isinstance(error, ConfigurationError):
                    raise
                self._health.fault("camera", f"{error}; tried again until it is back")
                self._pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            finally:
                self._source.close()

    def _pause(self, seconds: float) -> None:
        until_s = min(time.monotonic() + seconds, self._end_s)
        while not self._is_stopping and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(_POLL_S, left_s))

    def _usable(self, grab: Grab) -> Pixels | None:
        """The pixels of a frame that the line could judge whole, counted either way."""
        failure, image = grab.failure, grab.image
        if image is not None and failure is None:
            if grab.strip is not None and grab.strip.valid_lines < len(image):
                failure = f"only {grab.strip.valid_lines} of its {len(image)} lines were there"
            elif self._source.checks_freezing:
                failure = FROZEN if self._before is not None and same_pixels(self._before, image) else None
                self._before = image
        if image is None or failure is not None:
            self.skipped += 1
            self.skipped_reason = failure
            return None
        self.frames += 1
        return image
