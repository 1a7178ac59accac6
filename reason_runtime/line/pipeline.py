r"""Cameras, their models, and the stages between them: grab, prepare, infer, judge; the ledger publishes.

```
camera 1 -> [queue] -> prepare 1 --\                                  /-> sink 1
camera 2 -> [queue] -> prepare 2 ----> [queue] -> infer -> [queue] -> judge -> ledger --> sink 2
```
Only a camera's own queue may drop, and only where the policy says so; the queues behind it block, so that a slow model
fills the camera's queue and nothing else. A timekeeper publishes UNKNOWN at each deadline, whatever the stages do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reason_runtime.blind import FROZEN, same_pixels
from reason_runtime.choices import MOST_IN_A_RUN, BackPressure
from reason_runtime.detector import Pixels
from reason_runtime.errors import ConfigurationError, ReasonError
from reason_runtime.line.drift import LEAST_PARTS, DriftCheck
from reason_runtime.line.grabber import Camera, Grabber
from reason_runtime.line.journal import Journal
from reason_runtime.line.ledger import Ledger
from reason_runtime.line.messages import Answer, Picture
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.line.models import Models
from reason_runtime.line.publisher import Publisher
from reason_runtime.line.queues import BoundedQueue
from reason_runtime.line.stage import Desk, Stage
from reason_runtime.line.timekeeper import Timekeeper
from reason_runtime.line.watch import Watch
from reason_runtime.line.web.judge import DefectBook
from reason_runtime.line.work import Work
from reason_runtime.session import Outputs

Outcome = Literal["ended", "stopped", "hung"]
_INNER_QUEUE = 2  # between stages: one in work, one ready; more would only add waiting

_AT_ONCE = 8  # cameras: half of the smallest buffer of a sink
_LAST_READ_S = 0.7  # a source's read returns within half a second
_ONE_TURN_S = 1.0  # of the clock
_LAST_TURN_S = 0.05  # of threads that have nothing left to do


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """How a line runs.

    Attributes:
        deadline_s: After the grab; None for no deadline (files).
        queue_frames: A camera's frames that may wait.
        when_full: What a full queue does: `block` the camera or `drop-oldest`.
        batch: Frames that go through the model at once, at most.
        batch_wait_s: How long the first of a batch may wait for others.
        hang_s: A stage busy for longer with one piece of work hangs.
        heartbeat_s: From beat to beat.
        drift_parts: Scores a camera that the check of drift looks back on; 0 for no check.

    Raises:
        ConfigurationError: A value out of range.
    """

    deadline_s: float | None = None
    queue_frames: int = 4
    when_full: BackPressure = "block"
    batch: int = 1
    batch_wait_s: float = 0.0
    hang_s: float = 10.0
    heartbeat_s: float = 0.5
    drift_parts: int = 200

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not 0 < self.deadline_s < float("inf"):
            raise ConfigurationError(f"a deadline of {self.deadline_s} s is not a positive time")
        if self.queue_frames < 1 or not 0 <= self.batch_wait_s < float("inf"):
            raise ConfigurationError("a queue holds 1 frame or more, and a batch waits 0 s or more")
        if not 1 <= self.batch <= MOST_IN_A_RUN:
            raise ConfigurationError(f"a batch of {self.batch}; expected 1 to {MOST_IN_A_RUN}, which `check` looks at")
        if not (self.hang_s > 0 and self.heartbeat_s > 0):
            raise ConfigurationError("the limits for a hanging stage and for heartbeats are positive times")
        if self.when_full not in ("block", "drop-oldest"):
            raise ConfigurationError(f"back-pressure {self.when_full!r} is not known; expected block or drop-oldest")
        if self.drift_parts < LEAST_PARTS and self.drift_parts != 0:
            raise ConfigurationError(
                f"a check of drift looks back on {LEAST_PARTS} parts or more, 0 for none, not on {self.drift_parts}"
            )


class Pipeline:
    """A running line.

    Args:
        cameras: With unique names.
        models: Of each camera, by its name; warmed up. Cameras may share one.
        publisher: Started; takes every answer.
        metrics: Shared with the publisher.
        journal: Of parts in flight; None keeps none.
        settings: How it runs.

    Raises:
        ConfigurationError: No camera, or two of the same name.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        *,
        models: Mapping[str, LineModel],
        publisher: Publisher,
        metrics: Metrics,
        journal: Journal | None,
        settings: PipelineSettings,
    ) -> None:
        names = [camera.name for camera in cameras]
        if not names or len(set(names)) != len(names):
            raise ConfigurationError(
                f"cameras {', '.join(names) or '(none)'}: expected one or more, each with its own name"
            )
        self._settings = settings
        self._is_live = any(camera.source.live for camera in cameras)
        self._publisher = publisher
        self.models = Models(models)
        self._failure: ReasonError | None = None
        self._outcome: Outcome | None = None
        self._done = threading.Event()
        self._to_prepare = len(names)
        self._lock = threading.Lock()
        self._last_image: dict[str, Pixels] = {}
        self._books: dict[str, DefectBook] = {name: DefectBook() for name in names}
        ledger = Ledger(
            publish=publisher.publish, journal=journal, metrics=metrics, journal_failed=self._journal_failed
        )
        self._desk = Desk(ledger=ledger, health=publisher.health, metrics=metrics, watch=Watch())
        parts, health = settings.drift_parts, publisher.health
        self._drift = {name: DriftCheck(name, parts=parts, health=health, metrics=metrics) for name in names if parts}
        self._build(cameras)
        self._timekeeper = Timekeeper(
            desk=self._desk,
            grabbers=self._grabbers,
            journal=journal,
            hang_s=settings.hang_s,
            heartbeat_s=settings.heartbeat_s,
            publish=publisher.publish,
            hung=self._hung,
        )

    def _build(self, cameras: Sequence[Camera]) -> None:
        settings, desk = self._settings, self._desk
        self._to_infer: BoundedQueue[Work] = BoundedQueue(max(_INNER_QUEUE, settings.batch), when_full="block")
        self._to_judge: BoundedQueue[Work] = BoundedQueue(max(_INNER_QUEUE, settings.batch), when_full="block")
        self._camera_queues: list[BoundedQueue[Work]] = []
        self._grabbers: list[Grabber] = []
        self._stages: list[Stage] = []
        for camera in cameras:
            queue: BoundedQueue[Work] = BoundedQueue(settings.queue_frames, when_full=settings.when_full)
            self._camera_queues.append(queue)
            desk.metrics.watch_queue(f"camera {camera.name}", queue)
            self._grabbers.append(
                Grabber(
                    camera,
                    desk=desk,
                    queue=queue,
                    deadline_s=settings.deadline_s,
                    has_room=self._has_room,
                    ended=self._source_ended,
                )
            )
            name = f"prepare {camera.name}"
            self._stages.append(
                Stage(
                    name, desk=desk, queue=queue, handle=self._prepare, onward=self._to_infer, ended=self._prepared_all
                )
            )
        desk.metrics.watch_queue("infer", self._to_infer)
        self._stages += [
            Stage(
                "infer",
                desk=desk,
                queue=self._to_infer,
                handle=self._infer,
                onward=self._to_judge,
                ended=self._to_judge.close,
                most=settings.batch,
                wait_s=settings.batch_wait_s,
                apart=lambda works: self._by_model("infer", works),
            ),
            Stage(
                "judge",
                desk=desk,
                queue=self._to_judge,
                handle=self._judge,
                onward=None,
                ended=self._finished,
                apart=lambda works: self._by_model("judge", works),
            ),
        ]

    def start(self) -> None:
        """Start every thread."""
        for stage in self._stages:
            stage.thread.start()
        self._timekeeper.thread.start()
        for grabber in self._grabbers:
            grabber.thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all files are at their end, or a stage or the clock hangs; False where that took longer."""
        done, keeper = self._done, self._timekeeper
        # a second look, since the whole process may have been stopped, and the clock not have turned yet
        if not done.wait(seconds) and keeper.stands_still and not done.wait(_ONE_TURN_S) and keeper.stands_still:
            self._outcome = "hung"
            self._done.set()
        return self._done.is_set()

    def stop(self, seconds: float) -> Outcome:
        """Take no more frames, finish those in flight, and answer UNKNOWN what is left after so long.

        Raises:
            ReasonError: A file could not be read; after everything has been answered.
        """
        until_s = time.monotonic() + seconds
        ended = self._done.is_set()
        if not ended or (self._is_live and self._failure is not None):  # no part may come from here on
            self._desk.health.fault("line", "is stopping")
            self._publisher.publish(self._desk.health.beat(busy=len(self._desk.ledger) > 0))
        for grabber in self._grabbers:
            grabber.stop()
        _join([grabber.thread for grabber in self._grabbers], min(_LAST_READ_S, seconds))
        for queue in self._camera_queues:
            queue.close()
        seconds = max(0.0, until_s - time.monotonic())
        if not self._desk.ledger.wait_empty(seconds):
            self._desk.ledger.refuse_all("stopped", "the line stopped before this part was judged")
        self._timekeeper.stop()
        self._desk.ledger.wake()
        left_s = 0.0 if self._outcome == "hung" else until_s - time.monotonic()
        _join(self.threads, max(_LAST_TURN_S, left_s))
        if self._failure is not None:
            raise self._failure
        return self._outcome if ended and self._outcome else "stopped"

    def swap(self, models: Mapping[str, LineModel]) -> None:
        """Judge with other models from the next batch on; no part waits, is lost or is judged twice.

        Args:
            models: Of each camera; warmed up. See `Models.swap`.
        """
        self.models.swap(models)
        self._tell("judging with bundle {} from now on")

    def swap_back(self) -> None:
        """Judge with the models before the last swap; those in use stay where there were none, and an event says so."""
        swapped = self.models.swap_back()
        self._tell("back to bundle {}" if swapped else "there is none to go back to; judging on with bundle {}")

    def _tell(self, text: str) -> None:
        bundles = ", ".join(self.models.told(lambda model: [_named(model)]))
        remarks = self.models.told(lambda model: model.detector.remarks)
        self._desk.health.note("bundle", "; ".join([text.format(bundles), *remarks]))

    @property
    def threads(self) -> list[threading.Thread]:
        """All threads of the pipeline, for checking that none is left."""
        started = [*(grabber.thread for grabber in self._grabbers), *(stage.thread for stage in self._stages)]
        return [*started, self._timekeeper.thread]

    def _prepare(self, works: list[Work]) -> list[Work]:
        seen = []
        for work in works:
            before = self._last_image.get(work.frame.camera)  # of one that checks freezing
            image = work.frame.grab.image  # of the camera: resized ones may be the same by chance
            work.repeats = before is not None and image is not None and same_pixels(before, image)
            if self._sees(work, self.models.of(work.frame.camera)):
                seen.append(work)
                if image is not None and work.frame.checks_freezing:
                    self._last_image[work.frame.camera] = image
        return seen

    def _sees(self, work: Work, model: LineModel) -> bool:
        """Prepare a frame for a model; False where it is answered, since the camera cannot have seen the part."""
        image = work.frame.grab.image
        if image is None:
            raise ReasonError("a frame without pixels reached the model")
        work.model, work.prepared = model, model.prepare(image, strip=work.frame.grab.strip)
        limits = model.blind_limits
        frozen = FROZEN if work.repeats and not (limits is not None and limits.repeats) else None
        blind = work.prepared.blind or frozen
        if blind is not None:
            self._desk.ledger.refuse(work.frame, "blind", blind)
            self._desk.health.fault(f"sight {work.frame.camera}", blind)
            return False
        self._desk.health.clear(f"sight {work.frame.camera}")
        return True

    def _by_model(self, stage: str, works: list[Work]) -> dict[str, list[Work]]:
        """Frames that one model judges, by the stage and, where not all cameras have that model, those that do."""
        now = self.models.now
        apart: dict[str, list[Work]] = {}
        for work in works:
            sharing = [camera for camera, model in now.items() if model is now[work.frame.camera]]
            about = stage if len(sharing) == len(now) else f"{stage} {', '.join(sharing)}"
            apart.setdefault(about, []).append(work)
        return apart

    def _infer(self, works: list[Work]) -> list[Work]:
        # swapped since a frame was prepared: another bundle may resize and see otherwise
        now = self.models.now
        works = [
            work for work in works if work.model is now[work.frame.camera] or self._sees(work, now[work.frame.camera])
        ]
        for model in dict.fromkeys(now.values()):
            if own := [work for work in works if work.model is model]:
                _run(model, own)
        return works

    def _judge(self, works: list[Work]) -> list[Work]:
        for work in works:
            if work.model is None or work.prepared is None or work.outputs is None:
                raise ReasonError("a frame without outputs reached the judgement")
            book = self._books[work.frame.camera]
            answer = work.model.judge(work.frame, work.prepared, work.outputs, book=book)
            image = work.frame.grab.image
            if not answer.is_reject and image is not None and self._publisher.wants_picture(answer):
                answer = replace(answer, picture=Picture(image=image, anomaly_map=None))
            if self._desk.ledger.answer(work.frame, answer) and work.frame.grab.strip is not None:
                book.went_out()  # one that came too late went out without its defects
            self._count_score(answer, work.model)
        return []

    def _count_score(self, answer: Answer, model: LineModel) -> None:
        if answer.score is None:
            return
        if answer.threshold is not None and answer.threshold > 0:
            self._desk.metrics.scored(answer.camera, answer.score / answer.threshold)
        if answer.camera in self._drift:
            self._drift[answer.camera].add(answer.score, model)

    def _has_room(self) -> bool:
        at_once = min(len(self._grabbers), _AT_ONCE)  # each may add a part at the same moment
        return self._publisher.has_room(len(self._desk.ledger) + at_once)

    def _source_ended(self, failure: ReasonError | None) -> None:
        if failure is not None:
            self._failure = self._failure or failure
            self._done.set()

    def _prepared_all(self) -> None:
        with self._lock:
            self._to_prepare -= 1
            last = self._to_prepare == 0
        if last:
            self._to_infer.close()

    def _finished(self) -> None:
        self._outcome = self._outcome or "ended"
        self._done.set()

    def _hung(self, stage: str, seconds: float) -> None:
        self._outcome = "hung"
        text = f"{stage} hangs: busy for {seconds:.1f} s with one piece of work"
        self._desk.health.fault("hung", text)
        for grabber in self._grabbers:
            grabber.stop()
        for queue in self._camera_queues:
            queue.close()
        self._done.set()  # before the journal is asked, which may hang itself
        self._desk.ledger.refuse_all("hung", text)

    def _journal_failed(self, text: str) -> None:
        self._desk.health.fault("journal", text)


def _named(model: LineModel) -> str:
    limit = model.detector.limit.value
    return f"{model.content} without a threshold" if limit is None else f"{model.content} at threshold {limit:.6g}"


def _run(model: LineModel, works: list[Work]) -> None:
    """Put all images of these frames through one model."""
    images = [work.prepared.images for work in works if work.prepared is not None]
    outputs = model.infer(np.concatenate(images))
    first = 0
    for work, own in zip(works, images, strict=True):
        end = first + len(own)
        work.outputs = Outputs(anomaly_map=outputs.anomaly_map[first:end], score=outputs.score[first:end])
        first = end


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    """Wait until all have ended, for so long in all."""
    until_s = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
