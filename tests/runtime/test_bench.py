from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from openvino import opset13
from PIL import Image

from reason_runtime.bench import LatencyPlan, measure_latency, time_calls, times_of
from reason_runtime.bench_compare import compare_files
from reason_runtime.bundle import open_bundle
from reason_runtime.cold_start import measure_cold_start
from reason_runtime.detection_bench import _auroc
from reason_runtime.detector import load
from reason_runtime.digest import file_sha256
from reason_runtime.errors import BackendError, DataError
from reason_runtime.image import square_format
from reason_runtime.power import power_w
from reason_runtime.roofline import count_gflop
from reason_runtime.throughput import settings
from reason_train.metrics import auroc
from reason_train.ranking import rank
from tests.commands import call
from tests.pictures import good_picture, save
from tests.runtime.bundles import make_bundle

SPEED = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "fps", "backend", "precision", "environment")
SHORT = ("--warm-up", 1, "--minimum-count", 5, "--minimum-seconds", 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle").path


@pytest.mark.parametrize("command", ["latency", "throughput", "pipeline"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_speed_has_its_keys_and_its_environment(command: str, backend: str, bundle: Path) -> None:
    more = ("--frame-size", 48, 64) if command == "pipeline" else ()
    done = call("reason-bench", command, bundle, "--backend", backend, *SHORT, *more, "--json")
    assert done.status == 0, done.log
    found = json.loads(done.output)
    assert set(SPEED) <= set(found)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert (found["backend"], found["precision"]) == (backend, "fp32")
    assert backend in found["environment"]["session"]
    assert call("reason-bench", command, bundle, "--backend", backend, *SHORT, *more).output


def test_percentiles_are_times_that_were_seen() -> None:
    times = times_of([int(1e6 * i) for i in range(1, 101)])
    assert (times.p50_ms, times.p90_ms, times.p99_ms, times.max_ms) == (50, 90, 99, 100)
    assert times.fps == pytest.approx(100 / 5.05)
    assert (times.p50_low_ms, times.p50_high_ms) == (5, 95)  # of 1 to 10, and of 91 to 100
    few = times_of([3_000_000, 1_000_000])
    assert (few.p50_low_ms, few.p50_high_ms) == (1, 3)


@pytest.mark.parametrize(("minimum_count", "minimum_s"), [(7, 0.0), (1, 0.05)])
def test_both_minima_are_met(minimum_count: int, minimum_s: float) -> None:
    calls: list[int] = []
    plan = LatencyPlan(warm_up=3, minimum_count=minimum_count, minimum_s=minimum_s)
    started_s = time.perf_counter()
    times = time_calls(lambda: calls.append(1), plan=plan)
    assert time.perf_counter() - started_s >= minimum_s
    assert len(calls) == times.count + 3
    assert times.count >= minimum_count


def test_a_pause_goes_before_each_call_and_is_no_part_of_it() -> None:
    called_s: list[float] = []

    def call() -> None:
        time.sleep(0.002)
        called_s.append(time.monotonic())

    times = time_calls(call, plan=LatencyPlan(warm_up=0, minimum_count=5, minimum_s=0.0, pause_ms=50))
    assert times.count == len(called_s) == 5
    assert np.diff(called_s).min() >= 0.052
    assert 2 <= times.p50_ms < 50


@pytest.mark.parametrize("command", ["latency", "pipeline"])
def test_a_result_says_how_long_it_rested(command: str, bundle: Path) -> None:
    more = ("--frame-size", 48, 64) if command == "pipeline" else ()
    found = json.loads(call("reason-bench", command, bundle, *SHORT, *more, "--pause-ms", 3, "--json").output)
    assert found["pause_ms"] == 3
    assert "after 3 ms of rest each" in call("reason-bench", command, bundle, *SHORT, *more, "--pause-ms", 3).output


def test_what_is_outside_the_backend_is_told_apart(exported_bundle: Path) -> None:
    # not held to its 0.3 ms here, where other tests may run beside: benchmarks/speed.py measures it
    found = measure_latency(load(exported_bundle), plan=LatencyPlan(minimum_count=5, minimum_s=0))
    assert 0 < found.overhead_p50_ms < found.p50_ms


def test_power_is_said_not_to_be_measured_where_no_sensor_is(bundle: Path) -> None:
    found = json.loads(call("reason-bench", "latency", bundle, *SHORT, "--json").output)
    assert found["power_w"] == "not measured" or found["power_w"] > 0


def test_cold_start_memory_and_roofline_of_a_fresh_process(exported_bundle: Path) -> None:
    done = call("reason-bench", "latency", exported_bundle, "--backend", "openvino", *SHORT, "--whole", "--json")
    assert done.status == 0, done.log
    found = json.loads(done.output)
    assert found["model_size_bytes"] == (exported_bundle / "model.onnx").stat().st_size
    cold = found["cold_start"]
    assert min(cold["first_s"], cold["second_s"]) > 0
    assert 50 < cold["peak_memory_mib"] < 2000
    roofline = found["roofline"]
    assert roofline["product_gflop_per_s"] > 1
    assert roofline["bound_ms"] == pytest.approx(roofline["model_gflop"] / roofline["product_gflop_per_s"] * 1e3)
    assert found["roofline_share"] == pytest.approx(roofline["bound_ms"] / found["p50_ms"])


def test_operations_counted_by_hand() -> None:
    image = opset13.parameter([1, 8, 10, 12], np.float32)
    dense = opset13.convolution(image, np.ones((16, 8, 3, 3), np.float32), [1, 1], [1, 1], [1, 1], [1, 1])
    grouped = opset13.group_convolution(dense, np.ones((16, 1, 1, 3, 3), np.float32), [1, 1], [1, 1], [1, 1], [1, 1])
    larger = opset13.convolution_backprop_data(grouped, np.ones((16, 4, 2, 2), np.float32), [2, 2])
    product = opset13.matmul(np.ones((5, 20), np.float32), larger, False, False)
    positions = 10 * 12
    expected = 2 * positions * (16 * 8 * 9 + 16 * 9 + 16 * 4 * 4) + 2 * 4 * 5 * 24 * 20
    assert count_gflop(openvino.Model([product], [image])) == pytest.approx(expected / 1e9)


def test_streams_are_searched_with_openvino_only() -> None:
    assert [(each.batch, each.streams) for each in settings("onnxruntime", (1, 4), cores=4)] == [(1, None), (4, None)]
    streams = [each.streams for each in settings("openvino", (1,), cores=4)]
    assert streams == [None, 1, 2, 4]


def test_throughput_tries_what_was_asked_and_keeps_the_fastest(bundle: Path) -> None:
    arguments = ("--backend", "openvino", "--threads", 2, "--batch", 1, "--batch", 3, *SHORT, "--json")
    found = json.loads(call("reason-bench", "throughput", bundle, *arguments).output)
    assert [(each["batch"], each["streams"]) for each in found["tried"]] == [(1, None), (3, None), (1, 1), (1, 2)]
    best = max(found["tried"], key=lambda each: each["fps"])
    assert {name: found[name] for name in ("batch", "streams")} == {name: best[name] for name in ("batch", "streams")}
    assert 0 < found["fps"] != best["fps"]  # measured once more


def test_the_environment_says_what_was_measured_on(bundle: Path) -> None:
    found = json.loads(call("reason-bench", "latency", bundle, "--threads", 1, *SHORT, "--json").output)["environment"]
    assert set(found) >= {"processor", "cores", "memory_gib", "system", "python", "libraries", "session"}
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["libraries"]["numpy"] == np.__version__
    assert found["session"]["onnxruntime"] == onnxruntime.__version__
    assert found["session"]["threads"] == "1"


@pytest.mark.parametrize("command", ["latency", "throughput", "pipeline"])
def test_what_cannot_be_measured_is_one_clear_line(command: str, bundle: Path, tmp_path: Path) -> None:
    told = call("reason-bench", command, bundle, "--precision", "int8", *SHORT).error
    assert "model_int8.onnx" in told
    assert str(tmp_path / "nothing") in call("reason-bench", command, tmp_path / "nothing", *SHORT).error
    assert call("reason-bench", command, bundle, "--minimum-count", 0).status == 2


def test_frames_are_read_from_a_file_and_a_broken_one_is_named(bundle: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "frame.png", good_picture(1, size_px=50))
    found = json.loads(call("reason-bench", "pipeline", bundle, "--image", path, *SHORT, "--json").output)
    assert (found["frame_px"], found["frame_channels"]) == ([50, 50], 3)
    Image.open(path).convert("L").save(path)
    found = json.loads(call("reason-bench", "pipeline", bundle, "--image", path, *SHORT, "--json").output)
    assert found["frame_channels"] == 1
    path.write_bytes(b"no picture")
    assert str(path) in call("reason-bench", "pipeline", bundle, "--image", path, *SHORT).error


def test_a_fresh_process_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="a fresh process failed: .*nowhere"):
        measure_cold_start(tmp_path / "nowhere", {})


def test_a_fresh_process_loads_with_the_options_given(bundle: Path) -> None:
    with pytest.raises(BackendError, match="a fresh process failed: .*runs on cpu, not cuda"):
        measure_cold_start(bundle, {"backend": "openvino", "device": "cuda"})


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not tell a process's memory")
def test_peak_memory_is_not_that_of_the_process_that_asks(bundle: Path) -> None:
    ballast = np.ones(2**27)  # 1 GiB, written to: resident
    del ballast
    peak = measure_cold_start(bundle, {}).peak_memory_mib
    assert peak is not None
    assert 50 < peak < 1024


def test_the_stages_add_up(bundle: Path) -> None:
    arguments = ("--frame-size", 300, 400, *SHORT, "--json")
    found = json.loads(call("reason-bench", "pipeline", bundle, *arguments).output)
    assert list(found["stages"]) == ["grab", "resize", "infer", "decide"]
    assert (found["frame_px"], found["frame_channels"]) == ([300, 400], 3)
    assert sum(stage["max_ms"] for stage in found["stages"].values()) >= found["p50_ms"]


def test_frames_of_a_mono_camera_can_be_asked_for(bundle: Path) -> None:
    told = call("reason-bench", "pipeline", bundle, "--frame-size", 300, 400, "--mono", *SHORT).output
    assert "mono frames of 300 x 400" in told


def test_accuracy_is_measured_without_speed(exported_bundle: Path, parts: Path) -> None:
    done = call("reason-bench", "accuracy", exported_bundle, "--data", parts, "--json")
    assert done.status == 0, done.log
    found = json.loads(done.output)
    assert (found["good"], found["defective"]) == (4, 4)
    assert not any(key.endswith("_ms") or key == "fps" for key in found)


def test_accuracy_without_defects_is_refused(exported_bundle: Path, good_pictures: Path) -> None:
    assert (
        "expected images in good/" in call("reason-bench", "accuracy", exported_bundle, "--data", good_pictures).error
    )


def test_accuracy_with_an_image_beside_the_folders_is_refused(
    exported_bundle: Path, good_pictures: Path, tmp_path: Path
) -> None:
    for kind in ("good", "scratch"):
        shutil.copytree(good_pictures, tmp_path / kind)
    shutil.copy(good_pictures / "00.png", tmp_path / "overview.png")
    told = call("reason-bench", "accuracy", exported_bundle, "--data", tmp_path).error
    assert f"{tmp_path / 'overview.png'}: lies beside the folders; move it into good/" in told


def test_accuracy_leaves_masks_out_as_training_does(exported_bundle: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts / "test", tmp_path / "parts"))
    shutil.copytree(parts / "ground_truth", data / "ground_truth")
    found = [
        json.loads(call("reason-bench", "accuracy", exported_bundle, "--data", folder, "--json").output)
        for folder in (parts, data)
    ]
    for facts in found:
        del facts["data"], facts["measured"], facts["load_average"]
    assert found[1] == found[0]


def test_accuracy_of_a_model_whose_output_is_not_finite_is_refused(parts: Path, tmp_path: Path) -> None:
    broken = make_bundle(tmp_path / "broken", scale=float("nan")).path
    done = call("reason-bench", "accuracy", broken, "--data", parts, "--json")
    assert (done.status, done.output) == (1, "")
    assert f"{parts / 'test' / 'good'}/" in done.error
    assert "the model's output is not finite" in done.error


def test_accuracy_names_the_image_that_the_graph_does_not_take(parts: Path, tmp_path: Path) -> None:
    fixed = make_bundle(tmp_path / "fixed", input_format=replace(square_format(32), resize_filter="in-graph")).path
    assert f"{parts / 'test' / 'good' / '000.png'}: " in call("reason-bench", "accuracy", fixed, "--data", parts).error


def test_accuracy_on_images_that_were_trained_on_is_refused(exported_bundle: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts / "test", tmp_path / "parts"))
    for path in (parts / "train" / "good").iterdir():  # two of ten were held out
        shutil.copy(path, data / "good" / f"more_{path.name}")
    told = call("reason-bench", "accuracy", exported_bundle, "--data", data).error
    assert f"{data}: the bundle was trained on 8 of its 18 images ({data / 'good' / 'more_'}" in told


