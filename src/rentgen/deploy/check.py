"""The clouds' contracts, replayed against the entry point on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rentgen import bundle as bundles
from rentgen.deploy import trials
from rentgen.deploy.environment import Platform, read_serve
from rentgen.deploy.launch import (
    Answer,
    Entry,
    Place,
    ask,
    interpreter_s,
    place,
    served,
    unprivileged,
    until_bound,
    until_ready,
)
from rentgen.deploy.material import body, film, instance
from rentgen.deploy.probes import DRAIN_S, TABLE, Finding, drains, predict, predictions
from rentgen.errors import RentgenError, SettingError

BIND_S = 0.25
EXIT_S = 30.0
"""Within which a server that cannot start must say so."""
CLOUDS = (Platform.VERTEX, Platform.SAGEMAKER, Platform.AZURE)


@dataclass(frozen=True, slots=True)
class Result:
    """One line: what was demanded and what was seen.

    Attributes:
        platform: that demands it.
        check: what was looked at.
        expected: in words.
        measured: in words, with its figure.
        passed: None where it could not be looked at here.
    """

    platform: Platform
    check: str
    expected: str
    measured: str
    passed: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"platform": str(self.platform)}


def check(
    target: str,
    *,
    bundle: str | Path = "pneumonia",
    command: Sequence[str] | None = None,
    training: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """Yield what each check of a cloud's contract saw, as it is done.

    Args:
        target: `vertex`, `sagemaker`, `azure` or `all`.
        bundle: to serve: a file, or the name of one that ships.
        command: that starts the container; our own entry point by default.
        training: look at training jobs, too.
        progress: called with clouds done and clouds in all.

    Raises:
        SettingError: there is no such target.
        BundleError: there is no such bundle.
    """
    if target not in (*CLOUDS, "all"):
        raise SettingError(f"Expected {', '.join(CLOUDS)} or all, but got {target!r}.")
    wanted = CLOUDS if target == "all" else (Platform(target),)
    file = bundles.find(bundle)
    entry = Entry() if command is None else Entry(tuple(command))
    entry = Entry(entry.command, unprivileged(entry.command))
    for number, platform in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted))
        with tempfile.TemporaryDirectory(prefix=f"rentgen-check-{platform}-") as root:
            yield from _check_platform(entry, platform, file, Path(root), training)
    if progress is not None:
        progress(len(wanted), len(wanted))


def _check_platform(entry: Entry, platform: Platform, bundle: Path, root: Path, training: bool) -> Iterator[Result]:
    def result(name: str, expected: str, found: Finding) -> Result:
        return Result(platform, name, expected, found.measured, found.passed)

    yield result("directory search", "every place, at any depth", finds_models(platform, bundle, root / "search"))
    yield result("empty directory", "an error, no other model", refuses_empty(entry, platform, root / "empty"))
    where = place(platform, root / "serve", bundle)
    baseline = interpreter_s(entry.command)
    began = time.perf_counter()
    with served(entry, where, wait=False) as process:
        bound = until_bound(process, where.port)
        seconds = None if bound is None else time.perf_counter() - began - baseline
        yield result("port is bound", f"within {BIND_S * 1000:.0f} ms of the interpreter", _bound(seconds, baseline))
        yield result("before it is loaded", "503, then 200", loads(process, where, began))
        user = os.geteuid() if entry.user is None else entry.user
        yield result("runs as", "root or anyone", Finding(f"user {user}", process.poll() is None))
        if process.poll() is None:
            for item in TABLE:
                if platform in item.platforms:
                    yield result(item.name, item.expected, item.look(where))
            yield result("SIGTERM", f"answers first, gone in {DRAIN_S:.0f} s", drains(process, where))
    if training:
        for name, expected, look in JOBS:
            yield result(name, expected, look(entry, platform, root / name.replace(" ", "-")))


JOBS = (
    ("training", "exit code 0, bundle and report", trials.trains),
    ("poisoned training films", "exit code not 0, a reason without names", trials.poisoned),
    ("SIGTERM while training", "gone in 120 s, checkpoint kept", trials.resumes),
)


def _bound(seconds: float | None, baseline: float) -> Finding:
    if seconds is None:
        return Finding("never", False)
    told = f"{max(0.0, seconds) * 1000:.0f} ms after the {baseline * 1000:.0f} ms that an idle interpreter takes"
    return Finding(told, seconds < BIND_S)


def loads(process: subprocess.Popen[str], where: Place, began: float) -> Finding:
    """Look at health from the first moment on; the first 200 must mean that predictions are answered.

    A small model may be loaded before the first answer; then there is no 503 to be seen.
    """
    statuses = until_ready(process, where)
    seconds = time.perf_counter() - began
    first: Answer = predict(where, body([instance(film())]))
    sound = statuses[-1:] == (200,) and set(statuses) <= {200, 503} and bool(predictions(first))
    told = f"{', '.join(map(str, statuses)) or 'no answer'} after {seconds:.1f} s; the first prediction {first.status}"
    return Finding(told, sound)


def finds_models(platform: Platform, bundle: Path, root: Path) -> Finding:
    """Look at where models are searched for: nested, several at once, and at Azure with and without its variable."""
    where = place(platform, root, bundle)
    if platform is Platform.VERTEX:
        given = read_serve(dict(where.environ) | {"AIP_STORAGE_URI": "gs://bucket/model"}, root)
        nested = read_serve(where.environ, root, model_dir=root / "model")
        passed = given.storage_uri == "gs://bucket/model" and len(nested.models) == 1
        return Finding(f"AIP_STORAGE_URI {given.storage_uri}, --model-dir {len(nested.models)} bundle", passed)
    second = next(root.rglob("*.rentgen")).parent / "deeper/second.rentgen"
    second.parent.mkdir()
    shutil.copyfile(bundle, second)
    environs = [dict(where.environ)]
    if platform is Platform.AZURE:
        environs.append({name: value for name, value in where.environ.items() if name != "AZUREML_MODEL_DIR"})
    counts = [len(read_serve(environ, root).models) for environ in environs]
    return Finding(f"{' and '.join(map(str, counts))} of 2 bundles", set(counts) == {2})


def refuses_empty(entry: Entry, platform: Platform, root: Path) -> Finding:
    """Look at a model directory without a bundle: a server that answered with another model would mislead."""
    where = place(platform, root, None)
    arguments = ("--model-dir", str(root)) if platform is Platform.VERTEX else ()
    root.mkdir(parents=True, exist_ok=True)
    process = entry.start(where, "serve", *arguments)
    try:
        code: int | None = process.wait(EXIT_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        process.kill()
        process.wait()
    told = ask(where.port, "GET", where.health, timeout_s=2).status
    return Finding(f"exit code {code}", code not in (0, None) and told == 0)


def passed(results: Sequence[Result]) -> bool:
    """Return whether nothing was breached.

    Raises:
        RentgenError: nothing was looked at.
    """
    if not results:
        raise RentgenError("Nothing was checked.")
    return all(result.passed is not False for result in results)
