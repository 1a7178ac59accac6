"""What may be asked of an engine builder, and what each of the two libraries can give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from reason_runtime.backends.tensorrt import BF16
from reason_runtime.backends.tensorrt_library import compute_capability_words
from reason_runtime.choices import MOST_IN_A_GRAPH, Builder, Precision, RunsOn
from reason_runtime.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoices:
    """What the user asked for.

    Raises:
        ConfigurationError: Options that do not go together, or that the builder does not have.
    """

    precision: Precision = "fp32"
    builder: Builder = "tensorrt"
    compute_capabilities: tuple[str, ...] = ()
    """TensorRT-RTX: GPUs to build for; none: 8.0 and later in one engine."""
    runs_on: RunsOn = "same_gpu"
    """TensorRT: how far the engine travels."""
    version_compatible: bool = False
    """TensorRT: whether later versions read the engine too."""
    typical_batch: int = 1
    """Images in one run that kernels are chosen for."""
    largest_batch: int = 16
    """Images in one run, at most."""
    timing_cache: Path | None = None
    """TensorRT: file of kernel timings to reuse and extend; none: one per GPU and version in the user's cache."""

    def __post_init__(self) -> None:
        if self.precision == "bf16":
            raise ConfigurationError(f"no engine is built in bf16: {BF16}")
        if not 1 <= self.typical_batch <= self.largest_batch <= MOST_IN_A_GRAPH:
            raise ConfigurationError(
                f"typical batch {self.typical_batch} and largest batch {self.largest_batch}: expected at least 1 "
                f"image, {MOST_IN_A_GRAPH} at most, and the typical batch not above the largest"
            )
        if self.builder == "tensorrt":
            _check_tensorrt(self)
        else:
            _check_tensorrt_rtx(self)


def _check_tensorrt(choices: EngineChoices) -> None:
    if choices.compute_capabilities:
        raise ConfigurationError(
            "--compute-capability: TensorRT times kernels on the GPU it runs on and builds for no other; build on the "
            "device, or with --builder tensorrt_rtx"
        )


def _check_tensorrt_rtx(choices: EngineChoices) -> None:
    if choices.runs_on != "same_gpu":
        raise ConfigurationError(
            "--runs-on: TensorRT-RTX has no hardware compatibility; name GPUs with --compute-capability, or none for "
            "8.0 and later"
        )
    if choices.version_compatible:
        raise ConfigurationError(
            "--version-compatible: TensorRT-RTX has no lean runtime; an engine is read by the version that built it"
        )
    if choices.timing_cache is not None:
        raise ConfigurationError(
            "--timing-cache: TensorRT-RTX times no kernels while it builds, so it has none to keep"
        )
    asked = choices.compute_capabilities
    if len(set(asked)) != len(asked):
        raise ConfigurationError(f"--compute-capability: {', '.join(asked)} names one twice")


def words_for(trt: ModuleType, asked: Sequence[str]) -> list[str]:
    """The library's words for compute capabilities.

    Raises:
        ConfigurationError: The library does not build for one of them.
    """
    known = compute_capability_words(trt)
    for capability in asked:
        if capability not in known:
            raise ConfigurationError(
                f"--compute-capability {capability}: this TensorRT-RTX builds for {', '.join(known)}"
            )
    return [known[capability] for capability in asked]
