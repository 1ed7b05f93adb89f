"""The gateway from C-STORE to the delivered report, beside Orthanc's own rate of receiving, in one run.

    python bench/gateway.py                       a drawn DX film, 200 times, one sender and four
    python bench/gateway.py --film FILE.dcm       another film
    python bench/gateway.py --memory 2000         memory over so many films, too

dcmtk's storescu sends the same film under new identifiers, each a study of its own, to Orthanc and to the gateway in
turn. The gateway analyses every film with the shipped model and delivers a structured report to dcmtk's storescp. Films
a second are those of whole runs: until the last film is acknowledged (Orthanc), until the last report is delivered
(gateway). Latency is from the film's acknowledgement to its report's, the quiet time of 0.1 s that closes a study
included, at half of the rate that four senders reached. Needs Orthanc and dcmtk. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from load import cpu_s, family, rss_mb

from rentgen.images.phantom import Finding, draw, to_dicom
from rentgen.store.gateway import Queue, State, Step

QUIET_S = 0.1


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--film", type=Path, help="a DICOM film; a drawn one by default")
    parser.add_argument("--films", type=int, default=200, help="of one run")
    parser.add_argument("--rounds", type=int, default=3, help="of what is compared")
    parser.add_argument("--readers", type=int, default=1, help="processes of the gateway that analyse")
    parser.add_argument("--memory", type=int, default=0, help="films over which memory is watched; 0 for none")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        film = arguments.film or drawn(folder)
        print(f"film: {film.name}, {film.stat().st_size / 1e6:.1f} MB")
        pacs = stack.enter_context(orthanc(folder))
        sink = stack.enter_context(storescp())
        with gateway(folder / "compared", sink, arguments.readers) as mine:
            compare(pacs, mine, film, arguments)
        if arguments.memory:
            with gateway(folder / "watched", sink, arguments.readers) as mine:
                watch_memory(mine, film, arguments.memory)


def drawn(folder: Path) -> Path:
    """Return the file of a drawn film."""
    path = folder / "drawn.dcm"
    path.write_bytes(to_dicom(draw(Finding.CONSOLIDATION, np.random.default_rng(7)), patient_id="PHANTOM-7"))
    return path


class Gateway:
    """A gateway that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, database: str) -> None:
        self.process = process
        self.port = port
        self.queue = Queue.open(database)

    def delivered(self) -> int:
        """Return how many reports were delivered."""
        return self.queue.counts().steps.get((Step.DELIVER, "sink", State.DONE), 0)

    def rss_mb(self) -> float:
        """Return the memory of all its processes, MB."""
        return sum(rss_mb(pid) for pid in family(self.process.pid))

    def cpu_s(self) -> float:
        """Return the processor time of all its processes."""
        return cpu_s(self.process.pid)


def compare(pacs: int, mine: Gateway, film: Path, arguments: argparse.Namespace) -> None:
    """Print how many films a second both take, and how long one takes."""
    rates = []
    for senders in (1, 4):
        theirs, ours, ratios = [], [], []
        for _ in range(arguments.rounds):
            started = time.monotonic()
            send("PACS", pacs, film, arguments.films, senders)
            theirs.append(arguments.films / (time.monotonic() - started))
            before, started, used = mine.delivered(), time.monotonic(), mine.cpu_s()
            send("RENTGEN", mine.port, film, arguments.films, senders)
            received = arguments.films / (time.monotonic() - started)
            until(lambda before=before: mine.delivered() >= before + arguments.films)  # type: ignore[misc]
            ours.append(arguments.films / (time.monotonic() - started))
            ratios.append(ours[-1] / theirs[-1])
            cost = 1000 * (mine.cpu_s() - used) / arguments.films
        rates.append(statistics.median(ours))
        print(
            f"{senders} sender(s): Orthanc receives {statistics.median(theirs):.1f} films/s; the gateway receives, "
            f"analyses and delivers {rates[-1]:.1f} films/s (acknowledges {received:.1f}); ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}); {cost:.0f} ms of processor a film"
        )
    print_latency(mine, film, rates[-1] / 2, arguments.films)


