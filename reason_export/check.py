"""The parity gate: an artefact run by its backend, against the golden arrays of its bundle. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from reason_export.golden_checks import (
    Batched,
    PaintedDefects,
    decisions_flipped,
    in_batches,
    painted_defects,
    shifted,
    threshold_shift,
    unfounded,
)
from reason_export.good_images import (
    LEAST_HELD_OUT,
    HeldOutImages,
    different_images,
    require_good,
    require_unseen,
    unseen,
    wanted_rate,
)
from reason_export.graph_parts import changed_in_head
from reason_export.parity import TOLERANCES, Limits, NotFiniteError, Parity, blind, broken, compare, contradicting
from reason_export.runs import load_images, run_each, score_and_peak_each
from reason_runtime.atomic import require_writable, write_text
from reason_runtime.bundle import Bundle
from reason_runtime.checks import (
    BESIDE,
    CHECKS,
    check_path,
    checked_files,
    kept_threshold,
    known_check,
    sealed,
    threshold_beside,
)
from reason_runtime.choices import Backend, Device, Precision, Provider
from reason_runtime.environment import fingerprint
from reason_runtime.errors import BundleError, DataError
from reason_runtime.manifest import ScoreStatistics, Threshold
from reason_runtime.self_test import levels_apart, resized_otherwise
from reason_runtime.session import Session, open_session
from reason_runtime.strict_json import Json
from reason_runtime.tiles import tile_px_of

if TYPE_CHECKING:
    from reason_export.accuracy import Accuracy, LabelledSet
    from reason_train.highest_held_out import HighestHeldOut


ImageKind = Literal["labelled", "held-out"]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one gate."""

    backend: Backend
    provider: Provider | None
    precision: Precision
    parity: Parity
    synthetic_images: int
    """How many of the golden images are made-up patterns."""
    decisions_flipped: int | None
    """Golden images judged otherwise than by the trained model, each by its own precision's threshold, too close to
    call left out: the threshold touches the highest score, so that rounding decides there. None where one is missing.
    """
    threshold_shift: float | None
    """See `reason_export.golden_checks.threshold_shift`; None where the threshold is this artefact's own here."""
    resize_levels: int | None = None
    """Most grey levels between what this device's resize makes of the bundle's picture and what the export's made of
    it; None where the bundle has no picture."""
    painted: PaintedDefects | None = None
    """None where the bundle has none."""
    batched: Batched | None = None
    """None where the artefact takes one image in a run, or the bundle has one golden image."""
    accuracy: Accuracy | None = None
    """What is lost on labelled images; None where none were given."""
    threshold: Threshold | None = None
    """From this backend's own scores of held-out good images; None where none were given."""
    lost_threshold: Threshold | None = None
    """Of an earlier check here that counts no more, since another version of the runtime or of the library made it."""
    scores: ScoreStatistics | None = None
    """These scores."""
    highest_held_out: HighestHeldOut | None = None
    """The highest of them, to look at the images."""
    not_finite: dict[ImageKind, str] = field(default_factory=dict)
    """Which images gave values that are not finite."""
    broken: list[str]
    """Gates that do not hold, in words; the check is passed where there is none."""
    environment: dict[str, Json]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return not self.broken

    def to_json(self) -> dict[str, object]:
        """For `--json` and for the file beside the bundle's; a difference that is not finite is null."""
        tolerance = dataclasses.asdict(TOLERANCES[self.precision])
        facts = dataclasses.asdict(self)
        parity = _without_infinity(facts.pop("parity"))
        for name in ("painted", "batched"):
            if facts[name] is not None:
                facts[name] = {**_without_infinity(facts[name].pop("parity")), **facts[name]}
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return {"passed": self.passed, **facts, **parity, "tolerance": tolerance, "created": created}


