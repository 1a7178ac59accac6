"""The parity gate for every backend and precision that can run on this machine. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reason_export.check import Check, check_bundle
from reason_export.good_images import HeldOutImages
from reason_runtime.bundle import Bundle
from reason_runtime.choices import RUNNERS, Backend, Device, Precision, run_name, runner_device
from reason_runtime.errors import BackendError, BundleError

if TYPE_CHECKING:
    from reason_export.accuracy import LabelledSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What ran, and what did not."""

    checks: tuple[Check, ...]
    not_run: dict[str, str]
    """Why, by name, such as `openvino bf16`."""


def check_all(
    bundle: Bundle,
    *,
    device: Device | None = None,
    threads: int | None = None,
    labelled: LabelledSet | None = None,
    held_out: HeldOutImages | None = None,
    done: Callable[[Check], None] = lambda _: None,
) -> Checked:
    """Check each as `reason_export.check.check_bundle` does, one after the other.

    Args:
        bundle: As opened.
        device: What runs there; None: anywhere.
        threads: Of libraries on CPU.
        labelled: To judge what detection loses; of this bundle.
        held_out: To draw each artefact's own threshold from.
        done: Called after each check.

    Raises:
        BackendError: Nothing can run.
        ReasonError: As `check_bundle`, but for what cannot run.
    """
    checks: list[Check] = []
    not_run: dict[str, str] = {}
    for backend, provider in RUNNERS:
        place = runner_device(backend, provider)
        if device not in (None, place):
            continue
        for precision in _precisions(backend):
            try:
                check = check_bundle(
                    bundle,
                    backend=backend,
                    provider=provider,
                    precision=precision,
                    threads=threads if place == "cpu" else None,
                    labelled=labelled,
                    held_out=held_out,
                )
            except (BackendError, BundleError) as error:
                not_run[run_name(backend, provider, precision)] = str(error)
                continue
            checks.append(check)
            done(check)
    if not checks:
        raise BackendError(next(iter(not_run.values())))
    return Checked(checks=tuple(checks), not_run=not_run)


def _precisions(backend: Backend) -> tuple[Precision, ...]:
    return ("fp32", "bf16", "int8") if backend == "openvino" else ("fp32", "fp16", "int8")
