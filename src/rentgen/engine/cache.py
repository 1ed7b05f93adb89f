"""Compiled graphs on disk, so that the next start need not compile them again.

A compiled graph is a network: whoever writes one decides the answers. So an entry is taken only from a folder and a
file that belong to this user and that nobody else may write. It is found by a hash of all that it was made from, the
model's bytes first, and held against a hash of its own, which tells damage. What the cache gives is no proof of
anything: who opens a bundle replays its golden vectors, compiled just now or not.

Whatever is wrong with the cache, the answer is that there is nothing in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)

MAX_ENTRIES = 16
"""The oldest beyond so many are deleted; one is about twice as large as its model."""
MAX_BYTES = 2_000_000_000
_SUFFIX = ".compiled"
_DIGEST = hashlib.sha256().digest_size
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Compiled:
    """Graphs of one model.

    Attributes:
        size: height and width of the input, pixels.
        names: of the model's outputs.
        graphs: as the engine writes them, by name.
    """

    size: tuple[int, int]
    names: tuple[str, ...]
    graphs: Mapping[str, bytes] = field(repr=False)


def default_folder() -> Path:
    """Return the folder for compiled graphs among this user's caches."""
    return Path(platformdirs.user_cache_dir("rentgen", appauthor=False)) / "compiled"


def key_of(model: bytes, made_with: Mapping[str, object]) -> str:
    """Return the name of an entry.

    Args:
        model: ONNX.
        made_with: all else that decides what is compiled; of the machine, the engine and its options.
    """
    said = json.dumps(made_with, sort_keys=True, default=str).encode()
    return hashlib.sha256(hashlib.sha256(model).digest() + said).hexdigest()


def find(folder: Path, key: str) -> Compiled | None:
    """Return an entry; None where there is none, or none to be trusted."""
    path = folder / f"{key}{_SUFFIX}"
    try:
        if not path.exists():
            return None
        _check_own(os.stat(folder))
        # What is checked is what is read: the open file, not its name.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            _check_own(os.fstat(file.fileno()))
            digest, content = file.read(_DIGEST), file.read(MAX_BYTES)
        if hashlib.sha256(key.encode() + content).digest() != digest:
            raise ValueError("it is damaged")
        return _decode(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("A compiled graph in %s is not used: %s. Delete it.", folder, error)
        return None


def keep(folder: Path, key: str, compiled: Compiled) -> None:
    """Write an entry, whole or not at all; where that is impossible, nothing happens."""
    content = _encode(compiled)
    with contextlib.suppress(OSError, ValueError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(os.stat(folder))
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with open(handle, "wb") as file:
                file.write(hashlib.sha256(key.encode() + content).digest())
                file.write(content)
            os.replace(name, folder / f"{key}{_SUFFIX}")
        except OSError:
            os.unlink(name)
            raise
        for path in list(_oldest_first(folder))[:-MAX_ENTRIES]:
            path.unlink(missing_ok=True)


def _oldest_first(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)


def _check_own(found: os.stat_result) -> None:
    """Check that nobody but this user can have written it.

    Raises:
        ValueError: somebody else could.
    """
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & _OTHERS):
        raise ValueError("it, or its folder, is another user's or can be written by others")
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise ValueError("it is no file")


def _encode(compiled: Compiled) -> bytes:
    lengths = {name: len(graph) for name, graph in compiled.graphs.items()}
    head = json.dumps({"size": compiled.size, "names": compiled.names, "graphs": lengths}).encode()
    return b"\n".join((head, b"".join(compiled.graphs.values())))


def _decode(content: bytes) -> Compiled:
    head, _, rest = content.partition(b"\n")
    said = json.loads(head)
    graphs, start = {}, 0
    for name, length in said["graphs"].items():
        graphs[name] = rest[start : start + length]
        start += length
    height, width = said["size"]
    return Compiled((height, width), tuple(said["names"]), graphs)
