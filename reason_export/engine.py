"""TensorRT and TensorRT-RTX engines from a bundle, by one builder.

TensorRT times kernels on the GPU of this machine. TensorRT-RTX leaves that to the device, and so builds on a machine
without a GPU, for compute capabilities that are named. Precision is that of the ONNX file in both.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from reason_export.engine_choices import EngineChoices, words_for
from reason_export.engine_network import NetworkTensor, ParsedNetwork, parse_network
from reason_export.engine_progress import watch
from reason_export.timing_cache import attach_timing_cache, keep_timing_cache
from reason_runtime.atomic import require_writable
from reason_runtime.backends.cuda import Cuda
from reason_runtime.backends.signature import INPUT
from reason_runtime.backends.tensorrt_library import NAMES, Messages, load_library
from reason_runtime.bundle import Bundle
from reason_runtime.cache import cache_folder
from reason_runtime.choices import RunsOn
from reason_runtime.engine_facts import EngineFacts, Gpu
from reason_runtime.engine_store import ENGINES, EngineFile, engine_path, write_engine
from reason_runtime.errors import BackendError, ConfigurationError, ReasonError
from reason_runtime.image import InputFormat
from reason_runtime.native_output import stdout_to_stderr

if TYPE_CHECKING:
    import tensorrt

_LEVELS: dict[RunsOn, str] = {"same_compute_capability": "SAME_COMPUTE_CAPABILITY", "ampere_and_later": "AMPERE_PLUS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine in its bundle.

    Attributes:
        file: Engine and side-car.
        tensors: Inputs and outputs of the network it was built from.
        seconds: That building took.
    """

    file: EngineFile
    tensors: tuple[NetworkTensor, ...]
    seconds: float


def build_engine(bundle: Bundle, *, choices: EngineChoices) -> BuiltEngine:
    """Build an engine and write it with its side-car to the bundle's `engines/`.

    TF32 is off, so that fp32 layers are fp32. Where the library can be told so, 0 * x stays NaN where x is NaN: what is
    broken must not look good.

    Raises:
        ConfigurationError: The installed library does not have an option.
        BundleError: The bundle has no model for the precision.
        BackendError: Library, driver or GPU are missing, or the library refuses the model; says what it said.
        ReasonError: The engine could not be written, or it is there and the timing cache that was named could not.
    """
    model = bundle.model_path(choices.precision)
    trt = load_library(choices.builder)
    gpu = Cuda().gpu if choices.builder == "tensorrt" else None
    messages = Messages(trt)
    started = time.monotonic()
    with stdout_to_stderr():
        builder = messages.made(trt.Builder)
        parsed = parse_network(trt, builder, messages, model=model, bundle=bundle)
        config = _configure(trt, builder, choices, form=bundle.manifest.input, messages=messages)
        cache = _timing_cache(trt, config, choices, gpu=gpu)
        require_writable(bundle.path / ENGINES)  # building may take minutes
        plan = _build(trt, builder, parsed, config, messages=messages, model=model)
    facts = _facts(bundle, model, choices, version=trt.__version__, gpu=gpu, plan=plan)
    path = engine_path(bundle, builder=choices.builder, device=_device(choices, gpu), precision=choices.precision)
    write_engine(path, plan, facts)
    if cache is not None:
        with suppress(*(() if choices.timing_cache else (ReasonError,))):  # of one that was not asked for
            keep_timing_cache(config, cache)
    file = EngineFile(path=path, facts=facts)
    return BuiltEngine(file=file, tensors=parsed.tensors, seconds=time.monotonic() - started)


def _configure(
    trt: ModuleType, builder: tensorrt.Builder, choices: EngineChoices, *, form: InputFormat, messages: Messages
) -> tensorrt.IBuilderConfig:
    config = builder.create_builder_config()
    if config is None:
        raise BackendError(f"{NAMES[choices.builder]} made no configuration ({messages.why()})")
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "STRICT_NANS"):  # not in every TensorRT 10
        config.set_flag(trt.BuilderFlag.STRICT_NANS)
    if choices.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if choices.runs_on != "same_gpu":
        level = _LEVELS[choices.runs_on]
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise ConfigurationError(f"--runs-on {choices.runs_on}: TensorRT {trt.__version__} does not have it")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    words = words_for(trt, choices.compute_capabilities) if choices.compute_capabilities else []
    if words:
        config.num_compute_capabilities = len(words)
    for index, word in enumerate(words):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, word), index):
            raise BackendError(f"TensorRT-RTX does not build for {word} ({messages.why()})")
    profile = builder.create_optimization_profile()
    sides = (form.height_px, form.width_px, form.channels)
    batches = (1, choices.typical_batch, choices.largest_batch)
    profile.set_shape(INPUT, *((batch, *sides) for batch in batches))
    if not profile or config.add_optimization_profile(profile) < 0:
        raise BackendError(f"{NAMES[choices.builder]} refuses batches of {batches} ({messages.why()})")
    return config


def _timing_cache(
    trt: ModuleType, config: tensorrt.IBuilderConfig, choices: EngineChoices, *, gpu: Gpu | None
) -> Path | None:
    """The file of kernel timings in use; None for TensorRT-RTX, where nothing is timed while building.

    One that nobody asked for, and that cannot be had or used, is done without.
    """
    if gpu is None:
        return None
    if choices.timing_cache is not None:
        attach_timing_cache(config, choices.timing_cache)
        return choices.timing_cache
    name = f"{gpu.name}-{gpu.compute_capability}-{trt.__version__}.timings".replace(" ", "-")
    try:
        path = cache_folder("tensorrt") / name
        attach_timing_cache(config, path)
    except ReasonError:
        return None
    return path


def _build(
    trt: ModuleType,
    builder: tensorrt.Builder,
    parsed: ParsedNetwork,
    config: tensorrt.IBuilderConfig,
    *,
    messages: Messages,
    model: Path,
) -> memoryview:
    with watch(trt, config):
        plan = builder.build_serialized_network(parsed.network, config)
    if plan is None or plan.nbytes == 0:
        raise BackendError(f"{model}: {trt.__name__} {trt.__version__} built no engine ({messages.why()})")
    return memoryview(plan)


def _facts(
    bundle: Bundle, model: Path, choices: EngineChoices, *, version: str, gpu: Gpu | None, plan: memoryview
) -> EngineFacts:
    named = choices.compute_capabilities
    runs_on = choices.runs_on
    if gpu is None:
        runs_on = "same_compute_capability" if named else "ampere_and_later"
    elif runs_on != "ampere_and_later":
        named = (gpu.compute_capability,)
    return EngineFacts(
        builder=choices.builder,
        builder_version=version,
        precision=choices.precision,
        gpu=None if gpu is None else gpu.name,
        compute_capabilities=named,
        runs_on=runs_on,
        version_compatible=choices.version_compatible,
        largest_batch=choices.largest_batch,
        source_file=model.name,
        source_sha256=bundle.manifest.files[model.name].sha256,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_size_bytes=plan.nbytes,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _device(choices: EngineChoices, gpu: Gpu | None) -> str:
    """What the engine's file name says: the GPU, or the compute capabilities."""
    if gpu is not None:
        return gpu.name if choices.runs_on == "same_gpu" else f"{gpu.name}-{choices.runs_on}"
    return "-".join(f"sm{one.replace('.', '')}" for one in choices.compute_capabilities) or "sm80-and-later"
