"""Markdown and TOML that what stands in them cannot break."""

from __future__ import annotations

import tomllib
from pathlib import Path

from rentgen.evaluate.rendering import escape_markdown, fence_markdown, to_toml


def test_markdown_is_escaped_and_fenced() -> None:
    assert escape_markdown("a|b\n<c>*") == "a\\|b \\<c\\>\\*"
    assert fence_markdown("x ``` y") == "````\nx ``` y\n````"


def test_toml_reads_back() -> None:
    recipe = {
        "seed": 7,
        "name": 'a "quoted" name',
        "odd key": True,
        "none": None,
        "rates": [0.1, 1e-05],
        "head": {"hidden": 256, "deep": {"x": [{"y": 1}]}},
        "empty": {},
        "path": Path("x"),
        "endless": float("inf"),
    }
    expected = {key: value for key, value in recipe.items() if value is not None} | {"path": "x"}
    assert tomllib.loads(to_toml(recipe)) == expected
