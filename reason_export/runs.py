"""Images through a session, one a run, as on the line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reason_runtime.image import InputFormat, load_image
from reason_runtime.progress import counted
from reason_runtime.session import Outputs, Session


def run_each(session: Session, images: NDArray[np.uint8]) -> Outputs:
    """Maps and scores of (N, H, W, C) images."""
    return joined([session.run(image[None]) for image in images])


def joined(outputs: Sequence[Outputs]) -> Outputs:
    """Several outputs as those of one batch."""
    return Outputs(
        anomaly_map=np.concatenate([output.anomaly_map for output in outputs]),
        score=np.concatenate([output.score for output in outputs]),
    )


def score_each(session: Session, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N,) scores of (N, H, W, C) images; no map is kept."""
    return np.concatenate([session.run(image[None]).score for image in counted(images, total=len(images), what="runs")])


def load_images(paths: Sequence[object], *, input_format: InputFormat) -> NDArray[np.uint8]:
    """(N, H, W, C), as the graph takes them."""
    return np.stack([load_image(str(path), input_format=input_format) for path in paths])
