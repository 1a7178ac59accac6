"""A folder that one process at a time writes to; the lock is no file, and ends with its holder however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, ReasonError


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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"{folder}: {otherwise}") from error
        except OSError:  # NFS locks no folder, and to write there is better than not to
            pass
        yield
    finally:
        os.close(descriptor)
