"""Lines that run within a test: a source that gives what it is told, a sink that remembers, everything else real."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from reason_runtime import load
from reason_runtime.errors import SinkError
from reason_runtime.line.frame import Grab
from reason_runtime.line.grabber import Camera
from reason_runtime.line.journal import Journal
from reason_runtime.line.messages import Answer, Beat, Event, Message
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.line.pipeline import Outcome, Pipeline, PipelineSettings
from reason_runtime.line.publisher import Publisher
from reason_runtime.line.web.judge import WebSettings

Given = NDArray[np.uint8] | str | Exception | float  # pixels, a failure, what read() raises, a pause in seconds


class ListSource:
    """Gives a list: pixels become frames, texts incomplete frames, exceptions are raised, numbers are pauses."""

    def __init__(self, items: Sequence[Given], *, live: bool = False, checks_freezing: bool = False) -> None:
        self.live = live
        self.checks_freezing = checks_freezing
        self.opened = 0
        self.closed = 0
        self._items = list(items)
        self._next = 0

    def open(self) -> None:
        self.opened += 1

    def read(self) -> Grab | str:
        if self._next == len(self._items):
            return "end"
        item = self._items[self._next]
        self._next += 1
        if isinstance(item, Exception):
            raise item
        if isinstance(item, str):
            return Grab(grabbed_ns=time.monotonic_ns(), failure=item)
        if isinstance(item, float):
            time.sleep(item)
            return "idle"
        return Grab(grabbed_ns=time.monotonic_ns(), image=item)

    def close(self) -> None:
        self.closed += 1


@dataclass
class ListSink:
    """Remembers messages with the time they came; is down while told so."""

    name: str = "list"
    keeps: bool = True
    drives_line: bool = False
    wants_pictures: bool = False
    wants: Callable[[Answer], bool] | None = None
    down: bool = False
    pause_s: float = 0.0
    messages: list[Message] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def open(self) -> None:
        if self.down:
            raise SinkError("the list is away")

    def deliver(self, messages: Sequence[Message]) -> None:
        if self.down:
            raise SinkError("the list is away")
        time.sleep(self.pause_s)
        with self.arrived:
            self.messages += messages
            self.times_s += [time.monotonic()] * len(messages)
            self.arrived.notify_all()

    def close(self) -> None:
        pass

    @property
    def answers(self) -> list[Answer]:
        return [message for message in self.messages if isinstance(message, Answer)]

    @property
    def events(self) -> list[Event]:
        return [message for message in self.messages if isinstance(message, Event)]

    @property
    def beats(self) -> list[Beat]:
        return [message for message in self.messages if isinstance(message, Beat)]

    def wait(self, until: Callable[[], bool], seconds: float = 10.0) -> None:
        with self.arrived:
            assert self.arrived.wait_for(until, seconds), self.messages

    @property
    def decisions(self) -> list[str]:
        return [answer.decision for answer in self.answers]

    @property
    def causes(self) -> list[str]:
        return [answer.cause for answer in self.answers]


@dataclass
class Line:
    pipeline: Pipeline
    publisher: Publisher
    sink: ListSink
    metrics: Metrics

    def finish(self) -> Outcome:
        """Wait for the end of the files, then drain."""
        assert self.pipeline.wait(30)
        return self.close()

    def close(self, drain_s: float = 2.0) -> Outcome:
        try:
            return self.pipeline.stop(drain_s)
        finally:
            self.publisher.finish(2)


@contextmanager
def running(
    bundle: Path,
    *cameras: Camera,
    settings: PipelineSettings | None = None,
    sink: ListSink | None = None,
    journal: Journal | None = None,
    web: WebSettings | None = None,
    models: Mapping[str, LineModel] | None = None,
) -> Iterator[Line]:
    """A started line; its threads must all have ended afterwards. All cameras have one model, but for `models`."""
    metrics = Metrics()
    publisher = Publisher(metrics=metrics, journal=journal)
    model = LineModel(load(bundle, threads=1), web=web)
    model.prove()
    sink = sink or ListSink()
    pipeline = Pipeline(
        cameras,
        models={item.name: (models or {}).get(item.name, model) for item in cameras},
        publisher=publisher,
        metrics=metrics,
        journal=journal,
        settings=settings or PipelineSettings(),
    )
    publisher.start([sink])
    pipeline.start()
    try:
        yield Line(pipeline, publisher, sink, metrics)
    finally:
        for thread in pipeline.threads:
            thread.join(60)  # a model that is slow on purpose, on a machine that is busy
            assert not thread.is_alive(), thread.name
        assert "timekeeper" not in {event.name for event in sink.events}  # a turn that fails is a fault of ours


def camera(*items: Given, name: str = "top", live: bool = False, checks_freezing: bool = False) -> Camera:
    return Camera(name=name, source=ListSource(items, live=live, checks_freezing=checks_freezing))


def interrupted_everywhere(run: Callable[[], object], act: Callable[[], None], *, within: str) -> None:
    """Run to the end, and act wherever a function uses Python's own locks, as a handler of a signal might just then."""

    def trace(frame: FrameType, _: str, __: object) -> Callable[..., object] | None:
        if frame.f_code.co_filename != threading.__file__:
            return None
        caller: FrameType | None = frame
        while caller is not None and caller.f_code.co_name != within:
            caller = caller.f_back
        if caller is not None:
            act()
        return trace

    def traced() -> None:
        sys.settrace(trace)
        run()

    thread = threading.Thread(target=traced, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "".join(traceback.format_stack(sys._current_frames()[thread.ident or 0]))
