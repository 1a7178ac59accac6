"""A part of every picture, `--crop`: all of the way it is as if the pictures had been cut by hand before."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime import load
from reason_runtime.bench import LatencyPlan, measure_latency
from reason_runtime.bundle import open_bundle
from reason_runtime.cold_start import measure_cold_start
from reason_runtime.errors import ConfigurationError, ImageError
from reason_runtime.image import load_image, square_format
from reason_runtime.pipeline_bench import measure_pipeline
from reason_runtime.throughput import measure_throughput
from reason_train.datasets import Sample
from reason_train.datasets.masks import read_mask
from reason_train.image_store import ImageStore
from reason_train.presets import resolve
from reason_train.region import counted_region, parse_crop
from reason_train.report_cases import Painter
from reason_train.run import read_run
from tests.commands import Done, call
from tests.pictures import good_picture, save
from tests.train.trainings import assert_same_training, small_choices
from tests.webs import WIDTH_PX, web_picture

LEFT, TOP, WIDTH, HEIGHT = CROP = (25, 8, 72, 80)
OPTION = ("--crop", "25,8,72,80")
SIZES = ("--steps", 6, "--batch-size", 3, "--image-size", 64, "--seed", 3, "--device", "cpu", "--students", 1)
ORIENTED = 6  # EXIF: to be turned by 90 degrees

Cut = Callable[[Image.Image], Image.Image]


def cut_by_hand(picture: Image.Image) -> Image.Image:
    return picture.crop((LEFT, TOP, LEFT + WIDTH, TOP + HEIGHT))


def as_it_is(picture: Image.Image) -> Image.Image:
    return picture


def hole() -> NDArray[np.uint8]:
    mask = np.zeros((100, 120), np.uint8)
    mask[70:95, 60:110] = 255  # half of it in the part
    return mask


def picture(number: int, *, holed: bool = False) -> Image.Image:
    """120 x 100 pixels."""
    pixels = good_picture(number, size_px=120)[:100].copy()
    pixels[0] = 255 * (number % 2)  # what is outside of the part tells the good pictures apart, and must not count
    if holed:
        pixels[hole() > 0] = 0
    return Image.fromarray(pixels)


def data_set(root: Path, cut: Cut) -> Path:
    for kind, numbers in (("train/good", range(6)), ("test/good", range(100, 103)), ("test/hole", range(200, 203))):
        for number in numbers:
            (root / kind).mkdir(parents=True, exist_ok=True)
            made = cut(picture(number, holed=kind == "test/hole"))
            path, exif = root / kind / f"{number}.png", Image.Exif()
            if number == 1 and cut is as_it_is:  # lies on its side in the file
                exif[0x0112] = ORIENTED
                made = made.transpose(Image.Transpose.ROTATE_90)
            made.save(path, exif=exif)
    for number in range(200, 203):
        (root / "ground_truth" / "hole").mkdir(parents=True, exist_ok=True)
        cut(Image.fromarray(hole())).save(root / "ground_truth" / "hole" / f"{number}_mask.png")
    return root


def fit(data: Path, out: Path, *more: object) -> Done:
    done = call("reason-train", "fit", "--data", data, "--out", out, *SIZES, *more)
    assert done.status == 0, done.log
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole/`, `cut/`: the data set, its `run` and its `bundle`; of the whole pictures made with `--crop`."""
    place = tmp_path_factory.mktemp("crop")
    for name, cut, options in (("whole", as_it_is, OPTION), ("cut", cut_by_hand, ())):
        data = data_set(place / name / "data", cut)
        fit(data, place / name / "run", *options)
        done = call("reason-export", "onnx", place / name / "run", "--out", place / name / "bundle")
        assert done.status == 0, done.log
    return place


