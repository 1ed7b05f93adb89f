"""Films without their patients: judged by another maker's table, by dciodvfy, and by searching what is written."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pydicom
import pytest
from dicomanonymizer.dicom_anonymization_databases import (  # type: ignore[import-untyped]
    dicomfields_2026c as table,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from made import CODED_LOSSLESS, NATIVE, dicom, film, film8
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from rentgen.errors import InputError
from rentgen.images.phantom import Finding, draw, to_dicom
from rentgen.images.read import read
from rentgen.outputs.deidentify.dataset import deidentify
from rentgen.outputs.deidentify.dates import Dates
from rentgen.outputs.deidentify.profile import BASIC_PROFILE, KEEP_DATES, KEEP_PATIENT, PROFILE, Action
from rentgen.outputs.deidentify.pseudonyms import Pseudonyms

REAL = Path(data_store.__file__).parent / "data"
OURS, OTHER = Pseudonyms(b"k" * 32), Pseudonyms(b"o" * 32)
MARK = "ZQX"
BORN = "19400305"
# PS3.15 E.3.7, the option that keeps a patient's characteristics; what is written says that it was used.
RETAINED = {Tag(0x00100040), Tag(0x00101010)}
PLANTED: dict[str, Any] = {
    **dict.fromkeys(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "CS"), MARK),
    "AS": "077Y",
    "AT": 0x00100010,
    "DA": BORN,
    "DS": "194003.05",
    "DT": BORN + "121314",
    "FD": 194003.05,
    "FL": 194003.0,
    "IS": BORN,
    "OB": MARK.encode() + b"\0",
    "OD": MARK.encode() * 8,
    "OF": MARK.encode() * 4,
    "OL": MARK.encode() * 4,
    "OV": MARK.encode() * 8,
    "OW": MARK.encode() * 2,
    "SL": 19400305,
    "SS": 19400,
    "SV": 19400305,
    "TM": "121314.15",
    "UI": "1.2.777.19400305",
    "UL": 19400305,
    "UN": MARK.encode() + b"\0",
    "US": 19400,
    "UV": 19400305,
}
SOUGHT = tuple(word.encode() for word in (MARK, BORN, "121314", "1.2.777", "194003.05"))


def parse(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def saved(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def element(tag: int) -> DataElement:
    """Return an element of the standard with something of the patient in it."""
    vr = dictionary_VR(tag).split(" or ")[0]
    if vr == "SQ":
        item = Dataset()
        item.PatientName, item.PatientID, item.StudyDate, item.PatientComments = MARK, MARK, BORN, MARK
        item.ReferencedSOPInstanceUID = PLANTED["UI"]
        return DataElement(tag, vr, Sequence([item]))
    return DataElement(tag, vr, PLANTED[vr])


def fill(ds: Dataset, tags: Iterator[int]) -> None:
    for tag in tags:
        try:
            ds.add(element(tag))
        except KeyError:
            # The table of the standard is newer than the dictionary.
            continue


def listed() -> list[int]:
    """Return the tags of Table E.1-1, as another maker reads it."""
    return [int(Tag(entry[:2])) for entry in table.ALL_TAGS if len(entry) == 2]


def planted(syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return a film with the patient in every listed attribute, in private ones, overlays, curves and nested items."""
    ds = parse(dicom(syntax=syntax, ImageType=["ORIGINAL", "PRIMARY", MARK], PatientSex="F"))
    fill(ds, (tag for tag in listed() if Tag(tag) not in ds and tag >> 16 > 2))
    ds.PatientName, ds.PatientID, ds.SOPInstanceUID = f"{MARK}^Made", f"{MARK}-0001", "1.2.777.1"
    ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.777.1")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.777.2", "1.2.777.3"
    ds.file_meta.SourceApplicationEntityTitle = MARK
    ds.file_meta.ImplementationVersionName = MARK
    ds.file_meta.PrivateInformationCreatorUID = pydicom.uid.UID("1.2.777")
    ds.file_meta.PrivateInformation = MARK.encode() + b"\0"
    block = ds.private_block(0x0009, f"{MARK} MAKER", create=True)
    inner = Dataset()
    inner.PatientName = MARK
    for number, vr in enumerate(sorted(PLANTED)):
        block.add_new(number, vr, PLANTED[vr])
    block.add_new(0xF0, "SQ", Sequence([inner]))
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 8)
    ds.add_new(0x60003000, "OW", MARK.encode() * 2 + b"\0\0")
    ds.add_new(0x60004000, "LT", MARK)
    ds.add_new(0x50003000, "OW", MARK.encode() * 2)
    ds.add_new(0xFFFCFFFC, "OB", MARK.encode() + b"\0")
    # Kept attributes, with what they should not hold.
    ds.BodyPartExamined, ds.ViewPosition, ds.Manufacturer = MARK, MARK, MARK
    ds.KVP, ds.SeriesNumber, ds.InstanceNumber = "19400305", "19400305", "1"
    ds.PositionerType = "DOE JOHN"
    return saved(ds)


