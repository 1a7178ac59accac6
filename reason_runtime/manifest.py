"""What a bundle says about itself, in `manifest.json`.

A manifest MUST have exactly the keys written here (null where they say nothing), MUST carry `format_version` 2, and its
`content_sha256` MUST be the SHA-256 of its own canonical spelling (keys sorted, no spaces, ASCII) without that one key.
The file itself MUST be spelled as `to_json` does. The hashes stop accidents (a file edited, cut off, or taken from
another export); they do not stop an attacker, who can compute new ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import cast

from reason_runtime.blind import BlindLimits
from reason_runtime.choices import PRECISIONS, Precision
from reason_runtime.errors import BundleError, ConfigurationError
from reason_runtime.image import COLOUR_ORDERS, RESIZE_FILTERS, Crop, InputFormat
from reason_runtime.strict_json import Fields, Json, canonical, parse

FORMAT_VERSION = 2
SCORE_CELL_PX = 4
"""Side of the cells that a generalised mean is taken over: the blurred map hardly changes inside a cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """What was trained.

    Attributes:
        teacher: Name of the frozen encoder.
        settings: The method's own settings, by name.
    """

    teacher: str
    settings: dict[str, Json]

    @property
    def crop_from_px(self) -> int | None:
        """Side of the image before the centre crop to the map's size; None without a crop."""
        found = self.settings.get("crop_from_px")
        return found if isinstance(found, int) else None

    @property
    def score_exponent(self) -> float | None:
        """Of the generalised mean over cells of the map that is the score; None where the score is its maximum."""
        found = self.settings.get("score_exponent")
        return float(found) if isinstance(found, (int, float)) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProvenance:
    """Where the weights come from.

    Attributes:
        images_sha256: Over the list of training images; None for an imported checkpoint.
        images: Number of training images.
        seed: Of the run; None for an imported checkpoint.
        libraries: Version by library name.
        configuration: The configuration that ran.
    """

    images_sha256: str | None
    images: int
    seed: int | None
    libraries: dict[str, str]
    configuration: dict[str, Json]

    @property
    def images_known(self) -> bool:
        """Whether it is known what was trained on: not of a checkpoint that was imported without its images."""
        return "imported_from" not in self.configuration or self.images > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreStatistics:
    """Raw scores of held-out good images.

    Attributes:
        images: How many.
        mean: Their mean.
        std: Their standard deviation.
        minimum: The lowest.
        maximum: The highest.
        pixel_threshold: Lowest value that no pixel of the map reaches in those that the threshold accepts; None where
            the score is the map's maximum, whose threshold it then is.
    """

    images: int
    mean: float
    std: float
    minimum: float
    maximum: float
    pixel_threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A decision limit in raw score units and how it was chosen; `score >= value` is anomalous.

    Attributes:
        value: The limit.
        target_false_reject_rate: Share of good parts that may be rejected, as asked for, 0..1.
        images: Held-out good images it was chosen on.
        rejected: How many of them it rejects.
        false_reject_upper_bound: Exact 95 % upper confidence bound of the true share of rejected good parts, 0..1.
        source: In words, for people who read a result.
    """

    value: float
    target_false_reject_rate: float
    images: int
    rejected: int
    false_reject_upper_bound: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How the int8 file came about.

    Attributes:
        images: Good images it was calibrated on.
        sqnr_db: Of the map against float32 on calibration images.
        layers: Convolutions in int8.
        float_layers: Convolutions left in float32, each with the map's SQNR in dB when it alone is in int8.
        scores: Of the int8 file, on the images its threshold was drawn from.
        trained_mean: Mean score that the float32 model gives the same images.
    """

    images: int
    sqnr_db: float
    layers: int
    float_layers: dict[str, float]
    scores: ScoreStatistics
    trained_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        sha256: Of its content, in lower-case hexadecimal.
        size_bytes: Its length.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes:
        format_version: Of the bundle; this version reads and writes 2 only.
        name: For people; usually the folder's name.
        created: ISO 8601, UTC.
        input: What the graph takes and how an image becomes it.
        map_size_px: Side of the square anomaly map.
        method: What was trained.
        training: Where the weights come from.
        score_statistics: Of the float32 file; None where no held-out good image was at hand.
        blind_limits: What a camera that sees gives; None where no held-out good image was at hand.
        thresholds: By the precision whose own scores they were chosen on; may be empty.
        quantisation: Of the int8 file; None where there is none.
        files: By name; filled in when a bundle is written.
        content_sha256: Over the canonical spelling of all the rest; filled in when a bundle is written.
    """

    format_version: int = FORMAT_VERSION
    name: str
    created: str
    input: InputFormat
    map_size_px: int
    method: MethodSettings
    training: TrainingProvenance
    score_statistics: ScoreStatistics | None = None
    blind_limits: BlindLimits | None = None
    thresholds: dict[Precision, Threshold] = field(default_factory=dict)
    quantisation: Quantisation | None = None
    files: dict[str, FileEntry] = field(default_factory=dict)
    content_sha256: str = ""

    @property
    def map_format(self) -> InputFormat:
        """How a picture becomes what the map shows: `input`, or what a graph that resizes by itself does within."""
        if self.input.resize_filter != "in-graph":
            return self.input
        side = self.method.crop_from_px or self.map_size_px
        return dataclasses.replace(
            self.input,
            height_px=self.map_size_px,
            width_px=self.map_size_px,
            resize_height_px=side,
            resize_width_px=side,
            resize_filter="pillow-bilinear",
        )

    def scores_in(self, precision: Precision) -> ScoreStatistics | None:
        """Held-out scores as a file of this precision gives them: int8 has its own, half and bf16 keep float32's."""
        if precision != "int8":
            return self.score_statistics
        return None if self.quantisation is None else self.quantisation.scores


