"""Overlay pictures of judged files, in a folder that mirrors where the images lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reason_runtime.atomic import make_folder
from reason_runtime.detector import Detector
from reason_runtime.elsewhere import require_elsewhere
from reason_runtime.overlay import map_scale, overlay, save_picture
from reason_runtime.predict import Judgement


class MapWriter:
    """Writes `<folder>/<where the image lies below what the sources share>/<file name>.overlay.png`.

    Args:
        detector: That judges; gives the scale and the threshold of the pictures.
        folder: To write into; made if need be.
        sources: The files and folders that were asked for.
        scale: See `reason_runtime.overlay.map_scale`.

    Raises:
        ConfigurationError: No scale for the colours is known; or the folder is, or lies in, one of `sources`, or
            pictures would lie beside one, where they would be judged, or trained on, the next time.
    """

    def __init__(self, detector: Detector, *, folder: Path, sources: Sequence[Path], scale: float | None) -> None:
        self._scale = map_scale(detector, asked=scale)
        self._detector = detector
        self._folder = folder
        parents = [path if path.is_dir() else path.parent for path in map(_absolute, sources)]
        self._shared = Path(os.path.commonpath(parents))
        places = {folder / parent.relative_to(self._shared) for parent in parents}
        for source in sources:
            require_elsewhere(folder, source=source, places=places)

    def write(self, judgement: Judgement) -> None:
        """Write the picture of one judged file; one without an image or a finite map has none.

        Raises:
            ReasonError: The system refused to write.
        """
        if judgement.result is None or judgement.image is None or judgement.failure:
            return
        below = _absolute(judgement.path).relative_to(self._shared)
        target = self._folder / below.with_name(f"{below.name}.overlay.png")
        make_folder(target.parent)
        picture = overlay(
            judgement.image,
            judgement.result.anomaly_map,
            input_format=self._detector.bundle.manifest.map_format,
            scale=self._scale,
            pixel_threshold=self._detector.pixel_threshold if judgement.result.is_anomalous else None,
        )
        save_picture(target, picture)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # without `..`, which would lead a picture out of the folder