def errors_of(data: bytes, tmp_path: Path) -> set[str]:
    """Return the errors that dciodvfy finds."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    path = tmp_path / "film.dcm"
    path.write_bytes(data)
    told = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False).stderr.decode("latin-1")
    return {line for line in told.splitlines() if line.startswith("Error")}


def test_the_table_has_sound_lines() -> None:
    tags = [rule.tag for rule in PROFILE]
    assert tags == sorted(set(tags))
    for rule in PROFILE:
        assert set(rule.vr.split()) <= set(dictionary_VR(rule.tag).split(" or ")), hex(rule.tag)
    kept = {Action.TERMS, Action.NUMBERS, Action.SHORTS, Action.CODES, Action.LUT}
    may_stay = {Tag(rule.tag) for rule in PROFILE if rule.action in kept}
    assert may_stay & set(map(Tag, listed())) <= RETAINED


def test_the_options_are_codes_of_the_standard() -> None:
    known = {codes.DCM.BasicApplicationConfidentialityProfile, codes.DCM.RetainPatientCharacteristicsOption}
    known.add(codes.DCM.RetainLongitudinalTemporalInformationModifiedDatesOption)
    assert {(code.value, code.meaning) for code in known} == {BASIC_PROFILE, KEEP_DATES, KEEP_PATIENT}


@pytest.mark.parametrize("syntax", [*NATIVE, *CODED_LOSSLESS], ids=lambda uid: uid.name)
def test_nothing_that_the_standard_lists_survives(syntax: str) -> None:
    data = planted(syntax)
    assert all(word in data or syntax in NATIVE[3:] for word in SOUGHT)
    made = deidentify(data, OURS, source="film")
    before, after = parse(data), parse(made.data)
    survivors = {
        tag for tag in map(Tag, listed()) if tag in before and tag in after and after[tag].value == before[tag].value
    }
    assert survivors <= RETAINED
    assert {Tag(rule.tag) for rule in PROFILE} | {Tag(0x00120064), Tag(0x00280303)} >= set(after.keys())
    # A deflated file is searched as it is inside.
    plain = made.data if syntax not in NATIVE[3:] else saved_plain(after)
    assert not [word for word in SOUGHT if word in plain]
    assert after.PatientIdentityRemoved == "YES"
    assert after.BodyPartExamined == after.ViewPosition == after.Manufacturer == ""
    assert "KVP" not in after
    assert after.SeriesNumber is None
    assert after.PatientAge == "077Y"


def saved_plain(ds: Dataset) -> bytes:
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    ds.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [*NATIVE, *CODED_LOSSLESS], ids=lambda uid: uid.name)
@pytest.mark.parametrize(("bits", "rows"), [(12, 48), (8, 47)])
def test_pixels_stay_byte_for_byte(syntax: str, bits: int, rows: int) -> None:
    pixels = film(rows, 39, bits) if bits > 8 else film8(rows, 39)
    data = dicom(pixels, bits=bits, syntax=syntax)
    before, after = parse(data), parse(deidentify(data, OURS).data)
    assert after.file_meta.TransferSyntaxUID == syntax
    assert after["PixelData"].VR == before["PixelData"].VR or syntax == ImplicitVRLittleEndian
    if syntax in NATIVE:
        assert after.PixelData == before.PixelData
    else:
        fragments = [list(generate_fragments(ds.PixelData))[1:] for ds in (before, after)]
        assert fragments[0] == fragments[1]


@pytest.mark.parametrize("name", ["RG1_UNCR", "RG3_UNCR", "RG3_J2KI"])
def test_real_films(name: str, tmp_path: Path) -> None:
    data = (REAL / f"{name}.dcm").read_bytes()
    made = deidentify(data, OURS, source="film", allow_derived=True)
    before, after = parse(data), parse(made.data)
    head = made.data.replace(after.PixelData, b"")
    told = {
        text
        for item in before.iterall()
        if item.VR in ("AE", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "UT")
        and item.tag not in (Tag(0x00080016), Tag(0x00081150), Tag(0x00080102))
        for text in (str(part) for part in (item.value if item.VM > 1 else [item.value]))
        # Short ones and what they share with kept words: `Uncompressed` is not the patient, but it must go, too.
        if len(text) >= 4
    }
    assert {"CompressedSamples^" + name[:3], str(before.PatientBirthDate), before.AccessionNumber} <= told
    assert not [text for text in told if text.encode("latin-1") in head]
    assert hashlib.sha256(after.PixelData).digest() == hashlib.sha256(before.PixelData).digest() or name.endswith("I")
    assert read(made.data).pixel_hash == read(data).pixel_hash
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID == made.sop_instance_uid
    assert after.PatientID == made.patient
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    assert errors_of(made.data, tmp_path) <= errors_of(data, tmp_path)


def test_a_digital_film_stays_valid(tmp_path: Path) -> None:
    phantom = draw(Finding.NORMAL, np.random.default_rng(3), height=96, width=80)
    data = to_dicom(phantom, patient_id="P1")
    ds = parse(data)
    ds.AnatomicRegionSequence[0].CodeMeaning = MARK
    ds.ViewCodeSequence[0].CodeMeaning = MARK
    ds.ViewCodeSequence[0].PatientName = MARK
    modifier = Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = "399162004", "SCT", MARK
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([modifier])
    data = saved(ds)
    made = deidentify(data, OURS)
    after = parse(made.data)
    assert MARK.encode() not in made.data
    view = after.ViewCodeSequence[0]
    assert (view.CodeValue, view.CodeMeaning) == ("399348003", "antero-posterior")
    assert view.ViewModifierCodeSequence[0].CodeMeaning == "caudad"
    assert after.AcquisitionContextSequence == []
    assert errors_of(made.data, tmp_path) <= errors_of(data, tmp_path)


@pytest.mark.parametrize(
    ("value", "scheme", "stays"), [("R-10206", "SRT", True), ("445566", "SCT", False), ("R-10206", "99DOE", False)]
)
def test_codes_stay_only_from_the_standards_lists(value: str, scheme: str, stays: bool) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, MARK
    after = parse(deidentify(dicom(ViewCodeSequence=Sequence([item])), OURS).data)
    assert len(after.ViewCodeSequence) == stays
    if stays:
        assert (after.ViewCodeSequence[0].CodeValue, after.ViewCodeSequence[0].CodeMeaning) == (
            value,
            "antero-posterior",
        )


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
def test_tables_of_grey_stay_without_their_words(syntax: str) -> None:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 8]
    item.LUTExplanation = MARK
    entries = np.arange(4096) // 16
    item.add_new(0x00283006, "OW", entries.astype("<u2" if syntax != ExplicitVRBigEndian else ">u2").tobytes())
    item["LUTDescriptor"].VR = "US"
    data = dicom(syntax=syntax, VOILUTSequence=Sequence([item]), WindowCenter=None, WindowWidth=None)
    made = deidentify(data, OURS)
    after = parse(made.data)
    assert MARK not in str(after)
    assert set(map(int, after.VOILUTSequence[0].keys())) == {0x00283002, 0x00283006}
    assert read(made.data).pixel_hash == read(data).pixel_hash


def test_the_same_key_gives_the_same_bytes_and_another_key_other_names() -> None:
    data = dicom(StudyDate="20240115", PatientBirthDate=BORN)
    assert deidentify(data, OURS).data == deidentify(data, OURS).data
    ours, other = parse(deidentify(data, OURS).data), parse(deidentify(data, OTHER).data)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyDate"):
        assert ours[keyword].value != other[keyword].value, keyword


def test_a_patient_stays_one_and_intervals_stay() -> None:
    first = parse(deidentify(dicom(StudyDate="20240115", SeriesDate="20240115"), OURS).data)
    later = dicom(StudyDate="20240301", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", SOPInstanceUID="1.2.5")
    second = parse(deidentify(later, OURS).data)
    other = parse(deidentify(dicom(StudyDate="20240115", PatientID="other"), OURS).data)
    assert first.PatientID == second.PatientID != other.PatientID
    days = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (first.StudyDate, second.StudyDate, other.StudyDate)]
    assert days[1] - days[0] == np.timedelta64(46, "D")
    assert days[0] != days[2]
    assert first.SeriesDate == first.StudyDate
    assert len({first.StudyInstanceUID, second.StudyInstanceUID}) == 2
    assert first.StudyInstanceUID == other.StudyInstanceUID


def test_who_has_no_name_is_one_within_a_study() -> None:
    first = deidentify(dicom(PatientID=None), OURS)
    same = deidentify(dicom(PatientID="", SOPInstanceUID="1.2.5"), OURS)
    other = deidentify(dicom(PatientID=None, StudyInstanceUID="1.2.6"), OURS)
    assert first.patient == same.patient != other.patient


def test_dates_can_go() -> None:
    data = dicom(StudyDate="20240115", StudyTime="101112", PatientBirthDate="19840115", AcquisitionDate="20240115")
    after = parse(deidentify(data, OURS, dates=Dates.ZERO).data)
    assert after.StudyDate == after.AcquisitionDate == after.StudyTime == after.PatientBirthDate == ""
    assert after.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in after.DeidentificationMethodCodeSequence] == ["113100", "113108"]
    # It was known from the birth date.
    assert after.PatientAge == "040Y"


def test_the_preamble_is_empty_whatever_it_was() -> None:
    data = dicom()
    made = deidentify(b"II*\0" + MARK.encode().ljust(124, b"\0") + data[128:], OURS)
    assert made.data[:128] == bytes(128)
    assert made.data[128:132] == b"DICM"


@pytest.mark.parametrize("vr", ["UN", "OB"])
def test_a_value_of_unknown_representation_is_read_by_the_table_or_goes(vr: str) -> None:
    data = dicom(BodyPartExamined="CHEST", PatientComments="x")
    head = struct.pack("<HH", 0x0028, 0x0010)
    ours = struct.pack("<2sHL", vr.encode(), 0, 2)
    data = data.replace(head + struct.pack("<2sH", b"US", 2), head + ours)
    data = data.replace(b"CS\x06\x00CHEST ", b"UN\0\0" + struct.pack("<L", 6) + b"CHEST ")
    if vr == "UN":
        after = parse(deidentify(data, OURS).data)
        assert (after.Rows, after["Rows"].VR, after.BodyPartExamined) == (48, "US", "CHEST")
    else:
        # Without its rows it is no film.
        with pytest.raises(InputError):
            deidentify(data, OURS)


HELD: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: b"\x89PNG\r\n\x1a\n" + bytes(600),
    "secondary capture": lambda: dicom(SOPClassUID=SecondaryCaptureImageStorage, Modality="OT"),
    "several frames": lambda: dicom(SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage, NumberOfFrames=2),
    "CT": lambda: dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT"),
    "no UID": lambda: dicom(StudyInstanceUID=None),
    "cut short": lambda: dicom()[:-100],
    "polyglot": lambda: b"MZ".ljust(128, b"\0") + dicom()[128:],
    "unusual lookup table": lambda: dicom(ModalityLUTSequence=None, PixelSpacing=[1e9, 1e9]),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_back(name: str) -> None:
    with pytest.raises(InputError) as told:
        deidentify(HELD[name](), OURS, source="film")
    assert "MADE" not in str(told.value)
    assert "Nobody" not in str(told.value)


# Any text that a file can carry, in any attribute, at any depth.
_TEXTS = [
    kw
    for kw, tag in keyword_dict.items()
    if kw and tag >> 16 > 2 and dictionary_VR(tag) in ("LO", "LT", "PN", "SH", "ST", "UT", "AE", "CS", "UC")
]
_SEQUENCES = [kw for kw, tag in keyword_dict.items() if kw and tag >> 16 > 2 and dictionary_VR(tag) == "SQ"]
_OWN = {"SOPClassUID", "PhotometricInterpretation", "SpecificCharacterSet", "BurnedInAnnotation", "ConversionType"}
_LEAF = st.dictionaries(
    st.sampled_from([keyword for keyword in _TEXTS if keyword not in _OWN and not keyword.startswith("PixelData")]),
    st.text("ABC_019 ", max_size=6).map(lambda text: (MARK + text)[:16].strip()),
    min_size=1,
    max_size=4,
)
_TREE = st.recursive(
    _LEAF,
    lambda inner: st.tuples(_LEAF, st.sampled_from(_SEQUENCES), st.lists(inner, min_size=1, max_size=2)),
    max_leaves=6,
)


def build(tree: Any, ds: Dataset) -> Dataset:  # noqa: ANN401
    leaf, *branch = tree if isinstance(tree, tuple) else (tree,)
    for keyword, text in leaf.items():
        setattr(ds, keyword, text)
    if branch:
        setattr(ds, branch[0], Sequence([build(inner, Dataset()) for inner in branch[1]]))
        ds[branch[0]].is_undefined_length = len(leaf) % 2 == 0
    return ds


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_TREE, st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]))
def test_no_text_survives_wherever_it_stands(tree: Any, syntax: str) -> None:  # noqa: ANN401
    ds = build(tree, parse(dicom(film(16, 16), syntax=syntax)))
    data = saved(ds)
    try:
        made = deidentify(data, OURS, source="film")
    except InputError as error:
        told = str(error)
        assume(MARK in told)
        pytest.fail(told)
    assert MARK.encode() in data
    assert MARK.encode() not in made.data
    assert parse(made.data).PatientIdentityRemoved == "YES"


def test_a_lossy_film_stays_as_it_was() -> None:
    data = dicom(
        film8(), bits=8, syntax=JPEGBaseline8Bit, LossyImageCompression="01", LossyImageCompressionMethod="ISO_10918_1"
    )
    after = parse(deidentify(data, OURS).data)
    assert after.LossyImageCompression == "01"
    assert after.LossyImageCompressionMethod == "ISO_10918_1"
    assert after.file_meta.TransferSyntaxUID == JPEGBaseline8Bit


def test_a_digital_films_class_stays() -> None:
    made = deidentify(dicom(SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX"), OURS)
    assert parse(made.data).file_meta.MediaStorageSOPClassUID == DigitalXRayImageStorageForPresentation
