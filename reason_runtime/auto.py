"""`--backend auto`: the fastest backend and precision whose parity check passed on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from reason_runtime.bundle import Bundle
from reason_runtime.checks import KnownCheck, known_checks
from reason_runtime.choices import Device, Precision, run_name, runner_device
from reason_runtime.errors import BackendError, BundleError, ConfigurationError
from reason_runtime.session import Session, open_session

WARM_UP, ROUNDS = 3, 15
"""Runs that are not counted, and runs that are; the candidates take turns, so that a busy moment meets all of them."""
_SEED = 20250101


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AutoChoice:
    """What was chosen, and by what.

    Attributes:
        session: The chosen one, loaded.
        median_ms: Of one image, by the candidate's name, such as `openvino int8` or `onnxruntime-cuda fp16`; empty
            where nothing was timed.
        left_out: Why one that has been checked is no candidate, by its name.
    """

    session: Session
    median_ms: dict[str, float]
    left_out: dict[str, str]

    def describe(self) -> str:
        """In one line, the fastest first."""
        ordered = sorted(self.median_ms.items(), key=lambda item: item[1])
        tried = ", ".join(f"{name} {found:.1f} ms" for name, found in ordered)
        chosen = (
            f"auto chose {ordered[0][0]}; median of one image: {tried}"
            if ordered
            else f"auto stays with {_name(self.session)}"
        )
        return chosen + _described(self.left_out)


def choose(
    bundle: Bundle,
    *,
    precision: Precision | None = None,
    device: Device | None = None,
    threads: int | None = None,
    like: Session | None = None,
) -> AutoChoice:
    """Load every candidate, time them side by side on one image, and keep the fastest.

    A candidate has a passed check of these very files, made on this kind of processor and GPU with this version of the
    runtime and of its library, and a threshold, where any of them has one. One that no longer loads, since its library
    is gone, is left out like one that did not pass.

    Args:
        bundle: As opened.
        precision: Only this one; None: whichever is fastest.
        device: Where it runs; None: anywhere.
        threads: Of the library, on CPU.
        like: What judges beside this search. A candidate that runs as it does is taken at once, since timing several
            would take the processor from it.

    Raises:
        ConfigurationError: Nothing is left; says why, and how to make a check.
        BundleError: A file of the bundle was changed since it was opened.
    """
    sessions: dict[str, Session] = {}
    passed, left_out = _passed(bundle, precision, device)
    for check in sorted(passed, key=lambda check: not check.is_of(like)):
        try:
            session = open_session(
                bundle,
                backend=check.backend,
                precision=check.precision,
                threads=threads if runner_device(check.backend, check.provider) == "cpu" else None,
                provider=check.provider,
            )
        except BackendError as error:
            left_out[check.name] = str(error)
            continue
        if not check.holds_for(session):
            left_out[check.name] = "checked with another version or device"
            continue
        if check.is_of(like):
            return AutoChoice(session=session, median_ms={}, left_out=left_out)
        sessions[check.name] = session
    if not sessions:
        raise ConfigurationError(
            f"{bundle.path}: for {precision or 'any precision'}{f' on {device}' if device else ''} no parity check "
            "passed on this machine with a threshold; run `reason-export check BUNDLE --all`, or name a backend"
            + _described(left_out)
        )
    median_ms = _median_ms(bundle, sessions)
    best = min(median_ms, key=lambda name: median_ms[name])
    return AutoChoice(session=sessions[best], median_ms=median_ms, left_out=left_out)


def _described(left_out: dict[str, str]) -> str:
    """Each reason once, with what it holds for."""
    reasons = dict.fromkeys(left_out.values())
    told = [f"{', '.join(name for name, why in left_out.items() if why == reason)} ({reason})" for reason in reasons]
    return f"; left out: {', '.join(told)}" if told else ""


def _name(session: Session) -> str:
    return run_name(session.backend, session.provider, session.precision)


def _passed(
    bundle: Bundle, precision: Precision | None, device: Device | None
) -> tuple[list[KnownCheck], dict[str, str]]:
    """What passed here and can decide, and why the rest of what was checked did not or cannot, by name."""
    found, left_out = [], {}
    for (backend, provider, each), check in known_checks(bundle).items():
        if device not in (None, runner_device(backend, provider)) or precision not in (None, each):
            continue
        name = run_name(backend, provider, each)
        if isinstance(check, BundleError):
            left_out[name] = str(check)
        elif check is None:
            left_out[name] = "checked with other files or on another processor"
        elif check.passed:
            found.append(check)
        else:
            left_out[name] = "did not pass its check"
    thresholds = bundle.manifest.thresholds
    able = [check for check in found if check.threshold is not None or check.precision in thresholds]
    if not (able or thresholds):
        return found, left_out
    return able, left_out | {check.name: "has no threshold" for check in found if check not in able}


def _median_ms(bundle: Bundle, sessions: dict[str, Session]) -> dict[str, float]:
    form = bundle.manifest.input
    shape = (1, form.height_px, form.width_px, form.channels)
    image = np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)
    times: dict[str, list[int]] = {name: [] for name in sessions}
    for turn in range(WARM_UP + ROUNDS):
        for name, session in sessions.items():
            started_ns = time.perf_counter_ns()
            session.run(image)
            if turn >= WARM_UP:
                times[name].append(time.perf_counter_ns() - started_ns)
    return {name: statistics.median(values) / 1e6 for name, values in times.items()}
