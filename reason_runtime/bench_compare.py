"""Two result files of `reason-bench` side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reason_runtime.errors import DataError
from reason_runtime.strict_json import Json, as_object, parse

_OWN_FIGURE = {"latency": "overhead_p50_ms", "throughput": "tried", "pipeline": "stages", "accuracy": "image_auroc"}


def compare_files(first: Path, second: Path) -> list[tuple[str, Json, Json, float | None]]:
    """Every figure and every fact of the environment that the two do not share.

    Returns:
        Key, first value, second value, and second over first for figures; what is equal is left out.

    Raises:
        DataError: A file cannot be read, is no result, or the two are results of different commands.
        BundleError: It is not JSON.
    """
    results = [_read(path) for path in (first, second)]
    kinds = [_kind(result, path) for result, path in zip(results, (first, second), strict=True)]
    if kinds[0] != kinds[1]:
        raise DataError(f"{first} is of reason-bench {kinds[0]}, {second} of {kinds[1]}; expected two of one command")
    before, after = (dict(_flat(result, "")) for result in results)
    rows: list[tuple[str, Json, Json, float | None]] = []
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key), after.get(key)
        if a != b:
            x, y = _figure(a), _figure(b)
            rows.append((key, a, b, None if x is None or y is None or x == 0 else y / x))
    return rows


def _kind(result: dict[str, Json], path: Path) -> str:
    """The command that a result is of, by the figure that only it has."""
    for command, figure in _OWN_FIGURE.items():
        if figure in result and "environment" in result:
            return command
    raise DataError(f"{path}: is no result; expected what reason-bench --json printed")


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
