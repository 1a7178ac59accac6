"""The web page of a running line, as a real browser shows it."""

from __future__ import annotations

import json
import re
import signal
import threading
import urllib.request
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import needs_browser, run_browser
from tests.line.models import line_bundle
from tests.line.ports import free_port
from tests.line.test_inspect_command import endless, start, wait_for

WATCH_MS = 4000  # of the page's own time


@needs_browser
@pytest.mark.slow
def test_a_browser_sees_decisions_arrive_the_latest_reject_and_a_fault(tmp_path: Path) -> None:
    bundle = line_bundle(tmp_path / "line").path
    address = f"http://127.0.0.1:{(port := free_port())}"
    source = endless(tmp_path, lines_per_s=640, faults="unplug@200-1000000")  # ten seconds of parts, then a lost camera
    arguments = ("--sink", f"jsonl:{tmp_path}/r.jsonl", "--dashboard", f"127.0.0.1:{port}", "--threads", 1)
    process = start(bundle, "--source", source, *arguments)
    try:
        wait_for(tmp_path / "r.jsonl", 10, seconds=120)
        before = json.loads(urllib.request.urlopen(f"{address}/state.json", timeout=30).read())["decisions"]
        watching = (f"--virtual-time-budget={WATCH_MS}", "--window-size=1280,900")
        page = run_browser(address, *watching, "--dump-dom", profile=tmp_path / "profile")
        wait_for(tmp_path / "r.jsonl", 200, seconds=120)
        picture = tmp_path / "page.png"
        run_browser(address, *watching, f"--screenshot={picture}", profile=tmp_path / "profile")
        after = run_browser(address, *watching, "--dump-dom", profile=tmp_path / "profile")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert 'class="good">healthy<' in page
    shown = {name: int(count) for count, name in re.findall(r"<b>(\d+)</b>(OK|NG|UNKNOWN)", page)}
    assert shown["OK"] > before["OK"]  # they arrived after the browser had been started
    assert shown["NG"] > before["NG"]
    assert page.count('<tr class="NG">') >= 5
    assert re.search(r'<img id="reject" alt="" src="/reject.jpg\?', page)
    assert 'class="bad">fault<' in after
    assert "camera camera: " in unescape(after)
    assert "connection lost; next try in" in unescape(after)
    with Image.open(picture) as image:
        assert image.size == (1280, 900)


@needs_browser
def test_a_page_that_reaches_no_line_says_so(tmp_path: Path) -> None:
    page = tmp_path / "dashboard.html"
    page.write_bytes(resources.files("reason_runtime.line.sinks").joinpath("dashboard.html").read_bytes())
    shown = run_browser(page.as_uri(), f"--virtual-time-budget={WATCH_MS}", "--dump-dom", profile=tmp_path / "profile")
    assert re.search(r'class="bad">no contact<', shown)


class FrozenLine(BaseHTTPRequestHandler):
    """Gives the page and one healthy state, then nothing more, as a process that was stopped.

    A picture at the end of the page, which comes late, keeps the browser looking for as long.
    """

    told = False
    over = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/":
            content = resources.files("reason_runtime.line.sinks").joinpath("dashboard.html").read_bytes()
            content = content.replace(b"limit.abort(), 3000", b"limit.abort(), 300") + b"<img src=/late>"
        elif self.path == "/late":
            self.over.wait(2.5)
            content = b""
        else:
            if FrozenLine.told:
                self.over.wait(30)
            FrozenLine.told = True
            content = json.dumps(STATE).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


STATE = {
    "bundle": "b",
    "beat": {"healthy": True, "faults": {}},
    "decisions": {},
    "unknown": {},
    "answers": [],
    "events": [],
    "reject": None,
}


@needs_browser
def test_a_page_whose_line_is_frozen_does_not_stay_healthy(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FrozenLine)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        shown = run_browser(address, "--dump-dom", profile=tmp_path / "profile")
    finally:
        FrozenLine.over.set()
        server.shutdown()
        server.server_close()
    assert FrozenLine.told
    assert re.search(r'class="bad">no contact<', shown)
