"""Which engine may run where, decided before any library sees it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from reason_runtime.bundle import Bundle
from reason_runtime.choices import Builder
from reason_runtime.engine_facts import EngineFacts, Gpu, from_json, to_json
from reason_runtime.engine_store import (
    EngineFile,
    choose_engine,
    engine_path,
    engines,
    misfit,
    read_engine,
    rebuild_command,
    write_engine,
)
from reason_runtime.errors import BackendError, BundleError
from reason_runtime.strict_json import Json
from tests.runtime.bundles import make_bundle

PLAN = b"a plan that only the library understands"
HERE = Gpu(name="NVIDIA RTX A2000", compute_capability="8.6")
VERSION = "10.3.0"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def facts(bundle: Bundle) -> EngineFacts:
    return EngineFacts(
        builder="tensorrt",
        builder_version=VERSION,
        precision="fp32",
        gpu=HERE.name,
        compute_capabilities=("8.6",),
        runs_on="same_gpu",
        version_compatible=False,
        largest_batch=16,
        source_file="model.onnx",
        source_sha256=bundle.manifest.files["model.onnx"].sha256,
        engine_sha256=hashlib.sha256(PLAN).hexdigest(),
        engine_size_bytes=len(PLAN),
        created="2025-11-23T12:00:00+00:00",
    )


def put(bundle: Bundle, facts: EngineFacts, *, device: str = HERE.name) -> EngineFile:
    path = engine_path(bundle, builder=facts.builder, device=device, precision=facts.precision)
    write_engine(path, memoryview(PLAN), facts)
    return EngineFile(path=path, facts=facts)


def chosen(bundle: Bundle, *, builder: Builder = "tensorrt", gpu: Gpu = HERE) -> EngineFile:
    return choose_engine(bundle, builder=builder, precision="fp32", gpu=gpu, builder_version=VERSION, command="BUILD")


def test_an_engine_is_found_as_it_was_written(bundle: Bundle, facts: EngineFacts) -> None:
    engine = put(bundle, facts)
    assert engine.path == bundle.path / "engines" / "nvidia-rtx-a2000_fp32.engine"
    assert chosen(bundle) == engine
    assert read_engine(engine, command="") == PLAN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"source_sha256": "0" * 64}, "was built from another model.onnx than the bundle holds"),
        ({"source_file": "model_fp16.onnx"}, "was built from another model_fp16.onnx than the bundle holds"),
        ({"builder_version": "10.3.1"}, "was built by tensorrt 10.3.1, installed is 10.3.0"),
        ({"builder_version": "10.2.0"}, "was built by tensorrt 10.2.0, installed is 10.3.0"),
        ({"builder_version": "10.2.0", "version_compatible": True}, None),
        ({"builder_version": "9.12.0", "version_compatible": True}, None),
        (
            {"builder_version": "11.0.0", "version_compatible": True},
            "was built by tensorrt 11.0.0, installed is 10.3.0",
        ),
        ({"gpu": "NVIDIA L4"}, "was tuned on NVIDIA L4, this machine has NVIDIA RTX A2000 (8.6)"),
        ({"gpu": "NVIDIA L4", "runs_on": "same_compute_capability"}, None),
        (
            {"compute_capabilities": ("8.7",)},
            "was built for compute capability 8.7, this machine has NVIDIA RTX A2000 (8.6)",
        ),
        ({"compute_capabilities": ("8.9", "8.6"), "runs_on": "same_compute_capability", "gpu": None}, None),
        ({"compute_capabilities": (), "runs_on": "ampere_and_later", "gpu": None}, None),
    ],
)
def test_an_engine_that_does_not_fit_says_why(
    bundle: Bundle, facts: EngineFacts, changes: dict[str, object], reason: str | None
) -> None:
    found = misfit(dataclasses.replace(facts, **changes), bundle, gpu=HERE, builder_version=VERSION)  # type: ignore[arg-type]
    assert found == reason


@pytest.mark.parametrize(("capability", "fits"), [("7.5", False), ("8.0", True), ("8.7", True), ("12.0", True)])
def test_ampere_and_later_counts_compute_capabilities_as_numbers(
    bundle: Bundle, facts: EngineFacts, capability: str, fits: bool
) -> None:
    portable = dataclasses.replace(facts, runs_on="ampere_and_later", compute_capabilities=(), gpu=None)
    gpu = Gpu(name="another", compute_capability=capability)
    assert (misfit(portable, bundle, gpu=gpu, builder_version=VERSION) is None) == fits


def test_of_several_that_fit_the_closest_then_the_latest_is_taken(bundle: Bundle, facts: EngineFacts) -> None:
    put(bundle, dataclasses.replace(facts, runs_on="ampere_and_later", created="2026-01-01"), device="any")
    put(bundle, dataclasses.replace(facts, runs_on="same_compute_capability", created="2025-01-01"), device="old")
    later = put(bundle, dataclasses.replace(facts, runs_on="same_compute_capability", created="2025-06-01"), device="b")
    assert chosen(bundle) == later
    exact = put(bundle, facts)
    assert chosen(bundle) == exact


def test_no_engine_gives_the_command_that_builds_one(bundle: Bundle, facts: EngineFacts) -> None:
    put(bundle, facts)  # TensorRT's does not count for TensorRT-RTX
    with pytest.raises(BackendError) as told:
        chosen(bundle, builder="tensorrt_rtx")
    assert str(told.value) == f"{bundle.path}: has no fp32 engine of tensorrt_rtx; run `BUILD`"


@pytest.mark.parametrize(
    ("builder", "capabilities", "more"),
    [
        ("tensorrt", (), ""),
        ("tensorrt_rtx", ("8.0", "8.6"), " --compute-capability 8.6"),
        ("tensorrt_rtx", ("7.5", "8.0"), ""),  # it is later than what the library knows
    ],
)
def test_the_command_names_what_the_builder_can_be_told(
    bundle: Bundle, builder: Builder, capabilities: tuple[str, ...], more: str
) -> None:
    command = rebuild_command(bundle, builder=builder, precision="int8", gpu=HERE, capabilities=capabilities)
    assert command == f"reason-export engine {bundle.path} --precision int8 --builder {builder}{more}"


def test_every_engine_that_does_not_fit_is_named_with_its_reason(bundle: Bundle, facts: EngineFacts) -> None:
    first = put(bundle, dataclasses.replace(facts, gpu="NVIDIA L4"), device="NVIDIA L4")
    second = put(bundle, dataclasses.replace(facts, builder_version="10.9.0"))
    with pytest.raises(BackendError) as told:
        chosen(bundle)
    assert str(told.value) == (
        f"{first.path} was tuned on NVIDIA L4, this machine has NVIDIA RTX A2000 (8.6); "
        f"{second.path} was built by tensorrt 10.9.0, installed is 10.3.0; run `BUILD`"
    )


@pytest.mark.parametrize("place", range(0, len(PLAN), 7))
def test_every_changed_byte_of_an_engine_is_refused(bundle: Bundle, facts: EngineFacts, place: int) -> None:
    engine = put(bundle, facts)
    broken = bytearray(PLAN)
    broken[place] ^= 1
    engine.path.write_bytes(broken)
    with pytest.raises(BundleError, match=r"_fp32\.engine: was changed .*; run `rebuild it`"):
        read_engine(engine, command="rebuild it")


def test_a_cut_or_missing_engine_is_refused(bundle: Bundle, facts: EngineFacts) -> None:
    engine = put(bundle, facts)
    engine.path.write_bytes(PLAN[:-1])
    with pytest.raises(BundleError, match="was changed"):
        read_engine(engine, command="")
    engine.path.unlink()
    with pytest.raises(BundleError, match=r"cannot be read \(No such file or directory\); run `rebuild it`"):
        read_engine(engine, command="rebuild it")


def side_car(facts: EngineFacts) -> dict[str, Json]:
    found: dict[str, Json] = json.loads(to_json(facts))
    return found


def test_a_side_car_reads_back_the_same(facts: EngineFacts) -> None:
    portable = dataclasses.replace(facts, gpu=None, compute_capabilities=())
    for written in (facts, portable):
        assert from_json(to_json(written), where="x.json") == written


def test_every_key_of_a_side_car_must_be_there_and_no_other(facts: EngineFacts) -> None:
    whole = side_car(facts)
    for key in whole:
        with pytest.raises(BundleError, match=f"x.json: {key}: missing key"):
            from_json(json.dumps({name: value for name, value in whole.items() if name != key}), where="x.json")
    with pytest.raises(BundleError, match="x.json: more: unknown key"):
        from_json(json.dumps(whole | {"more": 1}), where="x.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 2, "x.json: engine format 2, this version reads 1"),
        ("builder", "onnxruntime", 'x.json: builder: found "onnxruntime", expected one of tensorrt, tensorrt_rtx'),
        ("precision", "fp8", 'x.json: precision: found "fp8"'),
        ("runs_on", "everything", 'x.json: runs_on: found "everything"'),
        ("gpu", 3, "x.json: gpu: found 3, expected a string"),
        ("compute_capabilities", "8.6", r"x.json: compute_capabilities: expected a list such as \[\"8.6\"\]"),
        ("compute_capabilities", ["8"], "x.json: compute_capabilities: expected a list"),
        ("version_compatible", 1, "x.json: version_compatible: found 1, expected true or false"),
        ("largest_batch", -1, "x.json: largest_batch: found -1"),
        ("engine_size_bytes", "many", "x.json: engine_size_bytes: found"),
    ],
)
def test_a_wrong_value_in_a_side_car_is_named(facts: EngineFacts, key: str, value: Json, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        from_json(json.dumps(side_car(facts) | {key: value}), where="x.json")


def test_a_broken_side_car_is_named_and_hidden_files_are_not_read(bundle: Bundle, facts: EngineFacts) -> None:
    engine = put(bundle, facts)
    (engine.path.parent / ".left.json").write_bytes(b"{")
    assert engines(bundle) == [engine]
    engine.path.with_suffix(".json").write_bytes(b"\xff")
    with pytest.raises(BundleError, match=r"nvidia-rtx-a2000_fp32\.json: cannot be read .*; build the engine again$"):
        engines(bundle)
    engine.path.with_suffix(".json").write_bytes(b"{")
    with pytest.raises(BundleError, match=r"_fp32\.json: is not JSON .*; build the engine again, or remove the file$"):
        engines(bundle)
