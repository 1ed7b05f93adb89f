"""The command line: each command parses, calls one library function, and prints."""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING, NoReturn

from rentgen.errors import RentgenError

if TYPE_CHECKING:
    from rentgen.cli.commands import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> object:
    """Return the application on first use: the container's entry point must bind its port before all this is loaded."""
    if name == "app":
        from rentgen.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped."""
    from rentgen.cli.commands import app

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
            from rentgen.terminal import err

            err.print("Stopped. What was computed is kept; the same command goes on from there.")
        raise


def _fail(message: str) -> NoReturn:
    from rich.markup import escape

    from rentgen.terminal import err

    err.print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)
