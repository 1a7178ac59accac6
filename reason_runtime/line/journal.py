"""The journal: which parts were taken in, what was answered, and what has been handed on; read again after a kill.

One JSON object a line, three kinds: `taken` when a part enters, `answer` before any sink hears of it, `delivered` when
every sink that delivers later has it. After a kill, a part without an answer is answered UNKNOWN, and an answer without
a delivery is handed on again, unchanged: a sink may hear the same answer twice, never two different ones.

Each record is one write into the system's memory, which survives the death of the process at any moment. A power cut
is another matter: `sync` writes every record through to the disk, at the price of its latency.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.frame import Frame
from reason_runtime.line.messages import Answer, wall_text
from reason_runtime.line.read_answer import read_answer
from reason_runtime.strict_json import Json

_COMPACT_BYTES = 8 << 20
_RESTART = "the process ended before this part was judged"


@dataclass(slots=True)
class _Entry:
    taken: dict[str, Json]
    answer: dict[str, Json] | None = None


class Journal:
    """Append-only record of parts that are not yet done with.

    Args:
        path: The file; made if need be. Another process that holds it is refused.
        sync: Write every record through to the disk.

    Raises:
        ConfigurationError: Another process uses the journal.
        SinkError: It cannot be opened or read.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self._path = path
        self._sync = sync
        self._lock = threading.Lock()
        self._open: dict[str, _Entry] = {}
        self._is_cut = False
        self._guard = _locked(path.with_name(f"{path.name}.lock"))
        try:
            self._read()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = os.fstat(self._file).st_size
            self._compact()
        except OSError as error:
            os.close(self._guard)
            raise SinkError(f"{path}: the journal cannot be opened ({reason(error)})") from error

    def recovered(self) -> list[Answer]:
        """Answers that the process before did not get out: its own where it gave one, else UNKNOWN.

        An UNKNOWN that cannot be recorded is given nevertheless: the next start would say the same.
        """
        answers = []
        for part_id, entry in list(self._open.items()):
            if entry.answer is None:
                unknown = _unanswered(part_id, entry.taken)
                with suppress(SinkError):
                    self.answered(unknown)
                answers.append(unknown)
            else:
                answers.append(read_answer(entry.answer))
        return answers

    def taken(self, frame: Frame) -> None:
        """Record that a part has entered.

        Raises:
            SinkError: The system refused to write; nothing is recorded.
        """
        record: dict[str, Json] = {
            "taken": frame.part_id,
            "camera": frame.camera,
            "frame": frame.number,
            "grabbed": wall_text(frame.grabbed_at),
        }
        with self._lock:
            self._append(record)
            self._open[frame.part_id] = _Entry(record)

    def answered(self, answer: Answer) -> None:
        """Record the answer of a part, before it is handed to anybody.

        Raises:
            SinkError: The system refused to write; nothing is recorded.
        """
        line = answer.line()
        with self._lock:
            self._append({"answer": line})
            self._open.setdefault(answer.part_id, _Entry({})).answer = line

    def delivered(self, part_id: str) -> None:
        """Record that nothing is left to do for a part.

        Raises:
            SinkError: The system refused to write; after a kill the answer would be handed on once more.
        """
        with self._lock:
            self._append({"delivered": part_id})
            self._open.pop(part_id, None)
            if self._size > _COMPACT_BYTES:
                self._compact()

    def close(self) -> None:
        """Close the file; what is open stays recorded."""
        with self._lock:
            os.close(self._file)
            os.close(self._guard)

    def _append(self, record: dict[str, Json]) -> None:
        line = b"\n" * self._is_cut + (json.dumps(record) + "\n").encode()
        try:
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, self._size)  # half a line would join the next one
                raise SinkError(f"{self._path}: the journal cannot be written (the disk is full)")
            if self._sync:
                os.fdatasync(self._file)
        except OSError as error:
            raise SinkError(f"{self._path}: the journal cannot be written ({reason(error)})") from error
        self._size += len(line)
        self._is_cut = False

    def _compact(self) -> None:
        """Keep only what is open, in a new file that takes the old one's name; a full disk keeps the old one."""
        beside = self._path.with_name(f"{self._path.name}.new")
        records = [
            record
            for entry in self._open.values()
            for record in (entry.taken, {"answer": entry.answer} if entry.answer else {})
            if record
        ]
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        try:
            beside.write_bytes(content)
            os.replace(beside, self._path)
        except OSError:
            beside.unlink(missing_ok=True)
            return
        os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._size = len(content)
        self._is_cut = False

    def _read(self) -> None:
        if not self._path.exists():
            return
        *lines, rest = self._path.read_bytes().split(b"\n")
        self._is_cut = rest != b""  # by a kill; it must not join the next line where the disk is too full to compact
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # a line that an earlier kill cut off
                continue
            if "taken" in record:
                self._open[record["taken"]] = _Entry(record)
            elif "answer" in record:
                self._open.setdefault(record["answer"]["part_id"], _Entry({})).answer = record["answer"]
            elif "delivered" in record:
                self._open.pop(record["delivered"], None)


def _unanswered(part_id: str, taken: dict[str, Json]) -> Answer:
    number = taken["frame"]
    return Answer(
        camera=str(taken["camera"]),
        number=number if isinstance(number, int) else 0,
        part_id=part_id,
        decision="UNKNOWN",
        cause="restart",
        reason=_RESTART,
        grabbed=str(taken["grabbed"]),
    )


def _locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SinkError(f"{path}: the journal cannot be opened ({reason(error)})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigurationError(f"{path}: another process uses this journal; give each station its own") from error
    return descriptor
