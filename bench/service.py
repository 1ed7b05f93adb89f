"""The service under load, beside the engine alone and beside two other servers of models, in one run.

    python bench/service.py                                       drawn films
    python bench/service.py --data FOLDER                         real ones
    python bench/service.py --litserve PYTHON --bentoml PYTHON    beside these, installed in environments of their own

PYTHON is the interpreter of an environment with rentgen, onnxruntime and that server; rentgen[service] is in this one.
What is compared runs in turn, in rounds, and the median of the rounds' ratios is printed: others may share the machine.
A ratio of processor time a film does not depend on what they do at all. The load is made by one process of Python
(bench/load.py), which shares the processors with the server; its share is printed. Linux only.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import load
import numpy as np
from load import HOST, Tally, build, closed_loop, form, open_loop
from rivals import ENGINES, HEALTH, Peer

from rentgen.data.listing import find_films
from rentgen.engine.predictor import Predictor
from rentgen.images.phantom import Finding, draw, to_png
from rentgen.parallel.local import cores

NAME = "pneumonia"
RAW = "application/octet-stream"
PARTS = ("start", "engine", "shapes", "open", "studies", "peers")
CALLERS = 16
"""Of the closed loop that is compared."""


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        port: where.
        pid: of its first process.
        seconds: from start to ready.
        cpu_s: processor time until then.
    """

    port: int
    pid: int
    seconds: float
    cpu_s: float


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="a folder of films; drawn ones by default")
    parser.add_argument("--films", type=int, default=100, help="how many different films")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of what is compared")
    parser.add_argument("--litserve", type=Path, metavar="PYTHON", help="of an environment with LitServe")
    parser.add_argument("--bentoml", type=Path, metavar="PYTHON", help="of an environment with BentoML")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; again for more; all by default")
    parser.add_argument("--engine-worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    films = find_bytes(arguments.data, arguments.films)
    if arguments.engine_worker:
        work(films)
        return
    sizes = [len(film) for film in films]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {cores()} cores, Python {platform.python_version()}")
    print(f"{len(films)} films, {'real' if arguments.data else 'drawn'}, {np.mean(sizes) / 1000:.0f} kB on average")
    with tempfile.TemporaryDirectory() as name:
        print_parts(Path(name), films, arguments)
    print(f"again: {' '.join(['python', *sys.argv])}")


def print_parts(folder: Path, films: Sequence[bytes], arguments: argparse.Namespace) -> None:
    """Print the figures of the parts that were asked for."""
    parts = set(arguments.only or PARTS)
    if "start" in parts:
        print_cold_starts(folder)
    if parts & {"engine", "shapes", "open"}:
        with serving(folder) as server, engine() as alone:
            if "engine" in parts:
                print_beside_engine(server, alone, films, arguments)
            if "shapes" in parts:
                print_shapes(server, films, arguments)
            if "open" in parts:
                print_open(server, films, arguments)
    if "studies" in parts:
        with serving(folder, "--database", f"sqlite:///{folder / 'studies.db'}") as server:
            print_studies(server, films, arguments)
    if "peers" in parts:
        for product, python in (("LitServe", arguments.litserve), ("BentoML", arguments.bentoml)):
            if python is not None:
                print_peer(Peer(product, python), folder, films, arguments)


def find_bytes(data: Path | None, count: int) -> list[bytes]:
    """Return the bytes of films, evenly taken from a folder or drawn."""
    if data is None:
        rng = np.random.default_rng(0)
        kinds = list(Finding)
        return [to_png(draw(kinds[number % len(kinds)], rng, height=512, width=512)) for number in range(count)]
    paths = find_films(data)
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]


# ---- the engine alone, in a process of its own


def work(films: Sequence[bytes]) -> None:
    """For each line `SECONDS MAPS` on stdin, answer with films, seconds and seconds of processor time."""
    predictor = Predictor.load(NAME)
    for line in sys.stdin:
        seconds, maps = line.split()
        began, cpu = time.perf_counter(), time.process_time()
        answers = predictor.predict_many(_until(films, began + float(seconds)), maps=maps == "True")
        count = sum(1 for _ in answers)
        print(json.dumps([count, time.perf_counter() - began, time.process_time() - cpu]), flush=True)


