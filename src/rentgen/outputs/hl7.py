r"""An HL7 v2.5.1 ORU^R01 message of a result: preliminary, fields by their number, all text escaped.

A field is a string (escaped), a tuple of components, or a list of repetitions of either.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rentgen.outputs import codes
from rentgen.outputs.codes import SCHEME, Code
from rentgen.outputs.dicom_common import local_time
from rentgen.outputs.findings import (
    PRESENCE_CODES,
    Finding,
    Presence,
    findings,
    headline,
    impression,
    sentences,
    shorten,
)
from rentgen.records.results import Document, FilmResult, Kind, StudyResult

Text = str | tuple[str, ...]
Field = Text | Sequence[Text]

ENCODING = r"^~\&"
MAX_TEXT = 32_000
"""Characters of the impression."""
MAX_LINE = 190
"""Characters of a line of it, escaped: some receivers hold every value to the 199 of a string."""

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\n": "\\.br\\"}
# HL7 table 0396: how coding systems are called there.
_SYSTEMS = {"SCT": "SCT", "LN": "LN", "DCM": "DCM", "UCUM": "UCUM", SCHEME: SCHEME}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Who sends to whom.

    Attributes:
        sending_application: MSH-3.
        sending_facility: MSH-4.
        receiving_application: MSH-5.
        receiving_facility: MSH-6.
        assigning_authority: PID-3.4, where the film does not name the issuer of its PatientID.
    """

    sending_application: str = "RENTGEN"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    assigning_authority: str = ""


DEFAULT_ADDRESSES = Addresses()


def hl7_message(result: StudyResult, *, addresses: Addresses = DEFAULT_ADDRESSES) -> Document:
    """Return an ORU^R01 message, UTF-8, its segments ended by carriage returns, without the frame of MLLP.

    The message control ID is the same for the same result: a receiver can tell a repetition.

    Args:
        result: of the study.
        addresses: who sends to whom.
    """
    control = _control_id(result)
    segments = [
        _header(result, addresses, control),
        segment("PID", _patient(result, addresses)),
        segment("ORC", _order(result)),
        segment("OBR", _request(result)),
        *(segment("OBX", {1: str(number), **fields}) for number, fields in enumerate(_observations(result), 1)),
    ]
    content = "".join(f"{line}\r" for line in segments).encode()
    return Document(Kind.HL7, "x-application/hl7-v2+er7", content, control, "oru.hl7")


def escape(text: str) -> str:
    r"""Return a text as it may stand in a field: delimiters escaped, line ends as `\.br\`, other controls as blanks.

    Nothing of MLLP's frame and no segment end can come out.

    Example:
        >>> escape("a|b^c")
        'a\\F\\b\\S\\c'
    """
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_ESCAPES.get(letter) or (" " if _is_control(letter) else letter) for letter in unified)


