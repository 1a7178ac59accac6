from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drift import LAWS, bundles, false_alarms, medians
from reason_runtime import load
from reason_runtime.bundle import Bundle, update_bundle
from reason_runtime.line.drift import DriftCheck, drift_limits, why_unchecked
from reason_runtime.line.health import Health
from reason_runtime.line.messages import Event
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.model import LineModel
from reason_runtime.line.pipeline import PipelineSettings
from reason_runtime.line.web.judge import WebSettings
from reason_runtime.manifest import Quantisation, ScoreStatistics
from tests.line.models import line_bundle, part
from tests.line.stations import Line, camera, running

# scores of parts are whole numbers of 1/128; the median of 100 may lie 1.1 std off the mean, from 3.8 to 8.2 of them
HELD_OUT = ScoreStatistics(images=64, mean=6 / 128, std=2 / 128, minimum=0.0, maximum=12 / 128)
GOOD, DARK, DEFECT = part(134), part(138), part(250)


def with_statistics(bundle: Bundle, known: ScoreStatistics | None = HELD_OUT) -> Path:
    update_bundle(bundle, manifest=dataclasses.replace(bundle.manifest, score_statistics=known))
    return bundle.path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_statistics(line_bundle(tmp_path_factory.mktemp("b") / "line"))


def judged(bundle: Path, *parts: np.ndarray, drift_parts: int = 100) -> Line:
    settings = PipelineSettings(drift_parts=drift_parts, heartbeat_s=0.005)
    with running(bundle, camera(*parts), settings=settings) as line:
        line.finish()
    return line


def said(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(event.level, event.name) for event in events]


def test_a_drift_is_a_fault_that_comes_and_goes_once_and_changes_neither_heartbeat_nor_decision(bundle: Path) -> None:
    line = judged(bundle, *[GOOD] * 120, *[DARK] * 300, *[GOOD] * 120)
    assert said(line.sink.events) == [("fault", "drift top"), ("info", "drift top")]
    assert line.sink.events[0].text.startswith(
        "the median of the last 100 scores, 0.07812, lies above what held-out good images allow, 0.02961 to 0.06414"
    )
    assert line.sink.events[1].text.startswith("well again; was: the median of the last 100 scores")
    assert set(line.sink.decisions) == {"OK"}
    beats = [beat for beat in line.sink.beats if "drift top" in beat.faults]
    assert beats
    assert all(beat.healthy for beat in beats)
    assert line.metrics.snapshot().drifts == {"top": 0.0}


def test_lower_scores_than_those_of_good_images_are_a_drift_too(bundle: Path) -> None:
    line = judged(bundle, *[part(128)] * 100)
    assert said(line.sink.events) == [("fault", "drift top")]
    assert "lies below" in line.sink.events[0].text
    assert line.metrics.snapshot().drifts["top"] < -1


def test_a_few_defects_and_fewer_parts_than_are_looked_back_on_are_no_drift(bundle: Path) -> None:
    line = judged(bundle, *[GOOD, GOOD, GOOD, GOOD, DEFECT] * 60)
    assert not line.sink.events
    assert line.sink.decisions.count("NG") == 60
    assert not judged(bundle, *[DARK] * 99).sink.events


def test_zero_switches_the_check_off(bundle: Path) -> None:
    line = judged(bundle, *[DARK] * 300, drift_parts=0)
    assert not line.sink.events
    assert line.metrics.snapshot().drifts == {}


def test_each_camera_is_looked_at_for_itself(bundle: Path) -> None:
    cameras = camera(*[GOOD] * 150, name="left"), camera(*[DARK] * 150, name="right")
    with running(bundle, *cameras, settings=PipelineSettings(drift_parts=100)) as line:
        line.finish()
    assert said(line.sink.events) == [("fault", "drift right")]


