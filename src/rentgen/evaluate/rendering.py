"""How pages are made: templates, escaping, TOML, and files that appear whole."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rentgen.errors import MissingExtraError
from rentgen.evaluate import wording

if TYPE_CHECKING:
    from jinja2 import Environment


def check_installed() -> None:
    """Say now, not after the work, that what a report needs is missing.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    for module in ("jinja2", "matplotlib"):
        if find_spec(module) is None:
            raise MissingExtraError(module, "report", "the report")


def write_whole(path: Path, text: str) -> None:
    """Write a text so that it is there whole or not at all."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # A name from a foreign file system may hold bytes that are not UTF-8.
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            stream.write(text)
        Path(part).chmod(0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def strict(value: object) -> object:
    """Return plain JSON values, null for nan and infinity."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value)


def template(name: str) -> str:
    """Return a template's or a style's text."""
    return (files("rentgen.evaluate") / "templates" / name).read_text(encoding="utf-8")


def environment(*, autoescape: bool) -> Environment:
    """Return where templates are rendered.

    Args:
        autoescape: off for Markdown only.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    check_installed()
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        # Off for Markdown only, whose templates escape by their own filter.
        autoescape=autoescape,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["md"] = escape_markdown
    made.filters["block"] = fence_markdown
    made.filters["png"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    made.filters["plural"] = wording.plural
    return made


def escape_markdown(text: object) -> str:
    """Return `text` on one line, with every character that Markdown or HTML would act on made harmless."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return "".join("\\" + letter if letter in "\\`*_{}[]<>|#!~&" else letter for letter in line)


def fence_markdown(text: str, language: str = "") -> str:
    """Return `text` as a code block that it cannot end by itself."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Return TOML text of plain values, lists and nested tables; None is left out."""
    plain = [f"{_key(k)} = {_toml(v)}" for k, v in table.items() if v is not None and not isinstance(v, Mapping)]
    parts = ["\n".join(plain)] if plain else []
    for name, value in table.items():
        if isinstance(value, Mapping):
            path = f"{prefix}{_key(name)}"
            parts.append(f"[{path}]\n{to_toml(value, path + '.')}".rstrip())
    return "\n\n".join(parts)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)


def _toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (bool, int, float, str)):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(str(value), ensure_ascii=False)
