"""A film at the network's input size, read again where it was listed."""

from __future__ import annotations

from pathlib import Path

from rentgen.errors import InputError
from rentgen.images.prepare import fit
from rentgen.images.read import read
from rentgen.records import Preprocessing, UInt8


def read_fitted(path: Path, content_hash: str, preprocessing: Preprocessing) -> UInt8:
    """Return a film (height, width) before it is smoothed.

    Args:
        path: the file.
        content_hash: SHA-256 of its bytes when it was listed.
        preprocessing: its size, resizing and cropping.

    Raises:
        InputError: it can no longer be read, or is not what was listed.
    """
    film = read(path)
    if film.content_hash != content_hash:
        raise InputError(path, "the file changed while it was in use; start again.")
    return fit(film, preprocessing).pixels
