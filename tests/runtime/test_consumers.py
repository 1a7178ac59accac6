"""Bundles read by programs in other languages: the OpenVINO example is compiled and run, ONNX Runtime's is not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason_runtime.bundle import update_bundle
from reason_runtime.image import square_format
from reason_runtime.session import open_session
from reason_train.config import MethodConfig
from tests.export.engine_bundles import engine_bundle
from tests.pictures import good_picture
from tests.runtime.bundles import SIZE_PX, make_bundle

CONSUMERS = Path(__file__).parents[2] / "docs" / "consumers"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from openvino.utils import get_cmake_path

    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing and "CI" not in os.environ:  # there they are installed, and nothing is passed over
        pytest.skip(f"{' and '.join(missing)} not installed")
    build = tmp_path_factory.mktemp("consumer") / "build"
    configure = ["cmake", "-S", CONSUMERS / "openvino", "-B", build, f"-DOpenVINO_DIR={get_cmake_path()}"]
    for command in (configure, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "inspect"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def save(image: np.ndarray, folder: Path) -> tuple[Path, Path]:
    """As a raw file and as PPM."""
    raw, ppm = folder / "image.raw", folder / "image.ppm"
    raw.write_bytes(image.tobytes())
    Image.fromarray(image).save(ppm)
    return raw, ppm


@pytest.mark.slow
def test_the_openvino_example_gives_the_score_of_the_python_runtime(program: Path, tmp_path: Path) -> None:
    method = MethodConfig(teacher="efficientnet_lite0", image_size_px=64)
    bundle = engine_bundle(tmp_path / "bundle", method)
    session = open_session(bundle, backend="openvino")
    for number in range(3):
        image = good_picture(number, size_px=64)
        score = session.run(image[None]).score[0]
        for path in save(image, tmp_path):
            done = run(program, bundle.path, path)
            assert done.returncode == 0, done.stderr
            assert abs(float(done.stdout) - score) <= 1e-5


@pytest.mark.parametrize(("channels", "suffix"), [(3, "ppm"), (1, "pgm")])
def test_comments_in_a_ppm_or_pgm_are_passed_over(program: Path, tmp_path: Path, channels: int, suffix: str) -> None:
    form = square_format(SIZE_PX, channels=3 if channels == 3 else 1)
    bundle = make_bundle(tmp_path / "bundle", input_format=form)
    pixels = np.random.default_rng(2).integers(0, 256, (SIZE_PX, SIZE_PX, channels), dtype=np.uint8)
    head = f"P{6 if channels == 3 else 5}\n# by a camera\n{SIZE_PX}\n# another\n{SIZE_PX} 255\n".encode()
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(head + pixels.tobytes())
    score = open_session(bundle, backend="openvino").run(pixels[None]).score[0]
    assert float(run(program, bundle.path, path).stdout) == pytest.approx(score, abs=1e-5)


def test_the_threshold_gives_the_decision(program: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").path
    raw, _ = save(np.full((SIZE_PX, SIZE_PX, 3), 64, np.uint8), tmp_path)  # |64 - 128| / 128 = 0.5
    assert run(program, bundle, raw).stdout == "0.5\n"
    assert run(program, bundle, raw, "0.5").stdout == "0.5 NG\n"
    assert run(program, bundle, raw, "0.51").stdout == "0.5 OK\n"
    for wrong in ("nan", "abc", "inf", "-1", "1,5", "0.5 mm"):
        done = run(program, bundle, raw, wrong)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: the threshold is no number above 0\n")


def test_what_is_not_finite_is_unknown_and_a_failure(program: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", scale=float("nan")).path
    raw, _ = save(np.full((SIZE_PX, SIZE_PX, 3), 64, np.uint8), tmp_path)
    done = run(program, bundle, raw, "0.5")
    assert done.returncode == 1
    assert done.stdout.endswith(" UNKNOWN\n")


def test_images_that_do_not_fit_are_refused(program: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").path
    raw, ppm = save(np.zeros((SIZE_PX, SIZE_PX + 1, 3), np.uint8), tmp_path)
    refused = f"is no 8-bit image of {SIZE_PX} x {SIZE_PX} x 3, as the graph takes it"
    for path in (raw, ppm):
        done = run(program, bundle, path)
        assert (done.returncode, done.stderr) == (1, f"error: {path}: {refused}\n")
    whole = save(np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8), tmp_path)[1].read_bytes()
    for content in (b"", whole[:-1], whole + b"\0", whole.replace(b"255", b"254"), whole.replace(b"P6", b"P5")):
        ppm.write_bytes(content)
        assert refused in run(program, bundle, ppm).stderr
    assert run(program, bundle, tmp_path / "none").stderr == f"error: {tmp_path / 'none'}: cannot be read\n"
    assert "usage: inspect BUNDLE IMAGE" in run(program, bundle).stderr


@pytest.mark.parametrize("part", ["crop", "centre", "tiles"])
def test_a_bundle_that_looks_at_parts_of_a_picture_is_refused(program: Path, tmp_path: Path, part: str) -> None:
    form = square_format(SIZE_PX, resize_px=2 * SIZE_PX if part == "centre" else None)
    if part == "crop":
        form = dataclasses.replace(form, crop_px=(0, 0, SIZE_PX, SIZE_PX))
    bundle = make_bundle(tmp_path / "bundle", input_format=form)
    training = dataclasses.replace(bundle.manifest.training, configuration={"tile_px": None})
    if part == "tiles":
        training = dataclasses.replace(training, configuration={"tile_px": SIZE_PX})
    update_bundle(bundle, manifest=dataclasses.replace(bundle.manifest, training=training))
    raw, _ = save(np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8), tmp_path)
    done = run(program, bundle.path, raw)
    told = "error: the bundle looks at parts of a picture (a crop, tiles); this example cuts none out\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_a_bundle_that_does_not_say_what_it_looks_at_is_refused(program: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").path
    raw, _ = save(np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8), tmp_path)
    (bundle / "manifest.json").unlink()
    done = run(program, bundle, raw)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {bundle}/manifest.json: cannot be read\n")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_example_is_shorter_than_80_lines(name: str) -> None:
    assert len((CONSUMERS / name / "main.cpp").read_text().splitlines()) < 80


def test_the_example_that_is_not_compiled_says_so() -> None:
    for name in ("main.cpp", "CMakeLists.txt"):
        assert "not compiled" in (CONSUMERS / "onnxruntime" / name).read_text().lower()
