"""JSON read without tolerance: an unknown, missing or doubled key and a wrong type are errors that name their place."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from reason_runtime.errors import BundleError

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
Word = TypeVar("Word", bound=str)


class Fields:
    """The keys of one JSON object, checked to be exactly the expected ones, and read by type.

    Args:
        value: What stands at `where`.
        where: File and key path for messages, for example `manifest.json: thresholds.fp32`.
        keys: The keys that must be there; no other may be.

    Raises:
        BundleError: Not an object, a key too many or a key too few.
    """

    def __init__(self, value: Json, *, where: str, keys: Sequence[str]) -> None:
        self._where = where
        self._values = as_object(value, where=where)
        for key in self._values:
            if key not in keys:
                raise BundleError(f"{self.place(key)}: unknown key; expected {', '.join(keys)}")
        for key in keys:
            if key not in self._values:
                raise BundleError(f"{self.place(key)}: missing key")

    def place(self, key: str) -> str:
        """File and key path of a key."""
        return _below(self._where, key)

    def value(self, key: str) -> Json:
        """Whatever stands there."""
        return self._values[key]

    def integers(self, key: str, *, count: int) -> tuple[int, ...]:
        """A list of so many whole numbers, none below zero."""
        value = self._values[key]
        found = value if isinstance(value, list) else []
        whole = [item for item in found if isinstance(item, int) and not isinstance(item, bool) and item >= 0]
        if len(found) != count or whole != found:
            raise _wrong(self.place(key), value, f"a list of {count} whole numbers, 0 or more")
        return tuple(whole)

    def text(self, key: str) -> str:
        """A string."""
        value = self._values[key]
        if not isinstance(value, str):
            raise _wrong(self.place(key), value, "a string")
        return value

    def word(self, key: str, known: Sequence[Word]) -> Word:
        """One of a few words."""
        value = self._values[key]
        for word in known:
            if word == value:
                return word
        raise _wrong(self.place(key), value, f"one of {', '.join(known)}")

    def integer(self, key: str) -> int:
        """A whole number, not below zero."""
        value = self._values[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(self.place(key), value, "a whole number, 0 or more")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._values[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _wrong(self.place(key), value, "a finite number")
        return float(value)

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self._values[key]
        if not isinstance(value, bool):
            raise _wrong(self.place(key), value, "true or false")
        return value

    def objects(self, key: str) -> dict[str, Json]:
        """An object whose keys are free."""
        return as_object(self._values[key], where=self.place(key))

    def texts(self, key: str) -> dict[str, str]:
        """An object of strings whose keys are free."""
        found = self.objects(key)
        return {name: Fields(found, where=self.place(key), keys=tuple(found)).text(name) for name in found}


def parse(text: str, *, where: str) -> Json:
    """The value that `text` holds.

    Raises:
        BundleError: Not JSON as RFC 8259 has it (NaN and Infinity are not), a number beyond what a float64 holds, or a
            key that occurs twice.
    """

    def refuse_constant(name: str) -> None:
        raise BundleError(f"{where}: holds {name}, which is not JSON")

    def finite(digits: str) -> float:
        if math.isinf(number := float(digits)):
            raise BundleError(f"{where}: holds {digits[:20]}..., which is too large for a number")
        return number

    def whole(digits: str) -> int:
        finite(digits)
        return int(digits)

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BundleError(f"{where}: a key occurs twice among {', '.join(name for name, _ in pairs)}")
        return found

    try:
        value: Json = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=finite,
            parse_int=whole,
            object_pairs_hook=unique,
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: is not JSON ({error})") from error
    return value


def canonical(value: Json) -> bytes:
    """The one spelling of a value: keys sorted, no spaces, ASCII, shortest numbers that read back the same.

    Raises:
        BundleError: A number is not finite.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except ValueError as error:
        raise BundleError(f"a manifest holds finite numbers only ({error})") from error


def as_object(value: Json, *, where: str) -> dict[str, Json]:
    """The value, which must be an object.

    Raises:
        BundleError: It is not.
    """
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    return value


def _below(where: str, key: str) -> str:
    return f"{where}{key}" if where.endswith(": ") else f"{where}.{key}"


def _wrong(place: str, value: Json, expected: str) -> BundleError:
    return BundleError(f"{place.removesuffix(': ')}: found {json.dumps(value)[:60]}, expected {expected}")
