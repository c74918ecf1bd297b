"""A small reverse proxy: shows a server below a path prefix, which it removes or keeps."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.load.server_process import HERE, Target

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")


@contextmanager
def proxy(target: Target, prefix: str, strips: bool, host: str | None = None) -> Iterator[Target]:
    """Forward what is below `prefix` to `target`; other paths are answered with 404.

    Args:
        target: the server behind the proxy.
        prefix: the path prefix, such as /mask.
        strips: whether the proxy removes the prefix.
        host: the Host header that the server receives; None for the client's.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if self.path != prefix and not self.path.startswith((f"{prefix}/", f"{prefix}?")):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.removeprefix(prefix) if strips else self.path
            connection = http.client.HTTPConnection(target.host, target.port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, path, body, {**headers, **({"Host": host} if host else {})})
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (*HOP_BY_HOP, "content-length", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)

        do_GET = do_POST = do_HEAD = do_OPTIONS = forward  # noqa: N815

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer((HERE, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Target(HERE, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
