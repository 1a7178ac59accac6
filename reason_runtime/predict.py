"""Files, folders and arrays to judgements; what cannot be read is UNKNOWN and the rest goes on."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.detector import Decision, Detector, Pixels, Result
from reason_runtime.errors import DataError, ImageError
from reason_runtime.image import SUFFIXES, as_image, list_images, read_image
from reason_runtime.strict_json import Json

Source = str | Path | Pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """One image and what became of it.

    Attributes:
        path: The file; None for an array.
        image: (H, W, C) as read, in its own size; None where it could not be read.
        result: Of the detector; None where the image could not be read.
        failure: Why there is no score (unreadable, or the output is not finite); None where there is one.
    """

    path: Path | None
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
            "path": None if self.path is None else str(self.path),
            "score": None if result is None or self.failure else result.score,
            "threshold": None if result is None else result.threshold,
            "decision": self.decision,
            "latency_ms": None if result is None else round(result.latency_ms, 3),
            "threshold_source": None if result is None else result.threshold_source,
            "reason": self.failure if result is None else result.reason,
            "regions": [] if result is None else [asdict(region) for region in result.regions],
        }


def predict(detector: Detector, sources: Sequence[Source]) -> Iterator[Judgement]:
    """Judge images one by one.

    Args:
        detector: From `load`.
        sources: Image files, folders (see `reason_runtime.image.list_images`) and arrays, in any mixture.

    Raises:
        DataError: A source does not exist, or a folder holds no image; before anything is judged.
        BackendError: The inference library failed.
    """
    for source in expand(sources):
        yield judge(detector, source)


def expand(sources: Sequence[Source]) -> list[Path | Pixels]:
    """The images that sources stand for, folders replaced by what they hold.

    Raises:
        DataError: A source does not exist, or a folder holds no image.
    """
    found: list[Path | Pixels] = []
    for source in sources:
        if isinstance(source, np.ndarray):
            found.append(source)
            continue
        path = Path(source)
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


def judge(detector: Detector, source: Path | Pixels) -> Judgement:
    """Judge one image; one that cannot be read or is refused is UNKNOWN.

    Raises:
        BackendError: The inference library failed.
    """
    path = source if isinstance(source, Path) else None
    form = detector.bundle.manifest.input
    try:
        if isinstance(source, Path):
            image = read_image(source, input_format=form)
        else:
            image = as_image(source, input_format=form)
        result = detector(image)
    except ImageError as error:
        failure = str(error) if path is None or str(path) in str(error) else f"{path}: {error}"
        return Judgement(path=path, image=None, result=None, failure=failure)
    return Judgement(path=path, image=image, result=result, failure=result.reason if math.isnan(result.score) else None)
