"""A result file: its place is looked at before anything is measured, and it appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from reason_runtime.atomic import write_text
from reason_runtime.errors import ConfigurationError


def require_place(out: Path | None) -> None:
    """Look whether a result can be written before minutes are spent on it.

    Raises:
        ConfigurationError: It cannot.
    """
    if out is not None and (out.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK)):
        raise ConfigurationError(f"{out}: cannot be written; expected a file in a folder that is there")


def write_result(out: Path | None, found: Mapping[str, object]) -> None:
    """As JSON; none: on stdout.

    Raises:
        ReasonError: The system refused to write; what was there before is kept.
    """
    text = json.dumps(found, indent=2) + "\n"
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
