"""The frames of MLLP and the acknowledgements of HL7 v2, as functions of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from rentgen.errors import PeerError
from rentgen.gateway.nouns import Outcome
from rentgen.gateway.outcomes import DELIVERED, dead, retry

START, END = b"\x0b", b"\x1c\r"
MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What a receiver answers.

    Attributes:
        code: MSA-1, such as `AA`.
        control_id: MSA-2, of the message that it answers.
    """

    code: str
    control_id: str


def frame(message: bytes) -> bytes:
    """Return a message as MLLP carries it.

    Raises:
        PeerError: it holds bytes that end or begin a frame.
    """
    if START in message or b"\x1c" in message:
        raise PeerError("An HL7 message holds a byte that MLLP keeps for itself (0x0B or 0x1C); it cannot be sent.")
    return START + message + END


def unframe(data: bytes, *, most_bytes: int = MOST_BYTES) -> tuple[tuple[bytes, ...], bytes]:
    """Return the whole messages that bytes hold, and the rest, to which the next bytes are added.

    What stands outside of frames is dropped; a frame that begins anew drops what came before.

    Args:
        data: as received.
        most_bytes: that a message may have.

    Raises:
        PeerError: a message is longer.
    """
    messages: list[bytes] = []
    while True:
        start = data.find(START)
        if start < 0:
            return tuple(messages), b""
        end = data.find(END, start)
        body = data[start + 1 : end if end >= 0 else None]
        body = body[body.rfind(START) + 1 :]
        if len(body) > most_bytes:
            raise PeerError(f"An HL7 peer sent a message of more than {most_bytes} bytes; an acknowledgement is short.")
        if end < 0:
            return tuple(messages), START + body
        messages.append(body)
        data = data[end + len(END) :]


def acknowledgement(message: bytes) -> Acknowledgement | None:
    """Return what an answer says, or None where it is no acknowledgement."""
    segments = message.decode("latin-1").replace("\n", "\r").split("\r")
    if not segments[0].startswith("MSH") or len(segments[0]) < 4:
        return None
    bar = segments[0][3]
    for segment in segments[1:]:
        fields = segment.split(bar)
        if fields[0] == "MSA" and len(fields) > 2:
            return Acknowledgement(fields[1].strip().upper(), fields[2].strip())
    return None


def control_id(message: bytes) -> str:
    """Return MSH-10 of a message; empty where it has none."""
    header = message.split(b"\r", 1)[0].decode("latin-1")
    fields = header.split(header[3]) if len(header) > 3 else []
    return fields[9] if len(fields) > 9 else ""


_CODES = {
    "AA": DELIVERED,
    "CA": DELIVERED,
    "AE": retry("HL7 answer AE: the receiver had an error"),
    "CE": retry("HL7 answer CE: the receiver had an error"),
    "AR": dead("HL7 answer AR: the receiver rejects the message"),
    "CR": dead("HL7 answer CR: the receiver rejects the message"),
}


def of_acknowledgement(answer: Acknowledgement | None, asked: str) -> Outcome:
    """Return what an answer means for the message that was sent.

    Args:
        answer: None where it was no acknowledgement.
        asked: control ID of the message.
    """
    if answer is None:
        return retry("the receiver's answer is no HL7 acknowledgement")
    if answer.control_id != asked:
        return retry("the receiver acknowledged another message (MSA-2 is not our MSH-10)")
    return _CODES.get(answer.code, retry("the receiver's acknowledgement has an unknown code"))