@pytest.mark.slow
def test_training_equals_that_on_pictures_that_were_cut_before(place: Path) -> None:
    assert_same_training(place / "whole" / "run", place / "cut" / "run")
    ours, theirs = (np.load(place / name / "run" / "calibration.npz") for name in ("whole", "cut"))
    for name in ("images", "scores", "names"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    config = read_run(place / "whole" / "run").config
    assert config.method.crop_px == CROP
    assert "crop_px (25, 8, 72, 80) in place of None" in config.departures


@pytest.mark.slow
def test_evaluation_equals_it_too_with_masks_of_the_whole_picture(place: Path, tmp_path: Path) -> None:
    said = []
    for name in ("whole", "cut"):
        report = ("--report", tmp_path / name)
        done = call(
            "reason-train", "evaluate", place / name / "run", "--data", place / name / "data", *report, "--json"
        )
        assert done.status == 0, done.log
        said.append({**json.loads(done.output), "run": None, "report": None})
    assert said[0] == said[1]
    assert said[0]["pixel_auroc"] is not None


@pytest.mark.slow
def test_the_bundle_gives_the_scores_and_maps_of_pictures_that_were_cut_before(place: Path) -> None:
    bundles = [open_bundle(place / name / "bundle") for name in ("whole", "cut")]
    assert bundles[0].manifest.input.crop_px == CROP
    ours, theirs = (bundle.golden() for bundle in bundles)
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.anomaly_map, theirs.anomaly_map)
    assert bundles[0].manifest.thresholds == bundles[1].manifest.thresholds
    assert bundles[0].manifest.blind_limits == bundles[1].manifest.blind_limits
    whole, cut = (load(place / name / "bundle", threads=1) for name in ("whole", "cut"))
    for number in range(100, 103):
        seen = whole(np.asarray(picture(number)))
        expected = cut(np.asarray(cut_by_hand(picture(number))))
        assert seen.score == expected.score
        np.testing.assert_array_equal(seen.anomaly_map, expected.anomaly_map)


@pytest.mark.slow
def test_check_and_quantize_look_at_the_part(place: Path, tmp_path: Path) -> None:
    said = []
    for name in ("whole", "cut"):
        bundle = shutil.copytree(place / name / "bundle", tmp_path / name)
        good = tmp_path / f"good of {name}"
        for number in range(400, 420):
            made = picture(number)
            save(good / f"{number}.png", np.asarray(made if name == "whole" else cut_by_hand(made)))
        made = call("reason-export", "quantize", bundle, "--calibration", good)
        assert made.status == 0, made.log
        done = call("reason-export", "check", bundle, "--data", place / name / "data", "--held-out", good, "--json")
        assert done.status == 0, done.log
        facts = json.loads(done.output)
        accuracy = {**facts["accuracy"], "data": None}
        said.append((accuracy, facts["threshold"], (bundle / "model_int8.onnx").read_bytes()))
    assert said[0] == said[1]


@pytest.mark.slow
def test_predict_says_which_picture_the_part_does_not_lie_within(place: Path, tmp_path: Path) -> None:
    small = save(tmp_path / "small.png", good_picture(1, size_px=90))
    lines = call(
        "reason-run", "predict", place / "whole" / "bundle", place / "whole" / "data" / "test", small, "--json"
    )
    assert lines.status == 1
    answers = [json.loads(line) for line in lines.output.splitlines()]
    assert [answer["decision"] == "UNKNOWN" for answer in answers] == [*[False] * 6, True]
    told = "90 x 90 pixels; the part that is looked at (--crop 25,8,72,80) does not lie within them"
    assert answers[-1]["reason"] == f"{small}: {told}"