def test_accuracy_counts_no_masks_as_defective_parts(exported_bundle: Path, parts: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(parts / "test", tmp_path / "parts"))
    shutil.copytree(data / "hole", data / "mask")
    told = call("reason-bench", "accuracy", exported_bundle, "--data", data).error
    assert f"{data / 'mask'}: lies beside 'good' as a defect's folder does" in told
    data = Path(shutil.copytree(parts, tmp_path / "whole"))
    (data / "ground_truth").rename(data / "test" / "ground_truth")
    told = call("reason-bench", "accuracy", exported_bundle, "--data", data).error
    assert f"{data / 'test' / 'ground_truth'}: lies beside 'good' as a defect's folder does" in told


def test_accuracy_says_how_many_good_images_drew_the_threshold(
    exported_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(parts / "test", tmp_path / "parts"))
    bundle = open_bundle(exported_bundle)
    for number, path in enumerate((parts / "train" / "good").iterdir()):
        if file_sha256(path) not in bundle.trained_on():  # two of ten
            shutil.copy(path, data / "good" / f"more_{number}.png")
            shutil.copy(path, data / "hole" / f"more_{number}.png")  # a defective one does not count
    arguments = ("reason-bench", "accuracy", exported_bundle, "--data", data)
    assert json.loads(call(*arguments, "--json").output)["good_of_threshold"] == 2
    told = "2 of the 6 good test images drew the threshold: how many of them it rejects says nothing of other parts"
    assert told in call(*arguments).output.splitlines()
    assert "drew the threshold" not in call("reason-bench", "accuracy", exported_bundle, "--data", parts).output