def to_json(manifest: Manifest) -> str:
    """The manifest as a file's text, readable, ending with a new line."""
    return json.dumps(dataclasses.asdict(manifest), indent=2, allow_nan=False) + "\n"


def content_hash(manifest: Manifest) -> str:
    """SHA-256 over the canonical spelling without `content_sha256`.

    Raises:
        BundleError: A number in it is not finite.
    """
    content = dataclasses.asdict(manifest)
    del content["content_sha256"]
    return hashlib.sha256(canonical(content)).hexdigest()


def from_json(text: str, *, where: str) -> Manifest:
    """Read a manifest, refusing everything that is not exactly as written here.

    Args:
        text: Content of `manifest.json`.
        where: The file, for messages.

    Raises:
        BundleError: With the key path: another format version, an unknown or missing key, a wrong type, a changed
            content.
    """
    value = parse(text, where=where)
    if isinstance(value, dict):  # before the keys: another version may have others
        found = value.get("format_version")
        if found != FORMAT_VERSION:
            raise BundleError(f"{where}: bundle format {found}, this version reads {FORMAT_VERSION}; export again")
    fields = _fields(Manifest, value, where=f"{where}: ")
    statistics, limits = fields.value("score_statistics"), fields.value("blind_limits")
    quantised = fields.value("quantisation")
    manifest = Manifest(
        name=fields.text("name"),
        created=fields.text("created"),
        input=_read_input(fields.value("input"), where=fields.place("input")),
        map_size_px=fields.integer("map_size_px"),
        method=_read_method(fields.value("method"), where=fields.place("method")),
        training=_read_training(fields.value("training"), where=fields.place("training")),
        score_statistics=None
        if statistics is None
        else read_statistics(statistics, where=fields.place("score_statistics")),
        blind_limits=None if limits is None else _read_blind_limits(limits, fields.place("blind_limits")),
        thresholds=_read_thresholds(fields.objects("thresholds"), where=fields.place("thresholds")),
        quantisation=None if quantised is None else _read_quantisation(quantised, fields.place("quantisation")),
        files=_read_files(fields.objects("files"), where=fields.place("files")),
        content_sha256=fields.text("content_sha256"),
    )
    # the spelling too: a changed space would not change the canonical content
    if manifest.content_sha256 != content_hash(manifest) or to_json(manifest) != text:
        raise BundleError(f"{where}: was changed after it was written (content_sha256 does not match); export again")
    return manifest


def _fields(kind: type, value: Json, *, where: str) -> Fields:
    return Fields(value, where=where, keys=[item.name for item in dataclasses.fields(kind)])


