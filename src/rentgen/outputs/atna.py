"""Lines of the audit trail as DICOM audit messages (PS3.15 A.5, from RFC 3881), for a hospital's audit repository."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from datetime import UTC
from xml.etree import ElementTree as Xml  # Only written with, never read with.

from rentgen.records.studies import AuditEntry

MESSAGE_ID = "DICOM+RFC3881"
"""Stands in the syslog header (IHE ITI-20)."""

_Code = tuple[str, str, str]
_DICOM = "DCM"
_OWN = "99RENTGEN"


@dataclass(frozen=True, slots=True)
class Event:
    """What kind of event an action is.

    Attributes:
        event_id: code and meaning, of DICOM (PS3.16 CID 400).
        does: C created, R read, U updated, D deleted, E executed.
        event_type: code and meaning, of DICOM; None where the action's own name says more.
        fails: the action tells of something that was not done.
    """

    event_id: tuple[str, str]
    does: str
    event_type: tuple[str, str] | None = None
    fails: bool = False


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports.

    Attributes:
        source_id: the name of this installation, as the repository shall show it.
        host: its name or address on the network.
        site: of the enterprise; None where there is but one.
    """

    source_id: str
    host: str
    site: str | None = None


_ACCESSED = ("110103", "DICOM Instances Accessed")
_TRANSFERRED = ("110104", "DICOM Instances Transferred")
_SECURITY = ("110113", "Security Alert")
_APPLICATION = ("110100", "Application Activity")
_USER = ("110137", "User Security Attributes Changed")

EVENTS: dict[str, Event] = {
    "study.add": Event(("110107", "Import"), "C"),
    "study.view": Event(_ACCESSED, "R"),
    "study.report": Event(_ACCESSED, "R"),
    "study.read": Event(_ACCESSED, "U"),
    "study.unread": Event(_ACCESSED, "U"),
    "study.export": Event(("110106", "Export"), "R"),
    "study.delete": Event(("110105", "DICOM Study Deleted"), "D"),
    "study.receive": Event(_TRANSFERRED, "C"),
    "study.send": Event(_TRANSFERRED, "R"),
    "study.query": Event(("110112", "Query"), "E"),
    "prediction.add": Event(_ACCESSED, "U"),
    "feedback.add": Event(_ACCESSED, "U"),
    "feedback.export": Event(("110106", "Export"), "R"),
    "audit.view": Event(("110101", "Audit Log Used"), "R"),
    "service.start": Event(_APPLICATION, "E", ("110120", "Application Start")),
    "service.stop": Event(_APPLICATION, "E", ("110121", "Application Stop")),
    "gateway.receive": Event(_TRANSFERRED, "C"),
    "gateway.deliver": Event(_TRANSFERRED, "R"),
    "gateway.bury": Event(_APPLICATION, "E", fails=True),
    "gateway.retry": Event(_APPLICATION, "E"),
    "gateway.discard": Event(_APPLICATION, "E"),
    "gateway.forget": Event(_ACCESSED, "D"),
    "gateway.start": Event(_APPLICATION, "E", ("110120", "Application Start")),
    "gateway.stop": Event(_APPLICATION, "E", ("110121", "Application Stop")),
    "session.add": Event(("110114", "User Authentication"), "E", ("110122", "Login")),
    "session.end": Event(("110114", "User Authentication"), "E", ("110123", "Logout")),
    "key.add": Event(_SECURITY, "C", _USER),
    "key.revoke": Event(_SECURITY, "D", _USER),
    "model.reload": Event(_SECURITY, "U", ("110131", "Software Configuration")),
    "store.rekey": Event(_SECURITY, "U", ("110129", "Security Configuration")),
}
"""Action of the audit trail to event; one that is not here is an application's activity, under its own name."""


_OF_STUDIES = {"study", "prediction", "feedback", "image"}
_OF_STUDIES |= {"gateway.receive", "gateway.deliver", "gateway.bury", "gateway.discard"}
"""Actions, or what stands before their dot, whose subject is a study."""


