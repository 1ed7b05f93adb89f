"""TLS with certificates on both sides: each sender, with what is right, and with each thing that can be wrong.

Whatever is wrong is tried again: nothing is wrong with the documents, and certificates are put right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import answers
import peers
import pytest
import receivers
from certificates import Authority
from peers import FolderIntake

from rentgen.gateway.check import check_all, check_source
from rentgen.gateway.deliver import sender_of
from rentgen.gateway.dimse import Receiver
from rentgen.gateway.nouns import Destination, GatewayConfig, Result, Source, Tls, Wire
from rentgen.gateway.stow import create_stow
from rentgen.gateway.tls import fault_of, probe
from rentgen.gateway.transport import client_context
from rentgen.outputs.documents import documents
from rentgen.outputs.fhir import fhir_document
from rentgen.outputs.hl7 import hl7_message
from rentgen.records.results import Document, Kind


@dataclass(frozen=True)
class Sides:
    """Certificates of the peer and of us, and the words that we must find for it."""

    theirs: Tls
    ours: Tls
    words: str = ""


def good(one: Authority, _: Authority) -> Sides:
    return Sides(one.issue(), one.issue("gateway"))


def of_another_authority(one: Authority, other: Authority) -> Sides:
    return Sides(other.issue(trusts=one), one.issue("gateway"), "not signed by whom we trust")


def for_another_host(one: Authority, _: Authority) -> Sides:
    return Sides(one.issue("other.test", "192.0.2.1"), one.issue("gateway"), "for another host")


def expired(one: Authority, _: Authority) -> Sides:
    return Sides(one.issue(days=-1), one.issue("gateway"), "expired; have it renewed there")


def ours_missing(one: Authority, _: Authority) -> Sides:
    return Sides(one.issue(), Tls(authority=one.file), "demands a certificate of ours")


def ours_expired(one: Authority, _: Authority) -> Sides:
    return Sides(one.issue(), one.issue("gateway", days=-1), "our certificate has expired")


def ours_of_another_authority(one: Authority, other: Authority) -> Sides:
    return Sides(one.issue(), other.issue("gateway", trusts=one), "does not trust who signed our certificate")


CASES = (
    good,
    of_another_authority,
    for_another_host,
    expired,
    ours_missing,
    ours_expired,
    ours_of_another_authority,
)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    folder = tmp_path_factory.mktemp("authorities")
    return Authority.found(folder), Authority.found(folder, "Another authority")


@pytest.fixture(params=CASES, ids=lambda case: case.__name__)
def sides(request: pytest.FixtureRequest, authorities: tuple[Authority, Authority]) -> Sides:
    case: Callable[[Authority, Authority], Sides] = request.param
    return case(*authorities)


def hold(told: Destination, made: tuple[Document, ...], sides: Sides) -> None:
    """Send and check, and compare with what is expected of these certificates."""
    sender = sender_of(told)
    outcome, found = sender.send(made), sender.check()
    sender.close()
    if not sides.words:
        assert (outcome.result, found.ok) == (Result.DELIVERED, True), (outcome, found)
        return
    assert (outcome.result, found.ok) == (Result.RETRY, False)
    assert sides.words in outcome.reason
    assert sides.words in found.detail


def test_dimse_to_dcmtk(sides: Sides, tmp_path: Path) -> None:
    made = documents(answers.study(), (Kind.STRUCTURED_REPORT,))
    options = ("+tls", str(sides.theirs.key), str(sides.theirs.certificate), "+cf", str(sides.theirs.authority))
    with peers.storescp(tmp_path, *options) as port:
        told = Destination("pacs", Wire.DIMSE, (Kind.STRUCTURED_REPORT,), "127.0.0.1", port, "PACS", tls=sides.ours)
        hold(replace(told, timeout_s=5.0), made, sides)
    assert bool(list(tmp_path.iterdir())) is not bool(sides.words)


def test_stow_to_another_gateway(sides: Sides, tmp_path: Path) -> None:
    made = documents(answers.study(), (Kind.STRUCTURED_REPORT,))
    intake = FolderIntake(tmp_path)
    config = GatewayConfig(folder=tmp_path / "spool", min_free_mb=0)
    with peers.serving(create_stow(config, intake)) as inner, receivers.behind_tls(inner, sides.theirs) as port:
        url = f"https://127.0.0.1:{port}"
        hold(Destination("web", Wire.STOW, (Kind.STRUCTURED_REPORT,), url=url, tls=sides.ours), made, sides)
    assert bool(intake.files) is not bool(sides.words)


@pytest.fixture(scope="module")
def fhir() -> Iterator[int]:
    with receivers.node("medplum", receivers.FHIR) as port:
        yield port


def test_fhir_to_medplum(fhir: int, sides: Sides) -> None:
    with receivers.behind_tls(fhir, sides.theirs) as port:
        url = f"https://127.0.0.1:{port}"
        told = Destination("fhir", Wire.FHIR, (Kind.FHIR,), url=url, tls=sides.ours)
        hold(told, (fhir_document(answers.study()),), sides)


@pytest.fixture(scope="module")
def issuer() -> Iterator[int]:
    with receivers.node("oidc", receivers.OIDC) as port:
        yield port


def test_tokens_over_tls(issuer: int, fhir: int, sides: Sides, authorities: tuple[Authority, Authority]) -> None:
    """The address of the FHIR server is well; that of the tokens is as the case has it."""
    well = authorities[0].issue()
    well = replace(well, demand_certificate=False)
    with receivers.behind_tls(fhir, well) as port, receivers.behind_tls(issuer, sides.theirs) as tokens:
        told = Destination(
            "fhir",
            Wire.FHIR,
            (Kind.FHIR,),
            url=f"https://127.0.0.1:{port}",
            tls=sides.ours,
            oidc_token_url=f"https://127.0.0.1:{tokens}/token",
            oidc_client="gateway",
            oidc_secret="s3:cr%et",  # noqa: S106
        )
        hold(told, (fhir_document(answers.study()),), sides)


@pytest.fixture(scope="module")
def hl7() -> Iterator[int]:
    with receivers.node("medhl7", receivers.MEDPLUM_HL7) as port:
        yield port


def test_hl7_to_medplum(hl7: int, sides: Sides) -> None:
    with receivers.behind_tls(hl7, sides.theirs) as port:
        told = Destination("ris", Wire.MLLP, (Kind.HL7,), "127.0.0.1", port, tls=sides.ours, timeout_s=5.0)
        hold(told, (hl7_message(answers.study()),), sides)


def test_our_own_door(sides: Sides, tmp_path: Path) -> None:
    config = GatewayConfig(port=0, folder=tmp_path / "spool", min_free_mb=0, tls=sides.theirs)
    (tmp_path / "kept").mkdir()
    with Receiver(config, FolderIntake(tmp_path / "kept")) as receiver:
        told = Destination("us", Wire.DIMSE, (Kind.PDF,), "127.0.0.1", receiver.port, "RENTGEN", tls=sides.ours)
        found = sender_of(replace(told, timeout_s=5.0)).check()
        counts = receiver.counts()
    assert found.ok is not bool(sides.words)
    assert sides.words in found.detail
    assert bool(counts["refused_handshake"]) is bool(sides.words)
    assert bool(counts["echo"]) is not bool(sides.words)


class NoStudies(BaseHTTPRequestHandler):
    """A PACS that has nothing."""

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pacs() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), NoStudies) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_films_fetched_by_dicomweb(pacs: int, sides: Sides) -> None:
    with receivers.behind_tls(pacs, sides.theirs) as port:
        source = Source("pacs", Wire.STOW, url=f"https://127.0.0.1:{port}", tls=sides.ours)
        found = check_source(source, GatewayConfig(), answers.AT.date())
    assert found.ok is not bool(sides.words)
    assert sides.words in found.detail


def test_films_fetched_by_dimse(sides: Sides, tmp_path: Path) -> None:
    options = ("+tls", str(sides.theirs.key), str(sides.theirs.certificate), "+cf", str(sides.theirs.authority))
    with peers.storescp(tmp_path, *options) as port:
        source = Source("pacs", Wire.DIMSE, "127.0.0.1", port, "PACS", tls=sides.ours)
        found = check_source(source, GatewayConfig(), answers.AT.date())
    assert not found.ok
    # The storage provider of dcmtk answers no queries, and says so where TLS is well.
    assert (sides.words or "Query/Retrieve") in found.detail


def test_the_check_names_certificates_and_peers(authorities: tuple[Authority, Authority], tmp_path: Path) -> None:
    one, _ = authorities
    soon = one.issue("gateway", days=3)
    told = Destination("pacs", Wire.DIMSE, (Kind.PDF,), "127.0.0.1", peers.free_port(), "PACS", tls=one.issue(days=-1))
    broken = replace(told, name="broken", tls=Tls(tmp_path / "none.crt", tmp_path / "none.key"))
    config = GatewayConfig(folder=tmp_path, min_free_mb=0, tls=soon, destinations=(told, broken))
    found = {each.name: each.detail for each in check_all(config) if not each.ok}
    assert "expires in 2 days" in found["certificate of gateway"]
    assert "has expired" in found["certificate of pacs"]
    assert "cannot be read" in found["certificate of broken"]
    assert "cannot be read" in found["destination broken"]


def test_who_does_not_speak_tls_is_named(authorities: tuple[Authority, Authority]) -> None:
    with receivers.scripted([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as (port, _):
        fault = probe(("127.0.0.1", port), client_context(authorities[0].issue()), timeout_s=5.0)
    assert fault is not None
    assert "does not speak TLS" in fault


def test_other_errors_are_not_of_tls() -> None:
    assert fault_of(ConnectionRefusedError()) is None
    assert probe(("127.0.0.1", 1), client_context(Tls()), timeout_s=1.0) is None