def test_a_median_at_the_limit_does_not_come_and_go(bundle: Path) -> None:
    events: list[Event] = []
    check = DriftCheck("top", parts=200, health=Health(events.append), metrics=Metrics())
    model = LineModel(load(bundle, threads=1))
    limits = drift_limits(HELD_OUT, parts=200)
    assert limits is not None
    scores = np.random.default_rng(1).normal(limits.centre + limits.reach, HELD_OUT.std, 5000)
    for score in scores:
        check.add(float(score), model)
    assert said(events) == [("fault", "drift top")]


@pytest.mark.parametrize(
    ("beyond", "back", "told"),
    [(10, 7.75, "0.06055, {}, but still above 0.05723; "), (2, 4.25, "0.0332, {}, but still below 0.03652; ")],
)
def test_a_median_that_is_back_but_not_far_enough_is_not_said_to_lie_beyond(
    bundle: Path, beyond: float, back: float, told: str
) -> None:
    health, model = Health(lambda _: None), LineModel(load(bundle, threads=1))
    check = DriftCheck("top", parts=100, health=health, metrics=Metrics())
    for score in [beyond] * 100 + [back] * 100:
        check.add(score / 128, model)
    within = "is back within what held-out good images allow, 0.02961 to 0.06414"
    assert told.format(within) in health.faults["drift top"]


def test_the_median_is_that_of_the_latest_scores(bundle: Path) -> None:
    metrics = Metrics()
    check = DriftCheck("top", parts=101, health=Health(lambda _: None), metrics=metrics)
    model, limits = LineModel(load(bundle, threads=1)), drift_limits(HELD_OUT, parts=101)
    assert limits is not None
    scores = np.round(np.random.default_rng(2).normal(0.05, 0.01, 600), 3)  # with ties
    for place, score in enumerate(scores):
        check.add(float(score), model)
        if place >= 100:
            median = np.median(scores[place - 100 : place + 1])
            assert metrics.snapshot().drifts["top"] == pytest.approx((median - limits.centre) / limits.reach)


