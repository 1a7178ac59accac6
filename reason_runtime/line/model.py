"""A loaded model in three steps that run on three threads: prepare, infer, judge."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reason_runtime.blind import BlindLimits, blindness, shrunk
from reason_runtime.detector import Detector, Pixels
from reason_runtime.errors import ConfigurationError, ImageError
from reason_runtime.image import part_of, resize_image
from reason_runtime.line.frame import Frame, Strip
from reason_runtime.line.ledger import blank
from reason_runtime.line.messages import Answer, Cause, Defect, Picture
from reason_runtime.line.web.judge import DefectBook, WebSettings, judge_web
from reason_runtime.self_test import require_golden_answers
from reason_runtime.session import Outputs, joined
from reason_runtime.tiles import Tile, cut, place_tiles, tile_px_of

_SIDE_BY_SIDE = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """The graph's input for one frame.

    Attributes:
        images: (K, H, W, C) uint8; K is 1 for a whole part.
        tiles: Where each image lies in what is looked at of the frame; empty for a whole part.
        shape: Rows and columns of the frame.
        blind: Why the camera cannot have seen the part; None where it may have.
    """

    images: NDArray[np.uint8]
    tiles: tuple[Tile, ...]
    shape: tuple[int, int]
    blind: str | None


class LineModel:
    """A detector with what the line needs around it.

    Args:
        detector: Loaded; used by one thread at a time for inference.
        web: How tiles are placed and defects located; None for whole parts.
        batch: Images that go through the graph at once, at most; None: 2 with OpenVINO, which runs them side by side in
            less time than one after the other; else 1.

    Attributes:
        batch: As given or chosen.

    Raises:
        ConfigurationError: A bundle trained on whole parts is asked to judge tiles, or the other way round; or nothing
            of a tile is left that its neighbour does not share.
    """

    def __init__(self, detector: Detector, *, web: WebSettings | None = None, batch: int | None = None) -> None:
        manifest = detector.bundle.manifest
        self.tile_px = tile_px_of(manifest)
        if web is not None and self.tile_px is None:
            raise ConfigurationError(
                f"{detector.bundle.path}: was trained on whole parts and cannot judge tiles of a web; "
                "leave out --tile-overlap-px and [web], or train with `reason-train fit --tile PX`"
            )
        if web is None and self.tile_px is not None:
            raise ConfigurationError(
                f"{detector.bundle.path}: was trained on tiles of {self.tile_px} px and cannot judge whole parts; "
                "give --tile-overlap-px 32, or [web] in the station file, or train without --tile"
            )
        if web is not None and self.tile_px is not None and web.overlap_px >= self.tile_px:
            raise ConfigurationError(
                f"{detector.bundle.path}: its tiles of {self.tile_px} px cannot share {web.overlap_px} px; give "
                f"--tile-overlap-px, or overlap_px in [web], less than {self.tile_px}"
            )
        self.detector = detector
        self.content = manifest.content_sha256[:12]
        self.blind_limits: BlindLimits | None = manifest.blind_limits
        self._form = manifest.input
        self._web = web
        self.batch = batch or (_SIDE_BY_SIDE if detector.session.backend == "openvino" else 1)

    def prove(self) -> None:
        """Run golden images in every batch size, so that the first part is neither the slowest nor judged wrongly.

        Raises:
            ParityError: The model does not give here what the trained model gave.
            BackendError: The inference library failed.
            BundleError: The golden arrays are broken.
        """
        require_golden_answers(self.detector.session, self.detector.bundle, most_in_a_run=self.batch)

    def prepare(self, image: Pixels, *, strip: Strip | None = None) -> Prepared:
        """The graph's input for a frame; `strip` says where on a web it lies.

        Raises:
            ImageError: A type, shape or size that is refused, or lines of a web that nobody would look at.
        """
        part = part_of(image, input_format=self._form)
        shape = (image.shape[0], image.shape[1])
        if strip is not None and part.shape[0] != shape[0]:
            raise ImageError(
                f"a web is looked at in all of its lines, and --crop takes {part.shape[0]} of this frame's {shape[0]}"
            )
        if self._web is None or self.tile_px is None:
            tiles: tuple[Tile, ...] = ()
            images = resize_image(part, input_format=self._form)[None]
        else:
            tiles = place_tiles((part.shape[0], part.shape[1]), tile_px=self.tile_px, overlap_px=self._web.overlap_px)
            images = np.stack([resize_image(cut(part, tile), input_format=self._form) for tile in tiles])
        blind = None if self.blind_limits is None else blindness(self._as_limits(images), self.blind_limits)
        return Prepared(images=images, tiles=tiles, shape=shape, blind=blind)

    def _as_limits(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images at the size that the limits were learnt at; frames that the graph resizes are not."""
        if self._form.resize_filter != "in-graph":
            return images
        manifest = self.detector.bundle.manifest
        size_px, crop_from_px = manifest.map_size_px, manifest.method.crop_from_px
        return np.stack([shrunk(image, size_px=size_px, crop_from_px=crop_from_px) for image in images])

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """Maps and scores of (K, H, W, C), in runs of at most the batch size.

        Raises:
            BackendError: The inference library failed.
        """
        starts = range(0, len(images), self.batch)
        return joined([self.detector.session.run(images[i : i + self.batch]) for i in starts])

    def judge(self, frame: Frame, prepared: Prepared, outputs: Outputs, *, book: DefectBook) -> Answer:
        """The decision about a frame from the graph's outputs; defects that `book` knows are not listed again."""
        image = frame.grab.image
        if self._web is not None and prepared.tiles:
            seen = judge_web(
                prepared.tiles,
                outputs,
                shape=prepared.shape,
                frame=frame,
                detector=self.detector,
                settings=self._web,
            )
            score, anomaly_map = np.float32(seen.score), seen.anomaly_map
            strip = frame.grab.strip
            defects = book.new(seen.defects, strip) if strip else tuple(item.defect for item in seen.defects)
        else:
            score, anomaly_map, defects = outputs.score[0], outputs.anomaly_map[0], ()
        verdict = self.detector.judge(score, anomaly_map)
        if verdict.decision == "NG" and not prepared.tiles and image is not None:
            defects = self._located(anomaly_map, image, frame.grab.strip)
        limit = self.detector.limit
        unjudged: Cause = "not-finite" if not np.isfinite(verdict.score) else "no-threshold"
        return dataclasses.replace(
            blank(frame),
            decision=verdict.decision,
            cause=unjudged if verdict.decision == "UNKNOWN" else "judged",
            reason=verdict.reason,
            score=verdict.score if np.isfinite(verdict.score) else None,
            threshold=limit.value,
            threshold_source=limit.source,
            bundle=self.content,
            defects=defects if verdict.decision == "NG" else (),
            picture=None
            if verdict.decision == "OK" or image is None
            else Picture(image=image, anomaly_map=anomaly_map, input_format=self.detector.bundle.manifest.map_format),
        )

    def _located(self, anomaly_map: NDArray[np.float32], image: Pixels, strip: Strip | None) -> tuple[Defect, ...]:
        """What is wrong with a whole part, in pixels of its frame; of a frame of a web, in lines of that."""
        found = [
            Defect(
                x_px=region.x_px,
                width_px=region.width_px,
                first_line=region.y_px,
                lines=region.height_px,
                peak=region.peak,
            )
            for region in self.detector.regions(anomaly_map, image.shape)
        ]
        if strip is None:
            return tuple(found)
        return tuple(
            dataclasses.replace(
                item,
                first_line=strip.first_line + item.first_line,
                lines=min(item.lines, strip.valid_lines - item.first_line),
                encoder_count=strip.encoder_count_at(item.first_line),
            )
            for item in found
            if item.first_line < strip.valid_lines
        )
