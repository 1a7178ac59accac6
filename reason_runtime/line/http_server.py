"""What the HTTP servers of a line share: a thread a connection, no word of clients, no question to a name server."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

_MOST = 128  # connections: each has a thread and a descriptor, of which a process often has 1024
_Request = socket.socket | tuple[bytes, socket.socket]  # as the library has it


class LineServer(ThreadingHTTPServer):
    """Listens at `host` and `port`; its threads keep no process alive."""

    daemon_threads = True
    request_queue_size = 128  # connections that the system holds until a thread takes them

    def __init__(self, address: tuple[str, int], handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self._room = threading.BoundedSemaphore(_MOST)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def process_request(self, request: _Request, client_address: object) -> None:
        """Start a connection's thread."""
        if not self._room.acquire(blocking=False):
            return self.shutdown_request(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._room.release()
            raise

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def server_bind(self) -> None:
        """Bind, without looking up the host's own name, for which a machine network without DNS lets one wait."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as the server gives them


class LineHandler(BaseHTTPRequestHandler):
    """Of one connection."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: what asks every second would fill the log."""
