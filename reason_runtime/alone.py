"""Files and folders that one process at a time writes to: the system's lock ends with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, ReasonError


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
def alone_in(folder: Path, *, otherwise: str) -> Iterator[None]:
    """Hold a folder.

    Args:
        folder: Which.
        otherwise: What to say, after its name, where another process holds it.

    Raises:
        ConfigurationError: Another process holds it.
        ReasonError: It cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ReasonError(f"{folder}: cannot be opened ({reason(error)}); expected a folder to write to") from error
    try:
        is_alone = True
        with suppress(OSError):  # NFS locks no folder, and to write there is better than not to
            is_alone = hold(descriptor)
        if not is_alone:
            raise ConfigurationError(f"{folder}: {otherwise}")
        yield
    finally:
        os.close(descriptor)
