"""Parity checks: what `reason-export check` found out on this device, kept beside the bundle's files."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from reason_runtime.bundle import GOLDEN, MODELS, UNSIGNED, Bundle
from reason_runtime.choices import PRECISIONS, RUNNERS, Backend, Precision, Provider, run_name, runner_name
from reason_runtime.environment import RUNTIME, processor, runtime_version
from reason_runtime.errors import BundleError
from reason_runtime.manifest import ScoreStatistics, Threshold, read_statistics, read_threshold
from reason_runtime.session import Session
from reason_runtime.strict_json import Json, as_object, parse

CHECKS = "checks"
_SEAL = "sha256"
BESIDE = "bundle_threshold"
"""Key of `threshold_beside` in a check's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCheck:
    """What the runtime needs of a check.

    Attributes:
        path: Its file.
        backend: That ran.
        provider: Of ONNX Runtime.
        precision: Of the artefact.
        passed: Whether every gate held.
        threshold: From this backend's own scores on this device; None where none was drawn, or the bundle's own was
            drawn anew since.
        is_superseded: Whether the latter is so.
        scores: These scores; None without such a threshold.
        threshold_from: SHA-256 of the image files that drew it; None without.
        libraries: Versions by name, as the session gave them.
        runtime: Version of this runtime that the check was made with; None where it was not installed.
        facts: All that `reason-export check` wrote.
    """

    path: Path
    backend: Backend
    provider: Provider | None
    precision: Precision
    passed: bool
    threshold: Threshold | None
    is_superseded: bool
    scores: ScoreStatistics | None
    threshold_from: frozenset[str] | None
    libraries: dict[str, Json]
    runtime: Json
    facts: dict[str, Json]

    @property
    def name(self) -> str:
        """What ran, such as `onnxruntime-cuda fp16`."""
        return run_name(self.backend, self.provider, self.precision)

    @property
    def failure(self) -> str:
        """Of one that did not pass: which, where it is kept, and when it was made."""
        return f"{self.path}: {self.name} failed its check on this device at {self.facts.get('created')}"

    def is_of(self, session: Session | None) -> bool:
        """Whether a session is of this backend, provider and precision."""
        if session is None:
            return False
        own = (self.backend, self.provider, self.precision)
        return (session.backend, session.provider, session.precision) == own

    def holds_for(self, session: Session) -> bool:
        """Whether a session computes as the checked one did: the same version of runtime and library, on such a device.

        Another version may run a layer in another precision, and so may an engine that was built again.
        """
        same = (session.backend, "tensorrt", "device", "float_layers", "engine_sha256")
        libraries = all(session.libraries.get(name) == self.libraries.get(name) for name in same)
        return libraries and self.is_of_this_runtime

    @property
    def is_of_this_runtime(self) -> bool:
        """Whether it was made with this version of the runtime; without that it holds for no session."""
        return self.runtime == runtime_version()


def check_path(bundle: Bundle, *, backend: Backend, precision: Precision, provider: Provider | None = None) -> Path:
    """Where the check of a backend, with ONNX Runtime of a provider, and precision is kept."""
    return bundle.path / CHECKS / f"{runner_name(backend, provider)}_{precision}.json"


def checked_files(bundle: Bundle, precision: Precision) -> dict[str, Json]:
    """The SHA-256 of what a check looks at: a model, and what that should give. Other files may change."""
    files = bundle.manifest.files
    looked_at = [MODELS[precision], *([UNSIGNED] if precision == "int8" else []), GOLDEN]
    return {name: files[name].sha256 for name in looked_at if name in files}


def threshold_beside(bundle: Bundle, precision: Precision) -> Json:
    """The bundle's own threshold of a precision as JSON has it; None without.

    A check notes it: a threshold that the bundle gets later goes before what a device drew until then.
    """
    found = bundle.manifest.thresholds.get(precision)
    return None if found is None else asdict(found)


