"""TensorRT's memory of how long kernels took, so that a second build of the same layers is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reason_runtime.atomic import make_folder, reason, write_bytes
from reason_runtime.errors import ConfigurationError, ReasonError

if TYPE_CHECKING:
    import tensorrt


def attach_timing_cache(config: tensorrt.IBuilderConfig, path: Path) -> None:
    """Give a build the timings in a file; a file that is not there yet is an empty one.

    Raises:
        ConfigurationError: The file is of another GPU or version, or no cache.
        ReasonError: It cannot be read.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ReasonError(f"{path}: cannot be read ({reason(error)})") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise ConfigurationError(f"{path}: is no timing cache of this GPU and this TensorRT; remove it")


def keep_timing_cache(config: tensorrt.IBuilderConfig, path: Path) -> None:
    """Write the timings of a build to the file.

    Raises:
        ReasonError: It cannot be written.
    """
    cache = config.get_timing_cache()
    if cache is None:
        raise ReasonError(f"{path}: TensorRT gave no timing cache back")
    make_folder(path.parent)
    write_bytes(path, bytes(cache.serialize()))
