"""A folder of a sink's own files that never outgrows its limit: the oldest are removed first."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from reason_runtime.atomic import reason
from reason_runtime.errors import ReasonError, SinkError

_LONGEST_BYTES = 150  # of the 255 that a file's name may have: decision, score, ending and a token come to it
_HASH_BYTES = 4


class BoundedFolder:
    """Files of earlier runs count towards the limit; whatever else is in the folder is left alone.

    Args:
        folder: Made if need be.
        names: Regular expression of the sink's own files, and of those that a kill left half-written.
        max_bytes: Of all of them together.
    """

    def __init__(self, folder: Path, *, names: str, max_bytes: int) -> None:
        self._folder = folder
        self._names = re.compile(names)
        self._max_bytes = max_bytes
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._bytes = 0

    def open(self) -> None:
        """Make the folder and count what is there.

        Raises:
            SinkError: The system refused.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = [(path, path.stat()) for path in self._folder.iterdir() if self._names.fullmatch(path.name)]
        except OSError as error:
            raise SinkError(f"{self._folder}: cannot be used ({reason(error)})") from error
        found.sort(key=lambda item: item[1].st_mtime_ns)
        self._files = OrderedDict((path, stat.st_size) for path, stat in found)
        self._bytes = sum(self._files.values())
        self._make_room()

    @contextmanager
    def adding(self, name: str) -> Iterator[Path]:
        """A path to write a file to; it is counted, and the oldest make room for it, when the block is left.

        Raises:
            SinkError: The system refused.
        """
        path = self._folder / name
        try:
            yield path
            size = path.stat().st_size
        except (ReasonError, OSError) as error:
            raise SinkError(str(error)) from error
        self._bytes += size - self._files.pop(path, 0)  # a part of the same id had it before
        self._files[path] = size
        self._make_room()

    def _make_room(self) -> None:
        while self._files and self._bytes > self._max_bytes:
            path, size = self._files.popitem(last=False)
            path.unlink(missing_ok=True)
            self._bytes -= size


def file_name(part_id: str) -> str:
    """A part id as it can stand in the name of a file, with a hash where that is not all of it."""
    name = re.sub(r"[^\w.-]", "_", part_id)
    if name == part_id and len(name.encode()) <= _LONGEST_BYTES:
        return name
    digest = blake2b(part_id.encode(errors="surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
    room = _LONGEST_BYTES - len(f"-{digest}")
    return f"{name.encode()[:room].decode(errors='ignore')}-{digest}"
