"""Two result files of `reason-bench` side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reason_runtime.errors import DataError
from reason_runtime.strict_json import Json, as_object, parse


def compare_files(first: Path, second: Path) -> list[tuple[str, Json, Json, float | None]]:
    """Every figure and every fact of the environment that the two do not share.

    Returns:
        Key, first value, second value, and second over first for figures; what is equal is left out.

    Raises:
        DataError: A file cannot be read.
        BundleError: It is not JSON.
    """
    before, after = (dict(_flat(_read(path), "")) for path in (first, second))
    rows: list[tuple[str, Json, Json, float | None]] = []
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key), after.get(key)
        if a != b:
            x, y = _figure(a), _figure(b)
            rows.append((key, a, b, None if x is None or y is None or x == 0 else y / x))
    return rows


def _figure(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read(path: Path) -> dict[str, Json]:
    try:
        return as_object(parse(path.read_text(encoding="utf-8"), where=str(path)), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected what reason-bench --json printed") from error


def _flat(value: Json, name: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value
