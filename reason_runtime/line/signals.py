"""Signals of a command that runs until somebody says stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def hearing(actions: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Do these at signals within the block; from its end on, which is that of the command, they are ignored.

    Otherwise a second one would kill the process while it ends. The actions interrupt the main thread anywhere, in the
    middle of a lock too: they may take none.
    """

    def act(number: int, _: object) -> None:
        actions[signal.Signals(number)]()

    for number in actions:
        signal.signal(number, act)
    try:
        yield
    finally:
        for number in actions:
            signal.signal(number, signal.SIG_IGN)