def test_accuracy_is_an_acceptance_test(exported_bundle: Path, parts: Path) -> None:
    arguments = ("reason-bench", "accuracy", exported_bundle, "--data", parts, "--threshold")
    done = call(*arguments, 0, "--most-rejected", 3, "--most-passed", 0)
    assert done.error == "error: 4 good images rejected, at most 3 allowed"
    assert "4 good images rejected, 0 defective ones passed" in done.output
    assert call(*arguments, 0, "--most-rejected", 4, "--most-passed", 0).status == 0
    failed = call(*arguments, 1e9, "--most-rejected", 0, "--most-passed", 2, "--json")
    assert failed.error == "error: 4 defective images passed, at most 2 allowed"
    assert json.loads(failed.output)["defective_passed"] == 4
    assert call(*arguments, 1e9).status == 0


def test_an_acceptance_test_without_a_threshold_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", threshold=None).path
    done = call("reason-bench", "accuracy", path, "--data", tmp_path / "nowhere", "--most-passed", 0)
    assert "nothing can be rejected or passed: no threshold for fp32 in the bundle" in done.error


def test_accuracy_without_a_threshold_counts_no_verdict(parts: Path, tmp_path: Path) -> None:
    told = call("reason-bench", "accuracy", make_bundle(tmp_path / "b", threshold=None).path, "--data", parts).output
    assert "every decision is UNKNOWN: no threshold for fp32 in the bundle" in told
    assert "rejected" not in told