def test_another_bundle_begins_anew_and_the_same_one_loaded_again_does_not(bundle: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    metrics = Metrics()
    check = DriftCheck("top", parts=100, health=Health(events.append), metrics=metrics)
    first, again = (LineModel(load(bundle, threads=1)) for _ in range(2))
    other = LineModel(load(with_statistics(line_bundle(tmp_path / "b", threshold=0.4)), threads=1))
    for _ in range(50):
        check.add(12 / 128, first)
    for _ in range(50):
        check.add(12 / 128, again)
    assert said(events) == [("fault", "drift top")]
    for _ in range(99):
        check.add(12 / 128, other)
    assert (said(events[1:]), metrics.snapshot().drifts) == ([("info", "drift top")], {})
    check.add(12 / 128, other)
    assert said(events[2:]) == [("fault", "drift top")]


def test_a_median_within_the_limits_is_no_drift_whatever_the_bundle_before_gave(bundle: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    first = LineModel(load(bundle, threads=1))
    other = LineModel(load(with_statistics(line_bundle(tmp_path / "b", threshold=0.4)), threads=1))
    new = DriftCheck("top", parts=100, health=Health(events.append), metrics=Metrics())
    for _ in range(100):
        new.add(7.75 / 128, first)  # more than 0.6 of the way to the limit
    assert said(events) == []
    check = DriftCheck("top", parts=100, health=Health(events.append), metrics=Metrics())
    for score, model in ((0.0, first), (7.75 / 128, other)):
        for _ in range(100):
            check.add(score, model)
    assert said(events) == [("fault", "drift top"), ("info", "drift top")]


def test_the_limits_by_hand() -> None:
    limits = drift_limits(HELD_OUT, parts=200)
    assert limits is not None
    unsure = math.sqrt(1 / 64 + math.pi / 2 / 200)
    assert limits.centre == 6 / 128
    assert limits.reach == pytest.approx(2 / 128 * math.sqrt(64 / 63) * (0.2 + 4.5 * (1 + 8 / 64) * unsure))
    assert drift_limits(dataclasses.replace(HELD_OUT, images=8), parts=200) is not None


@pytest.mark.parametrize(
    "known", [None, dataclasses.replace(HELD_OUT, images=7), dataclasses.replace(HELD_OUT, std=0.0)]
)
def test_a_bundle_that_knows_too_little_is_not_checked(known: ScoreStatistics | None, tmp_path: Path) -> None:
    path = with_statistics(line_bundle(tmp_path / "b"), known)
    assert why_unchecked(LineModel(load(path, threads=1))) == (
        "the bundle has no scores of 8 held-out good images or more that differ"
    )
    line = judged(path, *[DARK] * 150)
    assert not line.sink.events
    assert len(line.sink.answers) == 150


def test_tiles_are_not_checked(tmp_path: Path) -> None:
    path = with_statistics(line_bundle(tmp_path / "tiled", tile_px=32))
    web = WebSettings(overlap_px=8)
    assert "a frame of tiles" in (why_unchecked(LineModel(load(path, threads=1), web=web)) or "")
    with running(path, camera(*[DARK] * 150), settings=PipelineSettings(drift_parts=100), web=web) as line:
        line.finish()
    assert not line.sink.events
    assert sum(line.metrics.snapshot().scores["top"].counts) == 150


def int8_bundle(path: Path, *, scores: ScoreStatistics) -> Path:
    """`model_int8.onnx` is the same graph; only what the manifest knows of its scores differs."""
    bundle = line_bundle(path)
    manifest = dataclasses.replace(
        bundle.manifest,
        score_statistics=HELD_OUT,
        quantisation=Quantisation(
            images=8, sqnr_db=20.0, layers=1, float_layers={}, scores=scores, trained_mean=HELD_OUT.mean
        ),
    )
    update_bundle(bundle, manifest=manifest, files={"model_int8.onnx": (path / "model.onnx").read_bytes()})
    return path


def test_int8_is_compared_with_its_own_scores_and_begins_anew(tmp_path: Path) -> None:
    path = int8_bundle(tmp_path / "b", scores=dataclasses.replace(HELD_OUT, mean=12 / 128))
    fp32, int8 = (LineModel(load(path, precision=precision, threads=1)) for precision in ("fp32", "int8"))
    events: list[Event] = []
    metrics = Metrics()
    check = DriftCheck("top", parts=100, health=Health(events.append), metrics=metrics)
    for _ in range(100):
        check.add(12 / 128, fp32)
    assert said(events) == [("fault", "drift top")]
    check.add(12 / 128, int8)
    assert (said(events[1:]), metrics.snapshot().drifts) == ([("info", "drift top")], {})
    for _ in range(99):
        check.add(12 / 128, int8)
    assert metrics.snapshot().drifts == {"top": 0.0}
    assert len(events) == 2


def test_scores_are_counted_as_multiples_of_the_threshold(bundle: Path) -> None:
    line = judged(bundle, part(160), part(176), part(192), part(250), part(130))  # of 0.5: 0.5, 0.75, 1, 1.9, 0.03
    scores = line.metrics.snapshot().scores["top"]
    found = {bound: count for bound, count in zip((*scores.bounds, math.inf), scores.counts, strict=True) if count}
    assert found == {0.25: 1, 0.5: 1, 0.75: 1, 1.0: 1, 2.0: 1}
    assert scores.total == pytest.approx((32 + 48 + 64 + 122 + 2) / 64)


@pytest.mark.parametrize("law", ["normal", "Gumbel (skewness 1.1)", "exponential (skewness 2)"])
@pytest.mark.parametrize("images", [16, 64])
def test_a_stable_process_is_hardly_ever_called_a_drift(law: str, images: int) -> None:
    random = np.random.default_rng(3)
    low, high = medians(random, lines=5, parts=200_000, window=200)
    centre, reach = bundles(LAWS[law], images, count=20_000, random=random)
    assert false_alarms(LAWS[law], centre, reach, low, high, defects=0.0) < 0.002  # of lines, in 200,000 parts
    assert false_alarms(LAWS[law], centre, reach, low, high, defects=0.05) < 0.005
