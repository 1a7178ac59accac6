"""The journal: which parts were taken in, what was answered, and what has been handed on; read again after a kill.

One JSON object a line, three kinds: `taken` when a part enters, `answer` before any sink hears of it, `delivered` when
every sink that delivers later has it. After a kill, a part without an answer is answered UNKNOWN, and an answer without
a delivery is handed on again, unchanged: a sink may hear the same answer twice, never two different ones. Parts go by
their keys here, since the id of a pallet comes again while an answer of its last time waits for a sink that is down.

Each record is one write into the system's memory, which survives the death of the process at any moment. A power cut
is another matter: `sync` writes every record through to the disk, at the price of its latency.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reason_runtime.alone import hold
from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.frame import Frame
from reason_runtime.line.messages import Answer, wall_text
from reason_runtime.line.read_answer import read_answer
from reason_runtime.strict_json import Json

_COMPACT_BYTES = 8 << 20
_BLANK = b" " * 4095 + b"\n"  # more than nearly every record
_STARTS = (b'{"taken": ', b'{"answer": ', b'{"delivered": ')
_RESTART = "the process ended before this part was judged"


@dataclass(slots=True)
class _Entry:
    """The lines of a part, as they stand in the file; empty where there is none."""

    taken: bytes = b""
    answer: bytes = b""

    def said(self, key: str) -> Answer:
        if self.answer:
            return read_answer(json.loads(self.answer)["answer"], key=key)
        return _unanswered(key, json.loads(self.taken))


class Journal:
    """Append-only record of parts that are not yet done with.

    Args:
        path: The file; made if need be. Another process that holds it is refused.
        sync: Write every record through to the disk.

    Raises:
        ConfigurationError: It is a folder or a file of another kind, another process uses the journal, or another
            version wrote it.
        SinkError: It cannot be opened or read.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        _require_file(path)
        path = Path(os.path.realpath(path))  # a link would be replaced, and has another lock than what it leads to
        self._path = path
        self._sync = sync
        self._lock = threading.Lock()
        self._open: dict[str, _Entry] = {}
        self._is_cut = False
        self._guard = _locked(path.with_name(f"{path.name}.lock"))
        try:
            self._read()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except ConfigurationError:
            os.close(self._guard)
            raise
        except OSError as error:
            os.close(self._guard)
            raise SinkError(f"{path}: the journal cannot be opened ({reason(error)})") from error
        self._size = os.fstat(self._file).st_size
        self._compact()

    def recovered(self) -> list[Answer]:
        """Answers that the process before did not get out: its own where it gave one, else UNKNOWN."""
        return [entry.said(key) for key, entry in self._open.items()]

    def has_answer(self, key: str) -> bool:
        """The answer of this part is recorded; somebody may have heard it."""
        with self._lock:
            return key in self._open and self._open[key].answer != b""

    def taken(self, frame: Frame) -> None:
        """Record that a part has entered.

        Raises:
            SinkError: The system refused to write; nothing is recorded.
        """
        record: dict[str, Json] = {
            "taken": frame.key,
            "part_id": frame.part_id,
            "camera": frame.camera,
            "frame": frame.number,
            "grabbed": wall_text(frame.grabbed_at),
        }
        line = _line(record)
        with self._lock:
            self._append(line)
            self._open[frame.key] = _Entry(taken=line)

    def answered(self, answer: Answer, *, instead: Callable[[], Answer | None] = lambda: None) -> Answer:
        """Record the answer of a part, before it is handed to anybody.

        Args:
            answer: To record.
            instead: Asked once the disk has the answer, which may have taken long: what to record in its place, since
                it comes too late; None where it does not.

        Returns:
            What is recorded.

        Raises:
            SinkError: The system refused to write; nothing is recorded.
        """
        with self._lock:
            size, is_cut = self._size, self._is_cut
            line = self._append_answer(answer)
            if (other := instead()) is not None:
                with suppress(OSError):  # of two answers the last counts; the first must not stay alone
                    os.ftruncate(self._file, size)
                    self._size, self._is_cut = size, is_cut
                answer, line = other, self._append_answer(other)
            self._open.setdefault(answer.key, _Entry()).answer = line
            return answer

    def _append_answer(self, answer: Answer) -> bytes:
        line = _line({"answer": answer.line(), "key": answer.key})
        self._append(line)
        return line

    def delivered(self, key: str) -> None:
        """Record that nothing is left to do for a part.

        Raises:
            SinkError: The system refused to write; after a kill the answer would be handed on once more.
        """
        with self._lock:
            self._append(_line({"delivered": key}))
            self._open.pop(key, None)
            if self._size > self._compact_at:
                self._compact()

    def check(self) -> None:
        """Find out whether there is room for records; leaves nothing behind.

        Raises:
            SinkError: The system refuses to write.
        """
        with self._lock:
            size, is_cut = self._size, self._is_cut
            self._append(_BLANK)
            with suppress(OSError):  # a blank line is passed over
                os.ftruncate(self._file, size)
                self._size, self._is_cut = size, is_cut

    def close(self) -> None:
        """Close the file; what is open stays recorded."""
        with self._lock:
            os.close(self._file)
            os.close(self._guard)

    def _append(self, line: bytes) -> None:
        """All of a line, through to the disk where that is asked for, or nothing of it.

        A record that stayed after its failure would contradict, after a kill, what was told instead.
        """
        line = b"\n" * self._is_cut + line
        try:
            try:
                _write(self._file, line, sync=self._sync)
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
        except OSError as error:
            raise SinkError(f"{self._path}: the journal cannot be written ({reason(error)})") from error
        self._size += len(line)
        self._is_cut = False

    def _compact(self) -> None:
        """Keep only what is open, in a new file that takes the old one's name; where that fails the old one goes on.

        The next time is when the file has doubled: while a sink is down for hours, much is open, and every answer
        would write it all again.
        """
        content = b"".join(line for entry in self._open.values() for line in (entry.taken, entry.answer))
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            try:
                _write(file, content, sync=self._sync)
                os.replace(beside, self._path)
            except OSError:
                os.close(file)
                raise
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        else:
            with suppress(OSError):
                os.close(self._file)
            self._file, self._size, self._is_cut = file, len(content), False
        self._compact_at = max(_COMPACT_BYTES, 2 * self._size)

    def _read(self) -> None:
        if not self._path.exists():
            return
        *lines, rest = self._path.read_bytes().split(b"\n")
        self._is_cut = rest != b""  # by a kill; it must not join the next line where the disk is too full to compact
        try:
            for line in lines:
                self._take(line)
            for key, entry in self._open.items():
                entry.said(key)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{self._path}: holds records that this version does not read ({type(error).__name__}: {error}); "
                "let the version that wrote them hand them on, or move the file away, and its parts get no answer"
            ) from error

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # a line that an earlier kill cut off, or that a disk damaged
            return
        if "taken" in record:
            self._open[record["taken"]] = _Entry(taken=line + b"\n")
        elif "answer" in record:
            self._open.setdefault(record["key"], _Entry()).answer = line + b"\n"
        else:
            self._open.pop(record["delivered"], None)


