"""A presentation state: the film as it is, with outline and answer drawn over it, which a reader can switch off."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from rentgen.outputs.dicom_common import Make, finish, grey_of, local_time, new_object, reference, series_references
from rentgen.outputs.findings import Finding, findings, headline, sentences, shorten
from rentgen.records import DISCLAIMER
from rentgen.records.results import Document, FilmResult, Kind, SourceImage, StudyResult

MAKE = Make(Kind.PRESENTATION_STATE, GrayscaleSoftcopyPresentationStateStorage, "PR", 2, "Rentgen outline")

_LAYER = "RENTGEN"
_MOST_TEXT = 1024
_WHITE = 65535


def presentation_state(result: StudyResult, number: int) -> Document:
    """Return a Grayscale Softcopy Presentation State of a film: text always, an outline where a region may be shown.

    The grey transformations are the film's own: its first window, or its VOI LUT.

    Args:
        result: of the study.
        number: of the film in it, from 0.
    """
    film = result.films[number]
    ds = new_object(result, MAKE, film.source.sop_instance_uid)
    made = local_time(result)
    ds.PresentationCreationDate, ds.PresentationCreationTime = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
    ds.InstanceNumber = number + 1
    ds.ContentLabel = "RENTGEN_AI"
    ds.ContentDescription = "AI result, not verified"
    ds.ContentCreatorName = "Rentgen^AI"
    ds.Laterality = film.source.laterality if film.source.laterality in ("R", "L") else ""
    ds.ReferencedSeriesSequence = series_references([film.source], "ReferencedImageSequence")
    ds.DisplayedAreaSelectionSequence = [_displayed_area(film.source)]
    ds.GraphicLayerSequence = [_layer()]
    ds.GraphicAnnotationSequence = [_annotation(result, film)]
    _show_grey(ds, film.source)
    return finish(ds, MAKE, number + 1)


def _displayed_area(source: SourceImage) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = [reference(source)]
    item.DisplayedAreaTopLeftHandCorner = [1, 1]
    item.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    item.PresentationSizeMode = "SCALE TO FIT"
    if source.spacing_mm is None:
        item.PresentationPixelAspectRatio = [1, 1]
    else:
        item.PresentationPixelSpacing = [f"{step:.10g}" for step in source.spacing_mm]
    return item


def _layer() -> Dataset:
    item = Dataset()
    item.GraphicLayer = _LAYER
    item.GraphicLayerOrder = 1
    item.GraphicLayerRecommendedDisplayGrayscaleValue = _WHITE
    item.GraphicLayerDescription = "AI heat map outline and result"
    return item


def _annotation(result: StudyResult, film: FilmResult) -> Dataset:
    found = findings(film, result.model)
    item = Dataset()
    item.ReferencedImageSequence = [reference(film.source)]
    item.GraphicLayer = _LAYER
    outlined = [finding for finding in found if finding.region]
    lines = [headline(result.model), *sentences(film, result.model)]
    if outlined:
        lines.append("The outline is the AI heat map at half its peak, not that of a lesion.")
        item.GraphicObjectSequence = [_outline(finding) for finding in outlined]
    # What is cut off, if anything, is not the warning.
    text = shorten("\r\n".join(lines), _MOST_TEXT - len(DISCLAIMER) - 2)
    item.TextObjectSequence = [_text(f"{text}\r\n{DISCLAIMER}")]
    return item


def _text(words: str) -> Dataset:
    """Return a text at the lower left of the display: wherever the film is moved to, the words are seen."""
    item = Dataset()
    item.BoundingBoxAnnotationUnits = "DISPLAY"
    item.UnformattedTextValue = words
    item.BoundingBoxTopLeftHandCorner = [0.02, 0.8]
    item.BoundingBoxBottomRightHandCorner = [0.9, 0.98]
    item.BoundingBoxTextHorizontalJustification = "LEFT"
    return item


def _outline(finding: Finding) -> Dataset:
    item = Dataset()
    item.GraphicAnnotationUnits = "PIXEL"
    item.GraphicDimensions = 2
    item.NumberOfGraphicPoints = len(finding.region)
    item.GraphicData = [coordinate for point in finding.region for coordinate in point]
    item.GraphicType = "POLYLINE"
    item.GraphicFilled = "N"
    return item


def _show_grey(ds: Dataset, source: SourceImage) -> None:
    """Set the film's Modality LUT, VOI LUT and Presentation LUT shape, the first of several."""
    grey = grey_of(source)
    if grey.get("ModalityLUTSequence"):
        ds.ModalityLUTSequence = [grey.ModalityLUTSequence[0]]
    elif "RescaleSlope" in grey and float(grey.RescaleSlope or 0):
        ds.RescaleIntercept = grey.get("RescaleIntercept") or 0
        ds.RescaleSlope = grey.RescaleSlope
        ds.RescaleType = grey.get("RescaleType") or "US"
    voi = _voi(grey)
    if voi is not None:
        ds.SoftcopyVOILUTSequence = [voi]
    shape = grey.get("PresentationLUTShape")
    if shape not in ("IDENTITY", "INVERSE"):
        shape = "INVERSE" if grey.get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
    ds.PresentationLUTShape = shape


def _voi(grey: Dataset) -> Dataset | None:
    item = Dataset()
    if grey.get("VOILUTSequence"):
        item.VOILUTSequence = [grey.VOILUTSequence[0]]
        return item
    center, width = (_first(grey.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    item.WindowCenter, item.WindowWidth = f"{center:.10g}", f"{width:.10g}"
    if grey.get("VOILUTFunction") in ("LINEAR_EXACT", "SIGMOID"):
        item.VOILUTFunction = grey.VOILUTFunction
    return item


def _first(value: object) -> float | None:
    if value is None or value == "":
        return None
    first = value[0] if isinstance(value, (list, tuple)) or hasattr(value, "__getitem__") else value
    return float(str(first))
