"""Compiled models that OpenVINO keeps, believed only as long as they are what was written.

OpenVINO runs what it finds in its cache without looking for damage: in a compiled model with a few zeroed pages defects
scored as good parts do. So each file has its SHA-256 beside it, and one that differs, or has none, is thrown away and
compiled again. As the bundle's own hashes, this stops accidents, not attackers.

It writes such a file in its place, piece by piece, and maps the ones it reads, unless told otherwise: a running session
would follow whatever becomes of the file. So sessions read them into memory (`ENABLE_MMAP`), and one process at a time
has the folder: another that starts meanwhile does without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from reason_runtime.alone import alone_in
from reason_runtime.atomic import write_text
from reason_runtime.cache import cache_folder
from reason_runtime.digest import file_sha256
from reason_runtime.errors import ReasonError

_BLOBS = "*.blob"


@contextmanager
def kept_models(model_sha256: str) -> Iterator[dict[str, str]]:
    """OpenVINO's settings for compiling a model inside the block; what it then leaves behind is recorded.

    Args:
        model_sha256: Of the model's file; each has a folder of its own, so that no other's are read to check them.

    Yields:
        `CACHE_DIR`, or nothing where the folder cannot be made or written, damage cannot be removed, or another process
        has it.
    """
    with ExitStack() as held:
        folder = _usable(model_sha256, held)
        if folder is None:
            yield {}
            return
        yield {"CACHE_DIR": str(folder)}
        with suppress(OSError, ReasonError):  # what is not recorded is compiled again
            for blob in folder.glob(_BLOBS):
                if not _record(blob).exists():
                    write_text(_record(blob), file_sha256(blob))


def _usable(model_sha256: str, held: ExitStack) -> Path | None:
    """The folder, which `held` gives free; None where it cannot be used."""
    try:
        folder = cache_folder("openvino") / model_sha256
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        held.enter_context(alone_in(folder, otherwise="is in use"))
        for blob in folder.glob(_BLOBS):
            if not _is_as_written(blob):
                blob.unlink(missing_ok=True)
                _record(blob).unlink(missing_ok=True)
    except (OSError, ReasonError):
        return None
    return folder


def _is_as_written(blob: Path) -> bool:
    try:
        return _record(blob).read_text(encoding="ascii") == file_sha256(blob)
    except (OSError, UnicodeDecodeError):
        return False


def _record(blob: Path) -> Path:
    return blob.with_suffix(".sha256")
