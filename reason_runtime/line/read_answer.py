"""An answer read back from the line of JSON that it was written as."""

from __future__ import annotations

import dataclasses
from typing import cast

from reason_runtime.line.messages import Answer, Defect
from reason_runtime.strict_json import Json

_OTHERWISE = {"number", "key", "defects", "picture"}
"""What is called otherwise there, read apart, or not written."""
_NAMES = [item.name for item in dataclasses.fields(Answer) if item.name not in _OTHERWISE]
_DEFECT_NAMES = [item.name for item in dataclasses.fields(Defect)]


def read_answer(line: dict[str, Json], *, key: str) -> Answer:
    """The answer that `Answer.line` wrote.

    Raises:
        KeyError: A key is missing.
    """
    defects = cast("list[dict[str, Json]]", line["defects"])
    return Answer(
        number=cast(int, line["frame"]),
        key=key,
        defects=tuple(Defect(**{name: item[name] for name in _DEFECT_NAMES}) for item in defects),  # type: ignore[arg-type]  # written by this version
        **{name: line[name] for name in _NAMES},  # type: ignore[arg-type]  # likewise
    )
