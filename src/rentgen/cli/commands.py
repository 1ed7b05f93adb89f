"""All commands, in the order in which `rentgen --help` shows them."""

from __future__ import annotations

from rentgen.cli import model, site, serve, store, result, deploy, deidentify, data  # noqa: F401  # isort: skip
from rentgen.cli.options import app

__all__ = ["app"]
