"""TensorRT engines beside a bundle: `engines/<device>_<precision>.engine`, each with its side-car `.json`.

An engine is built on a device, or for named ones, from one ONNX file of the bundle. What its side-car says is compared
with bundle, library and GPU, and its bytes with their hash, before TensorRT sees it; an engine that does not fit is
refused with the command that rebuilds it. Hashes stop accidents, not attackers.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from reason_runtime.atomic import make_folder, reason, replacing
from reason_runtime.bundle import MODELS, Bundle
from reason_runtime.choices import RUNS_ON, Builder, Precision
from reason_runtime.engine_facts import AMPERE, EngineFacts, Gpu, from_json, numbers, to_json
from reason_runtime.errors import BackendError, BundleError

ENGINES = "engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """An engine that lies in a bundle.

    Attributes:
        path: Of the engine; its side-car has the suffix `.json`.
        facts: What the side-car says.
    """

    path: Path
    facts: EngineFacts


def engine_path(bundle: Bundle, *, builder: Builder, device: str, precision: Precision) -> Path:
    """Where an engine lies: TensorRT-RTX's under `rtx-`, so that both libraries' engines can be there."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    prefix = "rtx-" if builder == "tensorrt_rtx" else ""
    return bundle.path / ENGINES / f"{prefix}{words}_{precision}.engine"


def write_engine(path: Path, plan: memoryview, facts: EngineFacts) -> None:
    """Write an engine and its side-car: both beside their targets, then renamed, the side-car last.

    Raises:
        ReasonError: The system refused to write; what was there before is kept.
    """
    make_folder(path.parent)
    with ExitStack() as renames:  # leaves in reverse order; a pair that a power cut parts is refused by its hash
        side_car = renames.enter_context(replacing(path.with_suffix(".json")))
        engine = renames.enter_context(replacing(path))
        engine.write_bytes(plan)
        side_car.write_text(to_json(facts), encoding="utf-8")


def engines(bundle: Bundle) -> list[EngineFile]:
    """Every engine of a bundle, by name.

    Raises:
        BundleError: A side-car cannot be read or is not exactly as specified.
    """
    found = []
    for side_car in sorted((bundle.path / ENGINES).glob("[!.]*.json")):
        try:
            facts = from_json(side_car.read_text(encoding="utf-8"), where=str(side_car))
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{side_car}: cannot be read ({error}); build the engine again") from error
        except BundleError as error:
            raise BundleError(f"{error}; build the engine again, or remove the file") from error
        found.append(EngineFile(path=side_car.with_suffix(".engine"), facts=facts))
    return found


def choose_engine(
    bundle: Bundle, *, builder: Builder, precision: Precision, gpu: Gpu, builder_version: str, command: str
) -> EngineFile:
    """The engine that fits this machine; of several the one made most closely for it, then the latest.

    `command` builds one, for messages.

    Raises:
        BundleError: A side-car is broken.
        BackendError: None fits; says why each does not, and the command that builds one.
    """
    known = [e for e in engines(bundle) if (e.facts.builder, e.facts.precision) == (builder, precision)]
    reasons = {e.path: misfit(e.facts, bundle, gpu=gpu, builder_version=builder_version) for e in known}
    fitting = [e for e in known if reasons[e.path] is None]
    if not fitting:
        why = "; ".join(f"{path} {reason}" for path, reason in reasons.items())
        why = why or f"{bundle.path}: has no {precision} engine of {builder}"
        raise BackendError(f"{why}; run `{command}`")
    fitting.sort(key=lambda e: e.facts.created, reverse=True)
    return min(fitting, key=lambda e: RUNS_ON.index(e.facts.runs_on))


def of_this_bundle(facts: EngineFacts, bundle: Bundle) -> bool:
    """Whether an engine was built from the very file that the bundle holds for its precision."""
    source = bundle.manifest.files.get(facts.source_file)
    return facts.source_file == MODELS[facts.precision] and source is not None and source.sha256 == facts.source_sha256


def misfit(facts: EngineFacts, bundle: Bundle, *, gpu: Gpu, builder_version: str) -> str | None:
    """Why an engine must not run here, as the end of a sentence; None where it fits."""
    if not of_this_bundle(facts, bundle):
        return f"was built from another {facts.source_file} than the bundle holds"
    same_version = facts.builder_version == builder_version
    later = facts.version_compatible and numbers(builder_version) >= numbers(facts.builder_version)
    if not (same_version or later):
        return f"was built by {facts.builder} {facts.builder_version}, installed is {builder_version}"
    here = f"this machine has {gpu.name} ({gpu.compute_capability})"
    capability = gpu.compute_capability
    if facts.runs_on == "ampere_and_later":
        fits = numbers(capability) >= numbers(AMPERE)
        return None if fits else f"runs on compute capability {AMPERE} and later, {here}"
    if capability not in facts.compute_capabilities:
        return f"was built for compute capability {', '.join(facts.compute_capabilities)}, {here}"
    if facts.runs_on == "same_gpu" and facts.gpu != gpu.name:
        return f"was tuned on {facts.gpu}, {here}"
    return None


def read_engine(engine: EngineFile, *, command: str) -> bytes:
    """The engine's bytes, whose size and hash are what the side-car says.

    Args:
        engine: As found.
        command: That rebuilds it, for messages.

    Raises:
        BundleError: The file is missing, cannot be read, or was changed.
    """
    try:
        plan = engine.path.read_bytes()
    except OSError as error:
        raise BundleError(f"{engine.path}: cannot be read ({reason(error)}); run `{command}`") from error
    if len(plan) != engine.facts.engine_size_bytes or hashlib.sha256(plan).hexdigest() != engine.facts.engine_sha256:
        raise BundleError(f"{engine.path}: was changed (its side-car has another SHA-256); run `{command}`")
    return plan


def rebuild_command(
    bundle: Bundle, *, builder: Builder, precision: Precision, gpu: Gpu, capabilities: Collection[str]
) -> str:
    """What to type on this machine; TensorRT looks at the GPU that is there.

    Args:
        bundle: To build from.
        builder: Of the engine.
        precision: Of the engine.
        gpu: Of this machine.
        capabilities: Compute capabilities that TensorRT-RTX can be told; a GPU later than these runs its usual engine.
    """
    command = f"reason-export engine {shlex.quote(str(bundle.path))} --precision {precision} --builder {builder}"
    return (
        f"{command} --compute-capability {gpu.compute_capability}"
        if gpu.compute_capability in capabilities
        else command
    )
