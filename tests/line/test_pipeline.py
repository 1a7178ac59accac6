from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import numpy as np
import pytest

from reason_runtime import load
from reason_runtime.backends.openvino import OpenVinoSession
from reason_runtime.blind import limits_from
from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.line.grabber import Camera
from reason_runtime.line.health import Health
from reason_runtime.line.messages import Beat
from reason_runtime.line.model import LineModel
from reason_runtime.line.pipeline import PipelineSettings
from reason_runtime.line.queues import BoundedQueue
from reason_runtime.line.stage import Desk, Stage
from reason_runtime.line.watch import Watch
from reason_runtime.line.work import Work
from tests.line.models import FAIL, NAN, SLOW, line_bundle, part, trips_of
from tests.line.stations import Line, ListSink, ListSource, camera, running
from tests.line.test_journal import Book, frame
from tests.runtime.bundles import SIZE_PX


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("bundles") / "line").path


def numbers(line: Line, name: str = "top") -> list[int]:
    return [answer.number for answer in line.sink.answers if answer.camera == name]


def test_every_part_of_a_file_is_answered_in_order_with_the_scores_of_the_detector(bundle: Path) -> None:
    values = [*range(100, 256, 4)]
    with running(bundle, camera(*map(part, values))) as line:
        assert line.finish() == "ended"
    detector = load(bundle, threads=1)
    assert numbers(line) == list(range(len(values)))
    assert [answer.score for answer in line.sink.answers] == [detector(part(value)).score for value in values]
    assert line.sink.decisions == ["OK" if abs(value - 128) / 128 < 0.5 else "NG" for value in values]
    assert {answer.cause for answer in line.sink.answers} == {"judged"}


def test_a_rejected_part_says_where_it_is_wrong(bundle: Path) -> None:
    marked = np.full((2 * SIZE_PX, 3 * SIZE_PX, 3), 128, np.uint8)
    marked[20:24, 30:39] = 255
    with running(bundle, camera(marked, part(128))) as line:
        line.finish()
    rejected, passed = line.sink.answers
    (defect,) = rejected.defects
    assert (defect.x_px, defect.width_px, defect.first_line, defect.lines) == (30, 9, 20, 4)
    assert (defect.encoder_count, defect.lane) == (None, None)
    assert passed.defects == ()


def test_a_batch_gives_what_single_parts_give(bundle: Path) -> None:
    parts = [part(value) for value in range(100, 250, 10)]
    settings = PipelineSettings(batch=4, batch_wait_s=0.02)
    with running(bundle, camera(*parts), settings=settings) as line:
        line.finish()
    detector = load(bundle, threads=1)
    assert [answer.score for answer in line.sink.answers] == [detector(item).score for item in parts]


def test_openvino_judges_two_frames_that_wait_side_by_side(bundle: Path) -> None:
    model = LineModel(load(bundle, backend="openvino", threads=2))
    session = model.detector.session
    assert isinstance(session, OpenVinoSession)
    assert (model.batch, LineModel(load(bundle, threads=1)).batch) == (2, 1)
    model.prove()
    assert set(session.requests) == {1, 2}  # both are compiled before the first part
    parts = [part(value) for value in range(100, 250, 10)]
    settings = PipelineSettings(batch=model.batch, batch_wait_s=0.02)
    with running(bundle, camera(*parts), settings=settings, models={"top": model}) as line:
        line.finish()
    expected = [model.detector(item).score for item in parts]
    np.testing.assert_allclose([answer.score for answer in line.sink.answers], expected, rtol=1e-6)
    assert numbers(line) == list(range(len(parts)))


def test_cameras_share_one_model_and_each_keeps_its_order(bundle: Path) -> None:
    left = camera(*[part(130)] * 20, name="left")
    right = camera(*[part(250)] * 15, name="right")
    with running(bundle, left, right) as line:
        line.finish()
    assert numbers(line, "left") == list(range(20))
    assert numbers(line, "right") == list(range(15))
    assert {answer.decision for answer in line.sink.answers if answer.camera == "left"} == {"OK"}
    assert {answer.decision for answer in line.sink.answers if answer.camera == "right"} == {"NG"}
    assert len({answer.part_id for answer in line.sink.answers}) == 35


