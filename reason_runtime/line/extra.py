"""One sentence for every library that is an extra and not there."""

from __future__ import annotations

from reason_runtime.errors import ConfigurationError


def missing(extra: str, error: ImportError) -> ConfigurationError:
    """The error that names the extra to install."""
    return ConfigurationError(f'{error.name or error} is not installed; pip install "reason-edge[{extra}]"')
