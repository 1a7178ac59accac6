"""Images per second when all are at hand: batch size and, with OpenVINO, streams searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reason_runtime.bench import LatencyPlan, Times, pattern, time_calls
from reason_runtime.choices import Backend, Precision, runner_device
from reason_runtime.detector import Detector
from reason_runtime.environment import fingerprint, usable_cores
from reason_runtime.image import input_of
from reason_runtime.session import Session, open_session
from reason_runtime.strict_json import Json

IMAGES_PER_STREAM = 8
"""Images handed over at once for each stream, so that the wait for the last one weighs little."""
USUAL_BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run many images.

    Attributes:
        batch: Images in one run of the model.
        streams: Runs at the same time; None: one after the other on all threads.
        fps: Images per second; None where it was not run.
    """

    batch: int
    streams: int | None
    fps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """The best of all settings tried.

    Attributes:
        fps: Images per second, measured once more: the highest of several is partly luck.
        batch: Of the best setting.
        streams: Of the best setting.
        p50_ms: Of one hand-over of images, as the next three.
        p90_ms: See `p50_ms`.
        p99_ms: See `p50_ms`.
        max_ms: See `p50_ms`.
        tried: Every setting with its images per second.
        backend: The inference library.
        precision: Of the model.
        environment: See `reason_runtime.environment.fingerprint`.
    """

    fps: float
    batch: int
    streams: int | None
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    tried: list[dict[str, Json]]
    backend: Backend
    precision: Precision
    environment: dict[str, Json]


def measure_throughput(
    detector: Detector, *, threads: int | None, cuda_graph: bool = False, batches: Sequence[int], plan: LatencyPlan
) -> Throughput:
    """Run every setting for a while, and the fastest once more.

    Args:
        detector: Loaded; its session runs the first setting, and the others have one each like it.
        threads: That it was loaded with, as the next.
        cuda_graph: See `threads`.
        batches: Sizes to try.
        plan: How long each.

    Raises:
        BackendError: The inference library failed.
    """
    bundle, first = detector.bundle, detector.session
    backend, form = first.backend, bundle.manifest.input
    on_cpu = runner_device(backend, first.provider) == "cpu"
    image = input_of(pattern(detector), input_format=form)
    tried: list[Setting] = []
    best: tuple[Setting, Session] | None = None
    for setting in settings(backend, batches, cores=threads or usable_cores()):
        session = first
        if tried:
            session = open_session(
                bundle,
                backend=backend,
                precision=first.precision,
                provider=first.provider,
                threads=threads if on_cpu else None,
                cuda_graph=cuda_graph,
                streams=setting.streams,
            )
        fps, _ = _timed(session, setting, image, plan=plan)
        tried.append(replace(setting, fps=fps))
        if fps == max(each.fps or 0 for each in tried):
            best = setting, session
    assert best is not None  # there is always the batch of one
    setting, session = best
    fps, times = _timed(session, setting, image, plan=plan)
    return Throughput(
        fps=fps,
        batch=setting.batch,
        streams=setting.streams,
        p50_ms=times.p50_ms,
        p90_ms=times.p90_ms,
        p99_ms=times.p99_ms,
        max_ms=times.max_ms,
        tried=[asdict(each) for each in tried],
        backend=backend,
        precision=first.precision,
        environment=fingerprint(session),
    )


def _timed(session: Session, setting: Setting, image: NDArray[np.uint8], *, plan: LatencyPlan) -> tuple[float, Times]:
    """Images per second, and how long each hand-over of them took."""
    count = setting.batch if setting.streams is None else IMAGES_PER_STREAM * setting.streams
    images = np.repeat(image[None], count, axis=0)
    times = time_calls(lambda: session.run(images), plan=plan)
    return times.fps * count, times


def usual_batches(session: Session) -> tuple[int, ...]:
    """Sizes to try where none is named: those that the session takes."""
    most = session.largest_batch
    return tuple(batch for batch in USUAL_BATCHES if most is None or batch <= most)


def settings(backend: Backend, batches: Sequence[int], *, cores: int) -> Iterator[Setting]:
    """What is worth trying: every batch size, and with OpenVINO one image a run on 1, 2, 4 ... streams."""
    for batch in batches:
        yield Setting(batch=batch, streams=None)
    streams = 1
    while backend == "openvino" and streams <= cores:
        yield Setting(batch=1, streams=streams)
        streams *= 2
