"""The documents that a destination asked for, by kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rentgen.outputs.encapsulated_pdf import encapsulated_pdf
from rentgen.outputs.fhir import DEFAULT_SYSTEMS, Systems, fhir_document
from rentgen.outputs.hl7 import DEFAULT_ADDRESSES, Addresses, hl7_message
from rentgen.outputs.key_object import key_object
from rentgen.outputs.presentation_state import presentation_state
from rentgen.outputs.secondary_capture import secondary_capture
from rentgen.outputs.structured_report import structured_report
from rentgen.records import Pixels
from rentgen.records.results import Document, Kind, StudyResult


@dataclass(frozen=True, slots=True, eq=False)
class Extras:
    """What some kinds need beside the result.

    Attributes:
        pixels: SOP Instance UID to the film's pixels as it was analysed; a film without gets no Secondary Capture.
        pdf: the report; without, there is no Encapsulated PDF, and none in the FHIR bundle.
        systems: namespaces of FHIR identifiers.
        addresses: of the HL7 message.
    """

    pixels: Mapping[str, Pixels] = field(default_factory=dict, repr=False)
    pdf: bytes | None = field(default=None, repr=False)
    systems: Systems = DEFAULT_SYSTEMS
    addresses: Addresses = DEFAULT_ADDRESSES


def documents(result: StudyResult, kinds: Iterable[Kind], extras: Extras | None = None) -> tuple[Document, ...]:
    """Return a result's documents, in the order of the kinds, films in theirs.

    Args:
        result: of a study.
        kinds: that the destination takes.
        extras: what some of them need.
    """
    given = extras or Extras()
    return tuple(document for kind in kinds for document in _of_kind(result, kind, given))


def _of_kind(result: StudyResult, kind: Kind, extras: Extras) -> Iterator[Document]:
    if kind is Kind.STRUCTURED_REPORT:
        yield structured_report(result)
    elif kind is Kind.SECONDARY_CAPTURE:
        for number, film in enumerate(result.films):
            pixels = extras.pixels.get(film.source.sop_instance_uid)
            if pixels is not None:
                yield secondary_capture(result, number, pixels)
    elif kind is Kind.PRESENTATION_STATE:
        for number in range(len(result.films)):
            yield presentation_state(result, number)
    elif kind is Kind.KEY_OBJECT:
        document = key_object(result)
        if document is not None:
            yield document
    elif kind is Kind.PDF:
        if extras.pdf is not None:
            yield encapsulated_pdf(result, extras.pdf)
    elif kind is Kind.FHIR:
        yield fhir_document(result, systems=extras.systems, pdf=extras.pdf)
    else:
        yield hl7_message(result, addresses=extras.addresses)
