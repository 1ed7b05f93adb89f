"""The gateway as a process of its own, as a hospital runs it: started, asked, measured and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from made import dicom, film
from pynetdicom.dimse_primitives import C_STORE
from serving import tiny_bundle

from rentgen.cli import main
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import Header
from rentgen.gateway.transport import Caller
from rentgen.store.gateway import Queue

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
_LISTENS = re.compile(r"listens on 127\.0\.0\.1:(\d+)")
_HTTP = re.compile(r"and on 127\.0\.0\.1:(\d+)")
_START_S = 60.0
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass
class Running:
    """A gateway in a process group of its own."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    http_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20, trust_env=False)

    def stow(self, *objects: bytes, kind: str = "application/dicom", **headers: str) -> httpx.Response:
        """Store objects by STOW-RS."""
        head = f"--x\r\nContent-Type: {kind}\r\n\r\n".encode()
        told = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        body = b"".join(head + each + b"\r\n" for each in objects) + b"--x--\r\n"
        return httpx.post(f"{self.url}/studies", content=body, headers=told, timeout=60, trust_env=False)

    def family(self) -> list[int]:
        """Return the process, and all that it has started."""
        return family(self.process.pid)

    def kill(self) -> None:
        """Kill the whole group as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def stop(self, seconds: float = 60.0) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for each in found:
        try:
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            # It has just ended.
            continue
    return found


def resident_mb(pid: int) -> float:
    """Return what a process and all below it have in memory, MB of 10^6 bytes; what they share counts for each."""
    total = 0
    for each in family(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total * os.sysconf("SC_PAGESIZE") / 1e6


def configure(
    folder: Path,
    *destinations: Mapping[str, object],
    ports: tuple[int, int] = (0, 0),
    model: str | None = None,
    sources: tuple[Mapping[str, object], ...] = (),
    **given: object,
) -> Path:
    """Write a configuration with the tiny bundle, and return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"port": ports[0], "folder": "spool", "quiet_s": 0.3, "min_free_mb": 0} | given
    route = model or str(tiny_bundle(folder / "tiny.rentgen"))
    text = _table("[gateway]", told) + _table("[http]", {"port": ports[1]})
    text += _table("[[route]]", {"model": route, "body_parts": ["CHEST"]})
    text += "".join(_table("[[destination]]", each) for each in destinations)
    text += "".join(_table("[[source]]", each) for each in sources)
    path = folder / "gateway.toml"
    path.write_text(text)
    return path


def _table(head: str, values: Mapping[str, object]) -> str:
    # A JSON value is a TOML value, where it is no table and not null.
    return "\n".join([head, *(f"{name} = {json.dumps(value)}" for name, value in values.items()), "\n"])


def environment(folder: Path, **given: str) -> dict[str, str]:
    """Return the environment of a gateway whose database is in a folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RENTGEN_")}
    return kept | {"RENTGEN_DATABASE": database(folder), "RENTGEN_LOG_FORMAT": "json"} | given


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rentgen", "gateway", *map(str, arguments)]


def start(
    folder: Path, *options: str, wait: bool = True, code: str | None = None, given: Mapping[str, str] = NOTHING
) -> Running:
    """Start a gateway on the configuration in a folder.

    Args:
        folder: with the configuration.
        options: of the command.
        wait: until it listens.
        code: of Python, that begins it.
        given: environment.
    """
    asked = command("run", "--config", folder / "gateway.toml", "--precision", "f32", *options)
    if code is not None:
        asked[1:3] = ["-c", code]
    log = folder / f"run-{len(list(folder.glob('run-*.log')))}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            asked,
            stdout=stream,
            stderr=stream,
            env=environment(folder, **given),
            start_new_session=True,
        )
    running = Running(folder, process, log, 0, 0)
    if not wait:
        return running
    until(lambda: process.poll() is not None or bool(_HTTP.search(running.text())), _START_S)
    told = running.text()
    if process.poll() is not None:
        raise AssertionError(f"the gateway did not start: {told}")
    found = _LISTENS.search(told), _HTTP.search(told)
    running.port, running.http_port = (int(each[1]) for each in found if each is not None)
    return running


@contextmanager
def gateway(
    folder: Path, *options: str, code: str | None = None, given: Mapping[str, str] = NOTHING
) -> Iterator[Running]:
    """Run a gateway until the block ends."""
    running = start(folder, *options, code=code, given=given)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


def until(found: Callable[[], bool], seconds: float = 30.0, pause_s: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not found():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen in time")
        time.sleep(pause_s)


@contextmanager
def queue(folder: Path, key: str | None = None) -> Iterator[Queue]:
    opened = Queue.open(database(folder), key=key)
    try:
        yield opened
    finally:
        opened.close()


def is_idle(opened: Queue) -> bool:
    """Return whether nothing waits and no step is under way."""
    counts = opened.counts()
    return not counts.open_batches and counts.oldest is None


def uids(study: int, number: int = 1) -> dict[str, str]:
    """Return identifiers of a film."""
    root = f"1.2.826.0.1.3680043.10.3.{study}"
    return {
        "StudyInstanceUID": root,
        "SeriesInstanceUID": f"{root}.1",
        "SOPInstanceUID": f"{root}.1.{number}",
    }


def made(study: int, number: int = 1, *, size: tuple[int, int] = (80, 70), **values: object) -> bytes:
    """Return a small film."""
    told: dict[str, Any] = uids(study, number) | values
    return dicom(film(*size, seed=1000 * study + number), **told)


def c_store(
    port: int,
    data: bytes,
    sop_instance_uid: str,
    *,
    syntax: str = EXPLICIT,
    sop_class: str = CR,
    handlers: tuple[object, ...] = (),
    called: str = "RENTGEN",
    calling: str = "SENDER",
) -> int | None:
    """Send a data set's bytes as they are; returns the status, None where there was no association or no answer."""
    entity = Caller(calling)
    entity.add_requested_context(sop_class, syntax)
    for limit in ("connection_timeout", "acse_timeout", "dimse_timeout", "network_timeout"):
        setattr(entity, limit, 30)
    association = entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=list(handlers))  # type: ignore[arg-type]
    if not association.is_established:
        return None
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance_uid
    request.DataSet = BytesIO(data)
    association._reactor_checkpoint.clear()
    try:
        until(lambda: association._is_paused, 5, 0.001)
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id or 1)
        _, answer = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    status = getattr(answer, "Status", None)
    if association.is_established:
        association.release() if status is not None else association.abort()
    return None if status is None else int(status)


@dataclass
class Archive:
    """Takes what a gateway delivers, and knows when each study's came."""

    came: dict[str, float] = field(default_factory=dict)
    headers: list[Header] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)

    def receive(self, path: Path, header: Header, origin: str) -> Taken:
        self.contents.append(path.read_bytes())
        self.headers.append(header)
        self.came.setdefault(header.study_instance_uid, time.monotonic())
        return Taken.RECEIVED

    def holds(self, sop_instance_uid: str) -> bool:
        return any(each.sop_instance_uid == sop_instance_uid for each in self.headers)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Both streams as one line, since tables and long lines wrap."""
        return " ".join((self.out + " " + self.err).split())


@dataclass(frozen=True)
class Command:
    """The command line's door, in this process: one of its own would take seconds."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["rentgen", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code
        found = Done(code if isinstance(code, int) else 0 if code is None else 1, *self.capsys.readouterr())
        assert "Traceback" not in found.err
        return found
