"""One process for one file: held by the system's lock, which ends with the process, however that ends."""

from __future__ import annotations

import fcntl


def hold(descriptor: int) -> bool:
    """Hold an open file until it is closed; false where another process, or another opening by this one, holds it.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