def sealed(content: Mapping[str, object]) -> str:
    """The text of a check's file: JSON with the SHA-256 of everything else in it, so that a changed digit is seen."""
    return json.dumps({**content, _SEAL: _digest(content)}, indent=2, allow_nan=False) + "\n"


def _digest(content: Mapping[str, object]) -> str:
    canonical = json.dumps({name: value for name, value in content.items() if name != _SEAL}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def known_check(
    bundle: Bundle, *, backend: Backend, precision: Precision, provider: Provider | None = None
) -> KnownCheck | None:
    """The check of a backend and precision that was made of these very files on this kind of processor; None without.

    A model or golden file that changed since, or a bundle that came from another device with its checks, has none.

    Raises:
        BundleError: The file is not as `reason-export check` writes it, or was changed since.
    """
    path = check_path(bundle, backend=backend, precision=precision, provider=provider)
    content = _content(path)
    if content is None:
        return None
    try:
        environment = as_object(content["environment"], where=f"{path}: environment")
        session = as_object(environment["session"], where=f"{path}: environment.session")
        runtime = as_object(environment["libraries"], where=f"{path}: environment.libraries")[RUNTIME]
        same = content["files"] == checked_files(bundle, precision) and environment["processor"] == processor()
        found, scores, drew = content["threshold"], content["scores"], content["threshold_from"]
        passed = content["passed"] is True
    except KeyError as error:
        raise BundleError(f"{path}: has no {error}; run reason-export check again") from error
    if not same:
        return None
    if content.get(_SEAL) != _digest(content):
        raise BundleError(f"{path}: was changed since it was written; run reason-export check again")
    is_superseded = found is not None and _is_superseded(content, bundle, precision)
    if is_superseded:
        found = scores = drew = None
    return KnownCheck(
        path=path,
        backend=backend,
        provider=provider,
        precision=precision,
        passed=passed,
        threshold=None if found is None else read_threshold(found, where=f"{path}: threshold"),
        is_superseded=is_superseded,
        scores=None if scores is None else read_statistics(scores, where=f"{path}: scores"),
        threshold_from=frozenset(map(str, drew)) if isinstance(drew, list) else None,
        libraries=session,
        runtime=runtime,
        facts=content,
    )


def known_checks(bundle: Bundle) -> dict[tuple[Backend, Provider | None, Precision], KnownCheck | BundleError | None]:
    """What `known_check` gives for each that has been checked, or the error that it raises."""
    found: dict[tuple[Backend, Provider | None, Precision], KnownCheck | BundleError | None] = {}
    for (backend, provider), precision in itertools.product(RUNNERS, PRECISIONS):
        if not check_path(bundle, backend=backend, precision=precision, provider=provider).exists():
            continue
        try:
            check = known_check(bundle, backend=backend, precision=precision, provider=provider)
            found[backend, provider, precision] = check
        except BundleError as error:
            found[backend, provider, precision] = error
    return found


def kept_threshold(
    bundle: Bundle, *, backend: Backend, precision: Precision, provider: Provider | None = None
) -> Threshold | None:
    """A device's threshold whatever it was drawn for, other files or another processor too; None without or superseded.

    Raises:
        BundleError: The check's file is not as `reason-export check` writes it.
    """
    path = check_path(bundle, backend=backend, precision=precision, provider=provider)
    content = _content(path)
    found = None if content is None else content.get("threshold")
    if content is None or found is None or _is_superseded(content, bundle, precision):
        return None
    return read_threshold(found, where=f"{path}: threshold")


def _content(path: Path) -> dict[str, Json] | None:
    """What a check's file holds; None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); run reason-export check again") from error
    try:
        return as_object(parse(text, where=str(path)), where=str(path))
    except BundleError as error:
        raise BundleError(f"{error}; run reason-export check again") from error


def _is_superseded(content: Mapping[str, Json], bundle: Bundle, precision: Precision) -> bool:
    """The bundle has a threshold that it had not when the check drew its own."""
    return threshold_beside(bundle, precision) not in (None, content.get(BESIDE))
