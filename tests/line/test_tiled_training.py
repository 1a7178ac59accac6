"""From pictures of a web to decisions about a web: train on tiles, export, check, predict, inspect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reason_export.runs import load_images
from reason_runtime import load
from reason_runtime.image import read_image
from reason_runtime.tiles import place_tiles, stitch
from reason_train.calibration import most_held_out
from reason_train.image_store import ImageStore
from tests.commands import call
from tests.pictures import save
from tests.webs import TILE_PX, web_picture, webs_with_defects

SEAM = slice(66, 76)  # rows that the first two frames share: 64..80


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return webs_with_defects(tmp_path_factory.mktemp("webs") / "data")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    sizes = ("--tile", TILE_PX, "--steps", 40, "--batch-size", 8, "--views", 0, "--students", 1)
    options = (*sizes, "--device", "cpu", "--json")
    done = call("reason-train", "fit", "--data", data, "--out", out, *options)
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    assert (facts["images"], facts["held_out"], facts["tiles"]) == (6, 1, 54)
    assert facts["threshold"]["source"] == "9 tiles of 1 held-out good images"
    return out


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    out = run.parent / "bundle"
    done = call("reason-export", "onnx", run, "--out", out)
    assert done.status == 0, done.log
    return out


def test_the_bundle_says_that_it_judges_tiles(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["training"]["configuration"]["tile_px"] == TILE_PX
    assert manifest["method"]["settings"]["score_exponent"] is None
    assert manifest["thresholds"]["fp32"]["source"] == "9 tiles of 1 held-out good images"
    assert manifest["blind_limits"]["images"] == 9
    assert "64 x 64 at native resolution" in call("reason-run", "info", bundle).output


def test_a_run_on_tiles_is_evaluated_on_whole_pictures(run: Path, data: Path, tmp_path: Path) -> None:
    done = call("reason-train", "evaluate", run, "--data", data, "--report", tmp_path / "report", "--json")
    assert done.status == 0, done.log
    found = json.loads(done.output)
    assert found["image_auroc"] == 1
    assert found["pixel_auroc"] > 0.95
    assert found["aupro"] > 0.8
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_calibration_takes_tiles_of_other_pictures(run: Path, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "more" / "train" / "good" / f"{number}.png", web_picture(50 + number))
    before = {path.name: path.read_bytes() for path in run.glob("calibration.*")}
    done = call("reason-train", "calibrate", run, "--data", tmp_path / "more", "--false-reject-rate", 0.9, "--json")
    for name, content in before.items():  # other tests use the run as it was
        (run / name).write_bytes(content)
    assert done.status == 0, done.log
    facts = json.loads(done.output)
    assert (facts["source"], facts["bound_kept"]) == ("27 tiles of 3 held-out good images", False)


def test_a_bound_is_not_promised_of_tiles(run: Path, data: Path) -> None:
    told = call("reason-train", "calibrate", run, "--data", data, "--require-bound").error
    assert f"{run}: was trained on tiles; a bound is of images that are independent" in told


def test_rates_of_tiles_are_called_so(run: Path, bundle: Path, data: Path) -> None:
    said = call("reason-train", "calibrate", run, "--data", data).output
    assert "from 9 tiles of 1 held-out good images, 0 of them rejected" in said
    assert "with 95 % confidence of tiles, were those of a picture independent of each other" in said
    assert "rejects 0 of 9 tiles; at most " in call("reason-run", "info", bundle).output


def test_the_check_compares_whole_pictures_and_sets_a_threshold_of_tiles(bundle: Path, data: Path) -> None:
    done = call("reason-export", "check", bundle, "--data", data, "--json")
    assert done.status == 0, done.log
    found = json.loads(done.output)
    assert found["accuracy"]["image_auroc"]["lost"] == 0
    assert found["accuracy"]["aupro"]["reference"] > 0.8


def test_export_reads_every_tile_of_a_picture(data: Path, bundle: Path) -> None:
    form = load(bundle).bundle.manifest.input
    paths = sorted((data / "train" / "good").iterdir())[:2]
    names, tiles = load_images(paths, root=data / "train", input_format=form, tile_px=TILE_PX)
    assert tiles.shape == (18, 64, 64, 3)
    picture = read_image(paths[1], input_format=form)
    for name, tile in zip(names[9:], tiles[9:], strict=True):
        top, left = json.loads(name.removeprefix(f"good/{paths[1].name}"))
        np.testing.assert_array_equal(tile, picture[top : top + TILE_PX, left : left + TILE_PX])
    few, tiles = load_images(paths, root=data / "train", input_format=form, tile_px=TILE_PX, most=5)
    assert (len(few), tiles.shape) == (5, (5, 64, 64, 3))


def test_a_devices_threshold_is_drawn_from_the_tiles_that_calibration_takes(bundle: Path, tmp_path: Path) -> None:
    folder, copied = tmp_path / "held_out", tmp_path / "bundle"
    for number in range(8):
        save(folder / f"{number}.png", web_picture(300 + number, rows=1400))
    shutil.copytree(bundle, copied)
    done = call("reason-export", "check", copied, "--held-out", folder, "--json")
    assert done.status == 0, done.log
    source = "1000 tiles of 8 held-out good images, onnxruntime fp32 on this device"
    assert json.loads(done.output)["threshold"]["source"] == source
    form, paths = load(bundle).bundle.manifest.input, sorted(folder.iterdir())
    most = most_held_out(tile_px=TILE_PX)
    names, tiles = load_images(paths, root=folder, input_format=form, tile_px=TILE_PX, most=most)
    store = ImageStore(paths, input_format=form, memory_mib=0, tile_px=TILE_PX, most=most)
    assert names == [f"{piece.path.name}{piece.place}" for piece in store.pieces]
    np.testing.assert_array_equal(tiles, [store[i] for i in range(store.images)])


@pytest.mark.slow
def test_quantize_draws_its_threshold_from_as_many_tiles(bundle: Path, tmp_path: Path) -> None:
    folder, copied = tmp_path / "held_out", tmp_path / "bundle"
    for number in range(16):
        save(folder / ("ranges" if number < 8 else "others") / f"{number}.png", web_picture(300 + number, rows=1400))
    shutil.copytree(bundle, copied)
    images = ("--calibration", folder / "ranges", "--held-out", folder / "others")
    done = call("reason-export", "quantize", copied, *images, "--json")
    assert done.status == 0, done.log
    known = json.loads((copied / "manifest.json").read_text())["thresholds"]["int8"]
    assert known["source"] == "1000 tiles of 8 held-out good images, int8 in ONNX Runtime"


def test_predict_stitches_a_picture_and_scores_its_highest_place(bundle: Path, data: Path) -> None:
    detector = load(bundle, threads=1)
    picture = read_image(data / "test" / "hole" / "0.png", input_format=detector.bundle.manifest.input)
    result = detector(picture)
    tiles = place_tiles((100, 112), tile_px=TILE_PX)
    each = [picture[tile.top : tile.top + 64, tile.left : tile.left + 64] for tile in tiles]
    maps = np.stack([detector.session.run(np.ascontiguousarray(tile)[None]).anomaly_map[0] for tile in each])
    np.testing.assert_array_equal(result.anomaly_map, stitch(tiles, maps, shape=(100, 112)))
    assert result.score == result.anomaly_map.max()
    peak = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
    assert 40 <= peak[0] < 62
    assert 45 <= peak[1] < 67


def test_predict_judges_large_pictures_and_says_which_one_is_too_small(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    save(tmp_path / "small.png", web_picture(0, rows=50))
    options = ("--json", "--save-maps", tmp_path / "maps")
    done = call("reason-run", "predict", bundle, data / "test", tmp_path / "small.png", *options)
    assert done.status == 1
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert {Path(line["path"]).parent.name: line["decision"] for line in lines[:4]}["hole"] == "NG"
    assert lines[4]["decision"] == "UNKNOWN"
    assert "small.png: a picture of 112 x 50 pixels is smaller than a tile of 64" in lines[4]["reason"]
    assert len(list((tmp_path / "maps").rglob("*.overlay.png"))) == 4


def test_inspect_finds_a_defect_on_the_seam_of_two_frames_once(bundle: Path, tmp_path: Path) -> None:
    web = web_picture(300, rows=400)
    web[SEAM, 50:62] = 0
    save(tmp_path / "web.png", web)
    source = f"linescan:{tmp_path}/web.png?lines_per_s=400&block_lines=16&loops=1&frame_lines=80&overlap_lines=16"
    options = ("--tile-overlap-px", 16, "--threads", 1, "--deadline-ms", 60_000)
    done = call("reason-run", "inspect", bundle, "--source", source, "--sink", f"jsonl:{tmp_path}/r.jsonl", *options)
    assert done.status == 0, done.log
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    answers = [line for line in lines if line["kind"] == "result"]
    assert [line["cause"] for line in answers] == ["judged"] * len(answers)
    assert "NG" in {line["decision"] for line in answers[:2]}
    defects = [item for line in answers[:2] for item in line["defects"]]
    (seen,) = [item for item in defects if item["first_line"] < 76 and item["first_line"] + item["lines"] > 66]
    assert seen["x_px"] < 62
    assert seen["x_px"] + seen["width_px"] > 50


def test_a_bundle_of_tiles_refuses_whole_parts_and_a_graph_that_resizes(
    bundle: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    refused = call("reason-run", "inspect", bundle, "--source", data / "test" / "good")
    assert "was trained on tiles of 64 px and cannot judge whole parts" in refused.error
    refused = call("reason-export", "onnx", run, "--out", tmp_path / "b", "--input-size", 480, 640)
    assert "trained on tiles at native resolution, which are never resized" in refused.error
    assert not (tmp_path / "b").exists()
