"""What every source follows."""

from __future__ import annotations

from typing import Literal, Protocol

from reason_runtime.line.frame import Grab

Nothing = Literal["idle", "end"]


class Source(Protocol):
    """Gives frames. Used by one thread, its own."""

    @property
    def live(self) -> bool:
        """A camera: it does not wait for us, and when it is lost it may come back. Files are not live."""

    @property
    def checks_freezing(self) -> bool:
        """A sensor with noise never gives the same bytes twice."""

    def open(self) -> None:
        """Connect; called again after a loss.

        Raises:
            SourceError: Not at the moment (live), or never (files).
            ConfigurationError: The address is wrong or an extra is missing.
        """

    def read(self) -> Grab | Nothing:
        """The next frame; `idle` where none came within about half a second; `end` after the last one of a file.

        Raises:
            SourceError: The camera is lost.
        """

    def close(self) -> None:
        """Let go of everything; never raises."""
