"""Commands whose arguments may lie in an object store: between them and the files that they work on."""

from __future__ import annotations

import functools
import hashlib
import inspect
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

import typer

from rentgen.cli.options import cache_folder
from rentgen.data.places import fetch, place_of, put
from rentgen.terminal import err, progress_bars

P = ParamSpec("P")

PASSING = ("films-", "gathered-", "places")
"""Folders of a cache that live as long as a run, and that of what was fetched."""


def placed(
    *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), cache: str | None = None
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let some parameters of a command be places of a store; it gets paths of files.

    Outputs are put when the command is done, whatever its exit code says of the films; what is new in the cache is put
    at any end but a kill.

    Args:
        inputs: parameters that are fetched: paths, lists of them, or texts.
        outputs: parameters that are put.
        cache: the parameter that is both.
    """

    def wrap(command: Callable[P, None]) -> Callable[P, None]:
        signature = inspect.signature(command)

        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            given = signature.bind(*args, **kwargs).arguments
            named = [value for name in (*inputs, *outputs, cache) if name for value in _listed(given.get(name))]
            if not any(map(place_of, named)):
                command(*args, **kwargs)
                return
            own = given.get(cache or "")
            places = _Places(own if own is not None and place_of(own) is None else cache_folder())
            for names, take in ((inputs, places.get), (outputs, places.give), ((cache,), places.keep)):
                for name in names:
                    if name is not None and given.get(name) is not None:
                        given[name] = _changed(given[name], take)
            try:
                command(**given)  # type: ignore[call-arg]
                places.put_outputs()
            except typer.Exit:
                places.put_outputs()
                raise
            finally:
                places.put_kept()

        return run

    return wrap


@dataclass(slots=True)
class _Places:
    """Where a command's arguments are on this machine. What is no place of a store passes as it is.

    Attributes:
        cache: where what was fetched, and what was put, is kept.
    """

    cache: Path
    _outputs: list[tuple[Path, str]] = field(default_factory=list)
    _kept: list[tuple[Path, str, dict[Path, tuple[int, int]]]] = field(default_factory=list)

    def get(self, path: Path) -> Path:
        place = place_of(path)
        if place is None:
            return path
        with progress_bars(to_stderr=True) as progress:
            return fetch(place, self.cache, progress=progress)

    def give(self, path: Path) -> Path:
        place = place_of(path)
        if place is None:
            return path
        # A folder for each, because a report may be written beside a bundle; the name stays, because it is the model's.
        folder = self.cache / "places" / f"out-{hashlib.sha256(place.encode()).hexdigest()[:24]}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        above, _, name = place.rpartition("/")
        self._outputs.append((folder, above))
        return folder / name

    def keep(self, path: Path) -> Path:
        place = place_of(path)
        if place is None:
            return path
        with progress_bars(to_stderr=True) as progress:
            local = fetch(place, self.cache, may_be_empty=True, progress=progress)
        self._kept.append((local, place, dict(_stamps(local))))
        return local

    def put_outputs(self) -> None:
        for folder, above in self._outputs:
            put(folder, above)
            for path in sorted(folder.iterdir()):
                err.print(f"Put: {above}/{path.name}", markup=False, highlight=False, soft_wrap=True)

    def put_kept(self) -> None:
        for local, place, before in self._kept:
            for path, stamp in _stamps(local):
                if before.get(path) != stamp:
                    put(path, f"{place}/{path.relative_to(local).as_posix()}")


def _listed(value: Any) -> list[Any]:  # noqa: ANN401
    return value if isinstance(value, list) else [] if value is None else [value]


def _changed(value: Any, take: Callable[[Path], Path]) -> Any:  # noqa: ANN401
    """Return a parameter's value with each place in it exchanged, as what it was: texts stay texts."""
    if isinstance(value, list):
        return [_changed(one, take) for one in value]
    return type(value)(take(value)) if place_of(value) is not None else value


def _stamps(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith((".", *PASSING)) for part in path.relative_to(folder).parts):
            continue
        stat = path.stat()
        yield path, (stat.st_mtime_ns, stat.st_size)
