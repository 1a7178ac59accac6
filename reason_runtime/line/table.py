"""One table of a TOML file, read by type; what is left at the end is an unknown key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from reason_runtime.errors import ConfigurationError

Word = TypeVar("Word", bound=str)


class Table:
    """Keys of a table; each is read once, then `finish` refuses the rest.

    Args:
        values: As parsed.
        where: File and key path, for messages.
    """

    def __init__(self, values: dict[str, object], *, where: str) -> None:
        self._left = dict(values)
        self._where = where
        self._known: list[str] = []

    def text(self, key: str) -> str:
        """A string that must be there."""
        found = self.optional_text(key)
        if found is None:
            raise ConfigurationError(f"{self._place(key)}: missing key, expected a string")
        return found

    def optional_text(self, key: str) -> str | None:
        """A string that is not empty, which as a path would be the working directory; or None."""
        value = self._take(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self._wrong(key, value, "a string that is not empty")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings; empty where there is none."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str):
                raise self._wrong(key, value, "strings")
        return [str(value) for value in values]

    def choice(self, key: str, default: Word, among: Sequence[Word]) -> Word:
        """One of a few words."""
        found = self.optional_choice(key, among)
        return default if found is None else found

    def optional_choice(self, key: str, among: Sequence[Word]) -> Word | None:
        """One of a few words, or None."""
        value = self._take(key)
        if value is None:
            return None
        for word in among:
            if value == word:
                return word
        raise self._wrong(key, value, f"one of {', '.join(among)}")

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number, 0 or more."""
        found = self.optional_number(key)
        return default if found is None else found

    def optional_number(self, key: str) -> float | None:
        """A finite number, 0 or more; or None."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self._wrong(key, value, "a number, 0 or more")
        return float(value)

    def integer(self, key: str, default: int, *, low: int = 0, high: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        found = self.optional_integer(key, low=low, high=high)
        return default if found is None else found

    def optional_integer(self, key: str, *, low: int = 0, high: int | None = None) -> int | None:
        """A whole number from `low` to `high`; or None."""
        value = self._take(key)
        if value is None:
            return None
        is_beyond = isinstance(value, int) and high is not None and value > high
        if isinstance(value, bool) or not isinstance(value, int) or value < low or is_beyond:
            expected = f"{low} or more" if high is None else f"{low} to {high}"
            raise self._wrong(key, value, f"a whole number, {expected}")
        return value

    def table(self, key: str) -> Table | None:
        """A table within, or None."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a table")
        return Table(value, where=f"{self._place(key)}.")

    def tables(self, key: str) -> list[Table]:
        """A list of tables; empty where there is none."""
        found = []
        for place, value in enumerate(self._list(key)):
            if not isinstance(value, dict):
                raise self._wrong(key, value, f"tables, written [[{key}]]")
            found.append(Table(value, where=f"{self._place(key)}[{place}]."))
        return found

    def finish(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            ConfigurationError: There is one; with its path.
        """
        for key in self._left:
            raise ConfigurationError(f"{self._place(key)}: unknown key; expected {', '.join(self._known)}")

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._left.pop(key, None)

    def _list(self, key: str) -> list[object]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return value

    def _place(self, key: str) -> str:
        return f"{self._where}{key}"

    def _wrong(self, key: str, value: object, expected: str) -> ConfigurationError:
        return ConfigurationError(f"{self._place(key)}: found {str(value)[:60]!r}, expected {expected}")
