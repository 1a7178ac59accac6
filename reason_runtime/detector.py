"""From one image to one decision."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reason_runtime.auto import AutoChoice, choose
from reason_runtime.bundle import Bundle, open_bundle
from reason_runtime.checks import KnownCheck, known_check
from reason_runtime.choices import BackendChoice, Device, Precision, Provider
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import part_of, resize_image
from reason_runtime.manifest import ScoreStatistics
from reason_runtime.regions import Region, regions_of_picture
from reason_runtime.session import Outputs, Session, open_session
from reason_runtime.tiles import run_tiled, tile_px_of

Decision = Literal["OK", "NG", "UNKNOWN"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
NOT_FINITE = "the model's output is not finite"
_HOW_TO_CALIBRATE: dict[Precision, str] = {
    "fp32": "run `reason-train calibrate RUN --data DIR --false-reject-rate 0.01` and export again, or ",
    "int8": "run `reason-export quantize BUNDLE --calibration DIR`, or ",
    "bf16": "run `reason-export check BUNDLE --backend openvino --precision bf16 --held-out DIR`, or ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLimit:
    """The threshold in force.

    Attributes:
        value: In raw score units; `score >= value` is NG. None where no threshold is known.
        source: Where it came from; None where there is none.
        hint: How to get one; None where there is one.
        scores: Of held-out good images by the same precision, by the very session where this device has its own.
        threshold_from: SHA-256 of the image files that drew it, where this device's check says so; None: see bundle.
        note: Why this device's own threshold is not in force; None where it is, or there is none.
    """

    value: float | None = None
    source: str | None = None
    hint: str | None = None
    scores: ScoreStatistics | None = None
    threshold_from: frozenset[str] | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """The judgement of one image.

    Attributes:
        score: The anomaly map's maximum or generalised mean, as the bundle's method has it, raw units; NaN where any
            value of the map is not finite.
        threshold: In raw units; None where none is known.
        threshold_source: Where the threshold came from; None where there is none.
        decision: OK below the threshold, NG at or above it, UNKNOWN where no judgement is possible.
        reason: Why the decision is UNKNOWN; None otherwise.
        anomaly_map: (S, S) float32, raw units; (H, W) of the picture where the bundle was trained on tiles. It covers
            the part of the picture that the bundle looks at.
        regions: Where the map reaches the pixel threshold, in pixels of the picture, top to bottom; none unless NG,
            which may have none too: a weak and wide change can raise the score before any pixel is that high.
        latency_ms: From the array in memory to the decision: conversion, resize, inference. For a batch, its time
            divided by its size.
    """

    score: float
    threshold: float | None
    threshold_source: str | None
    decision: Decision
    reason: str | None
    anomaly_map: NDArray[np.float32]
    regions: tuple[Region, ...]
    latency_ms: float

    @property
    def is_anomalous(self) -> bool:
        """True for NG and, so that nothing passes unjudged, for UNKNOWN too."""
        return self.decision != "OK"


class Verdict(NamedTuple):
    """Score, decision, and why the decision is UNKNOWN; None where it is not."""

    score: float
    decision: Decision
    reason: str | None


class Detector:
    """Judges images with one loaded model, on any number of threads (see `reason_runtime.session.Session`).

    Args:
        bundle: The model came from.
        session: The loaded model.
        limit: The threshold in force.
        choice: How `auto` came to this session; None where the user named it.
        failed: This device's check of this very session, where that did not pass; None where it did, or there is none.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        session: Session,
        limit: DecisionLimit,
        choice: AutoChoice | None = None,
        failed: KnownCheck | None = None,
    ) -> None:
        self.bundle = bundle
        self.session = session
        self.limit = limit
        self.choice = choice
        self.failed = failed
        self.tile_px = tile_px_of(bundle.manifest)

    @property
    def remarks(self) -> list[str]:
        """What is to be known before the first decision.

        What `auto` chose; that this device's check failed; that there is no threshold, or another.
        """
        told = [] if self.choice is None else [self.choice.describe()]
        if self.failed is not None:
            told.append(f"{self.failed.failure}: its answers may be wrong; mend the cause and run that check again")
        if self.limit.hint is not None:
            told.append(f"every decision is UNKNOWN: {self.limit.hint}")
        elif self.limit.note is not None:
            told.append(f"the threshold is the bundle's: {self.limit.note}")
        return told

    @property
    def pixel_threshold(self) -> float | None:
        """The map value from which on a pixel counts as defective, raw units; None where none is known.

        Of good images, as measured at export. A generalised mean lies below the map's maximum, so that its threshold
        is reached by pixels of good parts too. The threshold itself where the score is the map's maximum, or where
        nothing was measured.
        """
        own = None if self.limit.scores is None else self.limit.scores.pixel_threshold
        return self.limit.value if own is None else own

    def __call__(self, image: Pixels) -> Result:
        """Judge one image of any size; by a bundle trained on tiles at native resolution, tile by tile.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8 or uint16.

        Raises:
            ImageError: Another type or shape, or a size that is refused.
            BackendError: The inference library failed.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Pixels]) -> tuple[Result, ...]:
        """Judge several images in one run of the model; each may have its own size.

        Raises:
            ImageError: Another type or shape, or a size that is refused.
            BackendError: The inference library failed.
        """
        if not images:
            return ()
        started_ns = time.perf_counter_ns()
        outputs = self._outputs(images)
        judged = [self.judge(output.score[0], output.anomaly_map[0]) for output in outputs]
        regions = [
            self.regions(output.anomaly_map[0], image.shape) if verdict.decision == "NG" else ()
            for verdict, output, image in zip(judged, outputs, images, strict=True)
        ]
        latency_ms = (time.perf_counter_ns() - started_ns) / 1e6 / len(images)
        return tuple(
            Result(
                score=verdict.score,
                threshold=self.limit.value,
                threshold_source=self.limit.source,
                decision=verdict.decision,
                reason=verdict.reason,
                anomaly_map=output.anomaly_map[0],
                regions=places,
                latency_ms=latency_ms,
            )
            for verdict, output, places in zip(judged, outputs, regions, strict=True)
        )

    def _outputs(self, images: Sequence[Pixels]) -> list[Outputs]:
        """Map and score of each image, as a batch of one."""
        form, tile_px = self.bundle.manifest.input, self.tile_px
        converted = [part_of(image, input_format=form) for image in images]
        if tile_px is not None:
            run = self.session.run
            return [run_tiled(run, image, tile_px=tile_px, together=len(images)) for image in converted]
        found = self.session.run(np.stack([resize_image(image, input_format=form) for image in converted]))
        return [Outputs(found.anomaly_map[i : i + 1], found.score[i : i + 1]) for i in range(len(images))]

    def judge(self, score: np.float32 | float, anomaly_map: NDArray[np.float32]) -> Verdict:
        """The decision for one output of the model; UNKNOWN where it is not finite or no threshold is known."""
        # the map too: OpenVINO's maximum skips NaN and gives the lowest float
        if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
            return Verdict(float("nan"), "UNKNOWN", NOT_FINITE)
        if self.limit.value is None:
            return Verdict(float(score), "UNKNOWN", self.limit.hint)
        return Verdict(float(score), "NG" if float(score) >= self.limit.value else "OK", None)

    def regions(self, anomaly_map: NDArray[np.float32], shape: tuple[int, ...]) -> tuple[Region, ...]:
        """Where a finite map reaches the pixel threshold, in pixels of a picture of this shape, rows first."""
        if self.pixel_threshold is None:
            return ()
        form = self.bundle.manifest.map_format
        return regions_of_picture(
            anomaly_map, pixel_threshold=self.pixel_threshold, input_format=form, shape=(shape[0], shape[1])
        )


def load(
    bundle: str | Path,
    *,
    backend: BackendChoice = "onnxruntime",
    precision: Precision | None = None,
    device: Device | None = None,
    threads: int | None = None,
    provider: Provider | None = None,
    cuda_graph: bool = False,
    threshold: float | None = None,
    like: Session | None = None,
) -> Detector:
    """Open and verify a bundle and load its model.

    Args:
        bundle: The folder.
        backend: The inference library, which must be installed; `auto`: see `reason_runtime.auto.choose`.
        precision: Of the model; each has its own threshold. None: fp32, with `auto` any.
        device: See `reason_runtime.session.open_session`, also for the next three.
        threads: Of the inference library on CPU; None leaves the choice to it.
        provider: ONNX Runtime's execution provider.
        cuda_graph: Whether TensorRT replays a recorded run.
        threshold: In raw score units, instead of the bundle's.
        like: With `auto`: see `reason_runtime.auto.choose`.

    Raises:
        ConfigurationError: An unknown choice, or a threshold that is negative or not finite.
        BundleError: See `reason_runtime.bundle.open_bundle`; or this device's check is not as `reason-export check`
            writes it.
        BackendError: See `reason_runtime.session.open_session`.
    """
    opened = open_bundle(bundle)
    if backend == "auto":
        if provider is not None or cuda_graph:
            raise ConfigurationError("auto chooses the backend; a provider and CUDA graphs are options of named ones")
        choice = choose(opened, precision=precision, device=device, threads=threads, like=like)
        return _detector(opened, choice.session, threshold=threshold, choice=choice)
    session = open_session(
        opened,
        backend=backend,
        precision=precision or "fp32",
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
    )
    return _detector(opened, session, threshold=threshold)


def _detector(
    bundle: Bundle, session: Session, *, threshold: float | None, choice: AutoChoice | None = None
) -> Detector:
    check = known_check(bundle, backend=session.backend, precision=session.precision, provider=session.provider)
    return Detector(
        bundle=bundle,
        session=session,
        limit=_decision_limit(bundle, session, check=check, threshold=threshold),
        choice=choice,
        failed=None if check is None or check.passed or not check.holds_for(session) else check,
    )


def _decision_limit(
    bundle: Bundle, session: Session, *, check: KnownCheck | None, threshold: float | None
) -> DecisionLimit:
    """The threshold given by hand, else this device's own, else the bundle's, else none with a hint how to get one.

    This device's own is one drawn with this version of the runtime and of the library.

    Raises:
        ConfigurationError: The threshold is negative or not finite.
    """
    precision = session.precision
    scores = bundle.manifest.scores_in(precision)
    if threshold is not None:
        if not 0 <= threshold < np.inf:  # no score is negative
            raise ConfigurationError(f"threshold {threshold:g}: expected a finite number, 0 or more")
        return DecisionLimit(value=threshold, source="given by hand", scores=scores)
    note = None
    if check is not None and check.is_superseded:
        note = "this device's own was drawn before it: run its check with --held-out again"
    elif check is not None and check.threshold is not None:
        own = check.threshold
        if check.holds_for(session):
            source = f"check of this device, {precision}: {own.source}"
            return DecisionLimit(
                value=own.value, source=source, scores=check.scores, threshold_from=check.threshold_from
            )
        note = "this device's own was drawn with another version: run its check with --held-out again"
    remark = "" if note is None else f" ({note})"
    found = bundle.manifest.thresholds.get(precision)
    if found is not None:
        source = f"bundle, {precision}: {found.source}{remark}"
        return DecisionLimit(value=found.value, source=source, scores=scores, note=note)
    how = _HOW_TO_CALIBRATE.get(precision, "")
    hint = f"no threshold for {precision} in the bundle{remark}: {how}give one with --threshold"
    return DecisionLimit(hint=hint, scores=scores)
