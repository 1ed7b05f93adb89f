"""The command line: each command parses, calls one library function, and prints."""

from __future__ import annotations

import io
import logging
import sys
from typing import NoReturn

from rich.markup import escape

# In the order in which `rentgen --help` shows their commands.
from rentgen.cli import model, site, serve, store, result, deploy, deidentify, data  # isort: skip
from rentgen.cli.options import app
from rentgen.errors import RentgenError
from rentgen.terminal import err

__all__ = ["app", "data", "deidentify", "deploy", "main", "model", "result", "serve", "site", "store"]


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        # A name from a foreign file system may hold bytes that are not UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RentgenError as error:
        _fail(str(error))
    except OSError as error:
        # What is read is translated where it is read: this is a place that cannot be written.
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}. Check the path, the permissions and the free space.")
    except SystemExit as stop:
        if stop.code == 130:
            err.print("Stopped. What was computed is kept; the same command goes on from there.")
        raise


def _fail(message: str) -> NoReturn:
    err.print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)
