"""A small web page for people: how the line does, the latest answers, the latest reject. Reads only, no login."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import resources

import numpy as np
from PIL import Image

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.http_server import LineHandler, LineServer
from reason_runtime.line.messages import Answer, Beat, Event, Message
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.models import Models
from reason_runtime.line.sinks.pictures import paint_reject
from reason_runtime.strict_json import Json

_LATEST = 50
_IDLE_S = 5.0


class DashboardSink:
    """See `Sink`.

    Args:
        host: Address to listen on.
        port: To listen on.
        metrics: To show.
        models: Of the station: give the colour scale of rejects, and their names.
    """

    keeps = False
    drives_line = False
    wants_pictures = True
    wants = None

    def __init__(self, host: str, port: int, *, metrics: Metrics, models: Models) -> None:
        self.name = f"dashboard {host}:{port}"
        self._address = (host, port)
        self._metrics = metrics
        self._models = models
        self._lock = threading.Lock()
        self._answers: deque[dict[str, Json]] = deque(maxlen=_LATEST)
        self._events: deque[dict[str, Json]] = deque(maxlen=_LATEST)
        self._beat: Beat | None = None
        self._reject: Answer | None = None
        self._server: LineServer | None = None

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            server = LineServer(self._address, partial(_Handler, self))
        except OSError as error:
            raise SinkError(f"{self.name}: cannot listen ({reason(error)})") from error
        self._server = server
        threading.Thread(target=server.serve_forever, name=self.name, daemon=True).start()

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        with self._lock:
            for message in messages:
                if isinstance(message, Beat):
                    self._beat = message
                elif isinstance(message, Event):
                    self._events.appendleft(message.line())
                else:
                    self._answers.appendleft(message.line())
                    if message.is_reject and message.picture is not None:
                        self._reject = message

    def close(self) -> None:
        """See `Sink.close`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def state(self) -> dict[str, Json]:
        """What the page shows."""
        now = self._metrics.snapshot()
        decisions: Counter[str] = Counter()
        for (_, decision), count in now.decisions.items():
            decisions[decision] += count
        causes: dict[str, Json] = {f"{camera}: {cause}": count for (camera, cause), count in now.causes.items()}
        p50_ms, p99_ms = np.percentile(now.latest_ms, (50, 99)) if now.latest_ms else (None, None)
        with self._lock:
            return {
                "bundle": ", ".join(
                    self._models.told(lambda model: [f"{model.detector.bundle.manifest.name} {model.content}"])
                ),
                "beat": None if self._beat is None else self._beat.line(),
                "frames": {**now.frames},
                "decisions": {**decisions},
                "unknown": causes,
                "p50_ms": None if p50_ms is None else round(float(p50_ms), 2),
                "p99_ms": None if p99_ms is None else round(float(p99_ms), 2),
                "queues": {**now.queues},
                "answers": [*self._answers],
                "events": [*self._events],
                "reject": None if self._reject is None else self._reject.part_id,
            }

    def reject(self) -> bytes | None:
        """The latest reject as JPEG."""
        with self._lock:
            answer = self._reject
        if answer is None or answer.picture is None:
            return None
        picture = paint_reject(answer.picture, self._models.of(answer.camera).detector)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=85)
        return stream.getvalue()


class _Handler(LineHandler):
    timeout = _IDLE_S  # of a connection on which nothing comes or goes

    def __init__(self, board: DashboardSink, *arguments: object) -> None:
        self._board = board
        super().__init__(*arguments)  # type: ignore[arg-type]  # request, address and server, as the server gives them

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        with suppress(ConnectionError, TimeoutError):  # whoever asked has gone
            self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            page = resources.files("reason_runtime.line.sinks").joinpath("dashboard.html").read_bytes()
            self._send(page, "text/html; charset=utf-8")
        elif path == "/state.json":
            self._send(json.dumps(self._board.state()).encode(), "application/json")
        elif path == "/reject.jpg" and (picture := self._board.reject()) is not None:
            self._send(picture, "image/jpeg")
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'")
        self.end_headers()
        self.wfile.write(content)


def open_dashboard(address: str, *, metrics: Metrics, models: Models) -> DashboardSink:
    """The page at `HOST:PORT`.

    Raises:
        ConfigurationError: Not written so.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{address}: expected HOST:PORT, for example 127.0.0.1:8080")
    return DashboardSink(host.strip("[]"), int(port), metrics=metrics, models=models)
