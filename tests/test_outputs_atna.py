"""Audit messages against the grammar of PS3.15 A.5.1 and the standard's codes."""

from __future__ import annotations

import base64
import datetime
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes

from rentgen.outputs.atna import EVENTS, AuditSource, audit_message
from rentgen.records.studies import AuditEntry

SOURCE = AuditSource("rentgen@gate", "gate.example", "Radiology")
KNOWN = {code.value: code.meaning for code in (getattr(codes.DCM, name) for name in codes.DCM.dir())}
# What may stand in what, in order: PS3.15 A.5.1.
GRAMMAR = {
    "AuditMessage": [
        "EventIdentification",
        "ActiveParticipant",
        "AuditSourceIdentification",
        "ParticipantObjectIdentification",
    ],
    "EventIdentification": ["EventID", "EventTypeCode"],
    "ActiveParticipant": ["RoleIDCode"],
    "AuditSourceIdentification": ["AuditSourceTypeCode"],
    "ParticipantObjectIdentification": [
        "ParticipantObjectIDTypeCode",
        "ParticipantObjectName",
        "ParticipantObjectDetail",
    ],
}
NEEDED = {
    "EventIdentification": {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"},
    "ActiveParticipant": {"UserID", "UserIsRequestor"},
    "AuditSourceIdentification": {"AuditSourceID"},
    "ParticipantObjectIdentification": {"ParticipantObjectID"},
    "ParticipantObjectDetail": {"type", "value"},
    **{
        name: {"csd-code", "codeSystemName", "originalText"}
        for name in ("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode")
    },
}


def entry(
    action: str = "study.view", subject: str = "mnvwvfn7r3at6456gp5k7gu7xi", actor: str = "Dr. Who", **detail: object
) -> AuditEntry:
    at = datetime.datetime(2026, 3, 1, 12, 30, 15, 123456, datetime.timezone(datetime.timedelta(hours=2)))
    return AuditEntry(7, at, actor, action, subject, detail, "0" * 64, "ab" * 32)


def parse(message: bytes) -> Xml.Element:
    return Xml.fromstring(message)  # noqa: S314 - our own


def check(element: Xml.Element) -> None:
    """Check an element and all in it against the grammar."""
    places = [GRAMMAR.get(element.tag, []).index(child.tag) for child in element]
    assert places == sorted(places), element.tag
    assert NEEDED.get(element.tag, set()) <= set(element.attrib), element.tag
    for child in element:
        check(child)


@pytest.mark.parametrize("action", [*EVENTS, "something.new"])
def test_messages_follow_the_grammar_and_the_codes(action: str) -> None:
    message = parse(audit_message(entry(action), SOURCE))
    check(message)
    for code in message.iter():
        if code.get("codeSystemName") == "DCM":
            assert KNOWN[code.attrib["csd-code"]] == code.get("originalText")
    event = message.find("EventIdentification")
    assert event is not None
    assert [code.get("csd-code") for code in event.iter("EventTypeCode")][-1] == action
    assert event.attrib["EventActionCode"] in "CRUDE"


def test_who_did_what_when() -> None:
    data = audit_message(entry("study.delete"), SOURCE)
    message = parse(data)
    event = message.find("EventIdentification")
    assert event is not None
    assert event.attrib == {
        "EventActionCode": "D",
        "EventDateTime": "2026-03-01T10:30:15.123Z",
        "EventOutcomeIndicator": "0",
    }
    users = [(user.get("UserID"), user.get("UserIsRequestor")) for user in message.iter("ActiveParticipant")]
    assert users == [("Dr. Who", "true"), ("rentgen@gate", "false")]
    details = {
        detail.attrib["type"]: base64.b64decode(detail.attrib["value"]).decode()
        for detail in message.iter("ParticipantObjectDetail")
    }
    assert details == {"number": "7", "hash": "ab" * 32}
    assert data == audit_message(entry("study.delete"), SOURCE)
    assert len(data) < 2048


def test_a_refused_action_says_so() -> None:
    assert b'EventOutcomeIndicator="4"' in audit_message(entry(), SOURCE, failed=True)


def test_what_the_gateway_gave_up_was_not_done() -> None:
    assert b'EventOutcomeIndicator="4"' in audit_message(entry("gateway.bury"), SOURCE)


@pytest.mark.parametrize(("dry_run", "event"), [(False, "110104"), (True, "110100")])
def test_a_delivery_names_its_destination_and_a_rehearsed_one_is_no_transfer(dry_run: bool, event: str) -> None:
    message = parse(audit_message(entry("gateway.deliver", destination="pacs", documents=3, dry_run=dry_run), SOURCE))
    check(message)
    identification = message.find("EventIdentification/EventID")
    assert identification is not None
    assert identification.get("csd-code") == event
    roles = {
        user.get("UserID"): code.get("csd-code")
        for user in message.iter("ActiveParticipant")
        for code in user.iter("RoleIDCode")
    }
    assert roles == {"rentgen@gate": "110150", "pacs": "110152"}
    kind = message.find("ParticipantObjectIdentification/ParticipantObjectIDTypeCode")
    assert kind is not None
    assert kind.get("csd-code") == "study"


@pytest.mark.parametrize(("host", "kind"), [("gate.example", "1"), ("10.0.0.1", "2"), ("::1", "2")])
def test_the_kind_of_address(host: str, kind: str) -> None:
    message = parse(audit_message(entry(), AuditSource("rentgen", host)))
    assert [user.get("NetworkAccessPointTypeCode") for user in message.iter("ActiveParticipant")] == [None, kind]


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_name_gives_sound_xml(actor: str, subject: str) -> None:
    message = parse(audit_message(entry(actor=actor, subject=subject), SOURCE))
    check(message)
