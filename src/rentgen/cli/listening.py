"""A port that listens before anything large is imported: who connects now waits a moment instead of being refused."""

from __future__ import annotations

import socket

from rentgen.errors import SettingError

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose another with --port; 0 takes a "
            "free one."
        ) from error
