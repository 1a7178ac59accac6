"""Latency of one image after another, the way a single camera sees it, and what the runtime itself takes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from reason_runtime.choices import Backend, Precision, Provider, runner_device
from reason_runtime.detector import Detector
from reason_runtime.environment import fingerprint
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import input_of
from reason_runtime.power import PowerMeter
from reason_runtime.session import Outputs
from reason_runtime.strict_json import Json

_SEED = 20250101  # the pattern does not matter to a network's speed; it is fixed so that runs are alike
_PARTS = 10
_LONGEST_PAUSE_MS = 3_600_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPlan:
    """How long to measure; both minima must be met.

    Attributes:
        warm_up: Calls that are not counted.
        minimum_count: Counted calls at least.
        minimum_s: Seconds from the first counted call to the end of the last at least.
        pause_ms: Rest before each call, as a line has between two parts: processors that rested can be slower. No
            duration holds any of it.

    Raises:
        ConfigurationError: A negative number, or no counted call.
    """

    warm_up: int = 10
    minimum_count: int = 100
    minimum_s: float = 5.0
    pause_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.warm_up < 0 or self.minimum_count < 1 or not 0 <= self.minimum_s < float("inf"):
            raise ConfigurationError(
                "a measurement needs 0 or more warm-up calls, 1 or more counted calls, 0 s or more"
            )
        if not 0 <= self.pause_ms <= _LONGEST_PAUSE_MS:
            raise ConfigurationError(f"a pause of {self.pause_ms} ms; expected 0 to {_LONGEST_PAUSE_MS:.0f}, an hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Durations of equal calls; each figure is a time that was seen.

    Attributes:
        count: Counted calls.
        p50_ms: Half of the calls took no longer; 90 % and 99 % for the next two.
        p90_ms: See `p50_ms`.
        p99_ms: See `p50_ms`.
        max_ms: The slowest call.
        fps: Calls in a second of calls; pauses are none.
        p50_low_ms: The lowest median of ten equal parts of the run, one after the other; with the next, how steady the
            machine was.
        p50_high_ms: The highest.
    """

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    fps: float
    p50_low_ms: float
    p50_high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What was measured: the next image starts when the last is judged, or a pause later; batch 1.

    Attributes:
        count: See `Times`, also for the next seven.
        p50_ms: Of a call.
        p90_ms: Of a call.
        p99_ms: Of a call.
        max_ms: Of a call.
        fps: Calls in a second of calls.
        p50_low_ms: Of a tenth of the calls.
        p50_high_ms: Of a tenth of the calls.
        pause_ms: Before each call.
        backend: The inference library.
        precision: Of the model.
        input_px: Height and width of the image: the graph's, or that before its crop, so that nothing is resized.
        overhead_p50_ms: What the runtime adds outside the backend: checks, copies and the decision, timed with a
            session that answers at once.
        power_w: Mean of the board, or `not measured`.
        environment: See `reason_runtime.environment.fingerprint`.
    """

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    fps: float
    p50_low_ms: float
    p50_high_ms: float
    pause_ms: float
    backend: Backend
    precision: Precision
    input_px: list[int]
    overhead_p50_ms: float
    power_w: float | str
    environment: dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class _AnswersAtOnce:
    """A session that computes nothing, to time what is around it."""

    backend: Backend
    provider: Provider | None
    precision: Precision
    libraries: dict[str, str]
    outputs: Outputs
    largest_batch: None = None

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """The same outputs, whatever the images."""
        return self.outputs


def measure_latency(detector: Detector, *, plan: LatencyPlan) -> Latency:
    """Time the detector on an image of the graph's size, from the array in memory to the decision.

    Raises:
        BackendError: The inference library failed.
    """
    image = pattern(detector)
    session = detector.session
    form = detector.bundle.manifest.input
    outputs = session.run(input_of(image, input_format=form)[None])
    around = Detector(
        bundle=detector.bundle,
        session=_AnswersAtOnce(
            backend=session.backend,
            provider=session.provider,
            precision=session.precision,
            libraries=session.libraries,
            outputs=outputs,
        ),
        limit=detector.limit,
    )
    overhead = time_calls(lambda: around(image), plan=LatencyPlan(minimum_count=200, minimum_s=0.2))
    with PowerMeter(on_gpu=runner_device(session.backend, session.provider) == "cuda") as power:
        times = time_calls(lambda: detector(image), plan=plan)
    return Latency(
        **asdict(times),
        pause_ms=plan.pause_ms,
        backend=session.backend,
        precision=session.precision,
        input_px=list(image.shape[:2]),
        overhead_p50_ms=overhead.p50_ms,
        power_w=power.mean_w(),
        environment=fingerprint(session),
    )


def pattern(detector: Detector) -> NDArray[np.uint8]:
    """(H, W, C) fixed noise in the size that needs no resize, or that just holds the part that is looked at."""
    form = detector.bundle.manifest.input
    return np.random.default_rng(_SEED).integers(0, 256, (*form.picture_px, form.channels), dtype=np.uint8)


def time_calls(call: Callable[[], object], *, plan: LatencyPlan) -> Times:
    """Time a call again and again, each starting when the last has returned, or a pause later."""
    for _ in range(plan.warm_up):
        call()
    durations_ns: list[int] = []
    first_ns = ended_ns = time.perf_counter_ns()
    while len(durations_ns) < plan.minimum_count or ended_ns - first_ns < plan.minimum_s * 1e9:
        rest(plan)
        started_ns = time.perf_counter_ns()
        call()
        ended_ns = time.perf_counter_ns()
        durations_ns.append(ended_ns - started_ns)
    return times_of(durations_ns)


def rest(plan: LatencyPlan) -> None:
    """The pause before a call."""
    if plan.pause_ms:
        time.sleep(plan.pause_ms / 1000)


def times_of(durations_ns: Sequence[int]) -> Times:
    """Percentiles of durations."""
    durations_ms = np.array(durations_ns) / 1e6
    p50_ms, p90_ms, p99_ms = np.percentile(durations_ms, (50, 90, 99), method="inverted_cdf")
    tenths = np.array_split(durations_ms, min(_PARTS, len(durations_ms)))
    medians_ms = [float(np.percentile(part, 50, method="inverted_cdf")) for part in tenths]
    return Times(
        count=len(durations_ns),
        p50_ms=float(p50_ms),
        p90_ms=float(p90_ms),
        p99_ms=float(p99_ms),
        max_ms=max(durations_ns) / 1e6,
        fps=1e9 / float(np.mean(durations_ns)),
        p50_low_ms=min(medians_ms),
        p50_high_ms=max(medians_ms),
    )
