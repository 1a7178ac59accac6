"""An answer read back from the line of JSON that it was written as."""

from __future__ import annotations

import dataclasses
from typing import cast

from reason_runtime.detector import Decision
from reason_runtime.line.messages import Answer, Cause, Defect
from reason_runtime.strict_json import Json


def read_answer(line: dict[str, Json], *, key: str) -> Answer:
    """The answer that `Answer.line` wrote.

    Raises:
        KeyError: A key is missing.
    """
    return Answer(
        camera=str(line["camera"]),
        number=cast(int, line["frame"]),
        key=key,
        part_id=str(line["part_id"]),
        decision=cast(Decision, line["decision"]),
        cause=cast(Cause, line["cause"]),
        reason=cast("str | None", line["reason"]),
        score=cast("float | None", line["score"]),
        threshold=cast("float | None", line["threshold"]),
        threshold_source=cast("str | None", line["threshold_source"]),
        grabbed=str(line["grabbed"]),
        latency_ms=cast("float | None", line["latency_ms"]),
        bundle=cast("str | None", line["bundle"]),
        path=cast("str | None", line["path"]),
        encoder_count=cast("int | None", line["encoder_count"]),
        first_line=cast("int | None", line["first_line"]),
        valid_lines=cast("int | None", line["valid_lines"]),
        defects=tuple(_read_defect(item) for item in cast("list[dict[str, Json]]", line["defects"])),
    )


def _read_defect(line: dict[str, Json]) -> Defect:
    names = [item.name for item in dataclasses.fields(Defect)]
    return Defect(**{name: line[name] for name in names})  # type: ignore[arg-type]  # written by this version
