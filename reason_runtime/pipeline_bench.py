"""From a camera frame to the decision, stage by stage."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.bench import LatencyPlan, rest, times_of
from reason_runtime.choices import Backend, Precision
from reason_runtime.detector import Detector
from reason_runtime.environment import fingerprint
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import check_size, input_of, is_one_channel, read_image
from reason_runtime.strict_json import Json

_SEED = 20250101
STAGES = ("grab", "resize", "infer", "decide")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Frames one after the other: the next is grabbed when the last is judged, or a pause later.

    Attributes:
        count: Frames.
        p50_ms: From the grab to the decision, as the next three; see `reason_runtime.bench.Times`, also for the rest.
        p90_ms: See `p50_ms`.
        p99_ms: See `p50_ms`.
        max_ms: See `p50_ms`.
        fps: Frames in a second, pauses left out.
        p50_low_ms: Of a tenth of the frames.
        p50_high_ms: Of a tenth of the frames.
        pause_ms: Before each frame.
        stages: p50 and the rest of each stage. `grab`: a copy out of the driver's buffer, or reading and decoding a
            file; `resize`: conversion and resize; `infer`: the backend; `decide`: threshold and finiteness.
        frame_px: Height and width of the frames.
        frame_channels: 1 of a mono camera, else 3.
        image: The file that was read for every frame; None for a made-up frame.
        backend: The inference library.
        precision: Of the model.
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
    stages: dict[str, dict[str, Json]]
    frame_px: list[int]
    frame_channels: int
    image: str | None
    backend: Backend
    precision: Precision
    environment: dict[str, Json]


def measure_pipeline(
    detector: Detector, *, frame_px: tuple[int, int], mono: bool = False, image: Path | None, plan: LatencyPlan
) -> Pipeline:
    """Time the stages on frames of one size.

    Args:
        detector: From `load`.
        frame_px: Height and width of a made-up camera frame.
        mono: Whether that has one channel, whatever the graph takes.
        image: A file that is read and decoded for every frame instead.
        plan: How long.

    Raises:
        ConfigurationError: The bundle was trained on tiles, of which a frame has any number.
        ImageError: The file cannot be read, the graph takes frames of another size, or no frame may have this one.
        BackendError: The inference library failed.
    """
    if detector.tile_px is not None:
        raise ConfigurationError(
            f"{detector.bundle.path}: was trained on tiles of {detector.tile_px} px; the stages of a whole part "
            "are timed here, a tile by reason-bench latency"
        )
    form = detector.bundle.manifest.input
    check_size(height_px=frame_px[0], width_px=frame_px[1])
    shape = frame_px if mono else (*frame_px, form.channels)
    buffer: NDArray[np.uint8] = np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)
    marks: list[list[int]] = []
    started_ns = 0
    while True:
        if len(marks) == plan.warm_up:
            started_ns = time.perf_counter_ns()
        rest(plan)
        at = [time.perf_counter_ns()]
        frame = buffer.copy() if image is None else read_image(image, input_format=form)
        at.append(time.perf_counter_ns())
        prepared = input_of(frame, input_format=form)[None]
        at.append(time.perf_counter_ns())
        outputs = detector.session.run(prepared)
        at.append(time.perf_counter_ns())
        detector.judge(outputs.score[0], outputs.anomaly_map[0])
        at.append(time.perf_counter_ns())
        marks.append(at)
        counted = len(marks) - plan.warm_up
        if counted >= plan.minimum_count and at[-1] - started_ns >= plan.minimum_s * 1e9:
            break
    table = np.diff(np.array(marks[plan.warm_up :]), axis=1)
    return Pipeline(
        **asdict(times_of(table.sum(1).tolist())),
        pause_ms=plan.pause_ms,
        stages={name: asdict(times_of(table[:, i].tolist())) for i, name in enumerate(STAGES)},
        frame_px=list(frame.shape[:2]),
        frame_channels=1 if frame.ndim == 2 or is_one_channel(frame) else frame.shape[2],
        image=None if image is None else str(image),
        backend=detector.session.backend,
        precision=detector.session.precision,
        environment=fingerprint(detector.session),
    )
