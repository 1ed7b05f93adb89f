"""A server on loopback with faults, and archives to serve."""

from __future__ import annotations

import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY = bytes(range(256)) * 1200


@dataclass
class Site:
    """What the server does, and what it was asked for."""

    url: str = ""
    body: bytes = BODY
    etag: str | None = '"one"'
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    shift: int = 0
    chunked: bool = False
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        if self.path in ("/loop", "/out"):
            target = "/loop" if self.path == "/loop" else "http://example.invalid/file"
            self.answer(302, {"Location": target, "Content-Length": "0"})
            return
        site = self.site
        site.asked.append(self.headers["Range"])
        if site.statuses:
            self.answer(site.statuses.pop(0), {"Content-Length": "0"})
            return
        self.send_file(site)

    def send_file(self, site: Site) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = self.headers["If-Range"] in (None, site.etag)
        start = int(asked[1]) if asked and site.ranges and same else 0
        if start and start >= len(site.body):
            self.answer(416, {"Content-Range": f"bytes */{len(site.body)}", "Content-Length": "0"})
            return
        start += site.shift if start else 0
        part = site.body[start:]
        headers = {"Content-Length": str(len(part))}
        if site.chunked:
            headers = {"Transfer-Encoding": "chunked"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
        if site.etag:
            headers["ETag"] = site.etag
        self.answer(206 if start else 200, headers)
        if site.chunked:
            part = b"%x\r\n" % len(part) + part + b"\r\n0\r\n\r\n"
        self.wfile.write(part[: site.drops.pop(0)] if site.drops else part)

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve() -> Iterator[Site]:
    state = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": state}))
    state.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    """Return a port of this machine where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def pack_zip(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path
