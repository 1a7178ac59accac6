"""Imports point downwards: benchmarks, export, training, runtime; and what must run without PyTorch imports none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imports import ROOT, imported_names, loaded_for_help, loaded_packages

TRAINING_LIBRARIES = {"torch", "torchvision", "timm", "safetensors"}
WITHOUT_TORCH = [
    "reason_train.datasets",
    "reason_train.metrics",
    "reason_train.ranking",
    "reason_train.aupro",
    "reason_train.calibration",
    "reason_train.highest_held_out",
    "reason_train.threshold_text",
    "reason_train.evaluation",
    "reason_train.report",
    "reason_train.commands",
    "reason_export.commands",
    "reason_export.check",
    "reason_export.parity",
    "reason_export.accuracy",
    "reason_export.quantize",
    "reason_export.half",
    "reason_runtime",
]
OWNERS_OF_THE_MODEL = {"export", "golden", "onnx_graph", "resize_graph"}
"""Modules of `reason_export` that may use the model; they serve the command `onnx` alone."""
NUMBERS_ONLY = (
    "reason_train.datasets",
    "reason_train.metrics",
    "reason_train.ranking",
    "reason_train.calibration",
    "reason_train.highest_held_out",
    "reason_train.threshold_text",
    "reason_train.aupro",
)


def upward_imports(package: str, module: str, names: Iterator[str]) -> list[str]:
    """Imports of a module that its layer does not allow."""
    forbidden = {"tests", "benchmarks"}
    if package == "reason_runtime":
        forbidden |= {"reason_train", "reason_export", "onnx", "onnxscript", *TRAINING_LIBRARIES}
    if package == "reason_train":
        forbidden |= {"reason_export", "onnx", "onnxscript"}
    if package == "reason_export" and module not in OWNERS_OF_THE_MODEL:
        forbidden |= TRAINING_LIBRARIES
    found = [name for name in names if name.partition(".")[0] in forbidden or _is_model(package, module, name)]
    return sorted(found)


def _is_model(package: str, module: str, name: str) -> bool:
    """Whether an exporting module that must run without PyTorch reaches into more than numbers and data sets."""
    if package != "reason_export" or module in OWNERS_OF_THE_MODEL:
        return False
    return name.startswith("reason_train.") and not name.startswith(NUMBERS_ONLY)


def modules() -> list[tuple[str, Path]]:
    packages = ("reason_runtime", "reason_train", "reason_export")
    return [(package, path) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda value: getattr(value, "stem", value))
def test_imports_point_downwards(package: str, path: Path) -> None:
    assert upward_imports(package, path.stem, imported_names(path.read_text())) == []


@pytest.mark.parametrize(
    ("package", "module", "line"),
    [
        ("reason_runtime", "detector", "def late():\n    import torch"),
        ("reason_runtime", "detector", "from reason_train.metrics import auroc"),
        ("reason_runtime", "detector", "try:\n    import onnx\nexcept ImportError:\n    pass"),
        ("reason_train", "fit", "from reason_export.check import check_bundle"),
        ("reason_train", "fit", "import benchmarks.peers"),
        ("reason_export", "check", "from reason_train.model import ReasonModel"),
        ("reason_export", "check", "from reason_train import model"),
        ("reason_export", "quantize", "import torch.nn"),
        ("reason_export", "export", "import tests.pictures"),
    ],
)
def test_the_reading_probe_can_fail(package: str, module: str, line: str) -> None:
    assert upward_imports(package, module, imported_names(line)) != []


def test_imports_for_type_checkers_do_not_count() -> None:
    source = "if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy\n"
    assert list(imported_names(source)) == ["numpy"]


def test_importing_loads_no_torch() -> None:
    assert loaded_packages(f"import {', '.join(WITHOUT_TORCH)}") & TRAINING_LIBRARIES == set()


def test_the_importing_probe_can_fail() -> None:
    assert "torch" in loaded_packages("import reason_train.losses")


@pytest.mark.parametrize(
    ("module", "commands"),
    [
        ("reason_train.commands", [(), ("fit",), ("evaluate",), ("calibrate",), ("import",)]),
        ("reason_export.commands", [(), ("onnx",), ("check",)]),
    ],
)
def test_help_loads_no_heavy_library(module: str, commands: list[tuple[str, ...]]) -> None:
    heavy = {*TRAINING_LIBRARIES, "onnx", "onnxruntime", "scipy", "sklearn", "numpy"}
    assert loaded_for_help(module, commands) & heavy == set()


def test_two_words_of_one_package_are_not_mixed_up() -> None:
    assert upward_imports("reason_train", "fit", iter(["onnxruntime"])) == []
    assert upward_imports("reason_export", "check", iter(["reason_train.metrics.auroc"])) == []