def _without_infinity(parity: dict[str, Any]) -> dict[str, Any]:
    """JSON has none; `broken` says what it was."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in parity.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """What held-out images say.

    Attributes:
        threshold_from: SHA-256 of their files; None where none were given.
    """

    threshold: Threshold | None = None
    scores: ScoreStatistics | None = None
    highest_held_out: HighestHeldOut | None = None
    threshold_from: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Established:
    """What an earlier check of the same files found out here on images that this one was not given."""

    accuracy: Accuracy | None = None
    drawn: _Drawn = _Drawn()
    not_finite: dict[ImageKind, str] = field(default_factory=dict)
    lost: Threshold | None = None


def check_bundle(
    bundle: Bundle,
    *,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    device: Device | None = None,
    threads: int | None = None,
    provider: Provider | None = None,
    cuda_graph: bool = False,
    labelled: LabelledSet | None = None,
    held_out: HeldOutImages | None = None,
) -> Check:
    """Run the golden images and compare; the result is written to `checks/<backend>_<precision>.json`.

    ONNX Runtime's other providers than the CPU are named too: `checks/onnxruntime-cuda_<precision>.json`. A check
    without labelled or held-out images keeps what one with them has found of the same files with the same library.

    Args:
        bundle: As opened.
        backend: See `reason_runtime.session.open_session`, also for the next five.
        precision: The artefact.
        device: Where it runs.
        threads: Of the library, on CPU.
        provider: Of ONNX Runtime.
        cuda_graph: Of TensorRT.
        labelled: To judge what detection loses; of this bundle.
        held_out: To draw this artefact's own threshold from; it holds on this device only.

    Raises:
        ConfigurationError: The false-reject rate is not between 0 and 1.
        DataError: The data set is not as documented; or the held-out images are too few, no good parts, or trained on.
        ImageError: An image cannot be read.
        BundleError: The bundle is broken or has no model of that precision.
        BackendError: The backend cannot run it.
        ReasonError: The result could not be written.
    """
    if held_out is not None:
        wanted_rate(bundle, held_out.false_reject_rate)
    require_writable(bundle.path / CHECKS)
    session = open_session(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
    )
    golden = bundle.golden()
    batched = in_batches(session, golden)  # first: ONNX Runtime's TensorRT provider builds anew for a larger batch
    outputs = run_each(session, golden.images)
    given = {
        "golden_map": golden.anomaly_map,
        "golden_score": golden.score,
        "anomaly_map": outputs.anomaly_map,
        "score": outputs.score,
    }
    parity = compare(**given)
    before = _established(bundle, session)
    drawn, accuracy, not_finite = before.drawn, before.accuracy, dict(before.not_finite)
    if held_out is not None:
        drawn = _unless_not_finite("held-out", lambda: _drawn(session, bundle, held_out), not_finite) or _Drawn()
    limits = _limits(bundle, precision=precision, own=drawn.threshold)
    if labelled is not None:
        accuracy = _unless_not_finite(
            "labelled",
            lambda: _accuracy(bundle, session, labelled, limits=limits, drew=drawn.threshold_from),
            not_finite,
        )
    elif accuracy is not None:
        accuracy = accuracy.at(limits.found)
    tolerance = TOLERANCES[precision]
    shift = None
    if drawn.threshold is None:
        shift = threshold_shift(golden, outputs.score, manifest=bundle.manifest, precision=precision)
    failures = [*broken(parity, tolerance), *blind(**given), *shifted(shift)]
    failures += contradicting(
        anomaly_map=outputs.anomaly_map,
        score=outputs.score,
        score_exponent=bundle.manifest.method.score_exponent,
    )
    failures += unfounded(golden, manifest=bundle.manifest, precision=precision)
    failures += _other_head(bundle, precision, session.provider)
    levels = levels_apart(golden, form=bundle.manifest.input)
    failures += resized_otherwise(levels)
    painted = painted_defects(session, golden, outputs.score, limits=limits)
    for part in (painted, batched, accuracy):
        if part is not None:
            failures += part.broken(tolerance)
    check = Check(
        backend=backend,
        provider=session.provider,
        precision=precision,
        parity=parity,
        synthetic_images=int(golden.synthetic.sum()),
        decisions_flipped=decisions_flipped(golden.score, outputs.score, limits=limits),
        threshold_shift=shift,
        resize_levels=levels,
        painted=painted,
        batched=batched,
        accuracy=accuracy,
        threshold=drawn.threshold,
        lost_threshold=before.lost if drawn.threshold is None else None,
        scores=drawn.scores,
        highest_held_out=drawn.highest_held_out,
        not_finite=not_finite,
        broken=[*failures, *not_finite.values()],
        environment=fingerprint(session),
    )
    _write(bundle, check, threshold_from=drawn.threshold_from)
    return check


def _other_head(bundle: Bundle, precision: Precision, provider: Provider | None) -> list[str]:
    """Whether the file of a precision ends otherwise than float32's, in words."""
    paths = [bundle.model_path("fp32"), bundle.model_path(precision, provider=provider)]
    if paths[0] == paths[1]:
        return []
    import onnx

    node = changed_in_head(*(onnx.load(path).graph for path in paths))
    return [] if node is None else [f"the map head of {paths[1].name} is not that of {paths[0].name}: see node {node}"]