def _until(films: Sequence[bytes], end: float) -> Iterator[bytes]:
    for film in itertools.cycle(films):
        if time.perf_counter() >= end:
            return
        yield film


@dataclass(frozen=True)
class Engine:
    """`Predictor.predict_many` over bytes, in a process that waits to be asked."""

    process: subprocess.Popen[str]

    def measure(self, seconds: float, *, maps: bool = False) -> tuple[float, float]:
        """Return films a second, and processor time a film, ms."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("Expected a process with pipes.")
        self.process.stdin.write(f"{seconds} {maps}\n")
        self.process.stdin.flush()
        count, wall, cpu = json.loads(self.process.stdout.readline())
        return count / wall, 1000 * cpu / count


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Run it, warm."""
    command = [sys.executable, *sys.argv, "--engine-worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        alone = Engine(process)
        alone.measure(1.0)
        try:
            yield alone
        finally:
            process.kill()


# ---- servers


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Run `rentgen serve`, without a store unless the options name one; caches lie in the folder."""
    port = free_port()
    stored = options or ("--no-store",)
    command = [sys.executable, "-m", "rentgen", "serve", "--port", str(port), *stored]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    with (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    with running(process, port, "/ping") as server:
        yield server


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes], port: int, health: str) -> Iterator[Server]:
    """Wait until a server is ready, and stop it in the end."""
    began = time.perf_counter()
    try:
        while not _is_ready(port, health):
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise TimeoutError(f"{process.args!r} did not become ready")
            time.sleep(0.01)
        yield Server(port, process.pid, time.perf_counter() - began, load.cpu_s(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_ready(port: int, health: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{health}", timeout=60) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def hammer(server: Server, requests: Sequence[bytes], seconds: float, callers: int = CALLERS) -> Tally:
    """Return what came of a closed loop."""
    return load.run(closed_loop(server.port, requests, callers=callers, seconds=seconds, pid=server.pid))


def raw(films: Sequence[bytes], path: str = "/v1/predict") -> list[bytes]:
    """Return requests whose body is a film."""
    return [build(path, film, RAW) for film in films]


# ---- what is printed


def print_cold_starts(folder: Path) -> None:
    """Print the time from start to ready, with empty and with warm caches of the engine."""
    for title in ("first", "again", "again", "again"):
        with serving(folder) as server:
            print(f"start to ready, {title}: {server.seconds:.2f} s, {server.cpu_s:.2f} s of processor")


def print_beside_engine(server: Server, alone: Engine, films: Sequence[bytes], arguments: argparse.Namespace) -> None:
    """Print the service at each concurrency beside the engine alone."""
    requests = raw(films)
    hammer(server, requests, 1.0)
    single = hammer(server, requests, arguments.seconds, callers=1)
    print(f"service, 1 caller:   {single.line()}")
    print(f"service, 4 callers:  {hammer(server, requests, arguments.seconds, callers=4).line()}")
    shares, costs = [], []
    for _ in range(arguments.rounds):
        rate, cpu_ms = alone.measure(arguments.seconds)
        print(f"engine alone:        {rate:6.1f} films/s, {cpu_ms:5.1f} ms of processor a film")
        tally = hammer(server, requests, arguments.seconds)
        print(f"service, {CALLERS} callers: {tally.line()}")
        shares.append(tally.rate / rate)
        costs.append(cpu_ms / tally.cpu_ms)
    print(f"-> of the engine's throughput: {told(shares)} (aim 0.85); by processor time {told(costs)}")
    maps, costs = [], []
    for _ in range(arguments.rounds):
        without, with_maps = alone.measure(arguments.seconds / 2), alone.measure(arguments.seconds / 2, maps=True)
        maps.append(without[0] / with_maps[0])
        costs.append(with_maps[1] / without[1])
    print(f"-> heat map in the engine: time x {told(maps)} (aim 1.05), processor time x {told(costs)}")


def print_shapes(server: Server, films: Sequence[bytes], arguments: argparse.Namespace) -> None:
    """Print what the ways of sending a film and the heat map cost, against a raw body."""
    ways = {
        "raw body": raw(films),
        "raw body, heat map": raw(films, "/v1/predict?heatmap=true"),
        "multipart": [form("/v1/predict", "films", film) for film in films],
        "/invocations, JSON": [
            build(
                "/invocations",
                json.dumps({"instances": [{"content": base64.b64encode(film).decode()}]}).encode(),
                "application/json",
            )
            for film in films
        ],
    }
    rates: dict[str, list[Tally]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, requests in ways.items():
            rates[way].append(hammer(server, requests, arguments.seconds / 2))
    for way, tallies in rates.items():
        times = [first.rate / tally.rate for first, tally in zip(rates["raw body"], tallies, strict=True)]
        costs = [tally.cpu_ms / first.cpu_ms for first, tally in zip(rates["raw body"], tallies, strict=True)]
        print(
            f"-> {way}: time x {told(times)}, processor time x {told(costs)}; errors {sum(t.errors for t in tallies)}"
        )


def print_open(server: Server, films: Sequence[bytes], arguments: argparse.Namespace) -> None:
    """Print what happens below saturation and at three times it."""
    requests, seconds = raw(films), arguments.seconds
    for share in (0.5, 0.7):
        # What saturates moves with what else the machine does: it is measured anew each time, and so is one film.
        single, full = hammer(server, requests, seconds / 2, callers=1), hammer(server, requests, seconds / 2)
        tally = load.run(open_loop(server.port, requests, rate=share * full.rate, seconds=2 * seconds, pid=server.pid))
        print(f"open, {share:.0%} of {full.rate:.0f}/s: {tally.line()}")
        print(f"-> p99 at {share:.0%}: {tally.quantile(0.99) / single.quantile(0.5):.1f} x one film alone (aim 4)")
    full = hammer(server, requests, seconds / 2)
    tally = load.run(open_loop(server.port, requests, rate=3 * full.rate, seconds=3 * seconds, pid=server.pid))
    print(f"open, 300% of {full.rate:.0f}/s: {tally.line()}")
    quarters = [max(part) for part in np.array_split(np.array(tally.rss_mb), 4)]
    memory = ", ".join(f"{value:.0f}" for value in quarters)
    print(f"-> at 300%: {tally.rate / full.rate:.2f} of the closed loop's throughput; memory by quarters {memory} MB")


def print_studies(server: Server, films: Sequence[bytes], arguments: argparse.Namespace) -> None:
    """Print what keeping a study costs, against a prediction by form."""
    # A film that is there already is not stored again: here each request brings one that is new.
    fresh = itertools.count()
    times, costs = [], []
    for _ in range(arguments.rounds):
        asked = hammer(
            server, [form("/v1/predict?heatmap=true", "films", film) for film in films], arguments.seconds / 2
        )
        new = [form("/v1/studies", "films", other(films[n % len(films)], next(fresh))) for n in range(4000)]
        kept = hammer(server, new, arguments.seconds / 2)
        times.append(asked.rate / kept.rate)
        costs.append(kept.cpu_ms / asked.cpu_ms)
        print(f"POST /v1/studies:    {kept.line()}")
    print(f"-> a study kept, against a prediction with its map: time x {told(times)}, processor time x {told(costs)}")


def other(film: bytes, number: int) -> bytes:
    """Return a film's bytes with a number behind its end, which readers of JPEG and PNG do not look at."""
    return film + number.to_bytes(8, "big")


def print_peer(peer: Peer, folder: Path, films: Sequence[bytes], arguments: argparse.Namespace) -> None:
    """Print another server beside ours, each in turn, both by form."""
    theirs_asked = [form("/predict", "film", film) for film in films]
    ours_asked = [form("/v1/predict", "films", film) for film in films]
    for kind in ENGINES:
        port = free_port()
        process = peer.start(folder, port, kind)
        with running(process, port, HEALTH[peer.name]) as theirs, serving(folder) as ours:
            hammer(theirs, theirs_asked, 2.0)
            hammer(ours, ours_asked, 2.0)
            times, costs = [], []
            for _ in range(arguments.rounds):
                their, our = (
                    hammer(theirs, theirs_asked, arguments.seconds),
                    hammer(ours, ours_asked, arguments.seconds),
                )
                print(f"{peer.name}, {kind}: {their.line()}")
                print(f"ours:              {our.line()}")
                times.append(our.rate / their.rate)
                costs.append(their.cpu_ms / our.cpu_ms)
            print(f"-> ours against {peer.name} with {kind}: {told(times)} (aim 1.3); by processor time {told(costs)}")


def told(ratios: Sequence[float]) -> str:
    """Return the median, and the range where there are several."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