def test_fit_names_the_picture_before_it_trains_and_leaves_no_run(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", as_it_is)
    small = save(data / "train" / "good" / "3.png", good_picture(3, size_px=96))
    for more in ((), ("--tile", 64)):
        sizes = SIZES if not more else ("--steps", 1, "--batch-size", 2, "--device", "cpu", *more)
        done = call("reason-train", "fit", "--data", data, "--out", tmp_path / "run", *sizes, *OPTION)
        told = "96 x 96 pixels; the part that is looked at (--crop 25,8,72,80) does not lie within them"
        assert f"{small}: {told}" in done.error
        assert not (tmp_path / "run").exists()


def test_resume_with_another_part_is_refused(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", as_it_is)
    fit(data, tmp_path / "run", *OPTION)
    (tmp_path / "run" / "calibration.json").unlink()  # unfinished
    for other in (("--crop", "25,8,72,81"), ()):
        done = call("reason-train", "fit", "--data", data, "--out", tmp_path / "run", *SIZES, *other, "--resume")
        assert "was started with other settings" in done.error
    fit(data, tmp_path / "run", *OPTION, "--resume")


@pytest.mark.slow
def test_a_graph_of_camera_size_takes_the_part(place: Path, tmp_path: Path) -> None:
    run = place / "whole" / "run"
    told = call("reason-export", "onnx", run, "--out", tmp_path / "b", "--input-size", 100, 120).error
    assert f"{run}: looks at the part --crop 25,8,72,80 of every picture, which is what its graph takes" in told
    assert told.endswith("give --input-size 80 72")
    golden = ("--golden", place / "whole" / "data" / "test")
    done = call("reason-export", "onnx", run, "--out", tmp_path / "b", "--input-size", HEIGHT, WIDTH, *golden)
    assert done.status == 0, done.log
    inside, before = load(tmp_path / "b", threads=1), load(place / "whole" / "bundle", threads=1)
    form = inside.bundle.manifest.input
    assert (form.height_px, form.width_px, form.crop_px) == (HEIGHT, WIDTH, CROP)
    np.testing.assert_array_equal(inside.bundle.golden().images[0], np.asarray(cut_by_hand(picture(100))))
    for number in range(100, 103):  # of any size that holds the part
        frame = np.asarray(picture(number))
        larger = np.pad(frame, ((0, 7), (0, 11), (0, 0)))
        assert inside(frame).score == pytest.approx(before(frame).score, rel=1e-2)
        assert inside(larger).score == inside(frame).score
    done = call("reason-run", "predict", tmp_path / "b", place / "whole" / "data" / "test")
    assert done.status == 0, done.log


@pytest.mark.slow
def test_measures_of_speed_run_with_a_part(place: Path) -> None:
    detector, plan = load(place / "whole" / "bundle", threads=1), LatencyPlan(warm_up=0, minimum_count=2, minimum_s=0.0)
    assert measure_latency(detector, plan=plan).input_px == [TOP + HEIGHT, LEFT + WIDTH]
    assert measure_throughput(detector, threads=1, batches=(2,), plan=plan).fps > 0
    assert measure_pipeline(detector, frame_px=(100, 120), image=None, plan=plan).count >= 2
    assert measure_cold_start(place / "whole" / "bundle", {"threads": 1}).first_s > 0


def test_what_leaves_unclear_what_is_looked_at_is_refused() -> None:
    for more, told in (
        ({"crop_from_px": 96}, "--crop cuts a part out before the resize and crop from 96 px after it; choose one"),
        ({"preset": "paper", "paper_protocol": True, "steps": None, "epochs": 2}, "leave --crop out"),
        ({"tile_px": 96, "image_size_px": None}, "--crop takes a part that is smaller than a tile of 96 px"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            resolve(small_choices(crop_px=CROP, **more), dataset="", bf16_is_fast=False)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "0.1,0.2,0.5,0.5", "1,2,3,4,5", ""])
def test_a_part_that_is_no_rectangle_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected LEFT,TOP,WIDTH,HEIGHT in pixels"):
        parse_crop(text)


@pytest.mark.parametrize("text", ["-1,0,64,64", "0,-1,64,64", "0,0,15,64", "0,0,64,0"])
def test_a_part_with_impossible_sides_is_one_line_and_no_run(text: str, parts: Path, tmp_path: Path) -> None:
    done = call("reason-train", "fit", "--data", parts, "--out", tmp_path / "run", *SIZES, f"--crop={text}")
    assert f"crop {text}: expected LEFT,TOP,WIDTH,HEIGHT in pixels" in done.error
    assert not (tmp_path / "run").exists()


def test_a_mask_is_cut_as_its_picture_is_and_judged_white_or_numbered_as_a_whole(tmp_path: Path) -> None:
    mask = np.zeros((100, 120), np.uint8)
    mask[50:60, 50:60] = 100  # grey in the part, and white outside of it: below one half
    mask[0, 0] = 255
    save(tmp_path / "mask.png", mask)
    crop = (40, 40, 64, 32)
    assert not read_mask(tmp_path / "mask.png", size_px=64, crop_px=crop).any()
    mask[0, 0] = 0  # numbers of classes
    save(tmp_path / "mask.png", mask)
    found = read_mask(tmp_path / "mask.png", size_px=64, crop_px=crop)
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 19)
    with pytest.raises(ImageError, match=r"mask.png: 120 x 100 pixels; the part .* does not lie within them"):
        read_mask(tmp_path / "mask.png", size_px=64, crop_px=(60, 0, 64, 64))


FORM = square_format(64)


def test_a_region_is_of_the_whole_picture_and_cut_as_that_is(tmp_path: Path) -> None:
    form = dataclasses.replace(FORM, crop_px=(100, 50, 128, 64))  # doubled along, halved across
    region = counted_region(roi=(0.0, 0.0, 0.5, 0.5), ignore_mask=None, input_format=form, picture_px=(300, 164))
    expected = np.zeros((64, 64), np.float32)
    expected[: 82 - 50, : (150 - 100) // 2] = 1
    np.testing.assert_array_equal(region, expected)
    mask = np.zeros((164, 300), np.uint8)
    mask[:, 164:] = 255
    path = save(tmp_path / "mask.png", mask)
    region = counted_region(roi=None, ignore_mask=path, input_format=form, picture_px=(300, 164))
    expected = np.ones((64, 64), np.float32)
    expected[:, 32:] = 0
    np.testing.assert_array_equal(region, expected)
    with pytest.raises(ConfigurationError, match=r"is 300 x 164 pixels and the pictures, .* 300 x 165; give a mask of"):
        counted_region(roi=None, ignore_mask=path, input_format=form, picture_px=(300, 165))


@pytest.mark.slow
def test_training_with_a_region_of_the_whole_picture(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", as_it_is)
    fit(data, tmp_path / "run", *OPTION, "--roi", "0,0,0.5,1")  # columns up to 60 of 120: 35 of 72 in the part
    done = call("reason-export", "onnx", tmp_path / "run", "--out", tmp_path / "bundle")
    assert done.status == 0, done.log
    anomaly_map = load(tmp_path / "bundle")(np.asarray(picture(100))).anomaly_map
    assert (anomaly_map[:, 32:] == 0).all()
    assert (anomaly_map[:, :31] > 0).all()
    save(data / "train" / "good" / "3.png", good_picture(3, size_px=130))
    done = call("reason-train", "fit", "--data", data, "--out", tmp_path / "r", *SIZES, *OPTION, "--roi", "0,0,0.5,1")
    assert "with --crop, --roi and --ignore-mask need pictures of one size" in done.error
    assert not (tmp_path / "r").exists()


def test_16_bit_values_outside_of_the_part_are_not_looked_at(tmp_path: Path) -> None:
    pixels = np.full((100, 120), 3000, np.uint16)
    pixels[0] = 65535
    path = save(tmp_path / "deep.png", pixels)  # type: ignore[arg-type]  # Pillow saves both
    store = ImageStore([path], input_format=dataclasses.replace(FORM, crop_px=CROP))
    assert store.broken() == []
    assert store.highest_16_bit == 3000


def test_the_report_draws_the_map_where_it_belongs_in_the_whole_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "part.png", np.full((1500, 768, 3), 100, np.uint8))
    form = dataclasses.replace(FORM, crop_px=(400, 600, 200, 300))
    painter = Painter(input_format=form, scale=1.0, threshold=None, pixel_threshold=None)
    sample = Sample(path=path, anomalous=True, defect="hole")
    shown = dict(painter.pictures(sample, score=1.0, anomaly_map=np.ones((64, 64), np.float32)))
    drawn = Image.open(io.BytesIO(base64.b64decode(shown["anomaly map"].partition(",")[2])))
    assert drawn.size == (197, 384)  # 0.256 of the picture
    changed = np.abs(np.asarray(drawn).astype(int) - 100).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    for found, expected in ((rows, (600, 900)), (columns, (400, 600))):
        assert abs(int(found.min()) - 0.256 * expected[0]) <= 2
        assert abs(int(found.max()) - 0.256 * expected[1]) <= 2


@pytest.mark.parametrize("tile_px", [None, 64])
def test_a_store_cuts_before_it_resizes_and_before_it_places_tiles(tmp_path: Path, tile_px: int | None) -> None:
    form = dataclasses.replace(FORM, crop_px=(10, 20, 100, 70))
    whole = web_picture(0)
    assert whole.shape[:2] == (100, WIDTH_PX)
    paths = [save(tmp_path / "whole.png", whole)], [save(tmp_path / "cut.png", whole[20:90, 10:110])]
    ours = ImageStore(paths[0], input_format=form, seed=1, tile_px=tile_px, memory_mib=0)
    theirs = ImageStore(paths[1], input_format=FORM, seed=1, tile_px=tile_px)
    assert ours.images == theirs.images == (1 if tile_px is None else 6)
    for index in range(3 * ours.images):  # two views too
        np.testing.assert_array_equal(ours[index], theirs[index])
    if tile_px is None:
        np.testing.assert_array_equal(load_image(paths[0][0], input_format=form), theirs[0])
