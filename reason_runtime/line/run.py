"""A station from start to end: opens everything, runs until files end or somebody says stop, and drains within 5 s.

| signal | does |
|---|---|
| SIGTERM, SIGINT | take no more frames, finish those in flight, answer the rest UNKNOWN, exit 0 |
| SIGHUP | load the bundles that their paths name now (a link may have been moved) and judge with them |
| SIGUSR1 | back to the bundles before |
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from reason_runtime.detector import load
from reason_runtime.elsewhere import require_outside
from reason_runtime.errors import ConfigurationError, ParityError, ReasonError
from reason_runtime.image import reads_alike
from reason_runtime.line.grabber import Camera
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Event
from reason_runtime.line.metrics import Metrics, Snapshot
from reason_runtime.line.model import LineModel
from reason_runtime.line.models import Models
from reason_runtime.line.notify import notify
from reason_runtime.line.pipeline import Outcome, Pipeline, PipelineSettings
from reason_runtime.line.publisher import Publisher
from reason_runtime.line.sinks.open import open_sink
from reason_runtime.line.sinks.sink import Sink
from reason_runtime.line.sources.open import folder_of, gives_files, open_source
from reason_runtime.line.station import ModelPlan, Station
from reason_runtime.session import Session

Given = TypeVar("Given")

_DRAIN_S = 2.5  # of the 5 s between SIGTERM and exit
_DELIVER_S = 1.0
_SLACK_S = 0.5  # for either
_BATCH_S = 5.0  # what a broker or a server has for one batch
_LAST_CHANGE_S = 0.05  # a bundle that loads is not waited for
_POLL_S = 0.05  # whether somebody says stop
_LOOK_S = 0.02
_LIVE_DEADLINE_S = 1.0
_SWITCH_S = 0.0005  # Python's 5 ms would let one thread keep a finished inference waiting for as long


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        outcome: `ended` (all files), `stopped` (asked to) or `hung` (the process must end; parts may have no answer).
        seconds: From start to end.
        metrics: The last counts.
        is_stuck: A thread is still in a native call that cannot be interrupted.
        failure: Why the files ended early; every part has been answered.
    """

    outcome: Outcome
    seconds: float
    metrics: Snapshot
    is_stuck: bool
    failure: str | None = None


