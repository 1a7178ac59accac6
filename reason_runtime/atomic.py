"""Files appear whole or not at all: written beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reason_runtime.errors import ReasonError

_AT_FDCWD = -100  # of Linux
_RENAME_EXCHANGE = 2


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; leaving the block renames it over `path`, a failure removes it.

    The name handed out is hidden, unique and ends like the target (writers such as Pillow choose a format by suffix).
    Whatever happens, `path` holds either all of the old content or all of the new one.

    Args:
        path: The file to make or to replace. Its folder must exist.

    Raises:
        ReasonError: The system refused to write (disk full, no permission, no such folder).
    """
    target = Path(path)
    beside = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield beside
        flush(beside)
        os.replace(beside, target)
        with suppress(OSError):  # not every file system can flush a folder; the file is in place
            flush(target.parent)
    except OSError as error:
        raise ReasonError(f"{target}: could not be written ({reason(error)}); what was there before is kept") from error
    finally:
        with suppress(OSError):  # what went wrong before is what is to be said
            beside.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        ReasonError: The system refused to write; the old file, if any, is unchanged.
    """
    with replacing(path) as beside:
        beside.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all.

    Raises:
        ReasonError: The system refused to write; the old file, if any, is unchanged.
    """
    write_bytes(path, text.encode("utf-8"))


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        ReasonError: The system refused, or a file is in the way.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReasonError(f"{path}: cannot be made ({reason(error)}); expected a folder, or a place for one") from error


def require_writable(path: str | Path) -> None:
    """Make a folder, where it is not there yet, and see that files can be written to it, before long work for one.

    Raises:
        ReasonError: It cannot be made, or is read-only.
    """
    make_folder(path)
    if not os.access(path, os.W_OK):
        raise ReasonError(f"{path}: cannot be written to; expected a folder on a disk that is not read-only")


def reason(error: OSError) -> str:
    """What the system says about a failure, in its own words and without the path."""
    return error.strerror or str(error) or type(error).__name__


def flush(path: Path) -> None:
    """Make the system put a file, or the names in a folder, on the disk, so that a power cut cannot undo the rename.

    Raises:
        OSError: It cannot.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths of one file system change names in a single step (`renameat2(2)`).

    Returns:
        Whether they did; `False` leaves both as they are: the file system or the C library cannot do it.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)
