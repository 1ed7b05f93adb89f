"""From a request's body to the bytes of films, whatever the client packed them in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from rentgen.service.problems import Problem

RAW = ("application/dicom", "image/png", "image/jpeg", "image/tiff", "application/octet-stream")
"""Content types of a body that is one film; the bytes decide which kind it is."""
JSON = ("application/json",)
JSON_LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl", "application/x-jsonlines")
MULTIPART = "multipart/form-data"
FIELD = "films"

MAX_NAME = 200
MAX_VALUES = 100_000
"""Values in one body of JSON, about: enough for ten thousand films with all that may be said of them."""
_SMALL = 64 * 1024
"""Bytes up to which a body is parsed on the event loop."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One film of a request.

    Attributes:
        data: the file's bytes; None where the instance was no film at all.
        name: of the file, as the client gave it; may name a patient.
        id: of the instance.
        heatmap: whether a heat map was asked for.
        fault: why there are no bytes.
    """

    data: bytes | None = field(repr=False)
    name: str = field(default="", repr=False)
    id: str | None = None
    heatmap: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a request asks.

    Attributes:
        films: in order, at least one.
        parameters: of a JSON body, as they came; empty of any other.
    """

    films: tuple[Incoming, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


async def read_films(request: Request, *, max_films: int, heatmap: bool = False) -> Batch:
    """Return the films in a request's body, at least one.

    Args:
        request: with a body of one of the content types above.
        max_films: most that one request may hold.
        heatmap: whether heat maps are asked for, for all.

    Raises:
        Problem: 415 for another content type; 422 for a body that holds no film or too many; 413 from reading it.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == MULTIPART:
        return Batch(tuple(await _read_form(request, max_films, heatmap)))
    if content_type in RAW:
        body = await request.body()
        if not body:
            raise Problem(422, "invalid_request", "Expected a film in the body, but it is empty.")
        return Batch((Incoming(body, heatmap=heatmap),))
    if content_type in JSON:
        return await _parsed(await request.body(), max_films, heatmap, parse_instances)
    if content_type in JSON_LINES:
        return await _parsed(await request.body(), max_films, heatmap, parse_lines)
    accepted = ", ".join((MULTIPART, *RAW, *JSON, JSON_LINES[0]))
    raise Problem(415, "unsupported_type", f"Expected a content type of {accepted}, but got another.")


async def _parsed(body: bytes, max_films: int, heatmap: bool, parse: Callable[[bytes, int, bool], Batch]) -> Batch:
    if len(body) <= _SMALL:
        return parse(body, max_films, heatmap)
    # Megabytes of base64 would hold up the probes.
    return await asyncio.to_thread(parse, body, max_films, heatmap)


async def _read_form(request: Request, max_films: int, heatmap: bool) -> list[Incoming]:
    try:
        async with request.form(max_files=max_films, max_fields=16, max_part_size=_SMALL) as form:
            parts = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
            films = [Incoming(await part.read(), _clean(part.filename or ""), heatmap=heatmap) for part in parts]
    except HTTPException as error:
        raise Problem(
            422, "invalid_request", f"The form could not be read, or holds more than {max_films} files."
        ) from error
    if not films:
        raise Problem(422, "invalid_request", f"Expected at least one file in the field '{FIELD}', but got none.")
    return films


def _clean(name: str) -> str:
    """Return the last part of a file's name, without what cannot be shown."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:MAX_NAME]


def parse_instances(body: bytes, max_films: int, heatmap: bool = False) -> Batch:
    """Return the films of `{"instances": [...], "parameters": {...}}`.

    An instance is `{"content": base64}`, `{"b64": ...}`, `{"image_bytes": {"b64": ...}}` or a bare base64 string; one
    that is none of them has a fault and leaves the others alone.

    Raises:
        Problem: 422, the body is no such object, or holds no instance or too many.
    """
    _refuse_crowd(body)
    document = _load(body)
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list):
        raise Problem(422, "invalid_request", 'Expected a JSON object {"instances": [...]}, but got something else.')
    given = document.get("parameters")
    parameters = {} if given is None else given
    if not isinstance(parameters, dict):
        raise Problem(422, "invalid_request", "Expected parameters to be a JSON object, but got something else.")
    wanted = heatmap or parameters.get("heatmap") is True
    films = _counted([_parse_instance(item, wanted) for item in instances[: max_films + 1]], max_films)
    return Batch(films, parameters)


def parse_lines(body: bytes, max_films: int, heatmap: bool = False) -> Batch:
    """Return the films of JSON lines, each an instance, or an object of instances.

    Raises:
        Problem: 422, there is no line, or too many.
    """
    _refuse_crowd(body)
    films: list[Incoming] = []
    for line in body.split(b"\n"):
        if line.strip():
            try:
                item = _load(line)
            except Problem:
                films.append(Incoming(None, fault="the line is not JSON"))
                continue
            many = item.get("instances") if isinstance(item, dict) else None
            films.extend(_parse_instance(one, heatmap) for one in (many if isinstance(many, list) else [item]))
        if len(films) > max_films:
            break
    return Batch(_counted(films, max_films))


def _refuse_crowd(body: bytes) -> None:
    """Refuse JSON with more values than films could need.

    Base64 has none of these bytes, and each of them may cost a parser fifty.
    """
    if sum(map(body.count, (b",", b"[", b"{", b"\n"))) > MAX_VALUES:
        raise Problem(422, "invalid_request", f"Expected at most {MAX_VALUES} values in the body, but got more.")


def _load(body: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(body)
    # A deeply nested body ends the parser's recursion; it is as wrong as any other.
    except (ValueError, RecursionError) as error:
        raise Problem(422, "invalid_request", "Expected JSON, but the body is not.") from error


def _counted(films: Sequence[Incoming], max_films: int) -> tuple[Incoming, ...]:
    if not films:
        raise Problem(422, "invalid_request", "Expected at least one instance, but got none.")
    if len(films) > max_films:
        raise Problem(422, "invalid_request", f"Expected at most {max_films} films in one request, but got more.")
    return tuple(films)


def _parse_instance(item: object, heatmap: bool) -> Incoming:
    content: object = item
    name = None
    if isinstance(item, dict):
        bytes_of = item.get("image_bytes")
        content = item.get("content", item.get("b64", bytes_of.get("b64") if isinstance(bytes_of, dict) else None))
        heatmap = heatmap or item.get("heatmap") is True
        name = item.get("id")
    # Half of a surrogate pair is JSON, but no text that could be sent back.
    key = str(name)[:MAX_NAME].encode(errors="replace").decode() if isinstance(name, str | int) else None
    if not isinstance(content, str):
        return Incoming(None, id=key, fault='expected an instance {"content": base64 of a film}, but got another')
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return Incoming(None, id=key, fault="the content is not base64")
    if not data:
        return Incoming(None, id=key, fault="the content is empty")
    return Incoming(data, id=key, heatmap=heatmap)
