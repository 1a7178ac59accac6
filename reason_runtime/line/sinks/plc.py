"""The picture that a PLC gets of a line, the same for every protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from reason_runtime.line.messages import Answer, Beat, Event, Message

RESULT_CODES = {"OK": 1, "NG": 2, "UNKNOWN": 3}
_NONE = float("nan")


def of_camera(name: str | None) -> Callable[[Answer], bool] | None:
    """`Sink.wants` of a PLC that is told of one camera; of every one where there is no name."""
    return None if name is None else lambda answer: answer.camera == name


@dataclass(slots=True)
class PlcState:
    """What a PLC reads. `Pass` is true for OK only; whatever else happens, it is false.

    Attributes:
        ready: No fault, so that parts may come.
        busy: A part waits for its answer.
        result_valid: A result has been given since the server opened.
        passed: The latest result is OK.
        result_code: 0 none, 1 OK, 2 NG, 3 UNKNOWN.
        result_count: Of all parts up to the latest result, also those whose results came while the server was down.
        part_id: Of the latest result.
        score: Of the latest result; NaN where it has none.
        threshold: That it was compared with; NaN where there was none.
        bundle: First 12 digits of the content hash of the bundle that judged it; empty where none did.
        heartbeat: Goes up while healthy; a PLC takes it for a fault when it stands still.
        fault: Something is wrong that decisions depend on.
        faults: All that is wrong, in words; also what stops no heartbeat.
    """

    ready: bool = False
    busy: bool = False
    result_valid: bool = False
    passed: bool = False
    result_code: int = 0
    result_count: int = 0
    part_id: str = ""
    score: float = _NONE
    threshold: float = _NONE
    bundle: str = ""
    heartbeat: int = 0
    fault: bool = False
    faults: str = ""
    _numbers: dict[str, int] = field(default_factory=dict)  # of the latest frame, by camera

    def take(self, message: Message) -> bool:
        """Bring the picture up to date; False where the message changes nothing."""
        if isinstance(message, Event):
            return False
        if isinstance(message, Beat):
            self.ready = message.healthy
            self.fault = not message.healthy
            self.faults = "; ".join(f"{about}: {text}" for about, text in message.faults.items())
            self.busy = message.busy
            self.heartbeat = message.count
            return True
        self._take_answer(message)
        return True

    def _take_answer(self, answer: Answer) -> None:
        self.result_valid = True
        self.passed = answer.decision == "OK"
        self.result_code = RESULT_CODES[answer.decision]
        if answer.cause == "restart":  # numbered by the process before
            self.result_count += 1
        else:
            self.result_count += answer.number - self._numbers.get(answer.camera, -1)
            self._numbers[answer.camera] = answer.number
        self.part_id = answer.part_id
        self.score = _NONE if answer.score is None else answer.score
        self.threshold = _NONE if answer.threshold is None else answer.threshold
        self.bundle = answer.bundle or ""

    def stopped(self) -> None:
        """Nothing may pass any more."""
        self.ready = self.busy = self.result_valid = self.passed = False
        self.result_code = 0
        self.fault = True
