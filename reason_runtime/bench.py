"""Latency of one image after another, the way a single camera sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from reason_runtime.choices import Backend, Precision
from reason_runtime.detector import Detector
from reason_runtime.environment import fingerprint
from reason_runtime.errors import ConfigurationError
from reason_runtime.strict_json import Json

_SEED = 20250101  # the pattern does not matter to a network's speed; it is fixed so that runs are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPlan:
    """How long to measure; both minima must be met.

    Attributes:
        warm_up: Calls that are not counted.
        minimum_count: Counted calls at least.
        minimum_s: Seconds of counted calls at least.

    Raises:
        ConfigurationError: A negative number, or no counted call.
    """

    warm_up: int = 10
    minimum_count: int = 100
    minimum_s: float = 5.0

    def __post_init__(self) -> None:
        if self.warm_up < 0 or self.minimum_count < 1 or not 0 <= self.minimum_s < float("inf"):
            raise ConfigurationError(
                "a measurement needs 0 or more warm-up calls, 1 or more counted calls, 0 s or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What was measured: a closed loop (the next image starts when the last is judged), batch 1.

    Attributes:
        count: Counted calls.
        p50_ms: Half of the calls took no longer; 90 % and 99 % for the next two. Each is a time that was seen.
        p90_ms: See `p50_ms`.
        p99_ms: See `p50_ms`.
        max_ms: The slowest call.
        fps: Calls per second of the loop.
        backend: The inference library.
        precision: Of the model.
        input_px: Height and width of the image: the graph's, or that before its crop, so that nothing is resized.
        environment: See `reason_runtime.environment.fingerprint`.
    """

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    fps: float
    backend: Backend
    precision: Precision
    input_px: list[int]
    environment: dict[str, Json]


def measure_latency(detector: Detector, *, plan: LatencyPlan) -> Latency:
    """Time the detector on an image of the graph's size, from the array in memory to the decision.

    Raises:
        BackendError: The inference library failed.
    """
    form = detector.bundle.manifest.input
    shape = (form.resize_height_px, form.resize_width_px, form.channels)
    image = np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(plan.warm_up):
        detector(image)
    durations_ns: list[int] = []
    started_ns = last_ns = time.perf_counter_ns()
    while len(durations_ns) < plan.minimum_count or last_ns - started_ns < plan.minimum_s * 1e9:
        detector(image)
        now_ns = time.perf_counter_ns()
        durations_ns.append(now_ns - last_ns)
        last_ns = now_ns
    p50_ms, p90_ms, p99_ms = np.percentile(np.array(durations_ns) / 1e6, (50, 90, 99), method="inverted_cdf")
    return Latency(
        count=len(durations_ns),
        p50_ms=float(p50_ms),
        p90_ms=float(p90_ms),
        p99_ms=float(p99_ms),
        max_ms=max(durations_ns) / 1e6,
        fps=len(durations_ns) * 1e9 / (last_ns - started_ns),
        backend=detector.session.backend,
        precision=detector.session.precision,
        input_px=list(shape[:2]),
        environment=fingerprint(detector.session),
    )
