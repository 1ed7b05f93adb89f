"""`rentgen gateway demo`: a PACS, the gateway and the page, two films through all of it, on this machine alone."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import httpx
from rich.table import Table

from rentgen.errors import PeerError, SettingError
from rentgen.records import DISCLAIMER
from rentgen.terminal import err, out

_ORTHANC, _PLUGIN = "Orthanc", Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_WANTED = ("SR", "PR", "OT")
_PATIENCE_S = 60.0
_APT = "apt-get install --no-install-recommends orthanc orthanc-dicomweb dcmtk"


@dataclass(frozen=True, slots=True)
class _Ports:
    """Free ports of loopback."""

    pacs: int
    pacs_http: int
    gateway: int
    page: int


@dataclass(slots=True)
class _Inbox:
    """What the two information systems of the demonstration were sent, and where they listen."""

    fhir_port: int = 0
    mllp_port: int = 0
    bundles: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def show(folder: Path | None, *, keep: bool) -> None:
    """Run the demonstration.

    Args:
        folder: where what was made is kept; None for nowhere.
        keep: leave all of it running until Ctrl-C.

    Raises:
        SettingError: a program is not installed.
        PeerError: something does not start, or the results do not arrive.
    """
    # Whoever ends it so wants no PACS left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    orthanc, storescu = _program(_ORTHANC, "/usr/sbin"), _program("storescu")
    if not _PLUGIN.exists():
        raise SettingError(f"Orthanc's DICOMweb plug-in is not installed. Install it with: {_APT}")
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rentgen-gateway-")))
        place.mkdir(parents=True, exist_ok=True)
        ports = _Ports(*_free_ports(4))
        films = _films(place / "films")
        with err.status("Starting Orthanc, the gateway and the page ..."):
            stack.enter_context(_pacs(orthanc, place / "pacs", ports))
            inbox = stack.enter_context(_systems())
            stack.enter_context(_running_gateway(place, ports, inbox))
        for name, path in films.items():
            for what, title, port in (("the PACS", "PACS", ports.pacs), ("the gateway", "RENTGEN", ports.gateway)):
                _send(storescu, path, title, port)
                out.print(f"storescu sends {name} to {what}", highlight=False)
        with err.status("Waiting for the results ..."):
            studies = _await_results(ports, len(films), inbox)
        _show(studies, inbox, place, ports)
        if keep:
            out.print(f"Orthanc: http://127.0.0.1:{ports.pacs_http}/  Stop with Ctrl-C.", highlight=False)
            with _until_interrupted():
                threading.Event().wait()
    out.print("All of it is stopped." + (f" What was made is in {place}." if folder else ""), highlight=False)
    err.print(DISCLAIMER, style="dim")


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        return


def _program(name: str, *more: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *more]))
    if found is None:
        raise SettingError(f"{name} is not installed; the demonstration needs a PACS that is not ours. Try: {_APT}")
    return found


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in held]


def _films(folder: Path) -> dict[str, Path]:
    """Return a drawn film, and a real chest film where the package that carries it is installed."""
    import numpy as np

    from rentgen.images.phantom import Finding, draw, to_dicom

    folder.mkdir(exist_ok=True)
    drawn = folder / "phantom.dcm"
    drawn.write_bytes(to_dicom(draw(Finding.CONSOLIDATION, np.random.default_rng(7)), patient_id="PHANTOM-7"))
    films = {"a drawn DX film": drawn}
    carrier = importlib.util.find_spec("data_store")
    if carrier is not None and carrier.submodule_search_locations:
        films["a real chest film (RG1, CR, PA)"] = Path(carrier.submodule_search_locations[0]) / "data" / "RG1_UNCR.dcm"
    else:
        err.print("A real film joins in where pydicom-data is installed: pip install pydicom-data", style="dim")
    return films


@contextmanager
def _pacs(program: str, folder: Path, ports: _Ports) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    told = {
        "Name": "demonstration",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(_PLUGIN)],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpPort": ports.pacs_http,
        "DicomAet": "PACS",
        "DicomPort": ports.pacs,
        "DicomCheckCalledAet": True,
        "StableAge": 2,
        "DicomModalities": {"rentgen": ["RENTGEN", "127.0.0.1", ports.gateway]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(told))
    with subprocess.Popen([program, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - no shell
        try:
            _await(f"http://127.0.0.1:{ports.pacs_http}/system", process, "Orthanc")
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def _systems() -> Iterator[_Inbox]:
    """Run an information system that takes FHIR, and one that takes HL7, and collect what they are sent."""
    inbox = _Inbox()

    class Fhir(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bundle = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inbox.bundles.append(bundle)
            entries = [{"response": {"status": "201 Created"}} for _ in bundle["entry"]]
            answer = json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": entries}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/fhir+json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Hl7(StreamRequestHandler):
        def handle(self) -> None:
            held = b""
            while piece := self.request.recv(65_536):
                held += piece
                while b"\x1c\r" in held:
                    message, _, held = held.partition(b"\x1c\r")
                    text = message.lstrip(b"\x0b").decode()
                    inbox.messages.append(text)
                    control = text.split("\r")[0].split("|")[9]
                    answer = f"MSH|^~\\&|RIS||RENTGEN||20260101||ACK^R01|{control}A|P|2.5.1\rMSA|AA|{control}\r"
                    self.request.sendall(b"\x0b" + answer.encode() + b"\x1c\r")

    with ThreadingHTTPServer(("127.0.0.1", 0), Fhir) as http, ThreadingTCPServer(("127.0.0.1", 0), Hl7) as mllp:
        http.daemon_threads = mllp.daemon_threads = True
        inbox.fhir_port, inbox.mllp_port = int(http.server_address[1]), int(mllp.server_address[1])
        for server in (http, mllp):
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield inbox
        finally:
            http.shutdown()
            mllp.shutdown()


@contextmanager
def _running_gateway(folder: Path, ports: _Ports, inbox: _Inbox) -> Iterator[None]:
    """Run the gateway and the page as a user would: two processes on one database, with one key."""
    (folder / "gateway.toml").write_text(_CONFIG.format(ports=ports, inbox=inbox))
    environment = os.environ | {
        "RENTGEN_DATABASE": f"sqlite:///{(folder / 'store.db').resolve()}",
        "RENTGEN_KEY": base64.b64encode(os.urandom(32)).decode(),
        "RENTGEN_KEEP_FILES": "true",
        "RENTGEN_LOG_FORMAT": "text",
    }
    commands = {
        "gateway": ["gateway", "run", "--config", str(folder / "gateway.toml")],
        "page": ["serve", "--port", str(ports.page)],
    }
    with ExitStack() as stack:
        running = {}
        for name, arguments in commands.items():
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            command = [sys.executable, "-m", "rentgen", *arguments]
            running[name] = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=environment))  # noqa: S603 - no shell
            stack.callback(running[name].terminate)
        _await_port(ports.gateway, running["gateway"], folder / "gateway.log")
        _await(f"http://127.0.0.1:{ports.page}/v1/health", running["page"], "The page")
        yield


_CONFIG = """\
[gateway]
ae_title = "RENTGEN"
port = {ports.gateway}
folder = "spool"
quiet_s = 1
keep_films = true
min_free_mb = 100

