"""A server that keeps no contract: healthy before it can answer, one prediction for many, deaf while it computes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

BEGAN = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, b"fine")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if time.monotonic() - BEGAN < 2 or length > 10_000_000 or "X-Unknown-0" in self.headers:
            self.reply(500, b"")
            return
        self.rfile.read(length)
        time.sleep(0.15)
        self.reply(200, json.dumps({"predictions": [{"label": "x", "map": [0.123] * 300_000}]}).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.6)
    HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
