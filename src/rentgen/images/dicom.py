"""A DICOM file: what it is, whose it is, and its one film."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from datetime import date
from pathlib import Path

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.dicom_display import display
from rentgen.images.dicom_elements import PIXEL_DATA, Header, Syntax, read_element, scan
from rentgen.images.dicom_pixels import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    LOSSY,
    SUPPORTED,
    check_format,
    decode,
)
from rentgen.images.limits import DEFAULT_LIMITS, Limits, orient
from rentgen.records import Radiograph

SOP_INSTANCE_UID = 0x00080018
PATIENT_ID = 0x00100020

_PREAMBLE = 128
_HEADER_BYTES = 4_000_000
_DICOMDIR = "1.2.840.10008.1.3.10"
_VIDEO = "1.2.840.10008.1.2.4.10"
_SYNTAXES = {IMPLICIT_LITTLE: Syntax(explicit=False), EXPLICIT_BIG: Syntax(little=False)}
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
_OTHER_PIXELS = (0x7FE00008, 0x7FE00009)

_AGE = re.compile(r"(\d{1,3}) ?([DWMY])", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)", re.ASCII)
_PER_YEAR = {"D": 365.2425, "W": 365.2425 / 7, "M": 12.0, "Y": 1.0}
# Above it, 999Y for instance, an age stands for none.
_OLDEST_YEARS = 125
# Study Date, Series Date, Acquisition Date, Content Date.
_DATES = (0x00080020, 0x00080021, 0x00080022, 0x00080023)

# EXIF codes by (direction of rows, direction of columns): the flip that puts the patient's left at the right of the
# film, head up. Lateral and oblique films have other letters and stay as they are.
_ORIENTATIONS = {("L", "F"): 1, ("R", "F"): 2, ("R", "H"): 3, ("L", "H"): 4}


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins with `head` is DICOM.

    Args:
        head: the first bytes, at least 132; 512 also recognise a file without the preamble that the standard asks for.
    """
    return head[_PREAMBLE : _PREAMBLE + 4] == b"DICM" or _guess_syntax(head) is not None


def read_text(path: str | Path, tag: int) -> str | None:
    """Return the first value of a text element of a DICOM file, or None where it has none; pixels are not read.

    Args:
        path: of the file.
        tag: such as `PATIENT_ID`; the less stands before it, the less is read.

    Raises:
        InputError: the file cannot be read, is not DICOM, or its header is damaged.
    """
    return read_texts(path, (tag,))[tag]


def read_texts(path: str | Path, tags: Collection[int]) -> dict[int, str | None]:
    """Return the first value of text elements of a DICOM file, or None where it has none; it is read once.

    Args:
        path: of the file.
        tags: at least one; nothing behind the last of them is read.

    Raises:
        InputError: the file cannot be read, is not DICOM, or its header is damaged.
    """
    header = _open(_head(path), str(path), DEFAULT_LIMITS, stop=max(tags), whole=False)
    return {tag: header.text(tag) for tag in tags}


def data_set_start(path: str | Path) -> int:
    """Return where the data set of a DICOM file begins: behind its file meta information (PS3.10 7.1).

    Raises:
        InputError: the file cannot be read, has no file meta information, or a damaged one.
    """
    head = _head(path)
    start = _PREAMBLE + 4
    if head[_PREAMBLE:start] != b"DICM":
        raise InputError(path, "it has no file meta information")
    return _meta_end(head, start, str(path), DEFAULT_LIMITS)


