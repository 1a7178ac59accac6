"""What every sink follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from reason_runtime.line.messages import Answer, Message


class Sink(Protocol):
    """Hands messages on to the world. Used by one thread, its own; it may be slow, the line does not wait for it."""

    @property
    def name(self) -> str:
        """For events and metrics; unique."""

    @property
    def keeps(self) -> bool:
        """What could not be delivered is kept in a bounded buffer and delivered later, in order."""

    @property
    def drives_line(self) -> bool:
        """A PLC listens here: while it is down, the heartbeat must not look healthy."""

    @property
    def wants_pictures(self) -> bool:
        """Rejects come with their pixels."""

    @property
    def wants(self) -> Callable[[Answer], bool] | None:
        """Which answers it takes, where it wants pictures also OK parts with their pixels; None takes every one.

        Asked by the line, which waits for it, at times before an OK part's pixels are there.
        """

    def open(self) -> None:
        """Connect or create; called again after a failure.

        Raises:
            SinkError: Not at the moment.
            ConfigurationError: Never: the address is wrong or an extra is missing.
        """

    def deliver(self, messages: Sequence[Message]) -> None:
        """Hand on, all or none as far as the medium allows; kinds that the sink does not know are passed over.

        Raises:
            SinkError: Not at the moment.
        """

    def close(self) -> None:
        """Let go of everything; never raises."""
