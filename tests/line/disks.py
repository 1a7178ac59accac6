"""Real disks that are soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDS_MOUNT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """An empty disk at `folder`; `size` as mount takes it.

    At the end it is taken away whatever still holds a file on it: a test that failed must say why, and leave no mount.
    """
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def enlarge(disk: Path, *, size: str) -> None:
    """Make room."""
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
