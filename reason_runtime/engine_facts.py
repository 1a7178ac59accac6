"""What an engine's side-car says, and its JSON, read without tolerance."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from reason_runtime.choices import BUILDERS, PRECISIONS, RUNS_ON, Builder, Precision, RunsOn
from reason_runtime.errors import BundleError
from reason_runtime.strict_json import Fields, parse

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A graphics processor.

    Attributes:
        name: Its own, for example `NVIDIA GeForce RTX 3060`.
        compute_capability: Major and minor, for example `8.6`.
    """

    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The side-car of an engine: all that must match before it may run.

    Attributes:
        builder: Library that built it, and the only one that reads it.
        builder_version: Of that library, complete: TensorRT compares even the build number.
        precision: Of the ONNX file it was built from. TF32 is off in every engine.
        gpu: Name of the GPU it was built on; None where it was built without one.
        compute_capabilities: It was built for; empty where `runs_on` is `ampere_and_later`.
        runs_on: How far it travels: the GPU model it was tuned on, GPUs of its compute capabilities, or compute
            capability 8.0 and later.
        version_compatible: Whether later versions of the library read it too.
        largest_batch: Images in one run, at most.
        source_file: The bundle's ONNX file it was built from.
        source_sha256: Of that file.
        engine_sha256: Of the engine.
        engine_size_bytes: Of the engine.
        created: ISO 8601, UTC.
    """

    builder: Builder
    builder_version: str
    precision: Precision
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    runs_on: RunsOn
    version_compatible: bool
    largest_batch: int
    source_file: str
    source_sha256: str
    engine_sha256: str
    engine_size_bytes: int
    created: str


def to_json(facts: EngineFacts) -> str:
    """The side-car's text."""
    return json.dumps({"format_version": FORMAT_VERSION, **asdict(facts)}, indent=2) + "\n"


def from_json(text: str, *, where: str) -> EngineFacts:
    """Read a side-car; every key must be there and no other.

    Raises:
        BundleError: Not exactly as specified; the message names file and key.
    """
    names = ("format_version", *EngineFacts.__dataclass_fields__)
    fields = Fields(parse(text, where=where), where=f"{where}: ", keys=names)
    found = fields.integer("format_version")
    if found != FORMAT_VERSION:
        raise BundleError(f"{where}: engine format {found}, this version reads {FORMAT_VERSION}")
    return EngineFacts(
        builder=fields.word("builder", BUILDERS),
        builder_version=fields.text("builder_version"),
        precision=fields.word("precision", PRECISIONS),
        gpu=None if fields.value("gpu") is None else fields.text("gpu"),
        compute_capabilities=_capabilities(fields),
        runs_on=fields.word("runs_on", RUNS_ON),
        version_compatible=fields.boolean("version_compatible"),
        largest_batch=fields.integer("largest_batch"),
        source_file=fields.text("source_file"),
        source_sha256=fields.text("source_sha256"),
        engine_sha256=fields.text("engine_sha256"),
        engine_size_bytes=fields.integer("engine_size_bytes"),
        created=fields.text("created"),
    )


AMPERE = "8.0"


def numbers(dotted: str) -> tuple[int, ...]:
    """A version or compute capability as numbers that compare: `12.0` is more than `8.6`."""
    return tuple(int(part) for part in re.findall(r"\d+", dotted))


def _capabilities(fields: Fields) -> tuple[str, ...]:
    key = "compute_capabilities"
    value = fields.value(key)
    found = (
        [item for item in value if isinstance(item, str) and re.fullmatch(r"\d+\.\d", item)]
        if isinstance(value, list)
        else []
    )
    if found != value:
        raise BundleError(f'{fields.place(key)}: expected a list such as ["8.6"]')
    return tuple(found)
