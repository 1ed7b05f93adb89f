"""Synthetic frontal chest films: anatomy in millimetres, attenuation added up, then a detector.

They stand in for patients in tests, examples and a bundle's golden inputs. Everything that is not a finding (size,
exposure, marker, noise, pose) is drawn before the finding and independently of it, so that a classifier can only learn
the finding.

The frame is the patient's: x runs from the midline to the image's right, which is the patient's left; y runs down
from the apices of the lungs; both in millimetres.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rentgen.errors import SettingError
from rentgen.images.phantom_bones import girdle, ribs, spine
from rentgen.images.phantom_canvas import canvas_of
from rentgen.images.phantom_detector import UInt16, collimated, detect, develop, grey_range, project, projection
from rentgen.images.phantom_dicom import DxHeader, Photometric, dx_file
from rentgen.images.phantom_findings import consolidation, effusion, nodule
from rentgen.images.phantom_organs import hollows, lungs, mediastinum, trunk, vessels
from rentgen.images.phantom_patient import SIDES, Anatomy, Pose
from rentgen.images.prepare import to_uint8
from rentgen.records import UInt8

Mask = npt.NDArray[np.bool_]


TISSUE_PER_MM = 0.0195
"""Attenuation of soft tissue, per millimetre, at the energies of a chest film."""


class Finding(StrEnum):
    """What a film shows."""

    NORMAL = "normal"
    """Nothing."""
    CONSOLIDATION = "consolidation"
    """Patchy filling of air spaces in one zone, with air bronchograms and lost borders."""
    EFFUSION = "effusion"
    """Fluid with a meniscus that blunts the costophrenic angle of one side."""
    NODULE = "nodule"
    """A round spot of 8 to 17 mm."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic film.

    Attributes:
        pixels: (height, width), the type's full range; air is dark and bone is bright.
        findings: what was drawn.
        mask: (height, width), true where the finding is; all false in a normal film.
        age: of the invented patient, years; it shows in the aorta and the bones.
        spacing_mm: between pixels, in the patient, both ways.
        marker: `L`, `R`, or empty where there is no lead letter.
        marker_at: row and column of the letter's centre, None without one.
    """

    pixels: UInt16 = field(repr=False)
    findings: tuple[Finding, ...]
    mask: Mask = field(repr=False)
    age: int
    spacing_mm: float
    marker: str
    marker_at: tuple[int, int] | None


def draw(
    findings: Finding | Sequence[Finding],
    rng: np.random.Generator,
    *,
    height: int | None = None,
    width: int | None = None,
) -> Phantom:
    """Return a film with the findings asked for.

    The same state of `rng` gives the same patient, pose and noise whatever the findings are.

    Args:
        findings: one or several; `NORMAL` only on its own.
        rng: is advanced by the same amount each time.
        height: pixels, 64 to 4096; drawn where None.
        width: likewise.

    Raises:
        SettingError: for a side out of range, no finding, or `normal` beside another finding.

    Example:
        >>> draw(Finding.NODULE, np.random.default_rng(1), height=256, width=320).pixels.shape
        (256, 320)
    """
    wanted = (findings,) if isinstance(findings, Finding) else tuple(findings)
    if not wanted or (Finding.NORMAL in wanted and len(set(wanted)) > 1):
        raise SettingError(f"Expected one finding or several without `normal`, but got {[str(f) for f in wanted]}.")
    for name, side in (("height", height), ("width", width)):
        if side is not None and not SIDES[0] <= side <= SIDES[1]:
            raise SettingError(f"Expected `{name}` to be {SIDES[0]} to {SIDES[1]} pixels, but got {side}.")
    patient, pose, finding = rng.integers(2**62, size=3).tolist()
    return _film(
        wanted,
        Anatomy.random(np.random.default_rng(patient)),
        Pose.random(np.random.default_rng(pose), height, width),
        np.random.default_rng(finding),
    )


def _film(wanted: tuple[Finding, ...], body: Anatomy, pose: Pose, rng: np.random.Generator) -> Phantom:
    canvas = canvas_of(body, pose)
    air = lungs(canvas, body, pose) * (1 - mediastinum(canvas, body, pose))
    wet = np.minimum(vessels(canvas, body), 0.9 * air)
    filled, extra = np.zeros_like(air), np.zeros_like(air)
    for kind in dict.fromkeys(wanted):
        if kind is Finding.CONSOLIDATION:
            filled = np.maximum(filled, consolidation(canvas, rng))
        elif kind is Finding.EFFUSION:
            filled = np.maximum(filled, effusion(canvas, body, pose, rng))
        elif kind is Finding.NODULE:
            extra = np.maximum(extra, nodule(canvas, air, rng))
    solid = trunk(canvas, body, pose) - hollows(canvas, body, pose)
    dry = air - wet
    clean = TISSUE_PER_MM * np.maximum(solid - dry, 0)
    clean += ribs(canvas, body)
    clean += girdle(canvas, body, pose)
    clean += spine(canvas, body)
    # Vessels vanish where the air around them does; so nothing is added but water in the place of air.
    attenuation = clean + TISSUE_PER_MM * (dry * filled + extra)
    mask = ((filled > 0.3) & (air > 12)) | (extra > 1.5)

    to_canvas = projection(canvas, pose)
    seen = np.array(project(mask.astype(np.uint8), to_canvas, pose, Image.Resampling.NEAREST), np.bool_)
    for edge in collimated(pose):
        seen[edge] = False
    density = detect(project(attenuation, to_canvas, pose, Image.Resampling.BILINEAR), pose)
    pixels, marker_at = develop(density, grey_range(clean, pose), pose)
    return Phantom(pixels, wanted, seen, body.age, body.scale / canvas.scale, pose.marker, marker_at)


def to_png(phantom: Phantom, *, bits: int = 8) -> bytes:
    """Return the film as a PNG file.

    Args:
        phantom: the film.
        bits: 8 or 16 per pixel.

    Raises:
        SettingError: for another number of bits.
    """
    if bits not in (8, 16):
        raise SettingError(f"Expected `bits` to be 8 or 16, but got {bits}.")
    stream = io.BytesIO()
    Image.fromarray(to_uint8(phantom.pixels) if bits == 8 else phantom.pixels).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def to_dicom(
    phantom: Phantom,
    *,
    patient_id: str,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    photometric_interpretation: Photometric = Photometric.MONOCHROME2,
    bits_stored: int = 12,
) -> bytes:
    """Return the film as a Digital X-Ray Image Storage - For Presentation file, the same bytes each time.

    Args:
        phantom: the film.
        patient_id: 1 to 64 characters.
        study_instance_uid: made from the pixels and the patient where None, under 2.25.
        series_instance_uid: likewise.
        sop_instance_uid: likewise.
        photometric_interpretation: how values become grey.
        bits_stored: 12 or 14.

    Raises:
        SettingError: for a value out of range.
    """
    header = DxHeader(
        patient_id,
        phantom.age,
        phantom.spacing_mm,
        study_instance_uid,
        series_instance_uid,
        sop_instance_uid,
        photometric_interpretation,
        bits_stored,
    )
    return dx_file(phantom.pixels, header)


def write_set(
    directory: Path,
    *,
    films: int,
    rng: np.random.Generator,
    findings: Sequence[Finding] = (Finding.NORMAL, Finding.CONSOLIDATION, Finding.EFFUSION),
    films_per_patient: int = 2,
    dicom: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a set of films, a folder for each finding: `<finding>/person<N>_<finding>_<k>.png`.

    Films of one patient share the anatomy and differ in pose, exposure and, within its kind, the finding. No patient
    stands in two folders.

    Args:
        directory: is made where it does not exist.
        films: in each folder.
        rng: decides everything.
        findings: one folder each.
        films_per_patient: at most; the last patient may have fewer.
        dicom: DICOM files in place of PNG.
        progress: is called with the number of films written and of all.

    Raises:
        SettingError: for numbers below one.
    """
    if films < 1 or films_per_patient < 1:
        raise SettingError(f"Expected at least 1 film and 1 per patient, but got {films} and {films_per_patient}.")
    total, person = films * len(findings), 0
    for index, finding in enumerate(findings):
        folder = directory / str(finding)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(films):
            if number % films_per_patient == 0:
                person += 1
                body = Anatomy.random(np.random.default_rng(int(rng.integers(2**62))))
            pose, spot = rng.integers(2**62, size=2).tolist()
            film = _film(
                (finding,),
                body,
                Pose.random(np.random.default_rng(pose), None, None),
                np.random.default_rng(spot),
            )
            name = f"person{person}_{finding}_{number % films_per_patient + 1}"
            if dicom:
                _write(folder / f"{name}.dcm", to_dicom(film, patient_id=f"person{person}"))
            else:
                _write(folder / f"{name}.png", to_png(film))
            if progress is not None:
                progress(index * films + number + 1, total)


