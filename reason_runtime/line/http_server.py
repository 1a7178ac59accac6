"""What the HTTP servers of a line share: a thread a connection, no word of clients, no question to a name server."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer


class LineServer(ThreadingHTTPServer):
    """Listens at `host` and `port`; its threads keep no process alive."""

    daemon_threads = True
    request_queue_size = 128  # connections that the system holds until a thread takes them

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