def _head(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_HEADER_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(path, "the file cannot be opened; check that it exists and may be read") from error


def read_dicom(data: bytes, *, source: str, content_hash: str, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Return the film in a DICOM file.

    Args:
        data: the whole file.
        source: for messages.
        content_hash: of the file.
        limits: on what it may ask for.

    Raises:
        InputError: the file is damaged, cut short, contradictory or hostile.
        UnsupportedImageError: it is sound, but not a single grey film in a coding that is read.
    """
    header = _open(data, source, limits, stop=PIXEL_DATA)
    if header.text(0x00020002) == _DICOMDIR or 0x00041220 in header:
        raise UnsupportedImageError(source, "a DICOMDIR lists films but holds none; give the films themselves")
    if PIXEL_DATA not in header:
        kind = "pixels that are fractions" if any(tag in header for tag in _OTHER_PIXELS) else "no image"
        raise UnsupportedImageError(source, f"the DICOM file holds {kind}; give the radiograph itself")
    syntax = header.transfer_syntax_uid
    if syntax not in SUPPORTED:
        kind = "is a video" if syntax.startswith(_VIDEO) else "has a coding that is not read"
        raise UnsupportedImageError(source, f"the DICOM file {kind} (transfer syntax {_printable(syntax)})")
    stored = decode(header, check_format(header))
    pixels, notes = display(header, stored)
    orientation = _find_orientation(header)
    if orientation != 1:
        notes += ("turned by patient orientation",)
    spacing_mm, spacing_notes = _find_spacing(header)
    if syntax in LOSSY or header.text(0x00282110) == "01":
        notes += ("lossy compression",)
    return Radiograph(
        pixels=orient(pixels, orientation),
        content_hash=content_hash,
        source_format="dicom",
        bits=stored.bits,
        orientation=orientation,
        spacing_mm=spacing_mm,
        patient_id=header.text(PATIENT_ID),
        study_instance_uid=header.text(0x0020000D),
        series_instance_uid=header.text(0x0020000E),
        sop_instance_uid=header.text(SOP_INSTANCE_UID),
        sop_class_uid=header.text(0x00080016),
        modality=header.text(0x00080060),
        body_part_examined=header.text(0x00180015),
        view_position=header.text(0x00185101),
        patient_age_years=_find_age(header),
        notes=notes + spacing_notes,
    )


def _printable(uid: str) -> str:
    # A transfer syntax that is not a UID may be anything, a name too.
    return uid if uid and len(uid) <= 64 and set(uid) <= set("0123456789.") else "not a UID"


def _find_orientation(header: Header) -> int:
    r"""Return the EXIF code of the flip that brings a frontal film to L\F.

    Patient Orientation describes the matrix as it is stored: the flips and turns that Field of View Horizontal Flip and
    Field of View Rotation tell of were done before it was written (PS3.3 C.8.11.3), and are not done again. A marker
    in the film is not looked at.
    """
    directions = header.texts(0x00200020)
    return _ORIENTATIONS.get((directions[0], directions[1]), 1) if len(directions) == 2 else 1


def _find_spacing(header: Header) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return the distance between pixels in the patient, and the notes.

    Imager Pixel Spacing is measured at the detector, behind the patient. Pixel Spacing that equals it without a
    Calibration Type is the same thing (PS3.3 10.7.1.3).
    """
    spacing, imager = header.numbers(0x00280030), header.numbers(0x00181164)
    if not spacing and 0x00280030 not in header:
        return None, ("pixel spacing known at the detector only",) if imager else ()
    if len(spacing) != 2 or min(spacing) <= 0:
        return None, ("pixel spacing of zero or unreadable, ignored",)
    if spacing == imager and header.text(0x00280A02) is None:
        return None, ("pixel spacing known at the detector only",)
    return (spacing[0], spacing[1]), ()


def _find_age(header: Header) -> float | None:
    """Return the patient's age in years by Patient's Age, otherwise by Patient's Birth Date; None where neither tells.

    An age without a unit is none: it may be of years or of months.
    """
    found = _AGE.fullmatch(header.text(0x00101010) or "")
    if found is not None:
        years = int(found[1]) / _PER_YEAR[found[2].upper()]
    else:
        born = _read_date(header.text(0x00100030))
        taken = next((day for tag in _DATES if (day := _read_date(header.text(tag))) is not None), None)
        if born is None or taken is None:
            return None
        # Whole on the birthday itself, whatever the leap years between.
        years = taken.year - born.year + (taken.month - born.month + (taken.day - born.day) / 31) / 12
    return years if 0 <= years <= _OLDEST_YEARS else None


def _read_date(text: str | None) -> date | None:
    """Return a DICOM date, also as ACR-NEMA wrote it (`1997.04.24`), or None where it is none."""
    found = _DATE.fullmatch(text or "")
    if found is None:
        return None
    try:
        return date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None


def _guess_syntax(head: bytes) -> Syntax | None:
    """Return how a file that begins with its data set is written, or None where it does not look like one.

    Taken for DICOM are only three elements in a row, ascending, all of the first two groups, with short values.
    """
    for syntax in (Syntax(), Syntax(explicit=False), Syntax(little=False)):
        position, last = 0, 0
        try:
            for _ in range(3):
                tag, element = read_element(head, position, len(head), syntax, "")
                if not (last < tag and tag >> 16 in (0x0002, 0x0008) and element.length <= 128):
                    break
                position, last = element.start + element.length, tag
            else:
                return syntax
        except InputError:
            continue
    return None


def _open(data: bytes, source: str, limits: Limits, *, stop: int, whole: bool = True) -> Header:
    """Return the header of a DICOM file, up to the tag `stop`; `data` may be but the file's head if not `whole`."""
    if data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        preamble = data[:_PREAMBLE]
        # CVE-2019-11687: a file that is a program or an archive too.
        if preamble.strip(b"\0") and not preamble.startswith(_TIFF_MAGIC):
            raise InputError(
                source,
                "the first 128 bytes are not empty, so that it may be a program or an archive too; export it again",
            )
        start = _PREAMBLE + 4
    elif _guess_syntax(data[:512]) is not None:
        start = 0
    else:
        raise InputError(source, "not a DICOM file")

    end = len(data)
    position = start
    if data[start : start + 2] == b"\x02\0":
        position = _meta_end(data, start, source, limits)
    found = scan(data, start, position, Syntax(), source=source, limits=limits)
    meta_header = Header(source, data, found, Syntax(), limits, "")
    uid = meta_header.text(0x00020010)
    if uid == DEFLATED:
        data = data[:position] + _inflate(data[position:], source, limits, whole=whole)
        end = len(data)
    syntax = _check_syntax(data[position : position + 8], _SYNTAXES.get(uid or "", Syntax()))
    if uid is None:
        guessed = _guess_syntax(data[position : position + 512])
        if guessed is None:
            raise InputError(source, "the DICOM header does not name its transfer syntax")
        syntax = guessed
        uid = EXPLICIT_BIG if not guessed.little else EXPLICIT_LITTLE if guessed.explicit else IMPLICIT_LITTLE
    elements = scan(data, position, end, syntax, source=source, limits=limits, stop=stop)
    return Header(source, data, {**found, **elements}, syntax, limits, uid)


def _check_syntax(first: bytes, syntax: Syntax) -> Syntax:
    """Return how the data set is written, by its first element where that contradicts the transfer syntax."""
    names_vr = first[4:6].isalpha() and first[4:6].isupper()
    if syntax.little and syntax.explicit != names_vr and len(first) == 8:
        return Syntax(explicit=names_vr)
    return syntax


def _meta_end(data: bytes, start: int, source: str, limits: Limits) -> int:
    """Return where the file meta information ends: at the first element of another group (its length may lie)."""
    position = start
    for _ in range(64):
        if data[position : position + 2] != b"\x02\0":
            return position
        _, element = read_element(data, position, len(data), Syntax(), source)
        position = element.start + element.length
        if position > len(data) or element.length > limits.max_element_bytes:
            break
    raise InputError(source, "the DICOM file's meta information is damaged or cut short")


def _inflate(data: bytes, source: str, limits: Limits, *, whole: bool) -> bytes:
    """Return a deflated data set, and no more of it than a genuine one could have; if not `whole`, only its head."""
    # A film deflates to a third, a blank one to a thousandth: what is small anyway is not refused.
    most = min(limits.max_bytes, max(16_000_000, 20 * len(data))) if whole else _HEADER_BYTES
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, most)
    except zlib.error as error:
        raise InputError(source, "the deflated DICOM file is damaged") from error
    if not whole:
        return inflated
    if inflater.unconsumed_tail:
        raise InputError(source, f"the deflated DICOM file grows to more than {most // 1_000_000} MB; not genuine")
    if not inflater.eof:
        raise InputError(source, "the file is cut short: its deflated data have no end")
    return inflated