class LineRun:
    """One run of a station.

    Args:
        station: What to run.
        tell: Hears of every event, on whatever thread it happened; must neither wait nor fail.

    Raises:
        ReasonError: Something is wrong with the station: bundle, address, journal; or a model failed its check here.
    """

    def __init__(self, station: Station, *, tell: Callable[[Event], None] = lambda _: None) -> None:
        self._station = station
        self._is_stopping = False  # and no lock to take: it is a signal handler that says so
        self._changes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()  # None ends them
        self._asked = False  # to load, as the latest of the changes that have not begun
        self.metrics = Metrics()
        models = self._load()
        self._cameras = [
            Camera(
                name=plan.name,
                source=open_source(plan.source, input_format=models[plan.name].detector.bundle.manifest.input),
                stall_s=plan.stall_s,
            )
            for plan in station.cameras
        ]
        self._gives_files = {plan.name for plan in station.cameras if gives_files(plan.source)}
        self._bundles = [plan.model.bundle for plan in station.cameras]
        if station.journal is not None:
            require_outside(station.journal, bundles=self._bundles)
        self._journal = None if station.journal is None else Journal(station.journal, sync=station.journal_sync)
        self.publisher = Publisher(metrics=self.metrics, journal=self._journal, tell=tell)
        self._pipeline = Pipeline(
            self._cameras,
            models=models,
            publisher=self.publisher,
            metrics=self.metrics,
            journal=self._journal,
            settings=self._settings(batch=max(model.batch for model in models.values())),
        )

    @property
    def models(self) -> Models:
        """What judges."""
        return self._pipeline.models

    @property
    def is_live(self) -> bool:
        """At least one camera does not wait for us."""
        return any(camera.source.live for camera in self._cameras)

    def run(self) -> Summary:
        """Run to the end; see the module.

        Raises:
            ReasonError: A sink's address is wrong.
        """
        with _steady():
            return self._run()

    def _run(self) -> Summary:
        started_s = time.monotonic()
        sinks = self._sinks()
        self.publisher.start(sinks, is_stopping=lambda: self._is_stopping)
        self._tell_of_shared_results(sinks)
        if self._journal is not None and not self._is_stopping:  # else they are for the next start, with open sinks
            for answer in self._journal.recovered():
                self.publisher.hand_on(answer)
        self._pipeline.start()
        change = threading.Thread(target=self._change, name="change", daemon=True)
        change.start()
        notify("READY=1")
        while not (self._is_stopping or self._pipeline.wait(_POLL_S)):
            notify("WATCHDOG=1")
        notify("STOPPING=1")
        self._changes.put(None)
        drained = _in_time(self._drained, _DRAIN_S + _SLACK_S)
        outcome, failure = drained or ("hung", None)
        if outcome == "ended":
            self._wait_for_sinks()
        finished = _in_time(self._finish, _DELIVER_S + _SLACK_S)
        if not finished:
            outcome = "hung"
        change.join(_LAST_CHANGE_S)
        return Summary(
            outcome=outcome,
            seconds=time.monotonic() - started_s,
            metrics=self.metrics.snapshot(),
            is_stuck=not finished or any(thread.is_alive() for thread in (*self._pipeline.threads, change)),
            failure=failure,
        )

    def _tell_of_shared_results(self, sinks: Sequence[Sink]) -> None:
        shared = [sink for sink in sinks if sink.drives_line and sink.wants is None]
        for sink in shared if len(self._cameras) > 1 else []:
            text = "each result replaces another camera's; with camera=NAME it shows those of one"
            self.publisher.health.note(f"sink {sink.name}", text)

    def _drained(self) -> tuple[Outcome, str | None]:
        """How the pipeline ended, and what broke its source off."""
        try:
            return self._pipeline.stop(_DRAIN_S), None
        except ReasonError as error:
            return "ended", str(error)

    def _wait_for_sinks(self) -> None:
        """Files wait for sinks that are open, as long as they deliver."""
        left, until_s = 0, 0.0
        while (backlog := self.publisher.backlog()) and not self._is_stopping:
            time.sleep(_LOOK_S)
            if backlog != left:
                left, until_s = backlog, time.monotonic() + _BATCH_S
            elif time.monotonic() > until_s:
                return

    def _finish(self) -> bool:
        from reason_runtime.line.sources.post import PostSource

        self.publisher.finish(_DELIVER_S)
        for camera in self._cameras:
            if isinstance(camera.source, PostSource):
                camera.source.finish()
        if self._journal is not None:
            self._journal.close()
        return True

    def stop(self) -> None:
        """Drain and end; may be called by a signal handler."""
        self._is_stopping = True

    def swap(self) -> None:
        """Load all bundles again in the background and judge with them; those in use go on if one of them fails.

        Asked while they load, it loads once more afterwards: a path may name another by then.
        """
        if not self._asked:
            self._asked = True
            self._changes.put(self._swap)

    def swap_back(self) -> None:
        """Judge with the bundles before; what was asked for earlier is done first."""
        self._asked = False
        self._changes.put(self._pipeline.swap_back)

    def _change(self) -> None:
        while (change := self._changes.get()) is not None:
            change()

    def _swap(self) -> None:
        self._asked = False
        try:
            models = self._load(like=self.models.now)
            self._check(models)
        except Exception as error:  # the boundary of a thread: whatever a load runs into, the old bundle judges on
            text = str(error) if isinstance(error, ReasonError) else repr(error)
            self.publisher.health.note("bundle", f"the new bundle is refused, the old one stays: {text}")
        else:
            self._pipeline.swap(models)

    def _check(self, models: Mapping[str, LineModel]) -> None:
        """Refuse what would judge other than at a start.

        Raises:
            ConfigurationError: It would.
        """
        for plan in self._station.cameras:
            new, old = models[plan.name], self.models.of(plan.name)
            forms = [model.detector.bundle.manifest.input for model in (new, old)]
            if plan.name in self._gives_files and not reads_alike(*forms):
                raise ConfigurationError(
                    f"{plan.source}: files are read as they come, by the channels, levels and size of bundle "
                    f"{old.content}, and those of bundle {new.content} are others; start again with it"
                )
            if plan.model.threshold is not None and new.content != old.content:
                raise ConfigurationError(
                    f"{plan.model.bundle}: the threshold given by hand, {plan.model.threshold:g}, is of the scores of "
                    f"bundle {old.content}, not of those of bundle {new.content}; start again with one for it"
                )

    def _load(self, *, like: Mapping[str, LineModel] | None = None) -> dict[str, LineModel]:
        """The model of each camera; cameras whose plans are the same share one."""
        loaded: dict[ModelPlan, LineModel] = {}
        for camera in self._station.cameras:
            if camera.model not in loaded:
                before = None if like is None else like[camera.name].detector.session
                loaded[camera.model] = self._load_one(camera.model, like=before)
        return {camera.name: loaded[camera.model] for camera in self._station.cameras}

    def _load_one(self, plan: ModelPlan, *, like: Session | None) -> LineModel:
        detector = load(
            plan.bundle,
            backend=plan.backend,
            precision=plan.precision,
            device=plan.device,
            provider=plan.provider,
            threads=plan.threads,
            cuda_graph=plan.cuda_graph,
            threshold=plan.threshold,
            like=like,
        )
        if detector.failed is not None:
            raise ParityError(
                f"{detector.failed.failure}; mend the cause and check again, choose another backend or precision, "
                "or remove that file to judge all the same"
            )
        model = LineModel(detector, web=self._station.web, batch=self._station.batch)
        model.prove()
        return model

    def _settings(self, *, batch: int) -> PipelineSettings:
        station = self._station
        deadline_s = _LIVE_DEADLINE_S if self.is_live else None
        return PipelineSettings(
            deadline_s=deadline_s if station.deadline_ms is None else station.deadline_ms / 1000,
            queue_frames=station.queue_frames,
            when_full=station.back_pressure or ("drop-oldest" if self.is_live else "block"),
            batch=batch,
            batch_wait_s=station.batch_wait_ms / 1000,
            hang_s=station.hang_s,
            heartbeat_s=station.heartbeat_s,
            drift_parts=station.drift_parts,
        )

    def _sinks(self) -> list[Sink]:
        addresses = self._station.sinks or ("jsonl:-",)
        read = [folder for plan in self._station.cameras if (folder := folder_of(plan.source)) is not None]
        sinks = [
            open_sink(
                text,
                models=self.models,
                metrics=self.metrics,
                read=read,
                bundles=self._bundles,
                journal=self._station.journal,
            )
            for text in addresses
        ]
        if self._station.dashboard is not None:
            from reason_runtime.line.sinks.dashboard import open_dashboard

            sinks.append(open_dashboard(self._station.dashboard, metrics=self.metrics, models=self.models))
        return sinks


def _in_time(step: Callable[[], Given], seconds: float) -> Given | None:
    """What a step of the end gives; None where it takes too long: whoever writes to a dead disk never lets go."""
    given: list[Given] = []
    thread = threading.Thread(target=lambda: given.append(step()), name="end", daemon=True)
    thread.start()
    thread.join(seconds)
    return given[0] if given else None


@contextmanager
def _steady() -> Iterator[None]:
    """Short turns for threads, and no search through what was loaded before for garbage that cannot be there."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval_s)
