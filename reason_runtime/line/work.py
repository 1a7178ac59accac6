"""What travels from stage to stage: a frame and what has been made of it so far."""

from __future__ import annotations

from dataclasses import dataclass

from reason_runtime.line.frame import Frame
from reason_runtime.line.model import LineModel, Prepared
from reason_runtime.session import Outputs


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One frame on its way.

    Attributes:
        frame: As grabbed.
        model: That prepared, and then judged it; None before.
        prepared: The graph's input.
        repeats: The camera gave the same bytes as before.
        outputs: Of the graph, for all images of this frame.
        waits_since_ns: `time.monotonic_ns` when it was ready for its next stage; first, when it was grabbed.
    """

    frame: Frame
    model: LineModel | None = None
    prepared: Prepared | None = None
    repeats: bool = False
    outputs: Outputs | None = None
    waits_since_ns: int = 0

    def __post_init__(self) -> None:
        self.waits_since_ns = self.frame.grab.grabbed_ns
