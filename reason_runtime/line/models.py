"""Which model judges which camera, and how all of them are exchanged at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from reason_runtime.line.model import LineModel


class Models:
    """The models of a station, one for each camera; cameras may share one. Any thread may ask and exchange.

    Args:
        models: By camera; warmed up.

    Attributes:
        now: Those in use, by camera; exchanged as a whole.
    """

    def __init__(self, models: Mapping[str, LineModel]) -> None:
        self.now = models
        self._before: Mapping[str, LineModel] | None = None
        self._exchanging = threading.Lock()

    def of(self, camera: str) -> LineModel:
        """The model that judges what comes from a camera now."""
        return self.now[camera]

    def told(self, say: Callable[[LineModel], Iterable[str]]) -> list[str]:
        """What there is to say of the models in use: each text once, with its cameras where not all have it."""
        now = self.now
        cameras: dict[str, list[str]] = {}
        for camera, model in now.items():
            for text in say(model):
                cameras.setdefault(text, []).append(camera)
        return [text if len(names) == len(now) else f"{text} ({', '.join(names)})" for text, names in cameras.items()]

    def swap(self, models: Mapping[str, LineModel]) -> None:
        """Put others, of the same cameras, in their place.

        Those before stay at hand for `swap_back`, unless all are of the same bundles and have the same thresholds: then
        the ones at hand remain.
        """
        with self._exchanging:
            if _judges(models) != _judges(self.now):
                self._before = self.now
            self.now = models

    def swap_back(self) -> bool:
        """Exchange those in use for the ones before the last `swap`; False where there were none."""
        with self._exchanging:
            if self._before is None:
                return False
            self._before, self.now = self.now, self._before
            return True


def _judges(models: Mapping[str, LineModel]) -> dict[str, tuple[str, float | None]]:
    """What decides: a check of this device may have drawn another threshold for the same bundle."""
    return {camera: (model.content, model.detector.limit.value) for camera, model in models.items()}