def test_a_part_that_misses_its_deadline_is_unknown_at_the_deadline_and_not_later(bundle: Path) -> None:
    settings = PipelineSettings(deadline_s=0.1)
    with running(bundle, camera(part(130, code=SLOW), live=True), settings=settings) as line:
        line.finish()
    (answer,) = line.sink.answers
    assert (answer.decision, answer.cause, answer.score) == ("UNKNOWN", "deadline", None)
    assert answer.latency_ms is not None
    taken_ms = 1000 * line.metrics.snapshot().stages["infer"].total
    assert 100 <= answer.latency_ms < taken_ms  # published before the model was done


def test_a_deadline_wakes_a_clock_that_meant_to_sleep_longer(bundle: Path) -> None:
    settings = PipelineSettings(deadline_s=0.2, heartbeat_s=600)
    with running(bundle, camera(0.3, part(130, code=SLOW), 2.0, live=True), settings=settings) as line:
        line.sink.wait(lambda: len(line.sink.answers) == 1, 1.8)  # the camera ends after 2.3 s, which wakes it too
        assert line.sink.causes == ["deadline"]
        line.pipeline.stop(0.5)


def test_a_late_part_does_not_make_those_behind_it_late_for_good(bundle: Path) -> None:
    settings = PipelineSettings(deadline_s=0.15, when_full="drop-oldest", queue_frames=2)
    items = [part(130, code=SLOW), *[item for _ in range(50) for item in (part(130), 0.05)]]
    with running(bundle, camera(*items, live=True), settings=settings) as line:
        line.finish()
    assert numbers(line) == list(range(51))
    assert line.sink.causes[0] == "deadline"
    assert line.sink.decisions[-4:] == ["OK"] * 4
    assert set(line.sink.causes) <= {"judged", "deadline", "dropped"}


def test_what_a_full_queue_drops_is_counted_and_published_unknown(bundle: Path) -> None:
    settings = PipelineSettings(when_full="drop-oldest", queue_frames=2)
    with running(bundle, camera(part(130, code=SLOW), 0.05, *[part(130)] * 10, live=True), settings=settings) as line:
        line.finish()
    assert numbers(line) == list(range(11))
    dropped = line.sink.causes.count("dropped")
    assert dropped >= 4
    assert all(answer.decision == "UNKNOWN" for answer in line.sink.answers if answer.cause == "dropped")
    assert line.metrics.snapshot().causes["top", "dropped"] == dropped
    assert line.sink.decisions[-1] == "OK"  # the newest are kept


def test_a_queue_that_blocks_loses_nothing(bundle: Path) -> None:
    settings = PipelineSettings(when_full="block", queue_frames=1)
    with running(bundle, camera(part(130, code=SLOW), *[part(130)] * 10), settings=settings) as line:
        line.finish()
    assert line.sink.decisions == ["OK"] * 11


def test_outputs_that_are_not_finite_are_unknown(bundle: Path) -> None:
    with running(bundle, camera(part(130), part(130, code=NAN), part(130))) as line:
        line.finish()
    assert line.sink.causes == ["judged", "not-finite", "judged"]
    assert line.sink.decisions == ["OK", "UNKNOWN", "OK"]


def test_without_a_threshold_everything_is_unknown(tmp_path: Path) -> None:
    with running(line_bundle(tmp_path / "b", threshold=None).path, camera(part(130))) as line:
        line.finish()
    assert (line.sink.decisions, line.sink.causes) == (["UNKNOWN"], ["no-threshold"])
    assert line.sink.answers[0].score == pytest.approx(2 / 128)


def test_an_incomplete_frame_is_unknown_and_counted(bundle: Path) -> None:
    with running(bundle, camera(part(130), "three packets are missing", part(130), live=True)) as line:
        line.finish()
    assert line.sink.causes == ["judged", "incomplete", "judged"]
    assert line.sink.answers[1].reason == "three packets are missing"
    assert line.metrics.snapshot().grabbed_bad["top"] == 1


