"""All commands, in the order in which `rentgen --help` shows them."""

from __future__ import annotations

# Importing a module registers its commands; the order of the imports is theirs.
from rentgen.cli import train, search, ensemble, backbones, model, export, site, serve  # noqa: F401  # isort: skip
from rentgen.cli import store, result, gateway, deploy, cost, deidentify, data  # noqa: F401  # isort: skip
from rentgen.cli.options import app

__all__ = ["app"]
