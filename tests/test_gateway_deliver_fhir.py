"""FHIR: to Medplum's router, with tokens of a real OIDC provider, and to peers that answer amiss."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import answers
import httpx
import pytest
import receivers

from rentgen.gateway.deliver import sender_of
from rentgen.gateway.http import Reply, wait_of
from rentgen.gateway.nouns import Destination, Result, Wire
from rentgen.gateway.send_fhir import of_reply
from rentgen.outputs.fhir import fhir_document
from rentgen.records.results import Document, Kind


@pytest.fixture(scope="module")
def bundle() -> Document:
    return fhir_document(answers.study())


def test_medplum_takes_a_bundle_twice_without_duplicates(bundle: Document) -> None:
    with receivers.node("medplum", receivers.FHIR) as port:
        url = f"http://127.0.0.1:{port}"
        sender = sender_of(Destination("fhir", Wire.FHIR, (Kind.FHIR,), url=url))
        assert sender.check().ok
        counts = []
        for _ in range(2):
            assert sender.send([bundle]).result is Result.DELIVERED
            counts.append(_count(url, bundle))
        sender.close()
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == len(json.loads(bundle.content)["entry"])


def _count(url: str, bundle: Document) -> dict[str, int]:
    kinds = sorted({entry["resource"]["resourceType"] for entry in json.loads(bundle.content)["entry"]})
    return {kind: len(httpx.get(f"{url}/{kind}?_count=100", trust_env=False).json().get("entry", ())) for kind in kinds}


def test_a_token_that_is_not_taken_is_renewed_once(bundle: Document) -> None:
    with receivers.node("oidc", receivers.OIDC) as issuer:
        base = f"http://127.0.0.1:{issuer}"
        with receivers.node("medplum", receivers.FHIR, base) as port:
            told = Destination(
                "fhir",
                Wire.FHIR,
                (Kind.FHIR,),
                url=f"http://127.0.0.1:{port}",
                oidc_token_url=f"{base}/token",
                oidc_client="gateway",
                oidc_secret="s3:cr%et",  # noqa: S106
            )
            sender = sender_of(told)
            assert sender.send([bundle]).result is Result.DELIVERED
            sender.close()
            wrong = Destination(
                "fhir",
                Wire.FHIR,
                (),
                url=told.url,
                oidc_token_url=told.oidc_token_url,
                oidc_client="x",
                oidc_secret="y",  # noqa: S106
            )
            sender = sender_of(wrong)
            outcome = sender.send([bundle])
            sender.close()
            assert (outcome.result, "no token" in outcome.reason) == (Result.RETRY, True)


@pytest.mark.parametrize(
    ("status", "result"),
    [(s, Result.RETRY) for s in (401, 408, 409, 429, 500, 503)] + [(s, Result.DEAD) for s in (400, 403, 404, 422)],
)
def test_an_outcome_is_told_without_the_patient(status: int, result: Result) -> None:
    said = {
        "resourceType": "OperationOutcome",
        "issue": [
            {"code": "invalid", "expression": ["Patient.name[0].family"], "diagnostics": "DOE JOHN 19400305"},
            {"code": "DOE", "expression": ["Patient?name=DOE"], "details": {"text": "DOE"}},
        ],
    }
    outcome = of_reply(Reply(status, json.dumps(said).encode(), 3.0))
    assert outcome.result is result
    assert outcome.reason == f"HTTP status {status} (invalid at Patient.name[0].family, unknown)"


def test_an_entry_that_was_refused_counts() -> None:
    def answer(*statuses: str) -> Reply:
        entries = [{"response": {"status": status}} for status in statuses]
        return Reply(200, json.dumps({"resourceType": "Bundle", "entry": entries}).encode())

    assert of_reply(answer("201 Created", "200")).result is Result.DELIVERED
    assert of_reply(answer("201", "400 Bad Request")).result is Result.DEAD
    assert of_reply(answer("201", "503")).result is Result.RETRY
    assert of_reply(Reply(200, b"<html>")).result is Result.RETRY


@pytest.mark.parametrize(
    ("head", "result", "words"),
    [
        (b"HTTP/1.1 307 X\r\nLocation: http://example.test/\r\nContent-Length: 0\r\n\r\n", Result.RETRY, "redirects"),
        (b"HTTP/1.1 503 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", Result.RETRY, "503"),
        (b"HTTP/1.1 200 X\r\n\r\n" + b" " * 4_200_000, Result.RETRY, "longer"),
        (b"nonsense\r\n\r\n", Result.RETRY, "RemoteProtocolError"),
    ],
)
def test_peers_that_answer_amiss(head: bytes, result: Result, words: str) -> None:
    small = Document(Kind.FHIR, "application/fhir+json", b"{}", "u", "fhir.json")
    with receivers.scripted([head]) as (port, _):
        sender = sender_of(Destination("fhir", Wire.FHIR, (), url=f"http://127.0.0.1:{port}", timeout_s=3))
        outcome = sender.send([small])
        sender.close()
    assert outcome.result is result
    assert words in outcome.reason
    assert outcome.after_s == (7.0 if words == "503" else None)


def test_retry_after() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert wait_of("Thu, 01 Jan 2026 00:01:00 GMT", now) == 60.0
    assert [wait_of(value, now) for value in (None, "soon", "-1", "9" * 30)] == [None, None, None, 86_400.0]
