"""The container's entry point, started as each cloud would: its environment, its folders, its arguments."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rentgen.deploy.environment import Platform

ENTRY = (sys.executable, "-m", "rentgen.cli.container")
# Not a secret's place: the one folder that every platform lets a container write to.
_WRITTEN = "/tmp"  # noqa: S108
IMAGE = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "XDG_CACHE_HOME": f"{_WRITTEN}/cache",
    "XDG_DATA_HOME": f"{_WRITTEN}/data",
}
"""The image's own environment, as the Dockerfile sets it."""
NOBODY = 65534
ENDPOINT, DEPLOYED = "7001", "9002"
VERTEX_ROUTE = f"/v1/endpoints/{ENDPOINT}/deployedModels/{DEPLOYED}"
READY_S = 120.0
KILL_S = 35.0
"""How long the check waits for a server that was told to stop, before it kills it."""
POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: of HTTP; 0 where no answer came.
        body: as it came; of no answer, why.
        seconds: from asking to the last byte.
    """

    status: int
    body: bytes = field(repr=False)
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """A platform's folders and variables.

    Attributes:
        platform: that is played.
        root: stands for `/`.
        port: that it listens on.
        environ: variables that the platform sets.
        predict: route for predictions.
        health: route for health.
    """

    platform: Platform
    root: Path
    port: int
    environ: Mapping[str, str]
    predict: str
    health: str


def place(platform: Platform, root: Path, bundle: Path | None) -> Place:
    """Return a platform's place for serving, with the bundle where it mounts one, some folders deep."""
    port = _free_port()
    environ = {"RENTGEN_ROOT": str(root)}
    mounted = root / "model/of/several/folders"
    if platform is Platform.SAGEMAKER:
        mounted = root / "opt/ml/model/export/1"
        environ |= {
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
            "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "4",
        }
        (root / "opt/ml/model").mkdir(parents=True, exist_ok=True)
    elif platform is Platform.AZURE:
        mounted = root / "var/azureml-app/azureml-models/xr/1/model"
        environ |= {"AZUREML_MODEL_DIR": str(mounted.parent), "RENTGEN_PORT": str(port)}
        mounted.parent.mkdir(parents=True, exist_ok=True)
    else:
        environ |= {
            "AIP_HTTP_PORT": str(port), "AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict",
            "AIP_STORAGE_URI": "", "AIP_MODE": "PREDICTION", "AIP_MODE_VERSION": "1.0.0",
            "AIP_FRAMEWORK": "CUSTOM_CONTAINER", "AIP_ENDPOINT_ID": ENDPOINT, "AIP_DEPLOYED_MODEL_ID": DEPLOYED,
            "AIP_MODEL_NAME": ENDPOINT, "AIP_VERSION_NAME": DEPLOYED, "AIP_PROJECT_NUMBER": "1",
            "AIP_MACHINE_TYPE": "n1-standard-4",
        }  # fmt: skip
    if bundle is not None:
        mounted.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle, mounted / "xr.rentgen")
    predict, health = {
        Platform.SAGEMAKER: ("/invocations", "/ping"),
        Platform.AZURE: ("/score", "/readyz"),
    }.get(platform, ("/predict", "/health"))
    return Place(platform, root, port, environ, predict, health)


@dataclass(frozen=True, slots=True)
class Entry:
    """How the container is started.

    Attributes:
        command: without the arguments `serve` or `train`.
        user: as whom; None for who we are.
    """

    command: Sequence[str] = ENTRY
    user: int | None = None

    def start(self, where: Place, *arguments: str) -> subprocess.Popen[str]:
        """Return the process."""
        root = where.root
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        image = {name: value.replace(_WRITTEN, str(root / "tmp"), 1) for name, value in IMAGE.items()}
        # A proxy that is not there: whatever wants the network fails at once.
        closed = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {
            "no_proxy": "127.0.0.1,localhost"
        }
        if self.user is not None:
            _give(root, self.user)
        with (root / "tmp/log").open("w") as log:
            return subprocess.Popen(  # noqa: S603
                [*self.command, *arguments],
                env=kept | image | closed | {"HOME": "/nonexistent", "TMPDIR": str(root / "tmp")} | dict(where.environ),
                cwd="/",
                stdout=subprocess.DEVNULL,
                stderr=log,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
                text=True,
            )


def unprivileged(command: Sequence[str] = ENTRY) -> int | None:
    """Return a user without rights who can start the entry point; None where we are none of root, or it cannot."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(  # noqa: S603
            [command[0], "-c", "import rentgen.deploy.environment, numpy"],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return NOBODY
    return None


def _give(root: Path, user: int) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            os.chown(path, user, user)
    # The folders above were made for us alone.
    for path in root.parents:
        if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o077 == 0:
            path.chmod(0o711)


@contextlib.contextmanager
def served(entry: Entry, where: Place, *, wait: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Give a server that runs while the block does, ready where it is waited for."""
    process = entry.start(where, "serve")
    try:
        if wait:
            until_ready(process, where)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that may be there still."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_bound(process: subprocess.Popen[str], port: int, *, within_s: float = READY_S) -> float | None:
    """Return the seconds until a connection is accepted; None where it never was."""
    began = time.perf_counter()
    while process.poll() is None and time.perf_counter() - began < within_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return time.perf_counter() - began
        time.sleep(POLL_S)
    return None


def until_ready(process: subprocess.Popen[str], where: Place, *, within_s: float = READY_S) -> tuple[int, ...]:
    """Return the statuses that the health route had, without repeats, the last of them 200 unless time ran out."""
    statuses: list[int] = []
    began = time.perf_counter()
    while process.poll() is None and time.perf_counter() - began < within_s and 200 not in statuses:
        status = ask(where.port, "GET", where.health, timeout_s=10).status
        if status and status not in statuses[-1:]:
            statuses.append(status)
        time.sleep(0.01)
    return tuple(statuses)


def interpreter_s(command: Sequence[str] = ENTRY) -> float:
    """Return the seconds that the interpreter alone takes to start and end, the median of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([command[0], "-c", "pass"], check=False, capture_output=True, timeout=60)  # noqa: S603
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 65.0,
) -> Answer:
    """Return what the server answers; status 0 where it does not."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body=body or None, headers=dict(headers or {}))
        response = connection.getresponse()
        found = Answer(response.status, response.read(), time.perf_counter() - began)
    except (OSError, http.client.HTTPException) as error:
        found = Answer(0, f"{type(error).__name__}: {error}".encode(), time.perf_counter() - began)
    finally:
        connection.close()
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
