"""The page that Prometheus reads: GET /metrics."""

import socket
import socketserver
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client.exposition import choose_encoder

from jang_runtime._errors import ListenError, UnauthenticatedError
from jang_runtime._service.access import TokenFile
from jang_runtime._service.metrics import Metrics
from jang_runtime._service.transport import Address, TlsFiles, WatchedFiles, ssl_context

_OPTION: Final = "--metrics"
# Of a client that does not go on.
_TIMEOUT_SECONDS: Final = 10.0
# Each has a thread, before anybody knows whose it is.
_MOST_CONNECTIONS: Final = 32


@contextmanager
def metrics_served(
    metrics: Metrics, address: Address, tls: TlsFiles | None, tokens: TokenFile | None
) -> Generator[Address]:
    """Serve the metrics in threads of their own; yields the address with its real port.

    Args:
        metrics: What to serve.
        address: Where to listen.
        tls: Certificates, as for gRPC.
        tokens: Who may read; None lets everybody.

    Raises:
        ListenError: If the address is not to be had.
    """
    contexts = None if tls is None else WatchedFiles(tls, ssl_context)
    with _bound(address, _page(metrics, tokens)) as server:
        server.contexts = contexts
        thread = threading.Thread(target=server.serve_forever, name="jang-metrics", daemon=True)
        thread.start()
        try:
            yield Address(address.host, server.server_port)
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    # A connection that is open does not keep the process.
    daemon_threads = True
    contexts: WatchedFiles[ssl.SSLContext] | None = None

    def __init__(self, address: tuple[str, int], page: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, page)
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, encrypted with the certificates as they are now."""
        connection, address = super().get_request()
        if self.contexts is None:
            return connection, address
        # The handshake is left to the connection's thread: a client that does not go on with it
        # would stop all others.
        encrypted = self.contexts.current().wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return encrypted, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own; close it if there are too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def server_bind(self) -> None:
        """Bind without asking DNS for this machine's name, as HTTPServer would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections and handshakes are the client's affair."""


class _ServerOfSix(_Server):
    address_family = socket.AF_INET6


def _bound(address: Address, page: type[BaseHTTPRequestHandler]) -> _Server:
    if address.host.startswith("unix:"):
        raise ListenError(f"{_OPTION}: found {str(address)!r}, expected HOST:PORT")
    server = _ServerOfSix if ":" in address.host else _Server
    try:
        return server((address.host, address.port), page)
    except OSError as error:
        raise ListenError(f"{_OPTION}: {address}: {error.strerror}") from error


def _page(metrics: Metrics, tokens: TokenFile | None) -> type[BaseHTTPRequestHandler]:
    """The class that answers one connection; http.server makes its objects itself."""

    class Page(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_SECONDS

        def do_GET(self) -> None:
            if tokens is not None:
                try:
                    tokens.caller(self.headers.get_all("Authorization") or [])
                except UnauthenticatedError as error:
                    self._answer(401, str(error).encode(), "text/plain; charset=utf-8")
                    return
            if self.path.partition("?")[0] != "/metrics":
                self._answer(404, b"the metrics are at /metrics", "text/plain; charset=utf-8")
                return
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(metrics.registry), kind)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a scrape comes every few seconds."""

    return Page
