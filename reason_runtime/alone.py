"""Files and folders that one process at a time writes to: the system's lock ends with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, ReasonError

_GUARD = ".lock"


def hold(descriptor: int) -> bool:
    """Hold an open file or folder until it is closed; false where another process or another opening does.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def alone_in(folder: Path, *, otherwise: str) -> Iterator[bool]:
    """Hold a folder.

    Args:
        folder: Which. Where the system locks no folders (NFS), a hidden file in it is held.
        otherwise: What to say, after its name, where another process holds it.

    Yields:
        Whether it is held; a file system may have no locks at all, and to write there is better than not to.

    Raises:
        ConfigurationError: Another process holds it.
        ReasonError: It cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ReasonError(f"{folder}: cannot be opened ({reason(error)}); expected a folder to write to") from error
    descriptors = [descriptor]
    try:
        is_alone = None
        with suppress(OSError):
            try:
                is_alone = hold(descriptor)
            except OSError:  # NFS locks what is open for writing, which a folder cannot be
                descriptors.append(os.open(folder / _GUARD, os.O_RDWR | os.O_CREAT, 0o644))
                is_alone = hold(descriptors[-1])
        if is_alone is False:
            raise ConfigurationError(f"{folder}: {otherwise}")
        yield is_alone is True
    finally:
        for each in descriptors:
            os.close(each)
