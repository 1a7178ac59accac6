"""What a deployed model finds in a labelled folder; never measured together with speed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.choices import Backend, Precision
from reason_runtime.detector import Detector
from reason_runtime.environment import fingerprint
from reason_runtime.errors import BackendError, DataError, ImageError
from reason_runtime.image import image_sha256, list_images
from reason_runtime.labelled_folders import GOOD, MASK_FOLDERS, require_defect
from reason_runtime.predict import judge
from reason_runtime.progress import counted
from reason_runtime.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Image-level figures; those of pixels need masks and are `reason-export check --data`'s.

    Attributes:
        data: Folder of the images.
        good: Good images.
        defective: Images of every other folder.
        image_auroc: Chance that a defective image scores above a good one, ties half: 0..1.
        good_rejected: Good images not judged OK.
        good_of_threshold: Good images that drew the threshold: how few of these are rejected was chosen.
        defective_passed: Defective images judged OK.
        threshold: In force; None where none is known.
        backend: The inference library.
        precision: Of the model.
        environment: See `reason_runtime.environment.fingerprint`.
    """

    data: str
    good: int
    defective: int
    image_auroc: float
    good_rejected: int
    good_of_threshold: int
    defective_passed: int
    threshold: float | None
    backend: Backend
    precision: Precision
    environment: dict[str, Json]


def of_threshold_text(count: int, *, of: int) -> str:
    """What a reader must know where good images drew the threshold that they are judged by."""
    return (
        f"{count} of the {of} good test images drew the threshold: how many of them it rejects says nothing of other "
        "parts"
    )


def measure_detection(detector: Detector, folder: Path) -> Detection:
    """Judge `<folder>/good` and every folder beside it but those of masks (`<folder>/test` where there is one).

    Raises:
        DataError: One of the two kinds is missing, an image lies beside the folders, one of these is no defect's, or
            some were trained on, which makes figures too good.
        ImageError: An image cannot be read, or is of a size that the bundle does not take.
        BackendError: The inference library failed, or a score or map is not finite.
    """
    root = folder / "test" if os.path.isdir(folder / "test") else folder
    beside = MASK_FOLDERS if root == folder else ()  # those of `test` lie beside it
    paths = [path for path in list_images(root) if path.relative_to(root).parts[0] not in beside]
    anomalous = np.array([path.relative_to(root).parts[0] != GOOD for path in paths], np.bool_)
    if not anomalous.any() or anomalous.all():
        raise DataError(f"{root}: expected images in {GOOD}/ and in at least one folder of defects beside it")
    loose = [path for path in paths if path.parent == root]
    if loose:
        raise DataError(f"{loose[0]}: lies beside the folders; move it into {GOOD}/ or into one of a defect")
    for name in sorted({path.relative_to(root).parts[0] for path in paths} - {GOOD}):
        require_defect(root / name)
    trained, drew = detector.bundle.trained_on(), detector.limit.threshold_from
    if drew is None:
        drew = detector.bundle.threshold_from()
    content = [image_sha256(path) if trained or drew else "" for path in paths]
    seen = [path for path, sha256 in zip(paths, content, strict=True) if sha256 in trained]
    if seen:
        raise DataError(
            f"{root}: the bundle was trained on {len(seen)} of its {len(paths)} images ({seen[0]}, ...); remove them"
        )
    results = []
    for path in counted(paths, total=len(paths), what="images"):
        judgement = judge(detector, path)
        if judgement.result is None:
            raise ImageError(judgement.failure)
        if judgement.failure is not None:
            raise BackendError(f"{path}: {judgement.failure}; look at the bundle with reason-export check")
        results.append(judgement.result)
    rejected = np.array([result.is_anomalous for result in results])
    return Detection(
        data=str(folder),
        good=int((~anomalous).sum()),
        defective=int(anomalous.sum()),
        image_auroc=_auroc(np.array([result.score for result in results]), anomalous),
        good_rejected=int((rejected & ~anomalous).sum()),
        good_of_threshold=int((np.isin(content, list(drew)) & ~anomalous).sum()),
        defective_passed=int((~rejected & anomalous).sum()),
        threshold=detector.limit.value,
        backend=detector.session.backend,
        precision=detector.session.precision,
        environment=fingerprint(detector.session),
    )


def _auroc(scores: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> float:
    good, bad = np.sort(scores[~anomalous]), scores[anomalous]
    below = np.searchsorted(good, bad, side="left") + np.searchsorted(good, bad, side="right")
    return float(below.mean() / (2 * len(good)))
