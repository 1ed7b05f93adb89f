"""A PDF report as a DICOM object, so that it is kept with the study."""

from __future__ import annotations

from pydicom.uid import EncapsulatedPDFStorage

from rentgen.outputs import codes
from rentgen.outputs.dicom_common import Make, code_item, finish, new_object, reference, stamp_content
from rentgen.records.results import Document, Kind, StudyResult

MAKE = Make(Kind.PDF, EncapsulatedPDFStorage, "DOC", 4, "Rentgen report, PDF")

MAX_BYTES = 50_000_000
"""Of a PDF: a report of a study has some hundred thousand."""


def encapsulated_pdf(result: StudyResult, pdf: bytes, *, title: str = "AI report, not verified") -> Document:
    """Return an Encapsulated PDF object.

    Args:
        result: of the study that the PDF tells of.
        pdf: the file; the same result gives the same object only where it is the same.
        title: of the document, up to 1024 characters; must hold nothing of the patient.

    Raises:
        ValueError: the bytes are no PDF, or too many.
    """
    if not pdf.startswith(b"%PDF-") or len(pdf) > MAX_BYTES:
        raise ValueError(f"Expected a PDF file of at most {MAX_BYTES // 1_000_000} MB, but got {len(pdf)} bytes.")
    ds = new_object(result, MAKE)
    stamp_content(ds, result)
    ds.ConversionType = "WSD"
    ds.AcquisitionDateTime = ""
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.SourceInstanceSequence = [reference(film.source) for film in result.films]
    ds.DocumentTitle = title
    ds.ConceptNameCodeSequence = [code_item(codes.IMAGING_STUDY)]
    ds.VerificationFlag = "UNVERIFIED"
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(pdf)
    ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return finish(ds, MAKE)