def _read_input(value: Json, *, where: str) -> InputFormat:
    fields = _fields(InputFormat, value, where=where)
    channels = fields.integer("channels")
    if channels not in (1, 3):
        raise BundleError(f"{fields.place('channels')}: found {channels}, expected 1 or 3")
    try:
        return InputFormat(
            height_px=fields.integer("height_px"),
            width_px=fields.integer("width_px"),
            channels=1 if channels == 1 else 3,
            resize_height_px=fields.integer("resize_height_px"),
            resize_width_px=fields.integer("resize_width_px"),
            black_level=fields.integer("black_level"),
            white_level=fields.integer("white_level"),
            colour_order=fields.word("colour_order", COLOUR_ORDERS),
            resize_filter=fields.word("resize_filter", RESIZE_FILTERS),
            crop_px=None if fields.value("crop_px") is None else cast("Crop", fields.integers("crop_px", count=4)),
        )
    except ConfigurationError as error:
        raise BundleError(f"{where}: {error}") from error


def _read_method(value: Json, *, where: str) -> MethodSettings:
    fields = _fields(MethodSettings, value, where=where)
    return MethodSettings(teacher=fields.text("teacher"), settings=fields.objects("settings"))


def _read_training(value: Json, *, where: str) -> TrainingProvenance:
    fields = _fields(TrainingProvenance, value, where=where)
    return TrainingProvenance(
        images_sha256=None if fields.value("images_sha256") is None else fields.text("images_sha256"),
        images=fields.integer("images"),
        seed=None if fields.value("seed") is None else fields.integer("seed"),
        libraries=fields.texts("libraries"),
        configuration=fields.objects("configuration"),
    )


def read_statistics(value: Json, *, where: str) -> ScoreStatistics:
    """Statistics of scores as JSON has them.

    Raises:
        BundleError: A key too many or too few, or a wrong type.
    """
    fields = _fields(ScoreStatistics, value, where=where)
    return ScoreStatistics(
        images=fields.integer("images"),
        mean=fields.number("mean"),
        std=fields.number("std"),
        minimum=fields.number("minimum"),
        maximum=fields.number("maximum"),
        pixel_threshold=None if fields.value("pixel_threshold") is None else fields.number("pixel_threshold"),
    )


def _read_blind_limits(value: Json, where: str) -> BlindLimits:
    fields = _fields(BlindLimits, value, where=where)
    return BlindLimits(
        mean_low=fields.number("mean_low"),
        mean_high=fields.number("mean_high"),
        black_share_high=fields.number("black_share_high"),
        saturated_share_high=fields.number("saturated_share_high"),
        sharpness_low=fields.number("sharpness_low"),
        repeats=fields.boolean("repeats"),
        images=fields.integer("images"),
    )


def _read_thresholds(values: dict[str, Json], *, where: str) -> dict[Precision, Threshold]:
    known = Fields(dict.fromkeys(PRECISIONS) | values, where=where, keys=PRECISIONS)
    return {name: read_threshold(values[name], where=known.place(name)) for name in PRECISIONS if name in values}


def read_threshold(value: Json, *, where: str) -> Threshold:
    """A threshold as JSON has it.

    Raises:
        BundleError: A key too many or too few, or a wrong type.
    """
    fields = _fields(Threshold, value, where=where)
    return Threshold(
        value=fields.number("value"),
        target_false_reject_rate=fields.number("target_false_reject_rate"),
        images=fields.integer("images"),
        rejected=fields.integer("rejected"),
        false_reject_upper_bound=fields.number("false_reject_upper_bound"),
        source=fields.text("source"),
    )


def _read_quantisation(value: Json, where: str) -> Quantisation:
    fields = _fields(Quantisation, value, where=where)
    kept = fields.objects("float_layers")
    numbers = Fields(kept, where=fields.place("float_layers"), keys=tuple(kept))
    return Quantisation(
        images=fields.integer("images"),
        sqnr_db=fields.number("sqnr_db"),
        layers=fields.integer("layers"),
        float_layers={name: numbers.number(name) for name in kept},
        scores=read_statistics(fields.value("scores"), where=fields.place("scores")),
        trained_mean=fields.number("trained_mean"),
    )


def _read_files(values: dict[str, Json], *, where: str) -> dict[str, FileEntry]:
    entries = {}
    for name, value in values.items():
        fields = _fields(FileEntry, value, where=f"{where}.{name}")
        entries[name] = FileEntry(sha256=fields.text("sha256"), size_bytes=fields.integer("size_bytes"))
    return entries
