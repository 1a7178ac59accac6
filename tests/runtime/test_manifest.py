from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from reason_runtime.blind import BlindLimits
from reason_runtime.errors import BundleError
from reason_runtime.manifest import (
    FileEntry,
    Manifest,
    Quantisation,
    ScoreStatistics,
    content_hash,
    from_json,
    to_json,
)
from reason_runtime.strict_json import Json
from tests.runtime.bundles import make_manifest

FULL = replace(
    make_manifest(),
    files={"model.onnx": FileEntry(sha256="ab" * 32, size_bytes=7)},
    score_statistics=ScoreStatistics(
        images=9, mean=0.25, std=0.125, minimum=0.1, maximum=1e-7 + 0.5, pixel_threshold=0.75
    ),
    quantisation=Quantisation(
        trained_mean=0.25,
        images=8,
        sqnr_db=20.5,
        layers=3,
        float_layers={"stem": 31.25},
        scores=ScoreStatistics(images=9, mean=0.3, std=0.15, minimum=0.2, maximum=0.55, pixel_threshold=0.8),
    ),
    blind_limits=BlindLimits(
        mean_low=20.5,
        mean_high=240.0,
        black_share_high=0.625,
        saturated_share_high=0.1,
        sharpness_low=3.25,
        repeats=False,
        images=9,
    ),
)


def sealed(manifest: Manifest = FULL) -> Manifest:
    return replace(manifest, content_sha256=content_hash(manifest))


def spelled(values: dict[str, Json]) -> str:
    return json.dumps(values, indent=2) + "\n"


def parts() -> dict[str, Json]:
    found: dict[str, Json] = json.loads(to_json(sealed()))
    return found


def test_what_is_written_is_read_back_equal() -> None:
    assert from_json(to_json(sealed()), where="manifest.json") == sealed()


def test_what_has_no_value_is_null_and_read_back_equal() -> None:
    assert FULL.score_statistics is not None
    known = replace(FULL.score_statistics, pixel_threshold=None)
    bare = sealed(replace(FULL, score_statistics=known, blind_limits=None, quantisation=None))
    assert from_json(to_json(bare), where="manifest.json") == bare
    values = json.loads(to_json(bare))
    assert (values["score_statistics"]["pixel_threshold"], values["quantisation"]) == (None, None)


def test_int8_has_held_out_scores_of_its_own_and_other_precisions_those_of_float32() -> None:
    assert FULL.quantisation is not None
    assert FULL.scores_in("int8") == FULL.quantisation.scores != FULL.score_statistics
    assert [FULL.scores_in(precision) for precision in ("fp32", "fp16", "bf16")] == [FULL.score_statistics] * 3
    assert replace(FULL, quantisation=None).scores_in("int8") is None


def test_every_changed_byte_is_refused() -> None:
    content = to_json(sealed()).encode()
    for place in range(len(content)):
        for flip in (0x01, 0x20, 0x2A):
            changed = bytearray(content)
            changed[place] ^= flip
            with pytest.raises(BundleError, match="manifest.json"):
                from_json(changed.decode("latin-1"), where="manifest.json")


def test_the_content_hash_does_not_depend_on_the_order_of_keys() -> None:
    backwards = replace(FULL, method=replace(FULL.method, settings=dict(reversed(FULL.method.settings.items()))))
    assert content_hash(backwards) == content_hash(FULL)


@pytest.mark.parametrize(
    "key_path",
    [
        (),
        ("input",),
        ("method",),
        ("training",),
        ("score_statistics",),
        ("blind_limits",),
        ("thresholds", "fp32"),
        ("files", "model.onnx"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path(key_path: tuple[str, ...]) -> None:
    values = parts()
    place = values
    for key in key_path:
        inner = place[key]
        assert isinstance(inner, dict)
        place = inner
    place["surplus"] = 1
    expected = "manifest.json: " + ".".join((*key_path, "surplus")) + ": unknown key"
    with pytest.raises(BundleError, match=re.escape(expected)):
        from_json(spelled(values), where="manifest.json")


def test_a_missing_key_is_refused_with_its_path() -> None:
    values = parts()
    training = values["training"]
    assert isinstance(training, dict)
    del training["seed"]
    with pytest.raises(BundleError, match=r"manifest\.json: training\.seed: missing key"):
        from_json(spelled(values), where="manifest.json")


def test_a_threshold_of_an_unknown_precision_is_refused() -> None:
    values = parts()
    values["thresholds"] = {"int4": 1}
    with pytest.raises(BundleError, match=r"thresholds\.int4: unknown key; expected fp32, fp16, bf16, int8"):
        from_json(spelled(values), where="manifest.json")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_version_is_refused_before_its_keys_are_looked_at(version: Json) -> None:
    text = spelled({"format_version": version, "unheard_of": True})
    with pytest.raises(BundleError, match=rf"bundle format {version}, this version reads 2; export again"):
        from_json(text, where="manifest.json")


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("input", "height_px", "32", "a whole number"),
        ("input", "height_px", 32.0, "a whole number"),
        ("input", "height_px", True, "a whole number"),
        ("input", "height_px", -1, "a whole number"),
        ("input", "height_px", 64, "cannot be cropped"),
        ("blind_limits", "repeats", 1, "expected true or false"),
        ("input", "channels", 2, "expected 1 or 3"),
        ("input", "colour_order", "BGR", "expected one of RGB"),
        ("method", "teacher", 3, "a string"),
        ("method", "settings", [], "an object"),
        ("score_statistics", "mean", "low", "a finite number"),
        ("score_statistics", "mean", None, "a finite number"),
        ("training", "libraries", {"numpy": 2}, ".numpy: found 2, expected a string"),
    ],
)
def test_a_value_of_another_kind_is_refused(section: str, key: str, value: Json, expected: str) -> None:
    values = parts()
    place = values[section]
    assert isinstance(place, dict)
    place[key] = value
    with pytest.raises(BundleError, match=rf"manifest\.json: {section}.*{re.escape(expected)}"):
        from_json(spelled(values), where="manifest.json")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", "null", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000),
        *('{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", '{"a": -1' + "0" * 400 + "}"),
    ],
)
def test_what_is_not_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"^manifest\.json: [^:]"):
        from_json(text, where="manifest.json")


def test_numbers_that_are_not_finite_cannot_be_written() -> None:
    limit = replace(FULL.thresholds["fp32"], value=float("nan"))
    with pytest.raises(BundleError, match="finite numbers only"):
        content_hash(replace(FULL, thresholds={"fp32": limit}))