def audit_message(entry: AuditEntry, source: AuditSource, *, failed: bool = False) -> bytes:
    """Return an entry as an audit message: XML in UTF-8, the same bytes for the same entry.

    It says who did what when to which study, by the same opaque ids as the trail, and carries the entry's number and
    hash, so that the repository's copy can be held against the store's.

    Args:
        entry: of the trail.
        source: who reports.
        failed: the action was tried and refused.
    """
    event = _event(entry)
    message = Xml.Element("AuditMessage")
    told = Xml.SubElement(
        message,
        "EventIdentification",
        EventActionCode=event.does,
        EventDateTime=entry.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        # 4: a minor failure, the action was not done; PS3.15 A.5.1.
        EventOutcomeIndicator="4" if failed or event.fails else "0",
    )
    _code(told, "EventID", (*event.event_id, _DICOM))
    if event.event_type is not None:
        _code(told, "EventTypeCode", (*event.event_type, _DICOM))
    _code(told, "EventTypeCode", (entry.action, entry.action, _OWN))
    Xml.SubElement(message, "ActiveParticipant", UserID=_clean(entry.actor), UserIsRequestor="true")
    system = Xml.SubElement(
        message,
        "ActiveParticipant",
        UserID=_clean(source.source_id),
        UserIsRequestor="false",
        NetworkAccessPointID=_clean(source.host),
        # 1: a machine's name, 2: an address.
        NetworkAccessPointTypeCode="2" if _is_address(source.host) else "1",
    )
    _code(system, "RoleIDCode", ("110150", "Application", _DICOM))
    if isinstance(receiver := entry.detail.get("destination"), str) and receiver:
        peer = Xml.SubElement(message, "ActiveParticipant", UserID=_clean(receiver), UserIsRequestor="false")
        _code(peer, "RoleIDCode", ("110152", "Destination Role ID", _DICOM))
    reporter = Xml.SubElement(message, "AuditSourceIdentification", AuditSourceID=_clean(source.source_id))
    if source.site is not None:
        reporter.set("AuditEnterpriseSiteID", _clean(source.site))
    # An application server process (PS3.15 A.5.1).
    Xml.SubElement(reporter, "AuditSourceTypeCode", {"csd-code": "4"})
    _object(message, entry)
    text: str = Xml.tostring(message, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def _event(entry: AuditEntry) -> Event:
    # What was only rehearsed was not transferred.
    rehearsed = entry.action == "gateway.deliver" and entry.detail.get("dry_run")
    other = Event(_APPLICATION, "E")
    return other if rehearsed else EVENTS.get(entry.action, other)


def _object(message: Xml.Element, entry: AuditEntry) -> None:
    """Add what was acted on, and where the entry stands in the trail."""
    is_study = entry.action.partition(".")[0] in _OF_STUDIES or entry.action in _OF_STUDIES
    thing = Xml.SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(entry.subject) or "none",
        # A system object; a report of a study, or a resource.
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3" if is_study else "13",
    )
    # The id is this store's, not a UID: PS3.15's codes of kinds do not fit.
    kind = ("study", "Opaque id of a study") if is_study else ("subject", "Name in the audit trail")
    _code(thing, "ParticipantObjectIDTypeCode", (*kind, _OWN))
    Xml.SubElement(thing, "ParticipantObjectName").text = _clean(entry.subject) or "none"
    for name, value in (("number", str(entry.number)), ("hash", entry.hash)):
        encoded = base64.b64encode(value.encode()).decode()
        Xml.SubElement(thing, "ParticipantObjectDetail", type=name, value=encoded)


def _code(parent: Xml.Element, name: str, code: _Code) -> None:
    value, meaning, scheme = code
    Xml.SubElement(parent, name, {"csd-code": value, "originalText": meaning, "codeSystemName": scheme})


def _clean(text: str) -> str:
    """Return text without what XML 1.0 cannot hold."""
    return "".join(
        letter
        for letter in text
        if letter >= " " and not "\ud800" <= letter <= "\udfff" and letter not in "\ufffe\uffff"
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