def print_latency(mine: Gateway, film: Path, rate: float, films: int) -> None:
    """Send films one by one at a rate, and print how long each took."""
    since, before = datetime.now(UTC), mine.delivered()
    start = time.monotonic()
    sending: list[subprocess.Popen[bytes]] = []
    for number in range(films):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        sending.append(subprocess.Popen(command("RENTGEN", mine.port, film, 1), stdout=subprocess.DEVNULL))
    for each in sending:
        if each.wait(60) != 0:
            raise SystemExit("storescu failed")
    until(lambda: mine.delivered() >= before + films)
    took = sorted((done - last).total_seconds() for last, done in mine.queue.finished_since(since))
    print(
        f"end to end at {rate:.1f} films/s ({films} films, quiet time {QUIET_S} s included): "
        f"p50 {took[len(took) // 2]:.2f} s, p99 {took[int(0.99 * (len(took) - 1))]:.2f} s, longest {took[-1]:.2f} s"
    )


def watch_memory(mine: Gateway, film: Path, films: int) -> None:
    """Send many films, and print the memory of each tenth of them."""
    seen: list[float] = []
    for _ in range(10):
        before = mine.delivered()
        send("RENTGEN", mine.port, film, films // 10, 4)
        until(lambda before=before: mine.delivered() >= before + films // 10)  # type: ignore[misc]
        seen.append(mine.rss_mb())
    print(f"memory after each tenth of {films} films, MB: " + " ".join(f"{value:.0f}" for value in seen))


def command(title: str, port: int, film: Path, repeat: int) -> list[str]:
    """Return what sends a film so many times, each time under new identifiers."""
    # A study of its own for every film.
    new = ["+IR", "1", "+IS", "1", "+IP", "1"]
    return ["storescu", "-aec", title, *new, "--repeat", str(repeat), "127.0.0.1", str(port), str(film)]


def send(title: str, port: int, film: Path, films: int, senders: int) -> None:
    """Send a film so many times in all, by so many senders at once."""
    running = [
        subprocess.Popen(command(title, port, film, films // senders), stdout=subprocess.DEVNULL)
        for _ in range(senders)
    ]
    if any(each.wait(600) != 0 for each in running):
        raise SystemExit(f"storescu could not send to {title}")


def until(happened: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise SystemExit("it did not happen in time")
        time.sleep(0.02)


@contextmanager
def gateway(folder: Path, sink: int, readers: int) -> Iterator[Gateway]:
    """Run a gateway that delivers reports to a port."""
    folder.mkdir()
    port = free_port()
    database = f"sqlite:///{folder / 'store.db'}"
    (folder / "gateway.toml").write_text(
        f'[gateway]\nport = {port}\nfolder = "spool"\ndatabase = "{database}"\nquiet_s = {QUIET_S}\n'
        f"readers = {readers}\nmin_free_mb = 100\nmax_associations = 32\n"
        f'[[destination]]\nname = "sink"\nwire = "dimse"\nkinds = ["sr"]\nhost = "127.0.0.1"\nport = {sink}\n'
        'ae_title = "SINK"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RENTGEN_")}
    started = [sys.executable, "-m", "rentgen", "gateway", "run", "--config", str(folder / "gateway.toml")]
    with (folder / "log").open("wb") as log, subprocess.Popen(started, stderr=log, env=environment) as process:
        try:
            await_port(port, process)
            yield Gateway(process, port, database)
        finally:
            process.terminate()


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """Run Orthanc; gives its port."""
    http, dicom = free_port(), free_port()
    told = {
        "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"), "Plugins": [],
        "RemoteAccessAllowed": False, "HttpPort": http, "DicomAet": "PACS", "DicomPort": dicom,
        "DicomAlwaysAllowStore": True, "StableAge": 60,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(told))
    program = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("Orthanc is not installed")
    quiet = subprocess.DEVNULL
    with subprocess.Popen([program, str(folder / "orthanc.json")], stdout=quiet, stderr=quiet) as process:
        try:
            await_port(dicom, process)
            yield dicom
        finally:
            process.terminate()


@contextmanager
def storescp() -> Iterator[int]:
    """Run dcmtk's storage provider, which keeps nothing; gives its port."""
    port = free_port()
    with subprocess.Popen(["storescp", "--ignore", str(port)], stdout=subprocess.DEVNULL) as process:
        try:
            await_port(port, process)
            yield port
        finally:
            process.terminate()


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nobody listens on port {port}")


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
