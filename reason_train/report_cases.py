"""The images that a report shows: which ones are judged worst, and each as picture, map and mask."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.image import InputFormat, read_image
from reason_runtime.overlay import heat_map, overlay, shrink, thumbnail
from reason_train.datasets import Sample
from reason_train.datasets.masks import read_mask_levels

Kind = Literal["good", "defective"]
VERDICTS: dict[Kind, str] = {"good": "false alarm", "defective": "missed"}  # what a wrong judgement is called
SHOWN = 6  # worst images of each kind
LONGEST_SIDE_PX = 384  # of a picture in the page
JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image of the page.

    Attributes:
        sample: What is known about it.
        score: Raw.
        wrong: Whether the threshold judges it wrongly; None without a threshold.
        pictures: Name and data URI of the image, its map and its mask, as far as they exist.
    """

    sample: Sample
    score: float
    wrong: bool | None
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Painter:
    """What it takes to draw any image of the test set.

    Attributes:
        input_format: How images are read and which part of them the map covers.
        scale: Map value at the top of the colours, the same for all pictures.
        threshold: Of the score; None where there is none.
        pixel_threshold: Where the score reaches its threshold, a line is drawn around what is at or above this in the
            map; None draws none.
    """

    input_format: InputFormat
    scale: float
    threshold: float | None
    pixel_threshold: float | None

    def pictures(
        self, sample: Sample, *, score: float, anomaly_map: NDArray[np.float32] | None
    ) -> tuple[tuple[str, str], ...]:
        """Name and data URI of the image, its map over it, and its mask, as far as they exist.

        Raises:
            ImageError: The image or its mask cannot be read.
        """
        image = read_image(sample.path, input_format=self.input_format)
        small = thumbnail(image, longest_side_px=LONGEST_SIDE_PX)
        shown = [("image", _data_uri(small, "JPEG"))]
        if anomaly_map is not None:
            limit = None if self.threshold is None or score < self.threshold else self.pixel_threshold
            painted = overlay(
                image,
                anomaly_map,
                input_format=self.input_format,
                scale=self.scale,
                pixel_threshold=limit,
                longest_side_px=LONGEST_SIDE_PX,
            )
            shown.append(("anomaly map", _data_uri(Image.fromarray(painted), "JPEG")))
        if sample.mask_path is not None:
            # of a picture as large as the mask
            mask = shrink(read_mask_levels(sample.mask_path)[:, :, 0], height_px=small.height, width_px=small.width)
            shown.append(("mask", _data_uri(Image.fromarray(mask), "PNG")))
        return tuple(shown)


def worst(
    kind: Kind,
    *,
    samples: Sequence[Sample],
    scores: NDArray[np.floating],
    maps: NDArray[np.float32] | None,
    painter: Painter,
) -> tuple[Case, ...]:
    """The good images with the highest scores, or the defective ones with the lowest, the worst first.

    Raises:
        ImageError: An image or its mask cannot be read.
    """
    defective = kind == "defective"
    chosen = [i for i, sample in enumerate(samples) if sample.anomalous == defective]
    chosen.sort(key=lambda i: float(scores[i]), reverse=not defective)
    cases = []
    for i in chosen[:SHOWN]:
        limit = painter.threshold
        cases.append(
            Case(
                sample=samples[i],
                score=float(scores[i]),
                wrong=None if limit is None else bool((scores[i] >= limit) != defective),
                pictures=painter.pictures(
                    samples[i], score=float(scores[i]), anomaly_map=None if maps is None else maps[i]
                ),
            )
        )
    return tuple(cases)


def _data_uri(picture: Image.Image, file_format: Literal["JPEG", "PNG"]) -> str:
    buffer = BytesIO()
    picture.save(buffer, format=file_format, quality=JPEG_QUALITY)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def map_key(painter: Painter) -> str:
    """What the colours and lines of the map pictures mean, with a ramp of the colours themselves."""
    ramp = heat_map(np.linspace(0, painter.scale, 256, dtype=np.float32)[None], scale=painter.scale)
    picture = f'<img class="ramp" src="{_data_uri(Image.fromarray(ramp), "PNG")}" alt="from blue over green to red">'
    line = (
        ""
        if painter.threshold is None or painter.pixel_threshold is None
        else f"; where the score reaches the threshold, a white line is around {painter.pixel_threshold:.4g} or more, "
        "which no held-out good image reaches that the threshold accepts"
    )
    return (
        f'<p class="soft">Anomaly maps: 0 {picture} {painter.scale:.4g} or more, the same in all pictures{line}.</p>\n'
    )


def case_section(cases: Sequence[Case], *, kind: Kind, of: int, wrong: int | None, root: Path) -> str:
    """All cases with one line above them.

    Args:
        cases: The worst first.
        kind: Which images they are.
        of: How many such images there are.
        wrong: How many of those the threshold judges wrongly; None without a threshold.
        root: Folder that names are shown relative to.
    """
    verdict = VERDICTS[kind]
    note = (
        f"{len(cases)} of {of} {kind} images, those with the {'lowest' if kind == 'defective' else 'highest'} scores; "
    )
    if wrong is None:
        note += "without a threshold none is judged."
    elif wrong:
        note += f"{wrong} of {of} are judged wrongly ({verdict})."
    else:
        note += "the threshold judges all of them rightly."
    return f'<p class="soft">{note}</p><div class="cases">{"".join(_case(c, verdict, root) for c in cases)}</div>'


def _case(case: Case, verdict: str, root: Path) -> str:
    # a file name need not be UTF-8, a page has to be
    name = case.sample.path.relative_to(root).as_posix().encode("utf-8", "replace").decode("utf-8")
    mark = f'<span class="wrong">{verdict}</span>' if case.wrong else ""
    group = f"<span>{escape(case.sample.group)}</span>" if case.sample.group else ""
    shown = "".join(
        f'<div><img src="{uri}" alt="{escape(f"{kind} of {name}")}">{kind}</div>' for kind, uri in case.pictures
    )
    return (
        f'<figure class="card case"><figcaption><b>{escape(name)}</b><span>score {case.score:.6g}</span>{group}{mark}'
        f'</figcaption><div class="pictures">{shown}</div></figure>'
    )
