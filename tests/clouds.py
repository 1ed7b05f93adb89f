"""Stand-ins for Google's services, on loopback: a bucket and Vertex AI, at the level of HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


@dataclass
class Cloud:
    """What the stand-in holds, and what it was asked."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)

    def bodies(self, pattern: str) -> list[Any]:
        """Return what was sent to addresses that match."""
        return [body for _, path, body in self.asked if re.search(pattern, path)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _reply(self, status: int, value: object) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = unquote(urlsplit(self.path).path)
        if path.startswith(("/storage", "/upload", "/download")):
            self._storage(path, body)
            return
        sent = json.loads(body) if body else None
        self.cloud.asked.append((self.command, path, sent))
        for pattern, answers in self.cloud.answers.items():
            if re.search(pattern, f"{self.command} {path}"):
                self._reply(*(answers.pop(0) if len(answers) > 1 else answers[0]))
                return
        self._reply(404, {"error": {"code": 404, "message": f"nothing at {path}", "status": "NOT_FOUND"}})

    do_GET = do_POST = do_DELETE = do_PUT = _handle

    def _storage(self, path: str, body: bytes) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.cloud.asked.append((self.command, path, None))
        if self.cloud.answers.get("storage"):
            self._reply(*self.cloud.answers["storage"][0])
        elif self.command == "POST":
            name, data = parse_upload(self.headers["Content-Type"], body)
            bucket = path.split("/")[5]
            self.cloud.objects[f"{bucket}/{name}"] = data
            self._reply(200, describe(bucket, name, data))
        elif path.endswith("/o"):
            bucket = path.split("/")[-2]
            found = {
                key.partition("/")[2]: value
                for key, value in sorted(self.cloud.objects.items())
                if key.startswith(f"{bucket}/{query.get('prefix', '')}")
            }
            self._reply(200, {"items": [describe(bucket, name, data) for name, data in found.items()]})
        else:
            bucket, _, name = path.partition("/b/")[2].partition("/o/")
            self._reply(200, self.cloud.objects[f"{bucket}/{name}"])


def parse_upload(content_type: str, body: bytes) -> tuple[str, bytes]:
    boundary = re.search(r"boundary=['\"]?([^'\";]+)", content_type)
    assert boundary is not None
    _, head, rest, *_ = body.split(b"--" + boundary[1].encode())
    data = rest.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    return json.loads(head.partition(b"\r\n\r\n")[2])["name"], data


def describe(bucket: str, name: str, data: bytes) -> dict[str, Any]:
    crc = struct.pack(">I", google_crc32c.value(data))
    return {
        "kind": "storage#object", "name": name, "bucket": bucket, "size": str(len(data)), "generation": "1",
        "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
        "crc32c": base64.b64encode(crc).decode(),
    }  # fmt: skip


@contextmanager
def cloud() -> Iterator[Cloud]:
    """Give a stand-in that runs while the block does."""
    held = Cloud()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cloud": held}))
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