def test_a_stage_that_fails_rejects_the_part_raises_a_fault_and_goes_on(bundle: Path) -> None:
    refused = np.zeros((8, 8, 3), np.uint8)  # smaller than any image may be
    settings = PipelineSettings(heartbeat_s=0.02)
    with running(bundle, camera(part(130), refused, 0.1, part(130), 0.1), settings=settings) as line:
        line.finish()
    assert line.sink.causes == ["judged", "error", "judged"]
    assert "smallest side" in (line.sink.answers[1].reason or "")
    faults = [event for event in line.sink.events if event.name == "prepare top"]
    assert [event.level for event in faults] == ["fault", "info"]
    unhealthy = [beat for beat in line.sink.beats if not beat.healthy]
    assert unhealthy
    assert len({beat.count for beat in unhealthy}) == 1  # it stands still
    assert line.sink.beats[-1].healthy


def run_stage(book: Book, health: Health, work: Work, *, onward: BoundedQueue[Work] | None = None) -> list[Work]:
    """Let a stage called `infer` take one piece of work to its end; gives what it handled."""
    queue: BoundedQueue[Work] = BoundedQueue(1, when_full="block")
    queue.put(work)
    queue.close()
    handled: list[Work] = []

    def handle(works: list[Work]) -> list[Work]:
        handled.extend(works)
        return works

    desk = Desk(ledger=book.ledger, health=health, metrics=book.metrics, watch=Watch())
    stage = Stage("infer", desk=desk, queue=queue, handle=handle, onward=onward, ended=lambda: None)
    stage.thread.start()
    stage.thread.join(5)
    assert not stage.thread.is_alive()
    return handled


def test_a_part_that_was_answered_meanwhile_goes_through_no_stage_and_clears_no_fault() -> None:
    book, health, late = Book(), Health(lambda _: None), frame(0)
    book.ledger.take(late)
    book.ledger.refuse(late, "deadline", "too late")
    health.fault("infer", "the device is gone")
    assert run_stage(book, health, Work(frame=late)) == []
    assert health.faults == {"infer": "the device is gone"}


def test_a_part_that_the_next_stage_takes_no_more_is_unknown() -> None:
    book, item = Book(), frame(0)
    book.ledger.take(item)
    onward: BoundedQueue[Work] = BoundedQueue(1, when_full="block")
    onward.close()
    assert len(run_stage(book, Health(lambda _: None), Work(frame=item), onward=onward)) == 1
    assert [(answer.decision, answer.cause) for answer in book.published] == [("UNKNOWN", "stopped")]


def test_a_fault_stops_the_heartbeat_though_one_of_that_name_did_not_before() -> None:
    health = Health(lambda _: None)
    health.fault("sink list", "is down", stops_heartbeat=False)
    assert health.beat(busy=False).healthy
    health.clear("sink list")
    health.fault("sink list", "is down")
    assert not health.beat(busy=False).healthy


def test_a_sink_that_wants_all_pictures_gets_those_of_rejects_with_their_maps(bundle: Path) -> None:
    sink = ListSink(wants_pictures=True, wants=lambda _: True)
    with running(bundle, camera(part(250), part(130)), sink=sink) as line:
        line.finish()
    assert sink.decisions == ["NG", "OK"]
    maps = [answer.picture.anomaly_map for answer in sink.answers if answer.picture is not None]
    assert [found is not None for found in maps] == [True, False]


def test_a_lost_camera_is_reported_and_reconnected_and_an_error_of_any_kind_counts_as_lost(bundle: Path) -> None:
    source = ListSource(
        [part(130), SourceError("unplugged"), part(131), ZeroDivisionError("odd"), part(132)], live=True
    )
    settings = PipelineSettings(heartbeat_s=0.05)
    with running(bundle, Camera(name="top", source=source), settings=settings) as line:
        line.finish()
    assert source.opened == 3
    assert line.sink.decisions == ["OK"] * 3
    texts = [event.text for event in line.sink.events if event.level == "fault"]
    assert any("unplugged" in text for text in texts)
    assert any("odd" in text for text in texts)
    assert any(not beat.healthy for beat in line.sink.beats)


