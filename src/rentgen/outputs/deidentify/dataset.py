"""A film's DICOM file, with its patient taken out, or the reason why it is held back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.dicom import SOP_INSTANCE_UID, is_dicom
from rentgen.images.dicom import _open as open_header
from rentgen.images.dicom_elements import PIXEL_DATA, Header, Syntax
from rentgen.images.dicom_pixels import check_format, decode
from rentgen.images.limits import DEFAULT_LIMITS, Limits
from rentgen.images.prepare import to_uint8
from rentgen.images.read import read
from rentgen.outputs.deidentify.burned_in import pictures, suspect
from rentgen.outputs.deidentify.dates import Dates, shift, write_age
from rentgen.outputs.deidentify.elements import encode, encode_code, encode_file, encode_items, encode_text, syntax_of
from rentgen.outputs.deidentify.pixels import pixel_value, refuse_hidden
from rentgen.outputs.deidentify.profile import (
    BASIC_PROFILE,
    FORMER_REGIONS,
    KEEP_DATES,
    KEEP_PATIENT,
    PROFILE,
    SOP_CLASSES,
    Action,
    Rule,
)
from rentgen.outputs.deidentify.pseudonyms import Pseudonyms
from rentgen.records import Radiograph, UInt8

CountWords = Callable[[UInt8], int]

_SOP_CLASS, _STUDY, _SERIES = 0x00080016, 0x0020000D, 0x0020000E
_REGION = 0x00082218
_METHODS, _DATES_MODIFIED = 0x00120064, 0x00280303
_VIEW, _MODIFIERS = 0x00540220, 0x00540222
_DESCRIPTOR, _LUT_TYPE, _LUT_DATA = 0x00283002, 0x00283004, 0x00283006
_MODALITY_LUT = 0x00283000
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_LONGEST_NUMBER = 16
_SHORT_VRS = frozenset((b"US", b"SS", b"OW", b"UN", b""))
# DX Anatomy Imaged, DX View, DX View Modifier.
_LISTS = {_REGION: "cid4009", _VIEW: "cid4010", _MODIFIERS: "cid4011"}
_FORMER = tuple(Code(value, "SCT", meaning) for value, meaning in FORMER_REGIONS.items())
_SCHEMES = frozenset(("SCT", "SRT", "SNM3", "99SDM", "DCM"))


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A film without its patient.

    Attributes:
        data: the DICOM file.
        patient: what stands for the PatientID.
        study_instance_uid: the new one.
        sop_instance_uid: the new one.
    """

    data: bytes = field(repr=False)
    patient: str
    study_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class _Film:
    """What the rules need beside the element that they are about."""

    header: Header
    out: Syntax
    pseudonyms: Pseudonyms
    patient_id: str
    days: int | None
    age: str


