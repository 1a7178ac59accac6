"""The report: what it says, that it holds everything itself, and how a real browser takes it."""

import base64
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.errors import ImageError, ReasonError
from reason_runtime.image import square_format
from reason_runtime.manifest import Threshold
from reason_train.datasets import Sample, load_dataset, read_masks
from reason_train.evaluation import evaluate_scores
from reason_train.report import write_report
from reason_train.report_cases import Painter
from reason_train.report_charts import Curve, histogram, line_chart
from tests.browser import needs_browser, run_browser
from tests.train import trees

SIZE = 16
LIMIT = Threshold(
    value=0.5,
    target_false_reject_rate=0.01,
    images=46,
    rejected=0,
    false_reject_upper_bound=0.0630,
    source="46 held-out good images",
)


def page(
    tmp_path: Path,
    *,
    masks: bool = True,
    threshold: Threshold | None = LIMIT,
    title: str = "bolt & <nut>",
    tile_px: int | None = None,
    alarm: float = 0.6,
    training_known: bool = True,
) -> Path:
    dataset = load_dataset(trees.mvtec(tmp_path / "bolt", masks=masks))
    truth = read_masks(dataset.test, size_px=SIZE)
    scores = np.array([0.9 if s.defect == "dent" else 0.2 for s in dataset.test], np.float32)
    scores[[s.defect == "good" for s in dataset.test]] = [0.1, alarm]
    maps = np.zeros((len(scores), SIZE, SIZE), np.float32) + scores[:, None, None] / 2
    maps[:, 2:6, 2:6] = scores[:, None, None]
    return write_report(
        tmp_path / "report",
        title=title,
        evaluation=evaluate_scores(dataset.test, scores, maps=maps, masks=truth),
        samples=dataset.test,
        scores=scores,
        threshold=threshold,
        pixel_threshold=None if threshold is None else threshold.value,
        maps=maps,
        input_format=square_format(SIZE),
        settings={"teacher": "efficientnet_lite0", "folder": "<b>mine</b>"},
        training_known=training_known,
        tile_px=tile_px,
    )


