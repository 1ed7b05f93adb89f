"""Unpack a zip from a stranger."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path

from rentgen.errors import DataError

_RATIO = 100
"""Of unpacked to packed bytes, at most; films hardly shrink, bombs do."""
_SMALL = 1 << 20
"""Bytes that any archive may unpack to: small text may shrink a thousandfold and harms nobody."""


def unpack(archive: Path, directory: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Unpack a zip into a folder; nothing is written when a member would leave it, is a link, or is a bomb.

    Args:
        archive: its bytes decide, not its name. Backslashes in it count as slashes; what macOS adds is left out.
        directory: is made where it does not exist.
        progress: called with the unpacked bytes and all of them.

    Raises:
        DataError: the archive is unsafe, broken or of another kind, or the disk is full.
    """
    try:
        if not zipfile.is_zipfile(archive):
            with archive.open("rb") as stream:
                raise DataError(
                    f"Expected {archive} to be a whole zip, but it is not; it starts with {stream.read(16)!r}."
                    " It may be a page that asks to sign in. Delete it and fetch it again."
                )
        with zipfile.ZipFile(archive) as packed:
            _unpack(packed, archive, directory, progress)
    except (
        zipfile.BadZipFile,
        zlib.error,
        LZMAError,
        EOFError,
        RuntimeError,  # an encrypted member, an unknown compression
        ValueError,  # a name that is not UTF-8, an offset before the file
        OSError,
    ) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {type(error).__name__}: {error}."
            " If the disk has room, delete the archive and fetch it again."
        ) from error


def _unpack(
    packed: zipfile.ZipFile, archive: Path, directory: Path, progress: Callable[[int, int], None] | None
) -> None:
    members = packed.infolist()
    for member in members:
        member.filename = member.filename.replace("\\", "/")
        _check(member, archive)
    # zipfile reads no more of a member than is declared here.
    total = sum(member.file_size for member in members)
    most = max(_RATIO * archive.stat().st_size, _SMALL)
    if total > most:
        raise DataError(f"Expected {archive} to unpack to at most {most} bytes, but got {total}. It may be a zip bomb.")
    done = 0
    for member in members:
        if not member.filename.startswith("__MACOSX/"):
            packed.extract(member, directory)
        done += member.file_size
        if progress is not None:
            progress(done, total)


def _check(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.filename
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        raise DataError(f"Expected {archive} to stay inside its folder, but a member is named {name!r}.")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"Expected only files and folders in {archive}, but {name!r} is a link or a device.")
