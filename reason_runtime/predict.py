"""Files and folders to judgements; what cannot be read is UNKNOWN and the rest goes on."""

from __future__ import annotations

import math
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Decision, Detector, Result
from reason_runtime.errors import DataError, ImageError
from reason_runtime.image import SUFFIXES, list_images, read_image
from reason_runtime.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """One image and what became of it.

    Attributes:
        path: The file.
        image: (H, W, C) as read, in its own size; None where it could not be read.
        result: Of the detector; None where the image could not be read.
        failure: Why there is no score (unreadable, or the output is not finite); None where there is one.
    """

    path: Path
    image: NDArray[np.uint8] | None
    result: Result | None
    failure: str | None

    @property
    def decision(self) -> Decision:
        """OK, NG or UNKNOWN."""
        return "UNKNOWN" if self.result is None else self.result.decision

    def line(self) -> dict[str, Json]:
        """For a line of JSON: what has no value is null, never NaN."""
        result = self.result
        return {
            "path": str(self.path),
            "score": None if result is None or self.failure else result.score,
            "threshold": None if result is None else result.threshold,
            "decision": self.decision,
            "latency_ms": None if result is None else round(result.latency_ms, 3),
            "threshold_source": None if result is None else result.threshold_source,
            "reason": self.failure if result is None else result.reason,
            "regions": [] if result is None else [asdict(region) for region in result.regions],
        }


def expand(sources: Sequence[Path]) -> list[Path]:
    """The image files that sources stand for, folders replaced by what they hold (`reason_runtime.image.list_images`).

    Raises:
        DataError: A source does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in sources:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"{path}: does not exist; expected an image or a folder with images") from error
        except OSError:
            is_folder = False  # reading it says why
        if not is_folder:
            found.append(path)
            continue
        images = list_images(path)
        if not images:
            raise DataError(f"{path}: holds no image; expected files that end in {' '.join(SUFFIXES)}")
        found += images
    return found


def judge(detector: Detector, path: Path) -> Judgement:
    """Judge one image file; one that cannot be read or is refused is UNKNOWN.

    Raises:
        BackendError: The inference library failed.
    """
    try:
        image = read_image(path, input_format=detector.bundle.manifest.input)
        result = detector(image)
    except ImageError as error:
        failure = str(error) if str(path) in str(error) else f"{path}: {error}"
        return Judgement(path=path, image=None, result=None, failure=failure)
    return Judgement(path=path, image=image, result=result, failure=result.reason if math.isnan(result.score) else None)