class Outline(HTMLParser):
    """Tags that are open, attributes that load something, and what is left unclosed."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.alternatives: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.alternatives.append(dict(attrs).get("alt"))
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_page_says_what_the_evaluation_found(tmp_path: Path) -> None:
    path = page(tmp_path)
    assert path == tmp_path / "report" / "report.html"
    html = path.read_text(encoding="utf-8")
    text = text_of(html)
    assert "2 good and 4 defective test images" in text
    for words in (
        "Image AUROC 0.7500",  # both dents beat both good images, both cracks beat one
        "crack 2 2 0.5000",  # images, missed, image AUROC
        "dent 2 0 1.0000",
        "rejects 1 of 2 good images and misses 2 of 4 defective ones",
        "Source: 46 held-out good images. Wanted: at most 1.00% of good parts",
        "true rate is at most 6.30% with 95 % confidence, which misses it: that would take 299 images",
        "teacher efficientnet_lite0",
        "numpy " + np.__version__,
        "crack/000.png score 0.2 missed",
        "good/001.png score 0.6 false alarm",
        "4 of 4 defective images, those with the lowest scores; 2 of 4 are judged wrongly (missed)",
        "2 of 2 good images, those with the highest scores; 1 of 2 are judged wrongly (false alarm)",
        "where the score reaches the threshold, a white line is around 0.5 or more, which no held-out good image",
    ):
        assert words in text, words


def test_the_worst_come_first(tmp_path: Path) -> None:
    misses, alarms = text_of(page(tmp_path).read_text(encoding="utf-8")).split("Worst misses")[1].split("Worst false")
    scores = [[float(score) for score in re.findall(r"\.png score (\d\S*)", part)] for part in (misses, alarms)]
    assert scores == [sorted(scores[0]), [0.6, 0.1]]
    assert (len(scores[0]), scores[0][0], scores[0][-1] > 0.2) == (4, 0.2, True)


def test_names_and_settings_cannot_break_the_page(tmp_path: Path) -> None:
    html = page(tmp_path).read_text(encoding="utf-8")
    assert "<title>bolt &amp; &lt;nut&gt;</title>" in html
    assert "&lt;b&gt;mine&lt;/b&gt;" in html
    assert "<b>mine</b>" not in html


def test_every_tag_is_closed_every_picture_described_and_nothing_loaded_from_elsewhere(tmp_path: Path) -> None:
    html = page(tmp_path).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    assert (
        len(outline.alternatives) == 1 + 4 * 3 + 2 * 2
    )  # the colours; image, map and mask of defective images; no mask of good ones
    assert all(outline.alternatives)
    assert all(value.startswith("data:") for value in outline.loaded)
    assert not re.search(r"https?://|url\(|@import|<script", html)


def test_a_line_is_drawn_where_the_score_reaches_the_threshold(tmp_path: Path) -> None:
    image = tmp_path / "part.png"
    Image.fromarray(np.full((SIZE, SIZE, 3), 90, np.uint8)).save(image)
    values = np.full((SIZE, SIZE), 0.1, np.float32)
    values[4:12, 4:12] = 0.6
    painter = Painter(input_format=square_format(SIZE), scale=1.0, threshold=0.5, pixel_threshold=0.5)
    sample = Sample(path=image, anomalous=True, defect="dent")
    shown = [dict(painter.pictures(sample, score=score, anomaly_map=values)) for score in (0.4, 0.5)]

    def brightest(uri: str) -> int:
        with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
            return int(np.asarray(picture).min(2).max())

    passed, rejected = (brightest(pictures["anomaly map"]) for pictures in shown)
    assert passed < 150
    assert rejected > 230


def test_without_masks_and_threshold_the_page_says_what_is_missing(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, masks=False, threshold=None).read_text(encoding="utf-8"))
    assert "Pixel AUROC – needs masks" in text
    assert "No threshold is known" in text
    assert "reason-train calibrate" in text
    assert "Per-region overlap" not in text
    assert "without a threshold none is judged" in text


def test_a_threshold_that_judges_all_rightly_is_said_to(tmp_path: Path) -> None:
    perfect = replace(LIMIT, value=0.65, images=299, false_reject_upper_bound=0.00997)
    text = text_of(page(tmp_path, threshold=perfect).read_text(encoding="utf-8"))
    assert "2 of 2 good images, those with the highest scores; the threshold judges all of them rightly." in text
    assert "1.00% with 95 % confidence, which keeps the wanted rate" in text


def test_a_score_just_below_the_threshold_is_not_rounded_to_it(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, threshold=replace(LIMIT, value=0.600013), alarm=0.600007).read_text(encoding="utf-8"))
    assert "good/001.png score 0.600007" in text


def test_no_bound_is_promised_where_it_is_not_known_what_was_trained_on(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, training_known=False).read_text(encoding="utf-8"))
    assert "which the checkpoint may have been trained on: no bound is known to hold." in text
    assert "confidence" not in text


def test_a_bound_of_tiles_promises_nothing_of_parts(tmp_path: Path) -> None:
    tiles = replace(LIMIT, images=320, false_reject_upper_bound=0.0093, source="320 tiles of 2 held-out good images")
    text = text_of(page(tmp_path, threshold=tiles, tile_px=64).read_text(encoding="utf-8"))
    assert "1.00% of good tiles rejected. 0 of these 320 are, so the true rate is at most 0.93% of tiles" in text
    assert "A picture of K tiles is rejected up to K times as often." in text
    assert "good parts" not in text
    assert "320 held-out good images" not in text


def test_a_small_defect_of_a_large_picture_is_seen_in_its_mask_and_map(tmp_path: Path) -> None:
    side = 4000
    image, mask = tmp_path / "part.png", tmp_path / "part_mask.png"
    Image.new("RGB", (side, side), (90, 90, 90)).save(image)
    drawn = np.zeros((side, side), np.uint8)
    drawn[2005:2008, 1005:1008] = 255
    Image.fromarray(drawn).save(mask)
    sample = Sample(path=image, anomalous=True, defect="dent", mask_path=mask)
    painter = Painter(input_format=square_format(SIZE), scale=1.0, threshold=0.5, pixel_threshold=0.5)
    shown = dict(painter.pictures(sample, score=1.0, anomaly_map=drawn.astype(np.float32) / 255))
    for uri in (shown["mask"], shown["anomaly map"]):
        with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.shape == (384, 384)
        assert pixels[187:198, 92:102].max() > 200


def page_of_scores(folder: Path, samples: Sequence[Sample], scores: NDArray[np.float32]) -> Path:
    return write_report(
        folder,
        title="scores alone",
        evaluation=evaluate_scores(samples, scores, maps=None, masks=None),
        samples=samples,
        scores=scores,
        threshold=None,
        pixel_threshold=None,
        maps=None,
        input_format=square_format(SIZE),
        settings={},
    )


def test_groups_have_a_table_with_their_mean(tmp_path: Path) -> None:
    samples = load_dataset(trees.aebad_v(tmp_path)).test
    scores = np.array([0.8 if s.anomalous else 0.1 for s in samples], np.float32)
    text = text_of(page_of_scores(tmp_path / "out", samples, scores).read_text(encoding="utf-8"))
    assert "video2 1 2 1.0000" in text
    assert "mean over groups 3 6 1.0000" in text


def test_an_older_report_is_replaced_and_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    first = page(tmp_path).read_text(encoding="utf-8")
    assert page(tmp_path, title="again").read_text(encoding="utf-8") != first
    shutil.rmtree(tmp_path / "report")
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(ReasonError, match="report: cannot be made"):
        page(tmp_path)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_text("no image")
    samples = [Sample(path=path, anomalous=True, defect="dent"), Sample(path=path, anomalous=False, defect="good")]
    with pytest.raises(ImageError, match=r"broken\.png"):
        page_of_scores(tmp_path / "report", samples, np.array([1.0, 0.0], np.float32))


def test_a_curve_is_drawn_with_few_points_that_lie_on_it() -> None:
    x = np.sort(np.random.default_rng(0).random(100_000))
    x[0], x[-1] = 0, 1
    y = np.sqrt(x)
    svg = line_chart([Curve(name="a < b", style="first", x=x, y=y)], title="t", x_label="x", y_label="y", x_limit=0.3)
    found = re.search(r'points="([^"]+)"', svg)
    assert found
    drawn = np.array([[float(number) for number in point.split(",")] for point in found[1].split()])
    assert len(drawn) <= 402
    assert np.all(np.diff(drawn[:, 0]) >= 0)
    left, right, bottom, top = drawn[0, 0], drawn[-1, 0], drawn[0, 1], 14
    rate = (drawn[:, 0] - left) / (right - left) * 0.3
    height = (bottom - drawn[:, 1]) / (bottom - top)
    # positions have one decimal: 0.05 of 222 units in y, and as much of 334 in x where the root is steep
    assert height[20:] == pytest.approx(np.sqrt(rate[20:]), abs=0.01)
    assert "a &lt; b" in svg


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_histogram_draws_equal_scores_too(threshold: float | None) -> None:
    same = np.full(5, 0.5, np.float32)
    svg = histogram(good=same, defective=same, threshold=threshold, title="t")
    assert svg.count('class="bar good"') == svg.count('class="bar defective"') == 1
    assert ("threshold" in svg) == (threshold is not None)
    assert "nan" not in svg


@contextmanager
def proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy that answers nothing and keeps what the browser asked it for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        do_GET = do_POST = do_CONNECT = answer  # noqa: N815 - the names that the library calls

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def browse(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's document as the browser holds it, and the addresses that it asked for."""
    with proxy() as (port, asked):
        through = (f"--proxy-server=http://127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>")
        document = run_browser(path.as_uri(), *through, "--dump-dom", profile=profile)
    # the browser itself may call its maker; a page of ours never names these hosts
    return document, [address for address in asked if "google" not in address and "gvt1" not in address]


@needs_browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(tmp_path: Path) -> None:
    document, asked = browse(page(tmp_path), tmp_path / "profile")
    assert asked == []
    text = text_of(document)
    for words in ("Image AUROC 0.7500", "Worst misses", "Worst false alarms", "Settings and versions"):
        assert words in text
    assert document.count("<polyline") == 3  # ROC of images and of pixels, PRO
    assert document.count("<img") == 17  # one of them the colours


@needs_browser
def test_the_record_of_requests_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "leaky.html"
    path.write_text('<!DOCTYPE html><title>leaky</title><img src="http://elsewhere.test/x.png" alt="x">')
    _, asked = browse(path, tmp_path / "profile")
    assert any("elsewhere.test" in address for address in asked)
