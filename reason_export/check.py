"""The parity gate: an artefact run by its backend, against the golden arrays of its bundle. No torch here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from reason_export.parity import TOLERANCES, Parity, broken, compare
from reason_runtime.atomic import write_text
from reason_runtime.bundle import Bundle
from reason_runtime.choices import Backend, Device, Precision, Provider
from reason_runtime.environment import fingerprint
from reason_runtime.session import Outputs, Session, open_session
from reason_runtime.strict_json import Json

CHECKS = "checks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one gate."""

    backend: Backend
    precision: Precision
    parity: Parity
    synthetic_images: int
    """How many of the golden images are made-up patterns."""
    decisions_flipped: int | None
    """Golden images on the other side of the threshold than with the trained model, too close to call left out: the
    threshold touches the highest score of the artefact itself, so that rounding decides there. None without one."""
    broken: list[str]
    """Gates that do not hold, in words; the check is passed where there is none."""
    environment: dict[str, Json]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return not self.broken

    def to_json(self) -> dict[str, object]:
        """For `--json` and for the file beside the bundle's."""
        tolerance = dataclasses.asdict(TOLERANCES[self.precision])
        facts = dataclasses.asdict(self)
        parity = facts.pop("parity")
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return {"passed": self.passed, **facts, **parity, "tolerance": tolerance, "created": created}


def check_bundle(
    bundle: Bundle,
    *,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    device: Device | None = None,
    threads: int | None = None,
    provider: Provider | None = None,
    cuda_graph: bool = False,
) -> Check:
    """Run the golden images and compare; the result is written to `checks/<backend>_<precision>.json`.

    Raises:
        BundleError: The bundle is broken or has no model of that precision.
        BackendError: The backend cannot run it.
        ReasonError: The result could not be written.
    """
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
    outputs = run_each(session, golden.images)
    parity = compare(
        golden_map=golden.anomaly_map,
        golden_score=golden.score,
        anomaly_map=outputs.anomaly_map,
        score=outputs.score,
    )
    found = bundle.manifest.thresholds.get(precision)
    flipped = None
    if found is not None:
        flipped = _flipped(golden.score, outputs.score, limit=found.value)
    check = Check(
        backend=backend,
        precision=precision,
        parity=parity,
        synthetic_images=int(golden.synthetic.sum()),
        decisions_flipped=flipped,
        broken=broken(parity, TOLERANCES[precision]),
        environment=fingerprint(session),
    )
    folder = bundle.path / CHECKS
    folder.mkdir(exist_ok=True)
    manifest_hash = bundle.manifest.content_sha256
    content = {"bundle_sha256": manifest_hash, **check.to_json()}
    write_text(folder / f"{backend}_{precision}.json", json.dumps(content, indent=2) + "\n")
    return check


def _flipped(golden: NDArray[np.float32], score: NDArray[np.float32], *, limit: float) -> int:
    close = (TOLERANCES["fp32"].score_difference or 0.0) * float(np.abs(golden).max())
    clear = np.abs(golden.astype(np.float64) - limit) > close
    return int(np.count_nonzero(clear & ((golden >= limit) != (score >= limit))))


def run_each(session: Session, images: NDArray[np.uint8], progress: Callable[[int], None] = lambda _: None) -> Outputs:
    """Maps and scores of images, one image a run, as on the line."""
    outputs = []
    for image in images:
        outputs.append(session.run(image[None]))
        progress(1)
    return Outputs(
        anomaly_map=np.concatenate([output.anomaly_map for output in outputs]),
        score=np.concatenate([output.score for output in outputs]),
    )
