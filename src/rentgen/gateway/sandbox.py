"""The gateway's side of a reader: it is started, asked within a time limit, and replaced when it dies or hangs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from rentgen.errors import PeerError, SettingError
from rentgen.gateway import confine
from rentgen.gateway.frames import Json, pack, unpack
from rentgen.gateway.nouns import Destination
from rentgen.gateway.reader import OUT_OF_MEMORY
from rentgen.gateway.readings import Reading, from_bytes, to_bytes
from rentgen.outputs.wording import Language
from rentgen.records import Precision
from rentgen.records.results import Document, Kind, ModelIdentity

_START_S = 120.0
"""For loading the models; the first time they are compiled, too."""
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")
"""What a reader gets of the environment: no secret is among it."""


@dataclass(frozen=True, slots=True)
class Film:
    """A film in the spool.

    Attributes:
        path: of its file.
        content_hash: SHA-256 of it.
    """

    path: Path
    content_hash: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a film may cost.

    Attributes:
        memory_mb: MB of 10^6 bytes, beside the models.
        seconds: until its answer is there.
    """

    memory_mb: float = 2000.0
    seconds: float = 60.0


class ReaderStopped(PeerError):
    """A reader died over a request, or was ended because it took too long; the next request gets a new one."""


class Sandbox:
    """One reader, started when it is first needed. Safe from any thread; one request at a time.

    Example:
        >>> with Sandbox(["pneumonia"]) as sandbox:  # doctest: +SKIP
        ...     sandbox.read(film, model="pneumonia").prediction.label
    """

    def __init__(
        self,
        models: Sequence[str],
        *,
        bounds: Bounds | None = None,
        precision: Precision = Precision.AUTO,
        alone: bool = True,
        cache: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            models: bundles by name or file, at least one.
            bounds: on what a film may cost.
            precision: of the arithmetic.
            alone: whether a film gets all cores; with readers side by side, each takes one.
            cache: keep compiled graphs on disk, so that the next reader starts sooner.
        """
        if not models:
            raise SettingError("Expected at least one model for a reader.")
        self._models = list(dict.fromkeys(models))
        self._bounds = bounds or Bounds()
        self._precision = precision
        self._streams = 1 if alone else None
        self._cache = cache
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._identities: Mapping[str, ModelIdentity] = MappingProxyType({})
        self._confined = False
        self._starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def starts(self) -> int:
        """How often a reader was started."""
        return self._starts

    def open(self) -> Mapping[str, ModelIdentity]:
        """Start the reader where none runs, and return who answers, by the names that were given.

        Raises:
            SettingError: a model cannot be loaded.
        """
        with self._lock:
            if self._process is None:
                self._start()
            return self._identities

    def read(self, film: Film, *, model: str, refused: str = "") -> Reading:
        """Return what a film's header says and, where it is not refused, what a model says of it.

        Args:
            film: in the spool.
            model: one of those that were given.
            refused: why it is not to be read; empty where it is.

        Raises:
            ReaderStopped: it took too much time or memory, or brought the reader down.
        """
        request = {"ask": "read", "path": str(film.path.resolve()), "hash": film.content_hash}
        _, blobs = self._ask(request | {"model": model, "refused": refused})
        return _sound(blobs)

    def encode(
        self, films: Sequence[tuple[Film, Reading]], destination: Destination, language: Language = Language.EN
    ) -> tuple[Document, ...]:
        """Return the documents that a destination takes, of films of one study.

        Raises:
            ReaderStopped: as for `read`.
        """
        head, blobs = self._ask(
            {
                "ask": "encode",
                "films": [[str(film.path.resolve()), film.content_hash] for film, _ in films],
                "readings": [to_bytes(reading).decode() for _, reading in films],
                "kinds": list(destination.kinds),
                "systems": asdict(destination.systems),
                "addresses": asdict(destination.addresses),
                "language": language,
            }
        )
        return tuple(
            Document(Kind(told["kind"]), told["media_type"], blob, told["uid"], told["name"])
            for told, blob in zip(head["documents"], blobs, strict=True)
        )

    def prove(self) -> tuple[str, ...]:
        """Return what the reader could do although it must not: nothing, where the system bears such bounds."""
        head, _ = self._ask({"ask": "prove"})
        return tuple(map(str, head["escapes"]))

    def close(self) -> None:
        """End the reader."""
        with self._lock:
            self._end()

    def _ask(self, request: Mapping[str, Any]) -> tuple[Json, list[bytes]]:
        with self._lock:
            self.open()
            try:
                return self._exchange(request, self._bounds.seconds)
            except BaseException:
                # Whatever was under way, its answer must not be taken for that of the next request.
                self._end()
                raise

    def _start(self) -> None:
        confine.keep_private()
        environment = {name: value for name, value in os.environ.items() if name in _KEPT}
        # What decoders print may quote a film's header.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rentgen.gateway.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._starts += 1
        first = {
            "parent": os.getpid(),
            "models": self._models,
            "precision": self._precision,
            "streams": self._streams,
            "cache": self._cache,
            "memory_mb": self._bounds.memory_mb,
            "film_cpu_s": self._bounds.seconds * (os.cpu_count() or 1),
        }
        try:
            head, _ = self._exchange(first, _START_S)
        except ReaderStopped as error:
            self._end()
            raise SettingError(
                f"A reader with the models {', '.join(self._models)} does not start. "
                "Try each with: rentgen inspect MODEL --verify"
            ) from error
        self._identities = MappingProxyType({name: ModelIdentity(*told) for name, told in head["models"].items()})
        self._confined = bool(head["confined"])

    def _exchange(self, request: Mapping[str, Any], seconds: float) -> tuple[Json, list[bytes]]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ReaderStopped("The reader is not there.")
        until = time.monotonic() + seconds
        descriptor = process.stdout.fileno()

        def exactly(size: int) -> bytes:
            held = bytearray()
            while len(held) < size:
                ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
                if not ready:
                    raise ReaderStopped(f"it took longer than {seconds:g} s")
                piece = os.read(descriptor, min(size - len(held), 1 << 20))
                if not piece:
                    raise EOFError
                held += piece
            return bytes(held)

        try:
            for piece in pack(request):
                _write(process.stdin.fileno(), piece)
            return unpack(exactly)
        except (EOFError, BrokenPipeError) as error:
            raise ReaderStopped(_why(process.wait(10))) from error
        except ValueError as error:
            raise ReaderStopped("the reader answered with something that is no answer") from error

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.wait(10)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sound(blobs: Sequence[bytes]) -> Reading:
    try:
        (content,) = blobs
        return from_bytes(content)
    except ValueError as error:
        raise ReaderStopped("the reader answered with something that is no answer") from error


def _why(code: int) -> str:
    if code == OUT_OF_MEMORY:
        return "it needs more memory than a film may"
    if code == -signal.SIGXCPU:
        return "it takes more time than a film may"
    return "reading it brought the reader down"
