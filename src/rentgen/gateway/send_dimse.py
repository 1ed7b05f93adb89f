"""DICOM objects to a PACS by C-STORE: one association for all documents of a result, and for the next results."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from rentgen.gateway.associate import answers_echo
from rentgen.gateway.commitment import Commitments, ask
from rentgen.gateway.nouns import CheckResult, Destination, Outcome, Result
from rentgen.gateway.outcomes import DELIVERED, dead, of_dicom_status, retry, worst
from rentgen.gateway.tls import probe
from rentgen.gateway.transport import Caller, client_context
from rentgen.records.results import Document, Kind

CLASSES: Mapping[Kind, UID] = MappingProxyType(
    {
        Kind.STRUCTURED_REPORT: Comprehensive3DSRStorage,
        Kind.SECONDARY_CAPTURE: SecondaryCaptureImageStorage,
        Kind.PRESENTATION_STATE: GrayscaleSoftcopyPresentationStateStorage,
        Kind.KEY_OBJECT: KeyObjectSelectionDocumentStorage,
        Kind.PDF: EncapsulatedPDFStorage,
    }
)
"""SOP Class of each kind of document that is a DICOM object."""

_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


class DimseSender:
    """Stores documents, and asks for storage commitment where the destination wants it."""

    def __init__(
        self, destination: Destination, *, ae_title: str = "RENTGEN", commitments: Commitments | None = None
    ) -> None:
        """Connect nothing yet.

        Args:
            destination: with host, port, AE title and time limit.
            ae_title: our own.
            commitments: where the receiver puts reports that come on associations of their own.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._destination = destination
        self._commitments = commitments or Commitments()
        self._tls = None if destination.tls is None else client_context(destination.tls)
        self._held: Association | None = None
        self._entity = Caller(ae_title)
        for limit in ("connection_timeout", "acse_timeout", "dimse_timeout", "network_timeout"):
            setattr(self._entity, limit, destination.timeout_s)

    def send(self, documents: Sequence[Document]) -> Outcome:
        """Store documents; a PACS that has them already says so, which is as good."""
        if not documents:
            return DELIVERED
        try:
            objects = [pydicom.dcmread(io.BytesIO(document.content)) for document in documents]
        except (InvalidDicomError, EOFError, ValueError) as error:
            return dead(f"a document is no DICOM object ({type(error).__name__})")
        held, self._held = self._held, None
        if held is not None and held.is_established and _takes_all(held, objects):
            outcome = self._settle(held, objects)
            # A peer may hang up between two results; that says nothing about this one.
            if outcome.result is not Result.RETRY or held.is_established:
                return outcome
        elif held is not None:
            _leave(held)
        wanted = contexts(objects, self._destination)
        return self._settle(self._associate(wanted), objects)

    def rest(self) -> None:
        """Release the association that was kept for the next result."""
        held, self._held = self._held, None
        if held is not None:
            _leave(held)

    def check(self) -> CheckResult:
        """Ask whether the peer takes what is to be sent, by negotiation alone, and send a C-ECHO."""
        name = self._destination.name
        wanted = [CLASSES[kind] for kind in self._destination.kinds if kind in CLASSES]
        services = [StorageCommitmentPushModel] if self._destination.commitment else []
        proposed = [build_context(each, list(_PLAIN)) for each in dict.fromkeys((Verification, *wanted, *services))]
        # A peer that serves one association at a time would not hear a second.
        self.rest()
        association = self._associate(proposed)
        try:
            if not association.is_established:
                refusal = self._refusal(association)
                return CheckResult(name, False, f"{refusal.reason}; check host, port, AE titles and TLS")
            lacking = [UID(each).name for each in (*wanted, *services) if not _takes(association, each)]
            if lacking:
                return CheckResult(name, False, f"the peer does not take {', '.join(lacking)}; allow it there")
            # Few peers have no C-ECHO; it says nothing against them.
            heard = _takes(association, Verification)
            if heard and not answers_echo(association):
                return CheckResult(name, False, "the peer does not answer C-ECHO with success")
        finally:
            _leave(association)
        return CheckResult(name, True, "it answers C-ECHO and takes what is to be sent" if heard else "no C-ECHO")

    def close(self) -> None:
        """Let the association go."""
        self.rest()

    def _associate(self, proposed: list[PresentationContext]) -> Association:
        told = self._destination
        return self._entity.associate(
            told.host,
            told.port,
            contexts=proposed,
            ae_title=told.ae_title or "ANY-SCP",
            evt_handlers=self._commitments.handlers(),
            tls_args=None if self._tls is None else (self._tls, told.host),
        )

    def _settle(self, association: Association, objects: Sequence[FileDataset]) -> Outcome:
        """Store objects, and keep the association where all went well: results come in bursts."""
        outcome = retry("the association was not used")
        try:
            outcome = self._store(association, objects)
        finally:
            if outcome.result is Result.DELIVERED and association.is_established:
                self._held = association
            else:
                _leave(association)
        return outcome

    def _store(self, association: Association, objects: Sequence[FileDataset]) -> Outcome:
        if not association.is_established:
            return self._refusal(association)
        outcomes = []
        for each in objects:
            outcome = _store_one(association, each)
            outcomes.append(outcome)
            if not association.is_established:
                break
        found = worst(outcomes)
        if found.result is not Result.DELIVERED or not self._destination.commitment:
            return found
        if not _takes(association, StorageCommitmentPushModel):
            return dead("the peer does not offer storage commitment; set `commitment = false`, or allow it there")
        stored = [(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in objects]
        return ask(association, self._commitments, stored, self._destination.timeout_s)

    def _refusal(self, association: Association) -> Outcome:
        if association.is_rejected:
            return retry("the peer rejects the association")
        if association.rejected_contexts and not association.accepted_contexts:
            return dead("the peer takes none of these classes of objects")
        told = self._destination
        fault = None if self._tls is None else probe((told.host, told.port), self._tls, timeout_s=told.timeout_s)
        return retry(f"no association: {fault or 'the peer cannot be reached, or went away'}")


def contexts(objects: Iterable[FileDataset], destination: Destination) -> list[PresentationContext]:
    """Return what is proposed: the classes of a destination's kinds, the objects' own, and the service asked for."""
    wanted = dict.fromkeys((str(each.SOPClassUID), str(each.file_meta.TransferSyntaxUID)) for each in objects)
    coded = [(sop, syntax) for sop, syntax in wanted if syntax not in _PLAIN]
    plain = [sop for sop, syntax in wanted if syntax in _PLAIN]
    plain += [str(CLASSES[kind]) for kind in destination.kinds if kind in CLASSES]
    proposed = [build_context(sop, list(_PLAIN)) for sop in dict.fromkeys(plain)]
    proposed += [build_context(sop, syntax) for sop, syntax in coded]
    if destination.commitment:
        proposed.append(build_context(StorageCommitmentPushModel))
    return proposed


def _store_one(association: Association, each: FileDataset) -> Outcome:
    if not _takes(association, str(each.SOPClassUID)):
        return dead(f"the peer does not take objects of class {each.SOPClassUID.name}")
    try:
        status = association.send_c_store(each)
    except ValueError:
        return dead(f"the peer does not take the encoding of objects of class {each.SOPClassUID.name}")
    except RuntimeError:
        return retry("the peer ended the association")
    return of_dicom_status(status.get("Status"))


def _takes(association: Association, sop_class: str) -> bool:
    return any(context.abstract_syntax == sop_class for context in association.accepted_contexts)


def _takes_all(association: Association, objects: Iterable[FileDataset]) -> bool:
    return all(_takes(association, str(each.SOPClassUID)) for each in objects)


def _leave(association: Association) -> None:
    if association.is_established:
        association.release()
