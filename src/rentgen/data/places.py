"""Object stores, through fsspec: what lies there is fetched once, what belongs there is put when it is whole.

A place is `gs://`, `s3://`, `az://`, `abfs://` or `memory://` (in tests) and a name. Everything else of Rentgen works
on files: a set is fetched into a folder that keeps what it has as long as the store says that it did not change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from rentgen.errors import MissingExtraError, PeerError
from rentgen.parallel.local import imap
from rentgen.records import Progress

SCHEMES = ("abfs", "abfss", "az", "gs", "memory", "s3")
MAX_OBJECTS = 1_000_000
MAX_BYTES = 1 << 40
"""Of one place; the free space of the disk bounds it, too."""
CONNECTIONS = 16
MANIFEST = ".place.json"
_PLACE = re.compile(rf"({'|'.join(SCHEMES)}):/+(.+)")


def place_of(path: str | Path) -> str | None:
    """Return a path's place, or None where it is a file's; `Path` makes one slash of two.

    Example:
        >>> place_of(Path("s3://films/chest")), place_of("films/chest")
        ('s3://films/chest', None)
    """
    found = _PLACE.fullmatch(str(path))
    return f"{found[1]}://{found[2].rstrip('/')}" if found else None


def fetch(place: str, cache: Path, *, may_be_empty: bool = False, progress: Progress | None = None) -> Path:
    """Return the local copy of an object, or of all below a place; what did not change is not fetched again.

    Of a table (CSV) all that lies beside it is fetched, too: its films.

    Args:
        place: as of `place_of`.
        cache: a folder; the copy is in `places` there.
        may_be_empty: return an empty folder where there is nothing.
        progress: stage `fetch`, objects done, objects in all.

    Raises:
        MissingExtraError: fsspec, or its part for this store, is not installed.
        PeerError: the store refused or failed, there is nothing, or more than the limits.
    """
    fs, root = _open(place)
    with _translated(place):
        alone = fs.isfile(root)
        table = alone and PurePosixPath(root).suffix.lower() in (".csv", ".tsv")
        base = root.rpartition("/")[0] if alone else root
        listed = {root: fs.info(root)} if alone and not table else fs.find(base, detail=True)
    wanted = {_below(name, base): info for name, info in listed.items() if not name.endswith("/")}
    folder = cache / "places" / hashlib.sha256(f"{place.partition(':')[0]}:{base}".encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    if not wanted and not may_be_empty:
        raise PeerError(f"{place} holds nothing. Check its name, and that these credentials may list it.")
    before = _manifest(folder)
    stamps = {name: _stamp(info) for name, info in wanted.items()}
    missing = [name for name in wanted if before.get(name) != stamps[name] or not (folder / name).is_file()]
    _check_room(place, len(wanted), sum(int(wanted[name].get("size") or 0) for name in missing), folder)

    def copy(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".draft-{os.getpid()}-{hashlib.sha256(name.encode()).hexdigest()[:16]}")
        with _translated(place):
            fs.get_file(wanted[name]["name"], str(draft))
        os.replace(draft, target)

    if not alone or table:
        # What is no longer there is no longer of the set.
        for name in set(before) - set(wanted):
            (folder / name).unlink(missing_ok=True)
    kept = {name: stamp for name, stamp in before.items() if stamps.get(name) == stamp or (alone and not table)}
    try:
        for done, (name, _) in enumerate(zip(missing, imap(copy, missing, workers=CONNECTIONS), strict=True), start=1):
            kept[name] = stamps[name]
            if progress is not None:
                progress("fetch", done, len(missing))
    finally:
        draft = folder / f"{MANIFEST}.{os.getpid()}"
        draft.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(draft, folder / MANIFEST)
    return folder / _below(root, base) if alone else folder


def put(source: Path, place: str) -> None:
    """Put a file at a place, or all files of a folder below it, drafts apart; each is whole or not there.

    Raises:
        MissingExtraError: fsspec, or its part for this store, is not installed.
        PeerError: the store refused or failed.
    """
    fs, root = _open(place)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for path in files:
        below = root if path == source else f"{root}/{path.relative_to(source).as_posix()}"
        if any(part.startswith(".") for part in path.relative_to(source).parts):
            continue
        with _translated(place):
            fs.put_file(str(path), below)


def _open(place: str) -> tuple[Any, str]:
    """Return the store's file system and the name in it."""
    scheme = place.partition(":")[0]
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "stores", f"a {scheme}:// place") from error
    try:
        with _translated(place):
            fs, root = fsspec.core.url_to_fs(place, **({} if scheme == "memory" else {"use_listings_cache": False}))
    except ImportError as error:
        needed = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}.get(scheme, "adlfs")
        raise MissingExtraError(needed, "stores", f"a {scheme}:// place") from error
    return fs, str(root).rstrip("/")


@contextlib.contextmanager
def _translated(place: str) -> Iterator[None]:
    """Turn what a store's library raises into PeerError."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise PeerError(f"{place} holds nothing. Check its name, and that these credentials may list it.") from error
    except Exception as error:
        # Each store has exception classes of its own and no common one.
        told = str(error).strip() or type(error).__name__
        raise PeerError(f"{place} refused or failed: {told[:500]}") from error


def _below(name: str, base: str) -> str:
    """Return an object's name below a base.

    Raises:
        PeerError: it would leave the folder that it is fetched into.
    """
    rest = name.removeprefix(base).lstrip("/")
    path = PurePosixPath(rest)
    if not rest or ".." in path.parts or "\0" in rest or path.name.startswith((MANIFEST, ".draft-")):
        raise PeerError("An object's name leads out of the folder that it is fetched into. Rename it.")
    return str(path)


def _stamp(info: dict[str, Any]) -> str:
    """Return what changes when an object's content does, as its store tells it."""
    names = (
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "generation",
        "LastModified",
        "last_modified",
        "mtime",
        "created",
    )
    return json.dumps([info.get("size"), *(str(info[name]) for name in names if info.get(name) is not None)])


def _manifest(folder: Path) -> dict[str, str]:
    """Return what a folder has, name to stamp; nothing where nobody can say."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_room(place: str, objects: int, size: int, folder: Path) -> None:
    """Refuse what is too much before any of it is fetched.

    Raises:
        PeerError: more than the limits or the disk.
    """
    free = shutil.disk_usage(folder).free
    if objects > MAX_OBJECTS or size > min(MAX_BYTES, free):
        raise PeerError(
            f"{place} holds {objects:,} objects, {size / 1e6:,.0f} MB of them to fetch. Expected at most "
            f"{MAX_OBJECTS:,} objects, and {min(MAX_BYTES, free) / 1e6:,.0f} MB that fit on the disk of the cache. "
            "Mount the bucket, or name another --cache."
        )
