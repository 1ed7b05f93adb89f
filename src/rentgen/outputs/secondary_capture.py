"""A picture that any PACS shows: the film, its heat map where that may be shown, and the warning burned in."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from rentgen.images.overlay import overlay, thumbnail
from rentgen.images.prepare import map_to_native, to_uint8
from rentgen.outputs.dicom_common import Make, finish, new_object, reference, stamp_content
from rentgen.outputs.findings import PASSED, Presence, findings, headline, sentences, shorten
from rentgen.records import Pixels, Status, UInt8
from rentgen.records.results import Document, FilmResult, Kind, ModelIdentity, SourceImage, StudyResult

MAKE = Make(Kind.SECONDARY_CAPTURE, SecondaryCaptureImageStorage, "OT", 1, "Rentgen overlay")

WARNING = "AI RESULT - NOT VERIFIED - NOT FOR PRIMARY DIAGNOSIS"
"""Burned in at the top of every picture."""

SIDE = 1280
"""Longer side of the picture's film, pixels: it is for looking at, the film itself is beside it."""

_MOST_LINES = 12


def secondary_capture(result: StudyResult, number: int, pixels: Pixels) -> Document:
    """Return a film as a Secondary Capture in colour, with the warning, the answer and who gave it burned in.

    The heat map is drawn for the label that is present with the highest probability, and only where the heat maps of
    the model passed their grade. Nothing of the patient is burned in.

    Args:
        result: of the study.
        number: of the film in it, from 0.
        pixels: of the film as it was analysed, (height, width); `Radiograph.pixels`.

    Raises:
        ValueError: the pixels are not those of the film.
    """
    film = result.films[number]
    if pixels.shape != film.source.native_shape:
        raise ValueError(f"Expected pixels of {film.source.native_shape}, but got {pixels.shape}.")
    picture, scale = draw(film, result.model, pixels)
    ds = new_object(result, MAKE, film.source.sop_instance_uid)
    stamp_content(ds, result)
    ds.InstanceNumber = number + 1
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.DerivationDescription = "Film with heat map and result of an AI, for illustration"
    ds.SourceImageSequence = [reference(film.source)]
    _describe_geometry(ds, film.source, scale)
    _describe_pixels(ds, picture)
    return finish(ds, MAKE, number + 1)


def draw(film: FilmResult, model: ModelIdentity, pixels: Pixels) -> tuple[UInt8, float]:
    """Return the picture (height, width, 3) and how much smaller its film is than the native one.

    The film lies at the top left; the words stand in bands above and below, so that nothing of it is hidden.

    Args:
        film: and its answer.
        model: who answered.
        pixels: of the film, (height, width).
    """
    activation = _activation(film, model)
    native = overlay(pixels, activation) if activation is not None else np.repeat(to_uint8(pixels)[..., None], 3, 2)
    small = thumbnail(native, SIDE)
    scale = small.shape[0] / pixels.shape[0]
    width = small.shape[1]
    size = max(9.0, width / 52)
    font = ImageFont.load_default(size)
    above = _wrap([WARNING], font, width)
    below = _wrap([headline(model), *sentences(film, model), _about_map(film, model, activation)], font, width)
    return _stack(small, above, below[:_MOST_LINES], font, round(1.4 * size)), scale


def _activation(film: FilmResult, model: ModelIdentity) -> UInt8 | None:
    stored = film.prediction
    present = [finding for finding in findings(film, model) if finding.presence is Presence.PRESENT and finding.region]
    if stored is None or stored.maps is None or stored.geometry is None or not present:
        return None
    label = max(present, key=lambda finding: finding.probability or 0.0).label
    grid: UInt8 = stored.maps[list(stored.probabilities).index(label)]
    return map_to_native(grid, stored.geometry)


def _about_map(film: FilmResult, model: ModelIdentity, activation: UInt8 | None) -> str:
    if activation is not None:
        return "Colour shows where the model's answer comes from; it is not the outline of a lesion."
    if film.status is Status.OK and model.heat_maps != PASSED:
        return f"No heat map: this model's heat maps are graded {model.heat_maps or 'by nobody'}."
    return "No heat map."


def _wrap(lines: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Return lines that fit into a width, broken between words."""
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in shorten(line, 400).split():
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > 0.96 * width:
                wrapped.append(current)
                current = word
            else:
                current = longer
        wrapped.append(current)
    return wrapped


def _stack(
    film: UInt8, above: list[str], below: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, step: int
) -> UInt8:
    height, width = film.shape[:2]
    top = step * len(above)
    canvas = np.zeros((top + height + step * (len(below) + 1), width, 3), np.uint8)
    canvas[top : top + height] = film
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    margin = max(2, width // 50)
    for row, line in enumerate(above):
        pen.text((margin, step * row), line, (255, 210, 60), font)
    for row, line in enumerate(below):
        pen.text((margin, top + height + step * row + step // 4), line, (230, 230, 230), font)
    return np.array(image)


def _describe_geometry(ds: Dataset, source: SourceImage, scale: float) -> None:
    # No body part: a router that sends chests to be analysed must not send this.
    ds.Laterality = source.laterality if source.laterality in ("R", "L") else ""
    # A film that was turned lies with the patient's left at its right, head up.
    ds.PatientOrientation = ["L", "F"] if source.orientation != 1 else list(source.patient_orientation)
    if source.spacing_mm is not None:
        down, across = source.spacing_mm if source.orientation < 5 else source.spacing_mm[::-1]
        ds.NominalScannedPixelSpacing = [f"{down / scale:.6g}", f"{across / scale:.6g}"]


def _describe_pixels(ds: Dataset, picture: UInt8) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.LossyImageCompression = "00"
    raw = picture.tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OB"