def test_a_camera_that_stays_away_is_tried_after_pauses_that_double_up_to_the_longest(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason_runtime.line.grabber.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("reason_runtime.line.grabber.LONGEST_PAUSE_S", 0.04)
    source = ListSource([SourceError("unplugged")] * 12 + [part(130)], live=True)
    started_s = time.monotonic()
    with running(bundle, Camera(name="top", source=source)) as line:
        assert line.pipeline.wait(20)
        took_s = time.monotonic() - started_s
        line.finish()
    assert line.sink.decisions == ["OK"]
    assert 0.02 + 11 * 0.04 <= took_s < 10  # doubled to the end, the pauses would take 80 s


def test_a_triggered_camera_that_is_back_is_well_before_a_part_comes(bundle: Path) -> None:
    source = ListSource([part(130), SourceError("unplugged"), *[0.05] * 60], live=True)
    settings = PipelineSettings(heartbeat_s=0.05)
    with running(bundle, Camera(name="top", source=source), settings=settings) as line:
        line.sink.wait(lambda: len(line.sink.events) >= 2, 5)
        count = line.sink.beats[-1].count
        line.sink.wait(lambda: line.sink.beats[-1].count > count + 2, 5)
        assert not line.sink.beats[-1].busy
        line.close()
    assert [event.level for event in line.sink.events if event.name == "camera top"] == ["fault", "info"]
    assert numbers(line) == [0]


def test_a_file_that_cannot_be_read_is_an_error_after_everything_before_it_is_answered(bundle: Path) -> None:
    with running(bundle, camera(part(130), part(250), SourceError("file.avi: is cut off"))) as line:
        with pytest.raises(SourceError, match="is cut off"):
            line.finish()
        assert line.sink.decisions == ["OK", "NG"]
        assert line.sink.events == []  # where all are files, nobody would send a part


def test_a_file_that_cannot_be_read_ends_the_line_though_another_camera_goes_on(bundle: Path) -> None:
    broken = camera(part(130), SourceError("file.avi: is cut off"), name="file")
    with running(bundle, camera(*[0.05] * 400, live=True), broken) as line:
        assert line.pipeline.wait(10)
        with pytest.raises(SourceError, match="is cut off"):
            line.close()
    assert line.sink.decisions == ["OK"]
    assert ("line", "is stopping") in [(event.name, event.text) for event in line.sink.events]  # no part may come now
    assert not line.sink.beats[-1].healthy


def test_a_threshold_of_zero_rejects_every_part_and_is_no_fault(tmp_path: Path) -> None:
    with running(line_bundle(tmp_path / "b", threshold=0.0).path, camera(part(130), part(131))) as line:
        line.finish()
    assert line.sink.decisions == ["NG", "NG"]
    assert line.sink.events == []


def test_a_camera_that_goes_quiet_makes_the_heartbeat_stand_still(bundle: Path) -> None:
    source = Camera(name="top", source=ListSource([part(130), *[0.05] * 8, part(130)], live=True), stall_s=0.1)
    with running(bundle, source, settings=PipelineSettings(heartbeat_s=0.02)) as line:
        line.finish()
    events = [event for event in line.sink.events if event.name == "camera top"]
    assert [event.level for event in events] == ["fault", "info"]
    assert "no frame for more than 0.1 s" in events[0].text


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(1)
    good = np.stack([np.clip(part(130) + random.normal(0, 9, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in range(9)])
    return line_bundle(tmp_path_factory.mktemp("b") / "b", threshold=2.0, blind_limits=limits_from(good)).path


def test_a_black_frame_that_the_model_would_pass_is_unknown_and_a_fault(seeing: Path) -> None:
    noisy = np.clip(part(130) + np.random.default_rng(7).normal(0, 9, (32, 32, 3)), 0, 255).astype(np.uint8)
    black = np.zeros((32, 32, 3), np.uint8)
    assert load(seeing)(black).decision == "OK"
    with running(seeing, camera(noisy, black, noisy, live=True)) as line:
        line.finish()
    assert line.sink.decisions == ["OK", "UNKNOWN", "OK"]
    assert line.sink.causes[1] == "blind"
    assert "too dark" in (line.sink.answers[1].reason or "")
    assert [event.level for event in line.sink.events if event.name == "sight top"] == ["fault", "info"]


def test_a_camera_that_gives_the_same_bytes_again_is_frozen(seeing: Path) -> None:
    random = np.random.default_rng(5)
    frames = [np.clip(part(130) + random.normal(0, 9, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    items = [frames[0], frames[0], frames[1], frames[0]]
    with running(seeing, camera(*items, live=True, checks_freezing=True)) as line:
        line.finish()
    assert line.sink.causes == ["judged", "blind", "judged", "judged"]
    assert "frozen" in (line.sink.answers[1].reason or "")


@pytest.mark.parametrize(("repeats", "cause"), [(None, "blind"), (True, "judged")])
def test_without_limits_the_same_bytes_are_frozen_and_where_good_pictures_repeat_they_are_not(
    seeing: Path, tmp_path: Path, repeats: bool | None, cause: str
) -> None:
    known = LineModel(load(seeing, threads=1)).blind_limits
    assert known is not None
    limits = None if repeats is None else dataclasses.replace(known, repeats=repeats)
    noisy = np.clip(part(130) + np.random.default_rng(5).normal(0, 9, (32, 32, 3)), 0, 255).astype(np.uint8)
    path = line_bundle(tmp_path / "b", threshold=2.0, blind_limits=limits).path
    with running(path, camera(noisy, noisy, live=True, checks_freezing=True)) as line:
        line.finish()
    assert line.sink.causes == ["judged", cause]


@pytest.mark.parametrize(("kind", "cause"), [("black", "too dark"), ("again", "frozen")])
def test_a_frame_that_was_prepared_before_a_swap_is_blind_by_the_limits_of_the_new_bundle(
    seeing: Path, tmp_path: Path, kind: str, cause: str
) -> None:
    new = LineModel(load(seeing, threads=1))
    assert new.blind_limits is not None
    of_still_pictures = dataclasses.replace(new.blind_limits, repeats=True)
    old = line_bundle(tmp_path / "old", threshold=2.0, blind_limits=of_still_pictures if kind == "again" else None).path
    random = np.random.default_rng(5)
    slow, noisy = (np.clip(part(130) + random.normal(0, 9, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in range(2))
    slow[0, 0] = SLOW
    last = np.zeros((32, 32, 3), np.uint8) if kind == "black" else noisy
    with running(old, camera(slow, noisy, last, live=True, checks_freezing=True)) as line:
        time.sleep(0.25)  # the last one waits behind the slow one
        line.pipeline.swap({"top": new})
        line.finish()
    assert line.sink.causes == ["judged", "judged", "blind"]
    assert cause in (line.sink.answers[2].reason or "")


def test_a_sink_that_is_down_delays_no_decision_and_gets_everything_later(bundle: Path) -> None:
    sink = ListSink(down=True)
    with running(bundle, camera(*[part(130)] * 30, 0.3, live=True), sink=sink) as line:
        assert line.pipeline.wait(10)
        latest = line.metrics.snapshot().latest_ms
        assert len(latest) == 30
        assert max(latest) < 1000
        assert sink.messages == []
        sink.down = False
        sink.wait(lambda: len(sink.answers) == 30)
        line.close()
    assert numbers(line) == list(range(30))


def test_a_slow_sink_delays_no_decision(bundle: Path) -> None:
    with running(bundle, camera(*[part(130)] * 20), sink=ListSink(pause_s=1.0)) as line:
        assert line.pipeline.wait(10)
        assert max(line.metrics.snapshot().latest_ms) < 1000
        line.close()


def test_another_bundle_is_swapped_in_and_back_without_losing_a_part(bundle: Path, tmp_path: Path) -> None:
    strict = LineModel(load(line_bundle(tmp_path / "strict", threshold=0.01).path, threads=1))
    frames = [item for _ in range(60) for item in (part(130), 0.01)]
    with running(bundle, camera(*frames, live=True)) as line:
        line.sink.wait(lambda: len(line.sink.answers) >= 10)
        line.pipeline.swap({"top": strict})
        line.pipeline.swap({"top": strict})  # asked twice: the way back still leads to the bundle before
        line.sink.wait(lambda: len(line.sink.answers) >= 30)
        line.pipeline.swap_back()
        line.finish()
    assert numbers(line) == list(range(60))
    decisions = "".join(decision[0] for decision in line.sink.decisions)
    first, _, _ = decisions.partition("N")
    assert decisions.strip("O").strip("N") == ""  # O...ON...NO...O
    assert 10 <= len(first) < 30
    assert {answer.bundle for answer in line.sink.answers if answer.decision == "NG"} == {strict.content}
    assert strict.content not in {answer.bundle for answer in line.sink.answers if answer.decision == "OK"}
    assert "".join(decisions).count("N") >= 5


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("bundles") / "wide", size_px=2 * SIZE_PX, threshold=0.1).path


@pytest.mark.parametrize("batch", [1, 6])
def test_each_camera_is_judged_by_its_own_bundle(bundle: Path, wide_bundle: Path, batch: int) -> None:
    values = [*range(100, 250, 6)]
    top, side = ([part(value, size_px=size) for value in values] for size in (SIZE_PX, 2 * SIZE_PX))
    wide = LineModel(load(wide_bundle, threads=1))
    settings = PipelineSettings(batch=batch, batch_wait_s=0.02 if batch > 1 else 0)
    with running(bundle, camera(*top), camera(*side, name="side"), models={"side": wide}, settings=settings) as line:
        line.finish()
    for name, path, parts in (("top", bundle, top), ("side", wide_bundle, side)):
        judge = load(path, threads=1)
        answers = [answer for answer in line.sink.answers if answer.camera == name]
        assert [answer.number for answer in answers] == list(range(len(parts)))
        assert [answer.score for answer in answers] == [judge(item).score for item in parts]
        assert [answer.decision for answer in answers] == [judge(item).decision for item in parts]
        assert {answer.bundle for answer in answers} == {judge.bundle.manifest.content_sha256[:12]}


@pytest.mark.parametrize("batch", [1, 4])
def test_a_model_that_fails_rejects_its_own_cameras_parts_and_its_fault_stays(
    bundle: Path, wide_bundle: Path, batch: int
) -> None:
    wide = LineModel(load(wide_bundle, threads=1))
    settings = PipelineSettings(heartbeat_s=0.02, batch=batch, batch_wait_s=0.05 if batch > 1 else 0)
    top = camera(*[item for _ in range(20) for item in (part(130), 0.02)], live=True)
    bad = part(130, code=FAIL, size_px=2 * SIZE_PX)
    side = camera(*[item for _ in range(10) for item in (bad, 0.02)], 0.3, bad[1:], name="side", live=True)
    with running(bundle, top, side, models={"side": wide}, settings=settings) as line:
        line.finish()
    causes = {name: [item.cause for item in line.sink.answers if item.camera == name] for name in ("top", "side")}
    assert causes == {"top": ["judged"] * 20, "side": ["error"] * 10 + ["judged"]}
    (reason,) = {item.reason for item in line.sink.answers if item.cause == "error"}
    assert reason is not None
    assert reason.startswith("infer side failed (BackendError: ")
    assert [(event.name, event.level) for event in line.sink.events] == [
        ("infer side", "fault"),
        ("infer side", "info"),
    ]


def test_the_bundles_of_all_cameras_are_swapped_at_once_and_back(
    bundle: Path, wide_bundle: Path, tmp_path: Path
) -> None:
    wide = LineModel(load(wide_bundle, threads=1))
    strict = LineModel(load(line_bundle(tmp_path / "strict", threshold=0.01).path, threads=1))
    frames = [item for _ in range(60) for item in (part(130), 0.01)]
    cameras = camera(*frames, live=True), camera(*frames, name="side", live=True)
    with running(bundle, *cameras, models={"side": wide}) as line:
        loose = line.pipeline.models.of("top")
        line.sink.wait(lambda: len(line.sink.answers) >= 10)
        line.pipeline.swap({"top": strict, "side": wide})
        line.sink.wait(lambda: len(line.sink.answers) >= 40)
        line.pipeline.swap_back()
        line.finish()
    judged_by = {
        name: list(dict.fromkeys(answer.bundle for answer in line.sink.answers if answer.camera == name))
        for name in ("top", "side")
    }
    assert judged_by == {"top": [loose.content, strict.content], "side": [wide.content]}
    decisions = "".join(item.decision[0] for item in line.sink.answers if item.camera == "top")
    assert re.fullmatch("O+N+O+", decisions)
    assert [event.text for event in line.sink.events] == [
        f"judging with bundle {strict.content} at threshold 0.01 (top), {wide.content} at threshold 0.1 (side) "
        "from now on",
        f"back to bundle {loose.content} at threshold 0.5 (top), {wide.content} at threshold 0.1 (side)",
    ]


def test_another_threshold_of_the_same_bundle_is_gone_back_from(bundle: Path) -> None:
    strict = LineModel(load(bundle, threads=1, threshold=0.01))
    with running(bundle, camera(*[item for _ in range(60) for item in (part(130), 0.01)], live=True)) as line:
        line.pipeline.swap({"top": strict})
        line.sink.wait(lambda: line.sink.decisions[-1:] == ["NG"])
        line.pipeline.swap_back()
        line.finish()
    assert line.sink.decisions[-1] == "OK"
    assert line.sink.answers[-1].threshold == 0.5
    assert line.sink.events[-1].text == f"back to bundle {strict.content} at threshold 0.5"


def test_where_there_is_no_bundle_to_go_back_to_an_event_says_so(tmp_path: Path) -> None:
    untaught = line_bundle(tmp_path / "b", threshold=None)
    with running(untaught.path, camera(part(130))) as line:
        line.pipeline.swap_back()
        line.finish()
    content = untaught.manifest.content_sha256[:12]
    expected = f"there is none to go back to; judging on with bundle {content} without a threshold"
    assert line.sink.events[0].text.startswith(expected)


def test_stopping_waits_for_what_is_in_flight_where_there_is_time(bundle: Path) -> None:
    with running(bundle, camera(*[part(130, code=SLOW)] * 2, 0.5, live=True)) as line:
        time.sleep(0.2)
        assert line.close(drain_s=30) == "stopped"
    assert line.sink.causes == ["judged"] * 2


def test_the_heartbeat_stands_still_from_the_moment_of_a_stop(bundle: Path) -> None:
    settings = PipelineSettings(heartbeat_s=0.02)
    with running(bundle, camera(part(130, code=SLOW), 0.5, live=True), settings=settings) as line:
        time.sleep(0.2)
        started_s = time.monotonic()
        assert line.close(drain_s=30) == "stopped"
    assert line.sink.causes == ["judged"]
    told = zip(line.sink.messages, line.sink.times_s, strict=True)
    later = [item for item, at_s in told if isinstance(item, Beat) and at_s > started_s + 0.1]
    assert len(later) > 2
    assert not any(beat.healthy for beat in later)
    assert len({beat.count for beat in later}) == 1
    assert later[-1].faults == {"line": "is stopping"}


def test_a_stop_is_told_without_waiting_for_the_next_heartbeat(bundle: Path) -> None:
    settings = PipelineSettings(heartbeat_s=600)
    with running(bundle, camera(part(130, code=SLOW), 0.5, live=True), settings=settings) as line:
        time.sleep(0.2)
        line.close(drain_s=30)
    assert [beat.healthy for beat in line.sink.beats] == [True, False]
    assert line.sink.beats[-1].busy  # the part is still judged


def test_the_end_of_files_is_no_fault(bundle: Path) -> None:
    with running(bundle, camera(part(130))) as line:
        assert line.finish() == "ended"
    assert line.sink.events == []
    assert all(beat.healthy for beat in line.sink.beats)


def test_stopping_finishes_what_is_in_flight_and_answers_the_rest(bundle: Path) -> None:
    frames = [part(130), *[part(130, code=SLOW)] * 6]
    with running(bundle, camera(*frames, live=True), settings=PipelineSettings(queue_frames=8)) as line:
        time.sleep(0.2)
        started_s = time.monotonic()
        assert line.close(drain_s=0.4) == "stopped"
        assert time.monotonic() - started_s < 2
    assert numbers(line) == list(range(len(line.sink.answers)))
    assert line.sink.causes[0] == "judged"
    assert set(line.sink.causes[1:]) == {"judged", "stopped"} or set(line.sink.causes[1:]) == {"stopped"}


def test_a_call_that_takes_too_long_is_answered_unknown_and_ends_the_line(bundle: Path) -> None:
    settings = PipelineSettings(hang_s=0.1, heartbeat_s=0.02)
    frames = [part(130), part(130, code=SLOW), part(130), part(130)]
    with running(bundle, camera(*frames, *[0.05] * 20, live=True), settings=settings) as line:
        assert line.pipeline.wait(5)
        assert line.close(drain_s=30) == "hung"
        assert "infer" in {thread.name for thread in line.pipeline.threads if thread.is_alive()}  # nobody waits for it
    assert numbers(line) == list(range(len(line.sink.answers)))
    assert line.sink.causes[:2] == ["judged", "hung"]
    assert set(line.sink.decisions[1:]) == {"UNKNOWN"}
    assert "infer hangs" in (line.sink.answers[1].reason or "")
    assert [(event.level, event.name) for event in line.sink.events] == [("fault", "hung")]  # no part may come now
    assert any(beat.busy for beat in line.sink.beats)


def test_cameras_that_wait_their_turn_for_the_model_do_not_hang(tmp_path: Path) -> None:
    busy = line_bundle(tmp_path / "busy", slow_trips=trips_of(0.15)).path
    cameras = [camera(part(130, code=SLOW), name=f"c{number}") for number in range(14)]
    with running(busy, *cameras, settings=PipelineSettings(hang_s=0.5)) as line:
        assert line.finish() == "ended"
    assert line.sink.causes == ["judged"] * 14
    stages = line.metrics.snapshot().stages
    assert stages["prepare"].total < 1  # the wait is that for the model, not part of preparing
    assert stages["wait for infer"].total > 2


def test_stopping_takes_as_long_for_many_silent_cameras_as_for_one(bundle: Path) -> None:
    cameras = [camera(2.0, name=f"c{number}", live=True) for number in range(8)]
    with running(bundle, *cameras) as line:
        started_s = time.monotonic()
        line.close(drain_s=1.0)
        assert time.monotonic() - started_s < 1.5


def test_a_part_id_that_comes_twice_keeps_its_answer_and_the_second_part_is_unknown(bundle: Path) -> None:
    class Labelled(ListSource):
        def read(self):  # type: ignore[no-untyped-def]
            grab = super().read()
            return (
                grab
                if isinstance(grab, str)
                else type(grab)(grabbed_ns=grab.grabbed_ns, image=grab.image, part_id="A7")
            )

    with running(bundle, Camera(name="top", source=Labelled([part(130), part(250)]))) as line:
        line.finish()
    first, second = line.sink.answers
    assert (first.part_id, first.decision) == ("A7", "OK")
    assert (second.part_id, second.decision, second.cause) == ("A7#top-1", "UNKNOWN", "repeated")


def test_cameras_of_one_name_are_refused(bundle: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="each with its own name"),
        running(bundle, camera(part(1)), camera(part(2))),
    ):
        pass


@pytest.mark.parametrize(
    "settings",
    [
        {"deadline_s": 0.0},
        {"queue_frames": 0},
        {"batch": 0},
        {"batch_wait_s": -1.0},
        {"deadline_s": float("inf")},
        {"hang_s": 0.0},
        {"heartbeat_s": 0.0},
        {"drift_parts": 99},
        {"when_full": "drop-newest"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        PipelineSettings(**settings)  # type: ignore[arg-type]