[[destination]]
name = "pacs"
wire = "dimse"
kinds = ["sr", "sc", "pr", "ko"]
host = "127.0.0.1"
port = {ports.pacs}
ae_title = "PACS"
commitment = true

[[destination]]
name = "records"
wire = "fhir"
kinds = ["fhir"]
url = "http://127.0.0.1:{inbox.fhir_port}"

[[destination]]
name = "ris"
wire = "mllp"
kinds = ["hl7"]
host = "127.0.0.1"
port = {inbox.mllp_port}
"""


def _send(storescu: str, film: Path, title: str, port: int) -> None:
    command = [storescu, "-aet", "MODALITY", "-aec", title, "127.0.0.1", str(port), str(film)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)  # noqa: S603 - no shell
    if done.returncode != 0:
        raise PeerError(f"storescu could not send a film to {title} (exit code {done.returncode}).")


def _await(url: str, process: subprocess.Popen[bytes], name: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise PeerError(f"{name} does not start here.")


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    last = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
    raise PeerError("The gateway does not start here. Its last words: " + " / ".join(last))


def _json(url: str) -> Any:  # noqa: ANN401 - JSON
    return httpx.get(url, timeout=10, trust_env=False).raise_for_status().json()


def _await_results(ports: _Ports, films: int, inbox: _Inbox) -> list[dict[str, Any]]:
    """Return what Orthanc says of each object, once every study has its results and both systems have theirs."""
    until = time.monotonic() + _PATIENCE_S
    url = f"http://127.0.0.1:{ports.pacs_http}/instances?expand&requestedTags=Modality;StudyInstanceUID"
    while time.monotonic() < until:
        found = [_described(ports, each["ID"]) for each in _json(url)]
        studies = {each["StudyInstanceUID"] for each in found}
        complete = sum(
            {each["Modality"] for each in found if each["StudyInstanceUID"] == study} >= set(_WANTED)
            for study in studies
        )
        if complete >= films and len(inbox.bundles) >= films and len(inbox.messages) >= films:
            return found
        time.sleep(0.5)
    raise PeerError("The results did not arrive in time; run it again with --out DIR and look at DIR/gateway.log.")


def _described(ports: _Ports, instance: str) -> dict[str, Any]:
    tags: dict[str, Any] = _json(f"http://127.0.0.1:{ports.pacs_http}/instances/{instance}/simplified-tags")
    return tags


def _show(found: Sequence[dict[str, Any]], inbox: _Inbox, folder: Path, ports: _Ports) -> None:
    for number, study in enumerate(dict.fromkeys(each["StudyInstanceUID"] for each in found), 1):
        table = Table("modality", "series", "what", title=f"Study {number} in Orthanc")
        mine = [each for each in found if each["StudyInstanceUID"] == study]
        for each in sorted(mine, key=lambda tags: int(tags.get("SeriesNumber") or 0)):
            table.add_row(each["Modality"], each.get("SeriesNumber", ""), each.get("SeriesDescription", ""))
        out.print(table)
    for number, bundle in enumerate(inbox.bundles, 1):
        (folder / f"fhir-{number}.json").write_text(json.dumps(bundle, indent=1))
        out.rule(f"FHIR bundle {number}, its PDF left out")
        out.print_json(json.dumps(_without_pdf(bundle)))
    for number, message in enumerate(inbox.messages, 1):
        (folder / f"oru-{number}.hl7").write_text(message)
        out.rule(f"HL7 message {number}")
        out.print(message.replace("\r", "\n"), highlight=False, markup=False, soft_wrap=True)
    listed = _json(f"http://127.0.0.1:{ports.page}/v1/studies?limit=50")["studies"]
    table = Table("film", "answer", "urgency", title=f"The page's list: http://127.0.0.1:{ports.page}/")
    for study in listed:
        for image in study["images"]:
            mine = [each for each in study["predictions"] if each["image_id"] == image["id"]]
            table.add_row(image["name"], mine[0]["status"] if mine else "", str(study["urgency"]))
    out.print(table)


def _without_pdf(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON whose long texts are cut."""
    if isinstance(value, dict):
        return {key: _without_pdf(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_pdf(item) for item in value]
    return f"{value[:40]}... ({len(value)} letters)" if isinstance(value, str) and len(value) > 2000 else value
