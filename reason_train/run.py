"""A training run on disk.

```
RUN/
  run.json                what was asked for: configuration, images, library versions
  log.jsonl               one line a logged step
  checkpoint.safetensors  where training stands: trained tensors, optimiser, step (until training is done)
  model.safetensors       the finished model, teacher included, and the SHA-256 of the run.json that it was made by
  calibration.npz         held-out good images and their scores
  calibration.json        the threshold from them
  paper_protocol.json     with --paper-protocol: each judged epoch's figures on the test set, and the one chosen
```
Files appear whole or not at all. Nothing is a pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reason_runtime.atomic import replacing, write_text
from reason_runtime.digest import file_sha256
from reason_runtime.errors import RunError
from reason_runtime.image import image_sha256
from reason_train.config import Config, MethodConfig, TrainingConfig

T = TypeVar("T")
FORMAT = 2
RUN, LOG, CHECKPOINT, MODEL = "run.json", "log.jsonl", "checkpoint.safetensors", "model.safetensors"
CALIBRATION, THRESHOLD = "calibration.npz", "calibration.json"
PAPER_PROTOCOL = "paper_protocol.json"
SHA256 = "sha256"
"""The fact in a file of tensors that tells damage: safetensors itself has no checksum."""
_RUN_SHA256 = "run_sha256"
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "scipy", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEntry:
    """One image of a run by what it is, wherever it lies."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run was asked to do, and what its images are; written before training."""

    config: Config
    dataset: str
    train: tuple[ImageEntry, ...]
    held_out: tuple[ImageEntry, ...]
    libraries: dict[str, str]
    imported_from: str | None = None
    teacher_weights_sha256: str | None = None
    """Of the file given for the teacher; None where it has the published weights."""
    highest_16_bit: int | None = None
    """The highest value in images of 16 bits a channel, trained on or held out; None where all have 8 bits."""
    chosen_by: tuple[ImageEntry, ...] = ()
    """The test images that the paper's protocol chooses the epoch by; none without it."""

    @property
    def training_known(self) -> bool:
        """Whether it is known what was trained on; of an imported checkpoint only where the images were given."""
        return self.imported_from is None or bool(self.train)

    @property
    def images_sha256(self) -> str | None:
        """SHA-256 over names and contents of the training images; None where they are not known."""
        if not self.train:
            return None
        lines = "".join(f"{entry.sha256}  {entry.name}\n" for entry in self.train)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()  # a name may be no UTF-8


def describe_images(paths: Sequence[Path], *, root: Path) -> tuple[ImageEntry, ...]:
    """Name below `root` and SHA-256 of each file.

    Raises:
        ImageError: A file cannot be read.
    """
    return tuple(ImageEntry(name=path.relative_to(root).as_posix(), sha256=image_sha256(path)) for path in paths)


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def write_run(folder: Path, run: Run) -> None:
    """Write `run.json`.

    Raises:
        ReasonError: The system refused to write.
    """
    write_text(folder / RUN, json.dumps({"format": FORMAT, **dataclasses.asdict(run)}, indent=2) + "\n")


def read_run(folder: Path) -> Run:
    """Read `run.json`.

    Raises:
        RunError: No run there, of another format, or not as this version writes it.
    """
    path = folder / RUN
    if not path.is_file():
        raise RunError(f"{folder}: is not a run (no {RUN} in it); expected what `reason-train fit --out` writes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != FORMAT:
            raise RunError(f"{path}: run format {found}, this version reads {FORMAT}; train again")
        config = content.pop("config")
        settings = Config(
            preset=config["preset"],
            method=read_settings(MethodConfig, config["method"]),
            training=read_settings(TrainingConfig, config["training"]),
            departures=tuple(config["departures"]),
            paper_protocol=config["paper_protocol"],
        )
        images = {
            name: tuple(ImageEntry(**entry) for entry in content.pop(name))
            for name in ("train", "held_out", "chosen_by")
        }
        return _whole(Run, {"config": settings, **images, **content})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path}: is not a run description of this version ({error}); train again") from error


def read_settings(kind: type[T], values: Mapping[str, object]) -> T:
    """Settings from JSON, which has lists in place of tuples.

    Raises:
        KeyError: One is missing.
        TypeError: One is unknown.
    """
    return _whole(kind, {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _whole(kind: type[T], values: Mapping[str, object]) -> T:
    """Without defaults, which may be others than when the values were written."""
    known = dataclasses.fields(kind)  # type: ignore[arg-type]  # they are all dataclasses
    if missing := {item.name for item in known} - values.keys():
        raise KeyError(*sorted(missing))
    return kind(**values)


def write_model(folder: Path, tensors: dict[str, Tensor], *, facts: dict[str, str]) -> None:
    """Write a run's finished model, bound to its `run.json`: with other levels or another part it would be another.

    A folder without one, of a study that keeps no runs, gets a model that `read_model` refuses.

    Raises:
        ReasonError: The system refused to write.
    """
    if (folder / RUN).exists():
        facts = facts | {_RUN_SHA256: file_sha256(folder / RUN)}
    write_tensors(folder / MODEL, tensors, facts=facts)


def read_model(folder: Path) -> dict[str, Tensor]:
    """A run's finished model.

    Raises:
        RunError: It cannot be read or is damaged, or `run.json` is not as it was when the model was made.
    """
    tensors, facts = read_tensors(folder / MODEL)
    if facts.get(_RUN_SHA256) != file_sha256(folder / RUN):
        raise RunError(
            f"{folder / RUN}: was changed since {MODEL} was made by it, or is another run's; bring it back, or train "
            "again"
        )
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], *, facts: dict[str, str]) -> None:
    """Write tensors, a few facts and a SHA-256 over both to a safetensors file.

    Raises:
        ReasonError: The system refused to write; the old file is kept.
    """
    written = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as beside:
        beside.touch()
        permissions = beside.stat().st_mode
        try:
            save_file(written, beside, facts | {SHA256: _sha256(written, facts)})
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error
        beside.chmod(permissions)  # safetensors 0.8 replaces the file by one that only its owner may read


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a safetensors file, as they were written.

    Raises:
        RunError: The file is missing, not a safetensors file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read as a safetensors file ({error})") from error
    if facts.pop(SHA256, None) != _sha256(tensors, facts):
        raise RunError(
            f"{path}: is damaged, its content is not what was written (SHA-256 differs); bring back a whole copy, "
            "or train again"
        )
    return tensors, facts


def _sha256(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """Over the facts, and names, types, shapes and bytes of the tensors."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
