"""A PostgreSQL of the tests' own: started in a temporary folder on a socket there, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_S = 30.0
ROOM = 4_000_000_000
"""Bytes: a database is 8 MB, and each test has one."""
NOBODY = ("postgres", "nobody")
"""Whom it runs as where the tests are root's, which PostgreSQL refuses."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL; its only way in is a socket in a folder that nobody else can enter."""

    folder: Path

    def fresh(self, template: str = "template1") -> str:
        """Return the URL of a new database: an empty one, or a copy of another that nobody is connected to."""
        name = f"rentgen_{secrets.token_hex(6)}"
        with psycopg.connect(f"host={self.folder} user=rentgen dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return f"postgresql+psycopg://rentgen:a-secret-word@/{name}?host={self.folder}"


_running: list[Server] = []


def server(config: pytest.Config) -> Server:
    """Return the one server of this test run, started when it is first asked for; skip where there can be none."""
    if not _running:
        stack = contextlib.ExitStack()
        _running.append(stack.enter_context(started()))
        config.add_cleanup(stack.close)
        config.add_cleanup(_running.clear)
    return _running[0]


@contextlib.contextmanager
def started() -> Iterator[Server]:
    """Start a PostgreSQL and stop it again."""
    programs = find()
    who = _user()
    # A socket's path may have 107 characters: the folders of pytest are too deep.
    folder = Path(tempfile.mkdtemp(prefix="rentgen-pg-", dir=_memory()))
    process = None
    try:
        if who is not None:
            os.chown(folder, who.pw_uid, who.pw_gid)
        common: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(folder)}}
        if who is not None:
            common |= {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        made = subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "rentgen", "-A", "trust", "-E", "UTF8", "--no-sync"],
            capture_output=True,
            text=True,
            **common,
        )
        if made.returncode:
            pytest.skip(f"PostgreSQL cannot be set up here: {made.stderr.strip().splitlines()[-1]}")
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    *(programs / "postgres", "-D", folder / "data", "-k", folder),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=120"),
                ],
                stdout=log,
                stderr=log,
                **common,
            )
        _wait(process, folder)
        yield Server(folder)
    finally:
        if process is not None:
            # SIGINT: a fast shutdown.
            process.send_signal(2)
            process.wait(START_S)
        shutil.rmtree(folder, ignore_errors=True)


def find() -> Path:
    """Return the folder of the newest server's programs; skip where there is none."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if places:
        return places[-1].parent
    named = shutil.which("initdb")
    if named is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return Path(named).parent


def _memory() -> Path | None:
    """Return a folder in memory with room for the small databases of a test run; None where there is none."""
    place = Path("/dev/shm")  # noqa: S108
    return place if place.is_dir() and shutil.disk_usage(place).free > ROOM else None


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.parents[1].name)))


def _user() -> pwd.struct_passwd | None:
    if os.getuid():
        return None
    for name in NOBODY:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL refuses to run as root, and there is no other user")


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    give_up = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(f"host={folder} user=rentgen dbname=postgres").close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > give_up:
                log = (folder / "log").read_text()
                raise RuntimeError(f"PostgreSQL did not start: {log[-2000:]}") from error
            time.sleep(0.05)
