"""Frames for the next training, as grabbed: rejects, OK parts near the threshold, and a share of all other OK parts.

`OK_0.314159_PART.png`: decision, score and part id, so that a name says where to sort it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from reason_runtime.line.lossless import save_frame
from reason_runtime.line.messages import Answer, Message
from reason_runtime.line.sinks.bounded_folder import BoundedFolder, file_name

_HASH_BITS = 64


class FramesSink:
    """See `Sink`. A reject without pixels, of which nothing was judged, is passed over.

    Args:
        folder: To write into; made if need be. Frames of earlier runs there count towards the limit.
        max_bytes: Of all frames together; the oldest are removed first.
        near: OK parts are kept from this share of the threshold on.
        good: Share of all other OK parts that is kept; the part id says which.
    """

    keeps = False
    drives_line = False
    wants_pictures = True

    def __init__(self, folder: Path, *, max_bytes: int, near: float, good: float) -> None:
        self.name = f"frames {folder}"
        self._folder = BoundedFolder(folder, names=r"\.?(OK|NG|UNKNOWN)_.*\.png", max_bytes=max_bytes)
        self._near = near
        self._good = good

    def open(self) -> None:
        """See `Sink.open`."""
        self._folder.open()

    def wants(self, answer: Answer) -> bool:
        """See `Sink.wants`."""
        if answer.is_reject:
            return answer.picture is not None
        if answer.score is not None and answer.threshold is not None and answer.score >= self._near * answer.threshold:
            return True
        digest = blake2b(answer.part_id.encode(errors="backslashreplace"), digest_size=_HASH_BITS // 8).digest()
        return int.from_bytes(digest, "big") < self._good * 2.0**_HASH_BITS

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        for message in messages:
            if isinstance(message, Answer) and message.picture is not None and self.wants(message):
                score = "none" if message.score is None else f"{message.score:.6f}"
                with self._folder.adding(f"{message.decision}_{score}_{file_name(message.part_id)}.png") as path:
                    save_frame(path, message.picture.image[: message.valid_lines])

    def close(self) -> None:
        """See `Sink.close`."""
