"""Addresses of sources and sinks: `kind:place?option=value&...`, with every option checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from reason_runtime.errors import ConfigurationError


@dataclass(slots=True)
class Address:
    """One parsed address; read its options, then call `finish`.

    Attributes:
        text: As given, for messages.
        kind: Before the colon; empty where there is none.
        place: Between the colon and the question mark.
    """

    text: str
    kind: str
    place: str
    _options: dict[str, str] = field(default_factory=dict)
    _known: list[str] = field(default_factory=list)

    def word(self, name: str, default: str, *, among: tuple[str, ...] = ()) -> str:
        """An option that is text, if need be one of a few words."""
        self._known.append(name)
        found = self._options.pop(name, default)
        if among and found not in among:
            raise ConfigurationError(f"{self.text}: {name}={found}, expected one of {', '.join(among)}")
        return found

    def number(self, name: str, default: float | None, *, low: float = 0.0) -> float | None:
        """An option that is a number, `low` or more."""
        self._known.append(name)
        if name not in self._options:
            return default
        text = self._options.pop(name)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise ConfigurationError(f"{self.text}: {name}={text}, expected a number, {low:g} or more")
        return value

    def amount(self, name: str, default: float, *, low: float = 0.0) -> float:
        """An option that is a number and always has a value."""
        value = self.number(name, default, low=low)
        return default if value is None else value

    def count(self, name: str, default: int, *, low: int = 0) -> int:
        """An option that is a whole number, `low` or more."""
        value = self.amount(name, default, low=low)
        if value != int(value):
            raise ConfigurationError(f"{self.text}: {name}={value:g}, expected a whole number")
        return int(value)

    def mebibytes(self, name: str, default: int) -> int:
        """An option in MiB, 1 or more, in bytes."""
        return int(self.amount(name, default, low=1) * 2**20)

    def finish(self) -> None:
        """Refuse options that nobody asked for.

        Raises:
            ConfigurationError: There is one.
        """
        for name in self._options:
            known = ", ".join(self._known) or "none"
            raise ConfigurationError(f"{self.text}: unknown option {name}; expected {known}")


def parse_address(text: str, *, kinds: tuple[str, ...]) -> Address:
    """Take an address apart; where it begins with none of `kinds`, all of it is the place.

    Raises:
        ConfigurationError: An option has no value or occurs twice.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in kinds:
        return Address(text, "", text)
    place, _, query = rest.partition("?")
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError as error:
        raise ConfigurationError(f"{text}: options are written name=value, with & between them ({error})") from error
    for name, value in pairs:
        if not value:
            raise ConfigurationError(f"{text}: {name} has no value")
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ConfigurationError(f"{text}: an option occurs twice")
    return Address(text, kind, place, options)


def host_and_port(address: Address, *, port: int) -> tuple[str, int]:
    """Host and port of an address such as `mqtt://host:1883/topic`.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        parts = urlsplit(f"tcp:{address.place}")
        found = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{address.text}: {error}") from error
    if not parts.hostname:
        raise ConfigurationError(f"{address.text}: expected {address.kind}://HOST:PORT")
    return parts.hostname, port if found is None else found
