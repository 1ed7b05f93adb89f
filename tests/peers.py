"""Peers that are not ours: dcmtk's programs, Orthanc in a network of its own, and a folder as an intake."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import Header

ORTHANC = Path("/usr/sbin/Orthanc")
_NEW_NETWORK = 0x40000000
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class FolderIntake:
    """Keeps objects as files; equal bytes are duplicates."""

    folder: Path
    origins: list[str] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, path: Path, header: Header, origin: str) -> Taken:
        data = path.read_bytes()
        with self.lock:
            target = self.folder / f"{header.sop_instance_uid}.dcm"
            if target.exists():
                taken = Taken.DUPLICATE if target.read_bytes() == data else Taken.CONFLICT
            else:
                target.write_bytes(data)
                taken = Taken.RECEIVED
            self.origins.append(origin)
            self.headers.append(header)
            self.taken.append(taken)
        return taken

    def holds(self, sop_instance_uid: str) -> bool:
        return (self.folder / f"{sop_instance_uid}.dcm").exists()

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.dcm"))


def film_file(name: str = "RG1_UNCR") -> Path:
    """Return a real chest film (CR, PA, 7 MB) of the pydicom-data wheel."""
    spec = importlib.util.find_spec("data_store")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel pydicom-data is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / f"{name}.dcm"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 10.0) -> None:
    """Wait until somebody listens on a port of loopback."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"nobody listens on port {port}")


def tool(name: str) -> str:
    """Return the path of one of dcmtk's programs, or skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"dcmtk's {name} is not installed")
    return found


def run(name: str, *arguments: object, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run one of dcmtk's programs to its end."""
    return subprocess.run(
        [tool(name), *map(str, arguments)], capture_output=True, text=True, timeout=seconds, check=False
    )


@contextmanager
def serving(app: ASGIApp, *, http: Any = "auto", at_once: int | None = None) -> Iterator[int]:  # noqa: ANN401
    """Serve an ASGI application by uvicorn; yields its port on loopback."""
    told = uvicorn.Config(app, http=http, limit_concurrency=at_once, log_config=None, lifespan="off")
    server = uvicorn.Server(told)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until = time.monotonic() + 10
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join(10)


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """Run dcmtk's storage provider; yields its port."""
    port = free_port()
    command = [tool("storescp"), "-od", str(folder), *options, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield port
        finally:
            process.terminate()


@contextmanager
def own_network() -> Iterator[None]:
    """Put this thread, and what it starts, into a network that has loopback only; skip where that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as before:
        if libc.unshare(_NEW_NETWORK) != 0:
            pytest.skip("a network of its own is not permitted here")
        try:
            up = subprocess.run(["ip", "link", "set", "lo", "up"], capture_output=True, timeout=10, check=False)
            if up.returncode != 0:
                pytest.skip("loopback cannot be switched on in a network of its own")
            yield
        finally:
            libc.setns(before.fileno(), _NEW_NETWORK)


@dataclass(frozen=True)
class Orthanc:
    """A PACS: addresses on loopback."""

    http_port: int
    dicom_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def upload(self, data: bytes) -> None:
        request = urllib.request.Request(f"{self.url}/instances", data, method="POST")  # noqa: S310
        urllib.request.urlopen(request, timeout=20).close()  # noqa: S310

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:  # noqa: S310
            return bytes(answer.read())

    def post(self, path: str, asked: dict[str, object]) -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, json.dumps(asked).encode(), method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return dict(json.loads(answer.read()))


@contextmanager
def orthanc(folder: Path, *, move_to: tuple[str, int] | None = None) -> Iterator[Orthanc]:
    """Run Orthanc with DICOMweb until the block ends, or skip where it is not installed.

    It listens on every address whatever it is told: run it in `own_network`.
    """
    if not ORTHANC.exists() or not PLUGIN.exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    peer = Orthanc(free_port(), free_port())
    config = {
        "Name": "peer",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "Plugins": [str(PLUGIN)],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpPort": peer.http_port,
        "DicomAet": "PACS",
        "DicomPort": peer.dicom_port,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "StableAge": 2,
        "DicomModalities": {} if move_to is None else {"ai": [move_to[0], "127.0.0.1", move_to[1]]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(config))
    environment = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(
        [str(ORTHANC), str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            _await(f"{peer.url}/system", process)
            yield peer
        finally:
            process.terminate()
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(url: str, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.skip("Orthanc did not start here")
