"""The physician's page: built files that travel in the package, served from memory.

The page is the same for everyone and says nothing of a patient, so it needs no key: it asks for one itself.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

IMMUTABLE = "public, max-age=31536000, immutable"
"""For files whose name holds a hash of their content."""

_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
_TEXT = ("text/", "image/svg")


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file of the page.

    Attributes:
        content: its bytes.
        packed: the same in gzip; None where that is not worth it.
        media_type: with the character set, where it is text.
        etag: changes with the content.
    """

    content: bytes = field(repr=False)
    packed: bytes | None = field(repr=False)
    media_type: str
    etag: str

    @classmethod
    def read(cls, source: Traversable) -> WebFile:
        """Return a file of the package."""
        content = source.read_bytes()
        suffix = f".{source.name.rpartition('.')[2]}"
        # Not the platform's table first: a registry of some systems calls JavaScript plain text.
        media_type = _TYPES.get(suffix) or mimetypes.guess_type(source.name)[0] or "application/octet-stream"
        text = media_type.startswith(_TEXT)
        packed = gzip.compress(content, 9, mtime=0) if text else None
        etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        return cls(content, packed, f"{media_type}; charset=utf-8" if text else media_type, etag)

    def answer(self, request: Request, cache_control: str) -> Response:
        """Return the file, or 304 where the caller has it."""
        headers = {"Cache-Control": cache_control, "ETag": self.etag, "Vary": "Accept-Encoding"}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        body = self.content
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body = self.packed
            headers["Content-Encoding"] = "gzip"
        return Response(body, media_type=self.media_type, headers=headers)


def mount(app: FastAPI) -> None:
    """Serve the page at `/` and what it is made of at `/assets/...`; both answer before any model is loaded."""
    web = files("rentgen.service") / "web"
    index = WebFile.read(web / "index.html")
    assets = {item.name: WebFile.read(item) for item in (web / "assets").iterdir() if item.is_file()}

    async def page(request: Request) -> Response:
        return index.answer(request, "no-cache")

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            return Response("No such file.", 404, media_type="text/plain")
        return found.answer(request, IMMUTABLE)

    app.router.routes.append(Route("/", page, methods=["GET"], include_in_schema=False))
    app.router.routes.append(Route("/assets/{name}", asset, methods=["GET"], include_in_schema=False))