SHARES: Mapping[Finding, float] = {Finding.CONSOLIDATION: 0.35, Finding.EFFUSION: 0.35, Finding.NODULE: 0.3}
"""How often each finding is drawn into a film of `write_table`, on its own."""


def write_table(
    directory: Path,
    *,
    films: int,
    rng: np.random.Generator,
    shares: Mapping[Finding, float] = SHARES,
    unknown: float = 0.1,
    films_per_patient: int = 2,
    dicom: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write films with any number of findings, and return the table: `labels.csv` with a column for each.

    A film is `films/personN_K.png`; the table has `path`, `patient`, a column for each finding and `No Finding`, with
    1, 0, and nothing where it is unknown.

    Args:
        directory: is made where it does not exist.
        films: in all.
        rng: decides everything.
        shares: finding to how often it is there, whatever else is.
        unknown: share of the findings of which the table says nothing.
        films_per_patient: at most; the last patient may have fewer.
        dicom: DICOM files in place of PNG.
        progress: is called with the number of films written and of all.

    Raises:
        SettingError: for numbers below one, or shares outside [0, 1].
    """
    if films < 1 or films_per_patient < 1:
        raise SettingError(f"Expected at least 1 film and 1 per patient, but got {films} and {films_per_patient}.")
    if not all(0 <= share <= 1 for share in (unknown, *shares.values())):
        raise SettingError(f"Expected shares in [0, 1], but got {unknown} unknown and {list(shares.values())}.")
    (directory / "films").mkdir(parents=True, exist_ok=True)
    names = {finding: finding.capitalize() for finding in shares}
    lines = [",".join(("path", "patient", *names.values(), "No Finding"))]
    for number in range(films):
        if number % films_per_patient == 0:
            body = Anatomy.random(np.random.default_rng(int(rng.integers(2**62))))
        pose, spot = rng.integers(2**62, size=2).tolist()
        there = tuple(finding for finding, share in shares.items() if rng.random() < share)
        film = _film(
            there or (Finding.NORMAL,),
            body,
            Pose.random(np.random.default_rng(pose), None, None),
            np.random.default_rng(spot),
        )
        patient = f"person{1 + number // films_per_patient}"
        name = f"films/{patient}_{number % films_per_patient + 1}.{'dcm' if dicom else 'png'}"
        _write(directory / name, to_dicom(film, patient_id=patient) if dicom else to_png(film))
        cells = [str(int(finding in there)) for finding in names] + [str(int(not there))]
        hidden = rng.random(len(cells)) < unknown
        lines.append(
            ",".join((name, patient, *("" if lost else cell for cell, lost in zip(cells, hidden, strict=True))))
        )
        if progress is not None:
            progress(number + 1, films)
    _write(directory / "labels.csv", ("\n".join(lines) + "\n").encode())
    return directory / "labels.csv"


def _write(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(content)
    os.replace(partial, path)


def golden_films(count: int = 4) -> tuple[UInt8, ...]:
    """Return the same few films each time, uint8 at native size, of different aspects and findings."""
    rng = np.random.default_rng(1895)
    sizes = ((420, 512), (512, 420), (384, 384), (360, 560))
    kinds = tuple(Finding)
    return tuple(
        to_uint8(
            draw(kinds[i % len(kinds)], rng, height=sizes[i % len(sizes)][0], width=sizes[i % len(sizes)][1]).pixels
        )
        for i in range(count)
    )
