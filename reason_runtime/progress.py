"""A counter on the terminal for work that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_QUIET_S = 2.0
_INTERVAL_S = 0.2


def counted(items: Iterable[Item], *, total: int, what: str) -> Iterator[Item]:
    """The same items; where stderr is a terminal, `what` and how many have passed are shown there.

    Args:
        items: To pass on.
        total: How many there will be.
        what: In the plural, for example `images`.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: closed by whoever started the command
        yield from items
        return
    next_s = time.monotonic() + _QUIET_S
    shown = False
    for count, item in enumerate(items):
        if time.monotonic() >= next_s:
            print(f"{count}/{total} {what}", end="\r", file=sys.stderr, flush=True)  # what is printed next goes over it
            shown = True
            next_s = time.monotonic() + _INTERVAL_S
        yield item
    if shown:
        print(f"{total}/{total} {what}", file=sys.stderr)