def _unless_not_finite(kind: ImageKind, measure: Callable[[], Found], not_finite: dict[ImageKind, str]) -> Found | None:
    """What is measured on images of one kind; None, and an entry that says why, where their values are not finite."""
    not_finite.pop(kind, None)
    try:
        return measure()
    except NotFiniteError as error:
        not_finite[kind] = str(error)
        return None


def _write(bundle: Bundle, check: Check, *, threshold_from: frozenset[str] | None) -> None:
    path = check_path(bundle, backend=check.backend, precision=check.precision, provider=check.provider)
    drew = None if threshold_from is None else sorted(threshold_from)
    content = {
        "files": checked_files(bundle, check.precision),
        BESIDE: threshold_beside(bundle, check.precision),
        **check.to_json(),
        "threshold_from": drew,
    }
    write_text(path, sealed(content))


def _established(bundle: Bundle, session: Session) -> _Established:
    """Nothing, where the check was made otherwise or cannot be read: it is about to be replaced."""
    backend, precision, provider = session.backend, session.precision, session.provider
    try:
        known = known_check(bundle, backend=backend, precision=precision, provider=provider)
        if known is None or not known.holds_for(session):
            lost = kept_threshold(bundle, backend=backend, precision=precision, provider=provider)
            return _Established(lost=lost)
        facts: dict[str, Any] = known.facts
        accuracy = None
        if facts["accuracy"] is not None:
            from reason_export.accuracy import accuracy_from_json

            accuracy = accuracy_from_json(facts["accuracy"])
        drawn = _Drawn(
            threshold=known.threshold,
            scores=known.scores,
            highest_held_out=None if known.threshold is None else facts["highest_held_out"],
            threshold_from=known.threshold_from,
        )
        return _Established(accuracy=accuracy, drawn=drawn, not_finite=facts["not_finite"])
    except (BundleError, KeyError, TypeError):
        return _Established()


def _drawn(session: Session, bundle: Bundle, held_out: HeldOutImages) -> _Drawn:
    from reason_export.held_out_scores import drawn_from
    from reason_train.calibration import described_images, most_held_out
    from reason_train.highest_held_out import highest_held_out

    kept_out = unseen(bundle, different_images(held_out.folder))
    paths = list(kept_out.values())
    if len(paths) < LEAST_HELD_OUT:
        raise DataError(
            f"{held_out.folder}: holds {len(paths)} images that training did not use; a threshold needs "
            f"{LEAST_HELD_OUT} good ones or more, copies not counted"
        )
    form, tile_px = bundle.manifest.input, tile_px_of(bundle.manifest)
    most = most_held_out(tile_px=tile_px)
    names, images = load_images(paths, root=held_out.folder, input_format=form, tile_px=tile_px, most=most)
    scores, peaks = score_and_peak_each(session, images)
    finite = np.isfinite(scores) & np.isfinite(peaks)
    if not finite.all():
        raise NotFiniteError(
            f"{held_out.folder}: {int((~finite).sum())} images have scores or maps that are not finite"
        )
    require_good(bundle, scores, where=held_out.folder)
    require_unseen(bundle, scores, where=held_out.folder)
    what = described_images(
        len(scores), pictures=len(paths), tile_px=tile_px, training_known=bundle.manifest.training.images_known
    )
    source = f"{what}, {session.backend} {session.precision} on this device"
    threshold, statistics = drawn_from(
        scores,
        peaks,
        method=bundle.manifest.method,
        false_reject_rate=wanted_rate(bundle, held_out.false_reject_rate),
        source=source,
    )
    return _Drawn(
        threshold=threshold,
        scores=statistics,
        highest_held_out=highest_held_out(names, scores, threshold=threshold.value),
        threshold_from=frozenset(kept_out),
    )


def _limits(bundle: Bundle, *, precision: Precision, own: Threshold | None) -> Limits:
    known = bundle.manifest.thresholds
    reference, found = known.get("fp32"), known.get(precision) if own is None else own
    return Limits(
        reference=None if reference is None else reference.value,
        found=None if found is None else found.value,
        are_of_bundle=own is None,
    )


def _accuracy(
    bundle: Bundle, session: Session, labelled: LabelledSet, *, limits: Limits, drew: frozenset[str] | None
) -> Accuracy:
    from reason_export.accuracy import measure_accuracy

    images = bundle.threshold_from() if drew is None else drew
    return measure_accuracy(labelled, session, limits=limits, drew=images)
