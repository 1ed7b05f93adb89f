"""Transaction bundles to a FHIR R4 server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rentgen.errors import PeerError
from rentgen.gateway.http import Http, Reply, read_json
from rentgen.gateway.nouns import CheckResult, Destination, Outcome, Result
from rentgen.gateway.outcomes import DELIVERED, of_http_status, retry, worst
from rentgen.records.results import Document

_JSON = "application/fhir+json"
_CODE = re.compile("[a-z-]{1,30}", re.ASCII)
_PATH = re.compile(r"[A-Za-z]{1,40}(\[\d{1,4}\])?(\.[A-Za-z]{1,40}(\[\d{1,4}\])?){0,12}", re.ASCII)
_MOST_ISSUES = 5


class FhirSender:
    """Posts bundles; their identifiers make that the same again creates nothing."""

    def __init__(self, destination: Destination) -> None:
        """Connect nothing yet.

        Args:
            destination: whose URL is the server's base.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._name = destination.name
        self._http = Http(destination)

    def send(self, documents: Sequence[Document]) -> Outcome:
        """Post each bundle; the first that is not taken ends it."""
        for document in documents:
            try:
                reply = self._http.request(
                    "POST", content=document.content, headers={"Content-Type": _JSON, "Accept": _JSON}
                )
            except PeerError as error:
                return retry(str(error))
            outcome = of_reply(reply)
            if outcome.result is not Result.DELIVERED:
                return outcome
        return DELIVERED

    def check(self) -> CheckResult:
        """Ask for the server's capability statement."""
        try:
            reply = self._http.request("GET", "/metadata", headers={"Accept": _JSON})
        except PeerError as error:
            return CheckResult(self._name, False, str(error))
        if read_json(reply.content).get("resourceType") == "CapabilityStatement":
            return CheckResult(self._name, True, "asked for the capability statement")
        return CheckResult(
            self._name, False, f"no capability statement (HTTP status {reply.status}); check `url` and the credentials"
        )

    def rest(self) -> None:
        """Nothing that a peer waits for is kept open."""

    def close(self) -> None:
        """Let connections go."""
        self._http.close()


def of_reply(reply: Reply) -> Outcome:
    """Return what an answer means; a transaction is delivered where each of its entries was taken."""
    answer = read_json(reply.content)
    whole = of_http_status(reply.status, reply.after_s)
    if whole.result is not Result.DELIVERED:
        return Outcome(whole.result, whole.reason + _said(answer), whole.after_s)
    entries = answer.get("entry")
    if answer.get("resourceType") != "Bundle" or not isinstance(entries, list):
        return retry("the server's answer is no bundle")
    return worst(_of_entry(entry) for entry in entries)


def issues(outcome: dict[str, Any]) -> tuple[str, ...]:
    """Return code and place of each issue of an OperationOutcome.

    Its texts are left out: servers repeat there what was sent, and so the patient.
    """
    listed = outcome.get("issue")
    if not isinstance(listed, list):
        return ()
    return tuple(_issue(issue) for issue in listed[:_MOST_ISSUES] if isinstance(issue, dict))


def _issue(issue: dict[str, Any]) -> str:
    code, places = issue.get("code"), issue.get("expression")
    words = code if isinstance(code, str) and _CODE.fullmatch(code) else "unknown"
    place = places[0] if isinstance(places, list) and places else None
    return f"{words} at {place}" if isinstance(place, str) and _PATH.fullmatch(place) else words


def _of_entry(entry: object) -> Outcome:
    response = entry.get("response") if isinstance(entry, dict) else None
    status = response.get("status") if isinstance(response, dict) else None
    if not isinstance(response, dict) or not isinstance(status, str) or not re.match(r"\d{3}\b", status, re.ASCII):
        return retry("an entry of the server's answer has no status")
    outcome = of_http_status(int(status[:3]))
    if outcome.result is Result.DELIVERED:
        return outcome
    said = response.get("outcome")
    return Outcome(outcome.result, f"an entry: {outcome.reason}{_said(said if isinstance(said, dict) else {})}")


def _said(answer: dict[str, Any]) -> str:
    found = issues(answer)
    return f" ({', '.join(found)})" if found else ""