def _line(record: dict[str, Json]) -> bytes:
    return (json.dumps(record) + "\n").encode()


def _write(file: int, content: bytes, *, sync: bool) -> None:
    if os.write(file, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if sync:
        os.fdatasync(file)


def _unanswered(key: str, taken: dict[str, Json]) -> Answer:
    number = taken["frame"]
    return Answer(
        camera=str(taken["camera"]),
        number=number if isinstance(number, int) else 0,
        key=key,
        part_id=str(taken["part_id"]),
        decision="UNKNOWN",
        cause="restart",
        reason=_RESTART,
        grabbed=str(taken["grabbed"]),
    )


def _require_file(path: Path) -> None:
    """Refuse a folder, what can be none but one, and what no journal is, before a lock is made beside it.

    Raises:
        ConfigurationError: It is one.
    """
    if path.name in ("", "..") or os.path.isdir(path):
        raise ConfigurationError(f"{path}: is a folder; expected a file for the journal, such as {path / 'journal'}")
    if os.path.exists(path) and not (os.path.isfile(path) and _begins_as_journal(path)):
        raise ConfigurationError(f"{path}: is no journal, and would be written anew; expected one, or a new file")


def _begins_as_journal(path: Path) -> bool:
    """Whether a file is empty, or begins with a record, or with what a kill or a power cut may leave of one."""
    try:
        with path.open("rb") as file:
            start = file.read(2 * len(_BLANK)).lstrip(b" \n")
    except OSError:  # of which the lock, or reading it all, says more
        return True
    return start.startswith((b"\0", *(known[: len(start)] for known in _STARTS)))


def _locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SinkError(f"{path}: the journal cannot be opened ({reason(error)})") from error
    try:
        is_alone = hold(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise SinkError(f"{path}: the journal cannot be locked ({reason(error)}); put it on a local disk") from error
    if not is_alone:
        os.close(descriptor)
        raise ConfigurationError(f"{path}: another process uses this journal; give each station its own")
    return descriptor
