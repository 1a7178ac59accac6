"""Pictures that another program sends by HTTP, each answered with its decision.

```
POST /judge?part_id=A17
Content-Length: ...

(a PNG, JPEG, BMP, TIFF or WebP file)
```

The reply is the part's line of JSON, as `jsonl:` writes it. What came incomplete, or is no picture, is a part too and
answered UNKNOWN; one whose sender has gone is judged all the same.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from contextlib import suppress
from functools import partial

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, ImageError, SourceError
from reason_runtime.image import InputFormat, decode_bytes
from reason_runtime.line.address import Address, parse_address
from reason_runtime.line.frame import Grab
from reason_runtime.line.http_server import LineHandler, LineServer
from reason_runtime.line.sources.folder import pixels_of
from reason_runtime.line.sources.source import Nothing
from reason_runtime.strict_json import Json

_PATH = "/judge"
_LONGEST_ID = 128
_IDLE_S = 0.4  # of a read
_QUIET_S = 10.0  # of a connection on which nothing comes or goes
_LAST_REPLIES_S = 0.5
_PIECE = 2**16
_MOST_DIGITS = 20  # of a Content-Length; the library reads no number of thousands
AT_ONCE = 16  # pictures in memory: each takes its file and its pixels
_NAME = "the picture"


class PostSource:
    """See `Source`. A picture's clock starts when it is decoded.

    Args:
        host: Address to listen on.
        port: To listen on.
        max_bytes: Of a picture's file.
        input_format: Of the bundle: pictures are read by its rules. None keeps 16 bits, and mono is mono.
    """

    live = True
    checks_freezing = False  # a picture may be sent twice

    def __init__(self, host: str, port: int, *, max_bytes: int, input_format: InputFormat | None) -> None:
        self.max_bytes = max_bytes
        self._address = (host, port)
        self._form = input_format
        self._grabs: queue.SimpleQueue[Grab] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._server: LineServer | None = None
        self._owed = 0
        self.places = threading.BoundedSemaphore(AT_ONCE)

    def open(self) -> None:
        """See `Source.open`."""
        try:
            server = LineServer(self._address, partial(_Handler, self))
        except OSError as error:
            raise SourceError(f"{self._address[0]}:{self._address[1]}: cannot listen ({reason(error)})") from error
        with self._changed:
            self._server = server
        threading.Thread(target=server.serve_forever, args=(0.05,), name="post", daemon=True).start()

    def read(self) -> Grab | Nothing:
        """See `Source.read`."""
        try:
            return self._grabs.get(timeout=_IDLE_S)
        except queue.Empty:
            return "idle"

    def close(self) -> None:
        """See `Source.close`."""
        with self._changed:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        with suppress(queue.Empty):
            while (reply := self._grabs.get_nowait().reply) is not None:
                reply(None)
        self.finish()

    def finish(self) -> None:
        """Let replies whose answer is known be written, for a moment."""
        with self._changed:
            self._changed.wait_for(lambda: self._owed == 0, _LAST_REPLIES_S)

    def take(self, content: bytes | None, *, part_id: str | None) -> queue.SimpleQueue[dict[str, Json] | None]:
        """Take a part.

        Args:
            content: The picture's file; None where not all of it came.
            part_id: The sender's; None lets the line number the part.

        Returns:
            Where its answer will be put, None where the line stops before; `replied` is to follow.
        """
        answer: queue.SimpleQueue[dict[str, Json] | None] = queue.SimpleQueue()

        def reply(line: dict[str, Json] | None) -> None:
            with self._changed:
                self._owed += 1
            answer.put(line)

        image, failure = None, None
        try:
            if content is None:
                raise ImageError(f"{_NAME} was cut off")
            image = pixels_of(decode_bytes(content, name=_NAME), name=_NAME, input_format=self._form)
        except ImageError as error:
            failure = str(error)
        with self._changed:  # put before the source closes, or refused
            if self._server is None:
                reply(None)
            else:
                now_ns = time.monotonic_ns()
                self._grabs.put(Grab(grabbed_ns=now_ns, image=image, failure=failure, part_id=part_id, reply=reply))
        return answer

    def replied(self) -> None:
        """A reply was written, or its sender has gone."""
        with self._changed:
            self._owed -= 1
            self._changed.notify_all()


class _Handler(LineHandler):
    protocol_version = "HTTP/1.1"  # senders that ask before they send a large body, as curl does, are answered
    timeout = _QUIET_S

    def __init__(self, source: PostSource, *arguments: object) -> None:
        self._source = source
        super().__init__(*arguments)  # type: ignore[arg-type]  # request, address and server, as the server gives them

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        """Judge a picture; a connection serves one, so that none is sent into one that has just timed out."""
        self.close_connection = True
        stated = self.headers.get("Content-Length", "")
        if not (stated.isascii() and stated.isdecimal()):
            return self._refuse(411, "expected a Content-Length")
        if len(stated) > _MOST_DIGITS or (length := int(stated)) > self._source.max_bytes:
            text = f"{stated:.{_MOST_DIGITS}} bytes; expected {self._source.max_bytes} or less (max_mib)"
            return self._refuse(413, text)
        if not self._source.places.acquire(blocking=False):
            return self._refuse(503, f"{AT_ONCE} pictures are sent at once already; this part has no answer")
        try:
            self._judge(self._body(length))
        finally:
            self._source.places.release()

    def _judge(self, content: bytes | None) -> None:
        try:
            address = parse_address(f"post:{self.path}", kinds=("post",))
            part_id = _part_id(address)
        except ConfigurationError as error:
            return self._refuse(400, str(error))
        if address.place != _PATH:
            return self._refuse(404, f"{address.place}: expected POST {_PATH}")
        answer = self._source.take(content, part_id=part_id).get()
        try:
            if answer is None:
                self._refuse(503, "the line is stopping; this part has no answer")
            else:
                self._send(200, answer)
        finally:
            self._source.replied()

    def _body(self, length: int) -> bytes | None:
        with suppress(OSError):
            content = self.rfile.read(length)
            return content if len(content) == length else None
        return None

    def finish(self) -> None:
        """Close when the sender has: closed with something unread, the connection is reset, and the reply is lost."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read(_PIECE):
                pass
        super().finish()

    def _refuse(self, status: int, text: str) -> None:
        self._send(status, {"error": text})

    def _send(self, status: int, content: dict[str, Json]) -> None:
        body = json.dumps(content).encode()
        with suppress(OSError):  # the sender has gone
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)


def _part_id(address: Address) -> str | None:
    """The sender's name of the part; None lets the line number it.

    Raises:
        ConfigurationError: It cannot be one, or the request has another option.
    """
    part_id = address.word("part_id", "")
    address.finish()
    if not part_id.isprintable() or len(part_id) > _LONGEST_ID:
        raise ConfigurationError(f"part_id: expected up to {_LONGEST_ID} characters that can be printed")
    return part_id or None
