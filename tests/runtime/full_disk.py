"""Writes that need more room than a full disk has; run in a process of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.atomic import write_bytes
from reason_runtime.bundle import open_bundle, update_bundle, write_bundle
from reason_runtime.overlay import save_picture


def write_large_file(folder: Path) -> None:
    write_bytes(folder / "file.txt", bytes(100_000))


def overwrite_bundle(folder: Path) -> None:
    bundle = open_bundle(folder / "bundle")
    files: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
    write_bundle(bundle.path, manifest=bundle.manifest, files=files | {"model.onnx": bytes(100_000)}, overwrite=True)


def add_large_model(folder: Path) -> None:
    bundle = open_bundle(folder / "bundle")
    update_bundle(bundle, manifest=bundle.manifest, files={"model.onnx": b"changed", "model_int8.onnx": bytes(100_000)})


def save_large_png(folder: Path) -> None:
    save_picture(folder / "picture.png", _noise())


def save_large_jpg(folder: Path) -> None:
    save_picture(folder / "picture.jpg", _noise())


def _noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