def wrap(text: str) -> tuple[str, ...]:
    """Return a text in lines of at most `MAX_LINE` characters once they are escaped, broken between words."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        current = ""
        # A word of 60 escapes fits, too.
        for word in textwrap.wrap(paragraph, 60):
            longer = f"{current} {word}".strip()
            if current and len(escape(longer)) > MAX_LINE:
                lines.append(current)
                longer = word
            current = longer
        lines.append(current)
    return tuple(lines)


def _is_control(letter: str) -> bool:
    # Unicode's line ends and a lone surrogate, which UTF-8 cannot hold, too.
    return letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029" or "\ud800" <= letter <= "\udfff"


def segment(name: str, fields: Mapping[int, Field]) -> str:
    """Return a segment; fields stand at their numbers, those that are not given are empty.

    Args:
        name: of three letters; not MSH, whose first field is the delimiter itself.
        fields: number, from 1, to value.
    """
    values = [_field(fields.get(number, "")) for number in range(1, max(fields, default=0) + 1)]
    return "|".join([name, *values])


def _field(value: Field) -> str:
    if isinstance(value, list):
        return "~".join(_field(each) for each in value)
    if isinstance(value, tuple):
        return "^".join(escape(part) for part in value).rstrip("^")
    return escape(str(value))


def _control_id(result: StudyResult) -> str:
    # MSH-10 has at most 20 characters in 2.5.1: 95 bits of the identifier.
    return base64.b32encode(result.identify(Kind.HL7).bytes)[:19].decode()


def _header(result: StudyResult, addresses: Addresses, control: str) -> str:
    fields: dict[int, Field] = {
        3: shorten(addresses.sending_application, 180),
        4: shorten(addresses.sending_facility, 180),
        5: shorten(addresses.receiving_application, 180),
        6: shorten(addresses.receiving_facility, 180),
        7: _time(result.created_at),
        9: ("ORU", "R01", "ORU_R01"),
        10: control,
        11: "P",
        12: "2.5.1",
        15: "AL",
        16: "NE",
        18: "UNICODE UTF-8",
    }
    values = [_field(fields.get(number, "")) for number in range(3, max(fields) + 1)]
    return "|".join(["MSH", ENCODING, *values])


def _time(at: datetime) -> str:
    """Return a time stamp to the second, with its zone."""
    return at.strftime("%Y%m%d%H%M%S%z")[:19]


def _patient(result: StudyResult, addresses: Addresses) -> dict[int, Field]:
    patient = result.first.patient
    authority = patient.issuer or addresses.assigning_authority
    number: Text = (patient.patient_id, "", "", authority, "MR")
    if not patient.patient_id:
        # Never a number that two unknown patients would share.
        number = ("U" + _control_id(result)[:14], "", "", "", "U")
    return {
        1: "1",
        3: number,
        5: _name(patient.name),
        7: patient.birth_date,
        8: patient.sex or "U",
    }


def _name(name: str) -> Text:
    """Return a DICOM name's first component group that is not empty as an XPN: suffix stands before prefix there."""
    group = next((group for group in name.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix = (part.strip() for part in [*group.split("^"), "", "", "", "", ""][:5])
    # XPN.7, U: unspecified, for whom nobody knows by name; PID-5 may not be empty.
    return (family, given, middle, suffix, prefix) if any((family, given)) else ("", "", "", "", "", "", "U")


def _filler(result: StudyResult) -> str:
    # EI.1 of an order number: 22 characters in most systems.
    return "R" + _control_id(result)


def _order(result: StudyResult) -> dict[int, Field]:
    return {1: "RE", 2: result.first.order.accession_number, 3: _filler(result)}


def _request(result: StudyResult) -> dict[int, Field]:
    order = result.first.order
    return {
        1: "1",
        2: order.accession_number,
        3: _filler(result),
        4: _coded(codes.procedure(result.first.body_part_examined)),
        7: order.study_date + order.study_time[:6] if order.study_date else _time(local_time(result)),
        22: _time(result.created_at),
        24: "RAD",
        # Never final: nobody has verified it.
        25: "P",
    }


def _coded(code: Code, other: Code | None = None) -> tuple[str, ...]:
    """Return a CWE, with a second code where there is one."""
    first = (code.value, code.meaning, _SYSTEMS[code.scheme])
    return first if other is None or other == code else (*first, other.value, other.meaning, _SYSTEMS[other.scheme])


def _observations(result: StudyResult) -> Iterator[dict[int, Field]]:
    for number, film in enumerate(result.films, 1):
        yield _observation(result, "ST", codes.SOP_INSTANCE_UID, film.source.sop_instance_uid, str(number))
        yield _observation(result, "CWE", codes.ANALYSIS, _coded(codes.STATUSES[film.status]), str(number))
        for place, finding in enumerate(findings(film, result.model), 1):
            yield from _of_label(result, film, finding, f"{number}.{place}")
    yield _observation(result, "ST", codes.STUDY_INSTANCE_UID, result.first.order.study_instance_uid, "0")
    # A line an OBX: the old way, which all receivers know, and OBX-5 stays as short as a string may be.
    for line in wrap(shorten(impression(result), MAX_TEXT)):
        yield _observation(result, "FT", codes.IMPRESSION, line, "0")


def _of_label(result: StudyResult, film: FilmResult, finding: Finding, sub: str) -> Iterator[dict[int, Field]]:
    entry = finding.entry
    name = _coded(entry.primary, entry.own)
    if finding.presence is Presence.NOT_ASSESSED:
        # Table 0085, X: results cannot be obtained. An empty value without it would read as nothing found.
        words = shorten(" ".join(sentences(film, result.model)[:1]), 199)
        yield {**_observation(result, "ST", entry.primary, words, sub), 3: name, 11: "X"}
        return
    if finding.presence is not None:
        fields = _observation(result, "CWE", entry.primary, _coded(PRESENCE_CODES[finding.presence]), sub)
        abnormal: dict[int, Field] = {8: "A"} if finding.presence is Presence.PRESENT else {}
        yield {**fields, 3: name, **abnormal}
    if finding.probability is not None:
        unit: dict[int, Field] = {6: _coded(codes.PERCENT)}
        yield {**_observation(result, "NM", codes.PROBABILITY, f"{100 * finding.probability:.2f}", sub), **unit}
        if finding.point is not None:
            threshold = f"{100 * finding.point.threshold:.2f}"
            yield {**_observation(result, "NM", codes.THRESHOLD, threshold, sub), **unit}


def _observation(result: StudyResult, kind: str, name: Code, value: Field, sub: str) -> dict[int, Field]:
    return {
        2: kind,
        3: _coded(name),
        4: sub,
        5: value,
        11: "P",
        14: _time(result.created_at),
        17: ("AI", shorten(headline(result.model), 190), SCHEME),
        18: (result.model.sha256[:32], "", result.model.uuid.hex[:20], "L"),
    }
