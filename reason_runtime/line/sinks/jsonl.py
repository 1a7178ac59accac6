"""Answers and events as lines of JSON, in a file that is rotated, or on standard output.

`results.jsonl` grows to `max_mib`, then becomes `results.jsonl.1`, what was `.1` becomes `.2`, and the oldest beyond
`keep` is removed. With `fsync=never` a line is in the system's memory when it counts as delivered: the death of the
process cannot take it, a power cut can. With `fsync=always` it is on the disk.

A file belongs to one process, since two that rotate it would remove each other's lines; pipes and terminals are shared.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from reason_runtime.alone import hold
from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.messages import Beat, Message


class JsonlSink:
    """See `Sink`.

    Args:
        path: The file; its folder is made if need be.
        max_bytes: Size at which it is rotated.
        keep: Rotated files to keep.
        fsync: See above.
    """

    keeps = True
    drives_line = False
    wants_pictures = False
    wants = None

    def __init__(self, path: Path, *, max_bytes: int, keep: int, fsync: Literal["never", "always"]) -> None:
        self.name = f"jsonl {path}"
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._sync = fsync == "always"
        self._file: int | None = None

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if not _is_alone(self._file):
                self.close()
                raise ConfigurationError(f"{self._path}: another process writes there; give each station its own file")
            self._end_cut_line()
        except OSError as error:
            self.close()
            raise SinkError(f"{self._path}: cannot be opened ({reason(error)})") from error

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`; all lines or none."""
        if self._file is None:
            raise SinkError(f"{self._path}: is not open")
        content = "".join(f"{json.dumps(item.line())}\n" for item in messages if not isinstance(item, Beat)).encode()
        if not content:
            return
        try:
            if not self._is_in_place(self._file):
                self.close()
                self.open()
            size = os.fstat(self._file).st_size
            if size and size + len(content) > self._max_bytes:
                self._rotate()
                size = 0
            written = os.write(self._file, content)
            if written != len(content):
                os.ftruncate(self._file, size)
                raise SinkError(f"{self._path}: the disk is full")
            if self._sync:
                os.fdatasync(self._file)
        except OSError as error:
            raise SinkError(f"{self._path}: cannot be written ({reason(error)})") from error

    def close(self) -> None:
        """See `Sink.close`."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _is_in_place(self, file: int) -> bool:
        """False where somebody removed, moved or replaced the file: what is written into it then, nobody finds."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            if older.exists():
                os.replace(older, self._numbered(number))
        if self._keep == 0:
            self._path.unlink()
        self.close()
        self.open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _end_cut_line(self) -> None:
        """A kill in the middle of a line must not spoil the next one; the journal has the answer that was cut off."""
        if self._file is None:
            return
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")


def _is_alone(file: int) -> bool:
    if stat.S_ISREG(os.fstat(file).st_mode):
        with suppress(OSError):  # some network file systems lock nothing, and lines there are better than none
            return hold(file)
    return True


class StdoutSink:
    """See `Sink`: lines on standard output."""

    name = "stdout"
    keeps = True
    drives_line = False
    wants_pictures = False
    wants = None

    def open(self) -> None:
        """See `Sink.open`."""

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        try:
            sys.stdout.write("".join(f"{json.dumps(item.line())}\n" for item in messages if not isinstance(item, Beat)))
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            raise SinkError(str(error)) from error

    def close(self) -> None:
        """See `Sink.close`."""
