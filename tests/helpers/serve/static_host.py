"""A plain static file server, for pages that need no other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class StaticHandler(SimpleHTTPRequestHandler):
    """Sends files, with some headers more."""

    def __init__(self, *args: Any, headers: Mapping[str, str], **options: Any) -> None:
        self._more = headers
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        for name, value in self._more.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Host:
    """A plain static file server, which can be switched off."""

    def __init__(self, folder: Path, headers: Mapping[str, str] | None = None) -> None:
        handler = partial(StaticHandler, directory=str(folder), headers=headers or {})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