@pytest.mark.parametrize(
    ("size", "told"),
    [(("-5", "100"), "the smallest side allowed"), (("1000000", "1000000"), "the largest image allowed")],
)
def test_a_frame_that_cannot_be_is_refused(size: tuple[str, str], told: str, bundle: Path) -> None:
    assert told in call("reason-bench", "pipeline", bundle, "--frame-size", *size).error


def test_a_gpus_power_is_none_of_work_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 212.5\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (power_w(on_gpu=True), power_w(on_gpu=False)) == (212.5, None)


@pytest.mark.parametrize("seed", range(5))
def test_its_auroc_is_the_projects(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.normal(size=40), 1)  # with ties
    anomalous = random.random(40) < 0.4
    assert _auroc(scores, anomalous) == pytest.approx(auroc(rank(scores, anomalous)))


def test_two_results_are_compared_by_ratio_and_environment(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    common = {"overhead_p50_ms": 0.1}
    linux, jetson = ({"cores": 2, "system": system} for system in ("Linux", "L4T"))
    a.write_text(json.dumps({"p50_ms": 4.0, "backend": "openvino", "environment": linux, **common}))
    b.write_text(json.dumps({"p50_ms": 2.0, "backend": "onnxruntime", "environment": jetson, **common}))
    assert compare_files(a, b) == [
        ("p50_ms", 4.0, 2.0, 0.5),
        ("backend", "openvino", "onnxruntime", None),
        ("environment.system", "Linux", "L4T", None),
    ]
    done = call("reason-bench", "compare", a, b)
    assert "x 0.500" in done.output
    assert done.log == ""
    rows = json.loads(call("reason-bench", "compare", a, b, "--json").output)
    assert rows[0] == {"key": "p50_ms", "a": 4.0, "b": 2.0, "ratio": 0.5}
    assert "cannot be read" in call("reason-bench", "compare", a, tmp_path / "none.json").error
    a.write_text("p50 4 ms")
    assert str(a) in call("reason-bench", "compare", a, b).error


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"tried": [], "environment": {}}, "is of reason-bench latency, .* of throughput; expected two of one command"),
        ({"name": "an app"}, "b.json: is no result; expected what reason-bench --json printed"),
        ({"overhead_p50_ms": 1.0}, "b.json: is no result"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: dict[str, object], told: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"overhead_p50_ms": 0.1, "environment": {}}))
    (tmp_path / "b.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match=told):
        compare_files(tmp_path / "a.json", tmp_path / "b.json")


def test_results_of_two_runs_can_be_compared(bundle: Path, tmp_path: Path) -> None:
    paths = []
    for threads in (1, 2):
        paths.append(tmp_path / f"{threads}.json")
        arguments = ("--backend", "openvino", "--threads", threads, *SHORT, "--json")
        paths[-1].write_text(call("reason-bench", "latency", bundle, *arguments).output)
    done = call("reason-bench", "compare", *paths, "--json")
    assert "different bundles" not in done.log
    rows = {row["key"]: row for row in json.loads(done.output)}
    assert (rows["environment.session.threads"]["a"], rows["environment.session.threads"]["b"]) == ("1", "2")
    assert rows["p50_ms"]["ratio"] == pytest.approx(rows["p50_ms"]["b"] / rows["p50_ms"]["a"])
    assert "environment.processor" not in rows


def test_results_of_different_bundles_are_compared_with_a_note(bundle: Path, tmp_path: Path) -> None:
    paths = []
    for name in ("bundle", "other"):
        path = bundle if name == "bundle" else make_bundle(tmp_path / name, threshold=0.7).path
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(call("reason-bench", "latency", path, *SHORT, "--json").output)
    assert call("reason-bench", "compare", *paths).log.strip() == "note: the two are of different bundles"


@pytest.mark.parametrize("command", ["latency", "throughput", "pipeline", "accuracy"])
def test_a_result_says_what_was_measured_when_and_for_how_long(
    command: str, bundle: Path, tmp_path: Path, exported_bundle: Path, parts: Path
) -> None:
    path = exported_bundle if command == "accuracy" else bundle
    more: tuple[object, ...] = {"pipeline": ("--frame-size", 48, 64), "accuracy": ("--data", parts)}.get(command, ())
    more = more if command == "accuracy" else (*more, *SHORT)
    found = json.loads(call("reason-bench", command, path, *more, "--json").output)
    assert found["bundle"]["content_sha256"] == open_bundle(path).manifest.content_sha256
    assert found["bundle"]["path"] == str(path)
    assert datetime.fromisoformat(found["measured"]).tzinfo is not None
    assert found["load_average"] >= 0
    if command == "accuracy":
        assert found["data"] == str(parts)
    else:
        assert found["plan"] == {"warm_up": 1, "minimum_count": 5, "minimum_s": 0.0, "pause_ms": 0.0}


def test_more_memory_than_there_is_is_one_line(bundle: Path) -> None:
    done = call("reason-bench", "throughput", bundle, "--batch", 10**11, *SHORT)
    assert done.status == 1
    assert done.error.startswith("error: Unable to allocate ")
