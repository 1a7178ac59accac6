"""Pictures sent by HTTP, with real clients."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.errors import ConfigurationError, SourceError
from reason_runtime.image import square_format
from reason_runtime.line.frame import Grab
from reason_runtime.line.http_server import LineHandler, LineServer
from reason_runtime.line.sources.open import open_source
from reason_runtime.line.sources.post import AT_ONCE
from tests.line import test_record
from tests.line.models import SLOW, line_bundle, part
from tests.line.ports import free_port
from tests.line.test_inspect_command import results, start, wait_for


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_bundle(tmp_path_factory.mktemp("b") / "line").path


def png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def send(
    port: int, content: bytes | Iterator[bytes], *, to: str = "/judge", **headers: str
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", to, content, headers)
        reply = connection.getresponse()
        assert reply.getheader("Content-Type") == "application/json"
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def line(bundle: Path, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = start(bundle, "--source", f"post://127.0.0.1:{(port := free_port())}", "--threads", 1, *arguments)
    try:
        until_s = time.monotonic() + 30
        while not listens(port):
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        yield process, port
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.communicate()


def test_each_sender_gets_the_decision_of_its_own_part(bundle: Path, tmp_path: Path) -> None:
    out, replies = tmp_path / "r.jsonl", {}

    def send_parts(sender: int, port: int) -> None:
        for number in range(10):
            name, value = f"{sender}-{number}", 20 + 23 * ((sender + 3 * number) % 10)
            replies[name] = value, send(port, png(part(value)), to=f"/judge?part_id={name}")

    with line(bundle, "--sink", f"jsonl:{out}", "--back-pressure", "block", "--deadline-ms", 30_000) as (_, port):
        threads = [threading.Thread(target=send_parts, args=(sender, port)) for sender in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = {line["part_id"]: line for line in results(out)}
    assert len(written) == len(replies) == 60
    for name, (value, (status, reply)) in replies.items():
        assert status == 200
        assert reply == written[name]
        assert reply["score"] == pytest.approx(abs(value - 128) / 128)
        assert reply["decision"] == ("NG" if abs(value - 128) >= 64 else "OK")
        assert reply["reject"] == (reply["decision"] == "NG")
    assert {reply["decision"] for _, (_, reply) in replies.values()} == {"OK", "NG"}


def test_a_part_sent_again_after_a_kill_keeps_its_first_answer(bundle: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "r.jsonl", tmp_path / "journal"
    options = ("--sink", f"jsonl:{out}", "--journal", journal)

    def send_slow(port: int) -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            send(port, png(part(120, code=SLOW)), to="/judge?part_id=B1")

    with line(bundle, *options) as (process, port):
        thread = threading.Thread(target=send_slow, args=(port,))
        thread.start()
        until_s = time.monotonic() + 10
        while not journal.exists() or '"B1"' not in journal.read_text():
            assert time.monotonic() < until_s
            time.sleep(0.02)
        process.kill()
        thread.join()
        process.wait()
        process.returncode = 0  # as it is meant here
    with line(bundle, *options) as (_, port):
        status, reply = send(port, png(part(130)), to="/judge?part_id=B1")
    assert (status, reply["decision"], reply["cause"]) == (200, "UNKNOWN", "repeated")
    assert [found["cause"] for found in results(out) if found["part_id"] == "B1"] == ["restart"]


def test_what_is_no_whole_picture_is_a_part_and_unknown(bundle: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "r.jsonl", png(part(130))
    with line(bundle, "--sink", f"jsonl:{out}") as (_, port):
        found = [send(port, content)[1] for content in (b"", b"no picture", whole[:-30], whole)]
        with socket.create_connection(("127.0.0.1", port)) as client:  # gone after half of it
            client.sendall(b"POST /judge?part_id=half HTTP/1.1\r\nContent-Length: 4000\r\n\r\n" + whole[:50])
        assert wait_for(out, 5)[4]["part_id"] == "half"
        assert send(port, whole)[1]["decision"] == "OK"
    assert [each["cause"] for each in found] == ["incomplete"] * 3 + ["judged"]
    assert [each["reject"] for each in found] == [True, True, True, False]
    assert "is not an image" in str(found[0]["reason"])
    assert "is not an image" in str(found[1]["reason"])
    assert re.search("cannot be read|is damaged", str(found[2]["reason"]))
    assert results(out)[4]["reason"] == "the picture was cut off"


def test_a_part_whose_sender_has_gone_is_judged_and_one_that_comes_twice_is_not(bundle: Path, tmp_path: Path) -> None:
    out, content = tmp_path / "r.jsonl", png(part(120))
    with line(bundle, "--sink", f"jsonl:{out}") as (_, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"POST /judge?part_id=A HTTP/1.1\r\nContent-Length: {len(content)}\r\n\r\n"
            client.sendall(head.encode() + content)
        assert wait_for(out, 1)[0]["decision"] == "OK"
        again = send(port, content, to="/judge?part_id=A")[1]
        unnamed = [send(port, content)[1] for _ in range(2)]
    assert (again["decision"], again["cause"], again["part_id"]) == ("UNKNOWN", "repeated", "A#camera-1")
    assert [each["decision"] for each in unnamed] == ["OK", "OK"]
    assert len({str(each["part_id"]) for each in unnamed}) == 2


def test_more_senders_at_once_than_there_is_memory_for_are_refused_at_once(bundle: Path, tmp_path: Path) -> None:
    out, content = tmp_path / "r.jsonl", png(part(120))
    with line(bundle, "--sink", f"jsonl:{out}") as (_, port):
        half = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE)]
        for number, client in enumerate(half):
            client.sendall(f"POST /judge?part_id={number} HTTP/1.1\r\nContent-Length: 9999\r\n\r\n".encode())
        while (refused := send(port, bytes(2**23)))[0] != 503:  # the last of them may not yet be heard
            assert len(results(out)) < 50
        assert refused[1] == {"error": "16 pictures are sent at once already; this part has no answer"}
        before = len(results(out))
        replies: list[int] = []
        threads = [
            threading.Thread(target=lambda: replies.append(send(port, bytes(2**23))[0])) for _ in range(2 * AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [503] * (2 * AT_ONCE)
        for client in half:
            client.close()
        wait_for(out, before + AT_ONCE)
        assert {str(each["reason"]) for each in results(out)[before:]} == {"the picture was cut off"}
        assert send(port, content)[1]["decision"] == "OK"


def test_connections_beyond_what_a_process_can_hold_are_closed_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reason_runtime.line.http_server._MOST", 3)
    source = open_source(f"post://127.0.0.1:{(port := free_port())}", input_format=None)
    source.open()
    try:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(3)]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            assert client.recv(1) == b""
        idle.pop().close()
        until_s = time.monotonic() + 5
        heard = b""
        while not heard:
            assert time.monotonic() < until_s
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                with suppress(ConnectionError):
                    client.sendall(b"POST /judge HTTP/1.1\r\n\r\n")
                    heard = client.recv(12)
        assert heard == b"HTTP/1.1 411"
        for client in idle:
            client.close()
    finally:
        source.close()


def test_the_reply_comes_at_the_deadline(bundle: Path) -> None:
    with line(bundle, "--deadline-ms", 150) as (_, port):
        assert send(port, png(part(120, code=SLOW)))[1]["cause"] == "deadline"


def test_every_part_in_the_records_was_answered_when_the_line_stops(bundle: Path, tmp_path: Path) -> None:
    out, replies, ended = tmp_path / "r.jsonl", {}, threading.Event()

    def send_parts(sender: int, port: int) -> None:
        for number in range(100_000):
            name = f"{sender}-{number}"
            try:
                replies[name] = send(port, png(part(120)), to=f"/judge?part_id={name}")
            except http.client.RemoteDisconnected:  # it was taken and not answered
                replies[name] = 0, {}
                return
            except OSError:  # nobody listens any more
                return
            if ended.is_set():
                return

    with line(bundle, "--sink", f"jsonl:{out}", "--journal", tmp_path / "j") as (process, port):
        threads = [threading.Thread(target=send_parts, args=(sender, port)) for sender in range(4)]
        for thread in threads:
            thread.start()
        wait_for(out, 50)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        ended.set()
        for thread in threads:
            thread.join()
    answered = {name: reply for name, (status, reply) in replies.items() if status == 200}
    assert {line["part_id"]: line for line in results(out)} == answered
    refused = [reply for status, reply in replies.values() if status != 200]
    assert all(reply == {"error": "the line is stopping; this part has no answer"} for reply in refused)


def test_a_sent_picture_is_read_as_a_file_is(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "parts"
    folder.mkdir()
    cv2.imwrite(str(folder / "a16.png"), random.integers(0, 65536, (40, 50), np.uint16))
    cv2.imwrite(str(folder / "b16.png"), random.integers(20_000, 30_000, (40, 50, 3), np.uint16))
    Image.fromarray(random.integers(0, 256, (40, 50), np.uint8)).save(folder / "c.jpg")
    Image.fromarray(random.integers(0, 256, (40, 50, 4), np.uint8)).save(folder / "d.png")
    form = square_format(32)
    names = sorted(path.name for path in folder.iterdir())
    files = open_source(str(folder), input_format=form)
    files.open()
    source = open_source(f"post://127.0.0.1:{(port := free_port())}", input_format=form)
    source.open()
    try:
        for name in names:
            threading.Thread(target=send, args=(port, (folder / name).read_bytes())).start()
            sent, read = next_grab(source), files.read()
            assert isinstance(read, Grab)
            assert sent.image is not None
            assert sent.reply is not None
            np.testing.assert_array_equal(sent.image, read.image)
            sent.reply({})
    finally:
        source.close()


def next_grab(source: object) -> Grab:
    for _ in range(50):
        grab = source.read()  # type: ignore[attr-defined]
        if isinstance(grab, Grab):
            return grab
    raise AssertionError("nothing came")


def test_pictures_to_train_with_come_the_same_way(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (20, 30), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    out = tmp_path / "good"
    process = test_record.start("--source", f"post://127.0.0.1:{(port := free_port())}", "--out", out, "--count", 2)
    try:
        while not listens(port):
            time.sleep(0.05)
        first = send(port, (tmp_path / "a.png").read_bytes())
        clear = np.full((20, 30, 4), 100, np.uint8)
        second, third = send(port, png(clear)), send(port, png(part(7)))
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, log
    kept = test_record.pictures(out)
    assert first == (200, {"kind": "recorded", "picture": kept[0].name, "skipped_reason": None})
    assert "transparent" in str(second[1]["skipped_reason"])
    assert third[1]["picture"] == kept[1].name
    np.testing.assert_array_equal(test_record.pixels(kept[0]), image)
    np.testing.assert_array_equal(test_record.pixels(kept[1]), part(7))


def test_requests_that_are_none_say_what_is_expected(bundle: Path, tmp_path: Path) -> None:
    out, content = tmp_path / "r.jsonl", png(part(130))
    with line(bundle, "--sink", f"jsonl:{out}") as (process, port):
        assert send(port, content, to="/elsewhere") == (404, {"error": "/elsewhere: expected POST /judge"})
        for query in ("part=3", "part_id", "part_id=", "part_id=a&part_id=b", "part_id=a%0Ab", f"part_id={'x' * 129}"):
            status, reply = send(port, content, to=f"/judge?{query}")
            assert status == 400
            assert re.search("part_id|twice", str(reply["error"]))
        assert send(port, content, **{"Content-Length": "-3"})[0] == 411
        assert send(port, bytes(2**26 + 1))[0] == 413
        assert send(port, b"", **{"Content-Length": "9" * 5000})[0] == 413
        for pieces in ([content], [bytes(2**20)] * 3) * 20:  # in chunks, which are not read before the reply
            assert send(port, iter(pieces)) == (411, {"error": "expected a Content-Length"})
        for method, body in (("GET", None), ("PUT", bytes(2**20))):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(method, "/judge", body)
            assert connection.getresponse().status == 501
            connection.close()
        assert send(port, content, to="/judge?part_id=B%C3%BC%2F7")[1]["part_id"] == "Bü/7"
    assert [line["part_id"] for line in results(out)] == ["Bü/7"]  # the others were no parts


def test_a_sender_that_asks_first_is_told_to_go_on(bundle: Path) -> None:
    content = png(part(130))
    with line(bundle) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        head = f"POST /judge HTTP/1.1\r\nContent-Length: {len(content)}\r\nExpect: 100-continue\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(content)
        assert b'"decision": "OK"' in b"".join(iter(lambda: client.recv(4096), b""))


def test_a_port_in_use_is_a_fault_until_it_is_free(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with socket.socket() as other:
        other.bind(("127.0.0.1", port := free_port()))
        other.listen()
        process = start(bundle, "--source", f"post://127.0.0.1:{port}", "--sink", f"jsonl:{out}", "--threads", 1)
        until_s = time.monotonic() + 30
        while not (out.exists() and "cannot listen (Address already in use)" in out.read_text()):
            assert time.monotonic() < until_s
            time.sleep(0.05)
    try:
        while not listens(port):
            assert time.monotonic() < until_s
            time.sleep(0.05)
        assert send(port, png(part(120)))[1]["decision"] == "OK"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert '"info", "name": "camera camera", "text": "well again' in out.read_text()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("post://127.0.0.1:8000?frame_lines=64", "pictures that are sent are whole parts"),
        ("post://127.0.0.1:8000?max_mib=0", "max_mib=0, expected a number, 1 or more"),
        ("post://127.0.0.1:8000?mib=3", "unknown option mib; expected counts_per_line, max_mib"),
        ("post://127.0.0.1:x", "post://127.0.0.1:x"),
        ("post:", "expected post://HOST:PORT"),
    ],
)
def test_wrong_addresses_are_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        open_source(address, input_format=None)


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    source = open_source("post://192.0.2.1:8000", input_format=None)
    with pytest.raises(SourceError, match=r"^192\.0\.2\.1:8000: cannot listen \(Cannot assign requested address\)$"):
        source.open()


def test_a_server_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("a name server was asked")

    monkeypatch.setattr(socket, "getfqdn", ask)
    with LineServer(("127.0.0.1", 0), LineHandler) as server:
        assert server.server_port > 0
