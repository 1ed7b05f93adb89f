"""HL7 over MLLP: the frames, and receivers that are not ours."""

from __future__ import annotations

import answers
import pytest
import receivers
from hypothesis import given
from hypothesis import strategies as st

from rentgen.errors import PeerError
from rentgen.gateway.deliver import sender_of
from rentgen.gateway.mllp import control_id, frame, unframe
from rentgen.gateway.nouns import Destination, Result, Wire
from rentgen.outputs.hl7 import hl7_message
from rentgen.records.results import Document, Kind

BODIES = st.lists(st.binary(max_size=50).map(lambda b: b.replace(b"\x0b", b"").replace(b"\x1c", b"")), max_size=5)


@given(BODIES, st.integers(1, 20), st.binary(max_size=10).map(lambda b: b.replace(b"\x0b", b"")))
def test_messages_come_out_whole_however_they_were_cut(bodies: list[bytes], size: int, junk: bytes) -> None:
    stream = b"".join(junk + frame(body) for body in bodies)
    found: list[bytes] = []
    rest = b""
    for at in range(0, len(stream), size):
        messages, rest = unframe(rest + stream[at : at + size])
        found += messages
    assert (found, rest) == (bodies, b"")


def test_what_is_too_long_is_refused_before_it_ends() -> None:
    with pytest.raises(PeerError, match="more than 10 bytes"):
        unframe(b"\x0b" + b"x" * 11, most_bytes=10)
    with pytest.raises(PeerError, match="keeps for itself"):
        frame(b"a\x1cb")


@pytest.fixture(scope="module")
def oru() -> Document:
    return hl7_message(answers.study())


def to(port: int, timeout_s: float = 5.0) -> Destination:
    return Destination("ris", Wire.MLLP, (Kind.HL7,), host="127.0.0.1", port=port, timeout_s=timeout_s)


def ack(document: Document, code: str, control: str | None = None) -> bytes:
    asked = control_id(document.content) if control is None else control
    return frame(f"MSH|^~\\&|RIS|H|RENTGEN|H|20260101||ACK|1|P|2.5.1\rMSA|{code}|{asked}|DOE^JOHN\r".encode())


def test_medplum_acknowledges_twice_over_one_connection(oru: Document) -> None:
    with receivers.node("medhl7", receivers.MEDPLUM_HL7) as port:
        sender = sender_of(to(port))
        assert sender.check().ok
        assert [sender.send([oru, oru]).result, sender.send([oru]).result] == [Result.DELIVERED] * 2
        sender.close()


@pytest.mark.parametrize(("code", "result"), [("AA", Result.DELIVERED), ("AE", Result.RETRY), ("AR", Result.DEAD)])
def test_node_hl7_server_answers(oru: Document, code: str, result: Result) -> None:
    with receivers.node("nodehl7", receivers.NODE_HL7, code) as port:
        sender = sender_of(to(port))
        assert sender.send([oru]).result is result
        sender.close()


@pytest.mark.parametrize(
    ("code", "result"),
    [("CA", Result.DELIVERED), ("CE", Result.RETRY), ("CR", Result.DEAD), ("ZZ", Result.RETRY)],
)
def test_enhanced_codes_and_answers_in_pieces(oru: Document, code: str, result: Result) -> None:
    answer = ack(oru, code)
    with receivers.scripted([b"junk", answer[:9], answer[9:40], answer[40:]], pause_s=0.02) as (port, _):
        sender = sender_of(to(port))
        outcome = sender.send([oru])
        assert outcome.result is result
        assert "DOE" not in outcome.reason
        sender.close()


def test_an_acknowledgement_of_another_message_does_not_count(oru: Document) -> None:
    with receivers.scripted([ack(oru, "AA", "other")]) as (port, _):
        outcome = sender_of(to(port)).send([oru])
    assert (outcome.result, "MSA-2" in outcome.reason) == (Result.RETRY, True)


def test_a_close_before_the_acknowledgement_is_tried_again_with_the_same_control_id(oru: Document) -> None:
    with receivers.scripted(None, [ack(oru, "AA")]) as (port, got):
        sender = sender_of(to(port))
        assert sender.send([oru]).result is Result.RETRY
        assert sender.send([oru]).result is Result.DELIVERED
        assert got[0] == got[1] == frame(oru.content)
        sender.close()


def test_a_slow_acknowledgement_does_not_hold_us_beyond_the_limit(oru: Document) -> None:
    with receivers.scripted([b"\x0bM"] * 40, pause_s=0.05) as (port, _):
        outcome = sender_of(to(port, 0.3)).send([oru])
    assert (outcome.result, "TimeoutError" in outcome.reason) == (Result.RETRY, True)


def test_nobody_there(oru: Document) -> None:
    sender = sender_of(to(1))
    assert sender.send([oru]).result is Result.RETRY
    assert not sender.check().ok