def deidentify(
    data: bytes,
    pseudonyms: Pseudonyms,
    *,
    dates: Dates = Dates.SHIFTED,
    source: str = "the bytes given",
    count_words: CountWords | None = None,
    allow_derived: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Deidentified:
    """Return a film without its patient; the same bytes for the same film, key and choice of dates.

    What is written is read again, and must show exactly what the file showed.

    Args:
        data: a DICOM file.
        pseudonyms: of the key.
        dates: what becomes of them.
        source: stands for the file in messages.
        count_words: reads the picture, such as `Tesseract.count_words`; None leaves words in the picture unseen.
        allow_derived: do not hold back a film for Image Type DERIVED.
        limits: on what the file may ask for.

    Raises:
        InputError: the file cannot be read as a radiograph.
        UnsupportedImageError: it is held back: not a CR or DX film, or words may lie in the picture.
        PeerError: `count_words` failed.
    """
    if not is_dicom(data[:512]):
        raise UnsupportedImageError(
            source, "expected a DICOM file; other formats have no header to take a patient out of"
        )
    shown = read(data, name=source, limits=limits)
    header = open_header(data, source, limits, stop=PIXEL_DATA)
    _refuse_kind(header)
    pixel_format = check_format(header)
    refuse_hidden(header, pixel_format)
    reason = find_words(data, shown, count_words, source=source, allow_derived=allow_derived, limits=limits)
    if reason is not None:
        raise UnsupportedImageError(source, reason)
    # A film that names no patient is a patient of its own, with all of its study.
    patient_id = shown.patient_id or f"study {shown.study_instance_uid}"
    film = _Film(
        header,
        syntax_of(header.transfer_syntax_uid),
        pseudonyms,
        patient_id,
        pseudonyms.days(patient_id) if dates is Dates.SHIFTED else None,
        write_age(shown.patient_age_years),
    )
    found = _write(film)
    again = read(found.data, name=source, limits=limits)
    if (again.pixel_hash, again.spacing_mm) != (shown.pixel_hash, shown.spacing_mm):
        raise UnsupportedImageError(source, "what says how the film is shown is unusual, and may not be kept")
    return found


def find_words(
    data: bytes,
    shown: Radiograph,
    count_words: CountWords | None,
    *,
    source: str = "the bytes given",
    allow_derived: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> str | None:
    """Return why words may lie in a film's picture, by its header or read there; None where nothing says so.

    Args:
        data: the file, DICOM or another.
        shown: what `images.read.read` returned for it.
        count_words: as for `deidentify`.
        source: likewise.
        allow_derived: likewise.
        limits: likewise.

    Raises:
        PeerError: `count_words` failed.
    """
    values = shown.pixels.astype(np.int64)
    if is_dicom(data[:512]):
        header = open_header(data, source, limits, stop=PIXEL_DATA)
        reason = suspect(header, allow_derived=allow_derived)
        if reason is not None or count_words is None:
            return reason
        stored = decode(header, check_format(header))
        values = stored.values()[stored.codes]
    if count_words is None:
        return None
    for picture in pictures(to_uint8(shown.pixels), values):
        words = count_words(picture)
        if words:
            return f"words may be burned into the picture: {words} were read"
    return None


def _refuse_kind(header: Header) -> None:
    if header.text(_SOP_CLASS) not in SOP_CLASSES:
        raise UnsupportedImageError(
            header.source, f"expected one of {', '.join(SOP_CLASSES.values())}; other objects are held back"
        )
    for tag, name in ((SOP_INSTANCE_UID, "SOP"), (_STUDY, "Study"), (_SERIES, "Series")):
        if header.text(tag) is None:
            raise InputError(header.source, f"the DICOM header lacks {name} Instance UID")


def _write(film: _Film) -> Deidentified:
    uid = film.pseudonyms.uid
    sop, study = uid(film.header.text(SOP_INSTANCE_UID) or ""), uid(film.header.text(_STUDY) or "")
    elements = {rule.tag: element for rule in PROFILE if (element := _apply(rule, film)) is not None}
    elements |= _statement(film)
    data = encode_file(
        (elements[tag] for tag in sorted(elements)),
        sop_class_uid=film.header.text(_SOP_CLASS) or "",
        sop_instance_uid=sop,
        transfer_syntax=film.header.transfer_syntax_uid,
    )
    return Deidentified(data, film.pseudonyms.patient(film.patient_id), study, sop)


def _statement(film: _Film) -> dict[int, bytes]:
    """Return the elements that say by which options of the profile the film was made."""
    kept = film.days is not None
    options = (BASIC_PROFILE, KEEP_DATES, KEEP_PATIENT) if kept else (BASIC_PROFILE, KEEP_PATIENT)
    items = [encode_code(value, "DCM", meaning, film.out) for value, meaning in options]
    word = encode_text(["MODIFIED" if kept else "REMOVED"], "CS")
    return {
        _METHODS: encode(_METHODS, "SQ", encode_items(items, film.out), film.out),
        _DATES_MODIFIED: encode(_DATES_MODIFIED, "CS", word, film.out),
    }


def _apply(rule: Rule, film: _Film) -> bytes | None:
    """Return the element that a rule leaves, or None where it leaves none."""
    if rule.action is Action.PIXELS:
        vr, value, length = pixel_value(film.header, check_format(film.header))
        return encode(rule.tag, vr, value, film.out, length)
    if rule.action is Action.SHORTS:
        return _shorts(rule, film.header, film)
    if rule.action in (Action.CODES, Action.LUT):
        item = _code_item(rule.tag, film.header, film) if rule.action is Action.CODES else _lut_item(rule.tag, film)
        if item is None and not (rule.must and rule.tag in film.header):
            return None
        return encode(rule.tag, "SQ", encode_items([] if item is None else [item], film.out), film.out)
    values = tuple(_texts(rule, film))
    if values or (rule.must and rule.tag in film.header):
        return encode(rule.tag, rule.vr, encode_text(values, rule.vr), film.out)
    return None


def _texts(rule: Rule, film: _Film) -> Iterator[str]:
    """Yield the values that a rule leaves of a text element, or writes."""
    header = film.header
    match rule.action:
        case Action.TERMS:
            yield from _leading(rule, header.texts(rule.tag))
        case Action.NUMBERS:
            values = header.texts(rule.tag)
            if len(values) <= rule.most and all(_is_number(value, rule) for value in values):
                yield from values
        case Action.UID if header.text(rule.tag):
            yield film.pseudonyms.uid(header.text(rule.tag) or "")
        case Action.DATE if film.days is not None and (moved := shift(header.text(rule.tag), film.days)):
            yield moved
        case Action.PSEUDONYM:
            yield film.pseudonyms.patient(film.patient_id)
        case Action.AGE if film.age:
            yield film.age
        case Action.CONSTANT | Action.DUMMY if rule.action is Action.CONSTANT or rule.tag in header:
            yield from rule.terms


def _leading(rule: Rule, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values up to the first that may not stay: in several of them the place has a meaning."""
    for count, value in enumerate(values[: rule.most]):
        if value not in rule.terms:
            return values[:count]
    return values[: rule.most]


def _is_number(text: str, rule: Rule) -> bool:
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return False
    return rule.low <= float(text) <= rule.high


def _shorts(rule: Rule, header: Header, film: _Film) -> bytes | None:
    """Return a binary element of the right size, its bytes as they are."""
    element = header.elements.get(rule.tag)
    if element is None or element.vr not in _SHORT_VRS or element.length != 2 * rule.most:
        return None
    # Of two representations the file names one, or Pixel Representation decides.
    named = element.vr.decode()
    signed = film.header.shorts(0x00280103)[:1] == (1,)
    vr = named if named in rule.vr.split() else rule.vr.split()[-1 if signed else 0]
    return encode(rule.tag, vr, header.value(rule.tag), film.out)


def _code_item(tag: int, header: Header, film: _Film) -> bytes | None:
    """Return the first item of a sequence of codes, if it stands in the standard's list; its words are the list's."""
    item = header.first_item(tag)
    if item is None:
        return None
    value, scheme = item.text(0x00080100) or "", item.text(0x00080102) or ""
    if scheme not in _SCHEMES:
        return None
    asked = Code(value, scheme, "")
    known = [*getattr(codes, _LISTS[tag]).concepts.values(), *(_FORMER if tag == _REGION else ())]
    # Compared one by one: codes of SNOMED's older scheme equal those of the newer, but hash to something else.
    meaning = next((code.meaning for code in known if code == asked), None)
    if meaning is None:
        return None
    written = encode_code(value, scheme, meaning, film.out)
    if tag == _VIEW:
        modifier = _code_item(_MODIFIERS, item, film)
        items = encode_items([] if modifier is None else [modifier], film.out)
        written += encode(_MODIFIERS, "SQ", items, film.out) if _MODIFIERS in item else b""
    return written


def _lut_item(tag: int, film: _Film) -> bytes | None:
    """Return the first item of a sequence of tables, without its explanation; None where its size is not as it says."""
    item = film.header.first_item(tag)
    if item is None or item.syntax.little != film.out.little:
        return None
    descriptor = _shorts(Rule(_DESCRIPTOR, "US SS", Action.SHORTS, most=3), item, film)
    data = item.elements.get(_LUT_DATA)
    entries = item.shorts(_DESCRIPTOR)[:1]
    if descriptor is None or data is None or not entries:
        return None
    count = entries[0] or 1 << 16
    if data.length not in (2 * count, count + count % 2):
        return None
    vr = data.vr.decode() if data.vr in (b"US", b"SS", b"OW") else "OW"
    kind = Rule(_LUT_TYPE, "LO", Action.TERMS, frozenset(("OD", "HU", "US", "UNSPECIFIED")))
    told = _leading(kind, item.texts(_LUT_TYPE)) if tag == _MODALITY_LUT else ()
    return b"".join(
        (
            descriptor,
            encode(_LUT_TYPE, "LO", encode_text(told, "LO"), film.out) if told else b"",
            encode(_LUT_DATA, vr, item.value(_LUT_DATA), film.out),
        )
    )
