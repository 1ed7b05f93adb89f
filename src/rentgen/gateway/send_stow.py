"""DICOM objects to a DICOMweb peer by STOW-RS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from rentgen.errors import PeerError
from rentgen.gateway.http import Http, Reply, read_json
from rentgen.gateway.nouns import CheckResult, Destination, Outcome, Result
from rentgen.gateway.outcomes import DELIVERED, of_dicom_status, of_http_status, retry, worst
from rentgen.records.results import Document

_JSON = "application/dicom+json"
_FAILED, _REASON = "00081198", "00081197"
_NO_QUERIES = frozenset((404, 405, 501))


class StowSender:
    """Stores all documents by one request."""

    def __init__(self, destination: Destination) -> None:
        """Connect nothing yet.

        Args:
            destination: whose URL is the DICOMweb root.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._name = destination.name
        self._http = Http(destination)

    def send(self, documents: Sequence[Document]) -> Outcome:
        """Store documents; a peer that has them already answers alike."""
        if not documents:
            return DELIVERED
        body, content_type = multipart(documents)
        try:
            reply = self._http.request(
                "POST", "/studies", content=body, headers={"Content-Type": content_type, "Accept": _JSON}
            )
        except PeerError as error:
            return retry(str(error))
        return of_reply(reply)

    def check(self) -> CheckResult:
        """Ask for one study, which is not looked at; a peer that only stores says so."""
        try:
            reply = self._http.request("GET", "/studies?limit=1", headers={"Accept": _JSON})
            if _is_well(reply):
                return CheckResult(self._name, True, "it answers QIDO")
            if reply.status in _NO_QUERIES and "POST" not in reply.allow:
                reply = self._http.request("OPTIONS", "/studies")
        except PeerError as error:
            return CheckResult(self._name, False, str(error))
        if "POST" in reply.allow and (_is_well(reply) or reply.status in _NO_QUERIES):
            return CheckResult(self._name, True, "it takes POST, and answers no queries")
        return CheckResult(self._name, False, f"HTTP status {reply.status}; check `url` and the credentials")

    def rest(self) -> None:
        """Nothing that a peer waits for is kept open."""

    def close(self) -> None:
        """Let connections go."""
        self._http.close()


def _is_well(reply: Reply) -> bool:
    return of_http_status(reply.status).result is Result.DELIVERED


def multipart(documents: Sequence[Document]) -> tuple[bytes, str]:
    """Return the body of a request and its content type; the same documents give the same bytes."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(document.content).digest() for document in documents))
    boundary = digest.hexdigest()
    parts = [
        b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), document.content)
        for document in documents
    ]
    body = b"".join([*parts, b"--%s--\r\n" % boundary.encode()])
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'


def of_reply(reply: Reply) -> Outcome:
    """Return what an answer means: each object that failed counts with its own reason."""
    if reply.status not in (200, 202, 409):
        return of_http_status(reply.status, reply.after_s)
    failed = [of_dicom_status(reason) for reason in failures(read_json(reply.content))]
    if failed:
        return worst(failed)
    return of_http_status(reply.status, reply.after_s)


def failures(answer: dict[str, Any]) -> tuple[int | None, ...]:
    """Return the failure reason of each object that was not stored; None where the peer gave none."""
    items = answer.get(_FAILED)
    listed = items.get("Value") if isinstance(items, dict) else None
    return tuple(_reason(item) for item in listed) if isinstance(listed, list) else ()


def _reason(item: object) -> int | None:
    element = item.get(_REASON) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values and isinstance(values[0], int) else None
