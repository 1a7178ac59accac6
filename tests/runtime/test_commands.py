from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.commands import call
from tests.imports import loaded_for_help
from tests.runtime.bundles import make_bundle

ROOT = Path(__file__).parents[2]
MODULES = {"reason-run": "reason_runtime.commands", "reason-bench": "reason_runtime.bench_commands"}


SCRIPT = [sys.executable, "-c", "from reason_runtime.commands import main; main()"]


def start(command: str, *arguments: object) -> subprocess.Popen[str]:
    script = f"from {MODULES[command]} import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for what native libraries print; the others are called in this one."""
    process = start(command, *arguments)
    output, log = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, log)


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundles and two folders of images: `good` readable, `mixed` with a text file and a cut JPEG."""
    root = tmp_path_factory.mktemp("place")
    make_bundle(root / "bundle")
    make_bundle(root / "uncalibrated", threshold=None)
    make_bundle(root / "broken", scale=float("nan"))
    for name, value in (("good/a.png", 130), ("good/b.jpg", 250), ("mixed/c.png", 130), ("mixed/sub/a.jpg", 250)):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (60, 50), (value, value, value)).save(root / name, quality=100)
    (root / "mixed" / "b.png").write_text("text")
    content = (root / "good" / "b.jpg").read_bytes()
    (root / "mixed" / "d.jpeg").write_bytes(content[: len(content) // 2])
    (root / "empty").mkdir()
    return root


def test_predict_prints_one_json_line_an_image(place: Path) -> None:
    done = call("reason-run", "predict", place / "bundle", place / "good", "--json")
    assert (done.status, done.log) == (0, "")
    first, second = json_lines(done.output)
    assert first.pop("latency_ms") > 0  # type: ignore[operator]
    assert first == {
        "path": str(place / "good" / "a.png"),
        "score": 2 / 128,
        "threshold": 0.5,
        "decision": "OK",
        "threshold_source": "bundle, fp32: 300 held-out good images",
        "reason": None,
        "regions": [],
    }
    assert second["decision"] == "NG"
    assert [sorted(region) for region in second["regions"]] == [["height_px", "peak", "width_px", "x_px", "y_px"]]


def test_predict_without_json_prints_lines_for_people(place: Path) -> None:
    done = call("reason-run", "predict", place / "bundle", place / "good")
    first, second = done.output.splitlines()
    assert first.startswith("OK       score 0.01562 < 0.5  ")
    assert second.startswith("NG       score 0.9531 >= 0.5  ")
    assert second.endswith(str(place / "good" / "b.jpg"))


def test_unreadable_files_give_unknown_lines_and_exit_1_at_the_end(place: Path) -> None:
    done = run("reason-run", "predict", place / "bundle", place / "mixed", "--json")
    assert done.returncode == 1
    decisions = {Path(str(line["path"])).name: line["decision"] for line in json_lines(done.stdout)}
    assert decisions == {"b.png": "UNKNOWN", "c.png": "OK", "d.jpeg": "UNKNOWN", "a.jpg": "NG"}
    assert done.stderr == "error: 2 of 4 images could not be judged; their lines say why\n"


def test_weights_that_are_not_finite_give_unknown_without_a_score_and_exit_1(place: Path) -> None:
    done = call("reason-run", "predict", place / "broken", place / "good", "--json")
    assert done.status == 1
    for line in json_lines(done.output):
        assert (line["decision"], line["score"], line["reason"]) == (
            "UNKNOWN",
            None,
            "the model's output is not finite",
        )


def test_without_a_threshold_scores_are_printed_with_one_hint(place: Path) -> None:
    done = call("reason-run", "predict", place / "uncalibrated", place / "good", "--json")
    assert done.status == 0
    assert [line["decision"] for line in json_lines(done.output)] == ["UNKNOWN", "UNKNOWN"]
    assert done.log.count("reason-train calibrate") == 1
    given = call("reason-run", "predict", place / "uncalibrated", place / "good", "--json", "--threshold", 0.5)
    assert [line["decision"] for line in json_lines(given.output)] == ["OK", "NG"]
    assert [line["threshold_source"] for line in json_lines(given.output)] == ["given by hand"] * 2


def test_maps_are_saved_in_a_folder_that_mirrors_the_images(place: Path, tmp_path: Path) -> None:
    done = call("reason-run", "predict", place / "bundle", place / "mixed", place / "good", "--save-maps", tmp_path)
    assert done.status == 1
    saved = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    names = ["good/a.png", "good/b.jpg", "mixed/c.png", "mixed/sub/a.jpg"]
    assert saved == [f"{name}.overlay.png" for name in names]
    with Image.open(tmp_path / "good" / "a.png.overlay.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (60, 50))


@pytest.mark.parametrize("maps", ["images", "images/maps", "link/maps"])
def test_maps_are_not_saved_among_the_images(place: Path, tmp_path: Path, maps: str) -> None:
    shutil.copytree(place / "good", tmp_path / "images")
    (tmp_path / "link").symlink_to("images")
    before = sorted(tmp_path.rglob("*"))
    done = call("reason-run", "predict", place / "bundle", tmp_path / "images", "--save-maps", tmp_path / maps)
    assert (done.status, done.output) == (1, "")
    assert done.log.startswith(f"error: {tmp_path / maps}: puts pictures into {tmp_path / 'images'}, ")
    assert done.log.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    beside = call("reason-run", "predict", place / "bundle", tmp_path / "images" / "a.png", "--save-maps", tmp_path)
    assert beside.status == 0


@pytest.mark.parametrize(
    ("files", "maps"),
    [
        (["a", "b"], "."),
        (["a", "b/b.jpg"], "."),
        (["b/a", "a/a.png"], "a/../b"),
        (["a/a.png"], "a"),
        (["link/a.png"], "a"),
        (["a/a.png", "b/b.jpg"], "."),
        (["b/a/c.png", "b/b.jpg"], "b/a"),
    ],
)
def test_maps_are_not_saved_beside_the_files_that_are_judged(
    place: Path, tmp_path: Path, files: list[str], maps: str
) -> None:
    for name in ("a/a.png", "b/b.jpg", "b/a/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "good" / ("b.jpg" if name.endswith("jpg") else "a.png"), tmp_path / name)
    (tmp_path / "link").symlink_to("a")
    before = sorted(tmp_path.rglob("*"))
    done = call(
        "reason-run", "predict", place / "bundle", *(tmp_path / name for name in files), "--save-maps", tmp_path / maps
    )
    assert (done.status, done.output) == (1, "")
    assert "where they would be taken for images the next time; give a folder elsewhere" in done.log
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("bundle", "images", "message"),
    [
        ("nowhere", "good", "nowhere: is not a bundle (no manifest.json in it)"),
        ("good", "good", "good: is not a bundle (no manifest.json in it)"),
        ("bundle", "nowhere", "nowhere: does not exist; expected an image or a folder with images"),
        ("bundle", "empty", "empty: holds no image"),
    ],
)
def test_a_failure_is_one_line_and_exit_1(place: Path, bundle: str, images: str, message: str) -> None:
    done = call("reason-run", "predict", place / bundle, place / images)
    assert (done.status, done.output) == (1, "")
    assert done.log.startswith("error: ")
    assert message in done.log
    assert done.log.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["predict", "bundle"],
        ["predict", "bundle", "good", "--backend", "x"],
        ["inspect", "bundle"],
        ["x"],
        [],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert call("reason-run", *arguments).status == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["predict", "bundle", ""], "the argument after bundle is empty"),
        (["predict", "", "."], "the argument after predict is empty"),
        (["predict", "bundle", ".", "--save-maps", ""], "the argument after --save-maps is empty"),
        (["inspect", "bundle", "--source", ""], "the argument after --source is empty"),
        (["inspect", "bundle", "--source", ".", "--journal="], "--journal= is empty"),
        (["record", "--source", ".", "--out", ""], "the argument after --out is empty"),
    ],
)
def test_an_empty_argument_is_not_the_working_directory(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    done = call("reason-run", *arguments)
    assert (done.status, done.output) == (2, "")
    assert done.log == f"error: {told}; expected a value, . for the working directory; is a variable not set?\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("module", "commands"),
    [
        ("reason_runtime.commands", [(), ("predict",), ("inspect",), ("record",), ("info",)]),
        ("reason_runtime.bench_commands", [(), ("latency",), ("throughput",), ("pipeline",), ("accuracy",)]),
    ],
)
def test_help_comes_at_once_since_nothing_heavy_is_loaded_for_it(module: str, commands: list[tuple[str, ...]]) -> None:
    loaded = loaded_for_help(module, commands)
    assert "typer" in loaded  # what is loaded is seen
    assert loaded & {"numpy", "cv2", "PIL", "onnxruntime", "openvino"} == set()


def test_results_that_cannot_be_written_are_one_error(place: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*SCRIPT, "predict", place / "bundle", place / "good"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    told = "error: standard output: cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("arguments", [["predict", "bundle", "good"], ["info", "bundle"], ["inspect", "--help"]])
def test_results_that_nobody_can_get_are_one_error(place: Path, arguments: list[str]) -> None:
    done = closed_output(place, *arguments)
    assert (done.returncode, done.stderr) == (1, "error: standard output is closed\n")


def test_a_line_needs_no_standard_output_but_for_a_sink_that_is_one(place: Path, tmp_path: Path) -> None:
    command = ("inspect", "bundle", "--source", "good", "--journal", tmp_path / "journal")
    done = closed_output(place, *command)
    assert done.returncode == 1
    assert re.search(r" fault sink stdout: standard output is closed$", done.stderr, re.M)
    assert re.search(r"^error: \d+ messages were lost: stdout$", done.stderr, re.M)
    done = closed_output(place, *command, "--sink", f"jsonl:{tmp_path}/r.jsonl")
    assert (done.returncode, "fault" in done.stderr) == (0, False), done.stderr


def closed_output(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {SCRIPT[2]}"
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=place, timeout=60)


def test_names_that_are_no_text_are_judged_as_others(place: Path, tmp_path: Path) -> None:
    for number, name in enumerate((b"sch\xf6n.png", b"zz.png")):
        Image.new("RGB", (60, 50), (130 + number, 130, 130)).save(os.fsencode(tmp_path) + b"/" + name, format="PNG")
    for more in ([], ["--json"]):
        command = [*SCRIPT, "predict", place / "bundle", tmp_path, *more]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        assert (done.returncode, done.stdout.count("OK"), done.stdout.count("\\udcf6n.png")) == (0, 2, 1), done.stderr


def test_a_closed_stderr_stops_nothing(place: Path) -> None:
    command = 'exec "$0" -c "$1" predict "$2" "$3" 2>&-'
    script = ["sh", "-c", command, sys.executable, SCRIPT[2], place / "bundle", place / "good"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can become another user")
@pytest.mark.parametrize(
    ("locked", "arguments", "told"),
    [
        ("images", ["predict", "bundle", "images/a.png"], "UNKNOWN  images/a.png: cannot be read (Permission denied)"),
        ("bundle/checks", ["predict", "bundle", "images"], "onnxruntime_fp32.json: cannot be read ([Errno 13]"),
        ("images", ["predict", "bundle", "images/sub"], "UNKNOWN  images/sub: cannot be read (Permission denied)"),
    ],
)
def test_what_may_not_be_read_is_named(locked: str, arguments: list[str], told: str, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "checks").mkdir()
    (tmp_path / "images" / "sub").mkdir(parents=True)
    Image.new("RGB", (60, 50)).save(tmp_path / "images" / "a.png")
    (tmp_path / locked).chmod(0o700)
    above = [folder for folder in (tmp_path, *tmp_path.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    before = [folder.stat().st_mode for folder in above]
    try:
        for folder in above:
            folder.chmod(0o755)
        script = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(tmp_path)!r}); {SCRIPT[2]}"
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", script]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=os.environ | {"HOME": "/"})
    finally:
        for folder, mode in zip(above, before, strict=True):
            folder.chmod(mode)
    assert done.returncode == 1
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_counter_on_a_terminal_is_written_over_by_the_next_line() -> None:
    script = (
        "import time; from reason_runtime.progress import counted\n"
        "for number in counted(range(3), total=3, what='images'):\n"
        "    print('judged', number)\n"
        "    time.sleep(2.1 if number == 1 else 0)"
    )
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=follower, stderr=follower):
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's end
            while block := os.read(leader, 1000):
                shown += block
    os.close(leader)
    assert shown.replace(b"\r\n", b"\n") == b"judged 0\njudged 1\n2/3 images\rjudged 2\n3/3 images\n"


def test_a_reader_that_stops_reading_causes_no_traceback(place: Path) -> None:
    many = [place / "good"] * 2000
    process = start("reason-run", "predict", place / "bundle", *many, "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    log = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in log


def test_inspect_prints_a_json_line_a_frame_then_pace_and_latency(place: Path) -> None:
    done = call("reason-run", "inspect", place / "bundle", "--source", place / "good")
    assert done.status == 0
    assert [(line["frame"], line["decision"]) for line in json_lines(done.output)] == [(0, "OK"), (1, "NG")]
    assert "2 frames: 1 OK, 1 NG, 0 UNKNOWN" in done.log
    assert "FPS" in done.log
    assert "p99" in done.log


def test_inspect_goes_on_after_a_broken_frame_and_exits_1(place: Path) -> None:
    done = call("reason-run", "inspect", place / "bundle", "--source", place / "mixed")
    assert done.status == 1
    assert [line["decision"] for line in json_lines(done.output)] == ["UNKNOWN", "OK", "UNKNOWN", "NG"]


def write_video(path: Path, *, frames_rgb: list[tuple[int, int, int]]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for colour in frames_rgb:
        writer.write(np.full((48, 64, 3), colour[::-1], dtype=np.uint8))
    writer.release()


def test_inspect_judges_the_frames_of_a_video_in_order(place: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "video.avi", frames_rgb=[(128, 128, 128), (250, 250, 250), (128, 128, 128)])
    done = call("reason-run", "inspect", place / "bundle", "--source", tmp_path / "video.avi")
    assert (done.status, "3 frames" in done.log) == (0, True)
    assert [line["decision"] for line in json_lines(done.output)] == ["OK", "NG", "OK"]


def test_inspect_says_what_it_judged_of_a_video_that_is_cut_off(place: Path, tmp_path: Path) -> None:
    video = tmp_path / "video.avi"
    write_video(video, frames_rgb=[(128, 128, 128)] * 40)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    done = run("reason-run", "inspect", place / "bundle", "--source", video)
    frames = len(json_lines(done.stdout))
    assert done.returncode == 1
    assert f"\n{frames} frames: {frames} OK, 0 NG, 0 UNKNOWN; " in f"\n{done.stderr}"
    assert done.stderr.endswith(f"error: {video}: is cut off or damaged: {frames} of 40 frames could be read\n")


@pytest.mark.parametrize("source", ["nowhere", "empty", "bundle/manifest.json", "rtsp://camera"])
def test_a_source_that_gives_no_frame_is_one_error(place: Path, source: str) -> None:
    done = call("reason-run", "inspect", place / "bundle", "--source", place / source)
    assert (done.status, done.output, "0 frames" in done.log) == (1, "", False)
    assert done.log.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.log


def test_info_says_what_is_in_a_bundle(place: Path) -> None:
    done = call("reason-run", "info", place / "bundle")
    assert "threshold   fp32: 0.5, rejects 3 of 300 good images" in done.output
    machine = json.loads(call("reason-run", "info", place / "bundle", "--json").output)
    assert machine["method"]["teacher"] == "none"


def test_latency_is_measured_with_what_it_was_measured_on(place: Path) -> None:
    limits = ("--minimum-count", 20, "--minimum-seconds", 0.05, "--warm-up", 2)
    done = call("reason-bench", "latency", place / "uncalibrated", *limits, "--threads", 1, "--json")
    assert done.status == 0, done.log
    found = json.loads(done.output)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["count"] >= 20
    assert found["fps"] == pytest.approx(1000 / found["p50_ms"], rel=0.9)
    assert (found["backend"], found["precision"]) == ("onnxruntime", "fp32")
    assert found["environment"]["session"]["threads"] == "1"
    assert found["environment"]["cores"] == len(os.sched_getaffinity(0))
    assert found["environment"]["processor"]
    people = call("reason-bench", "latency", place / "bundle", *limits)
    assert people.output.startswith("p50 ")
