"""DICOM films, against dcmtk, against pydicom and against the standard's formulas."""

from __future__ import annotations

import pathlib
import warnings
import zlib
from typing import Any

import data_store
import made
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from rentgen.errors import InputError
from rentgen.images.dicom import PATIENT_ID, SOP_INSTANCE_UID, _find_age, _open, is_dicom, read_text
from rentgen.images.dicom_display import apply_window
from rentgen.images.dicom_elements import PIXEL_DATA
from rentgen.images.limits import DEFAULT_LIMITS, orient
from rentgen.images.read import read
from rentgen.records import Float64

DATA = pathlib.Path(data_store.__file__).parent / "data"


AGE_TAGS = {
    "StudyDate": 0x00080020,
    "SeriesDate": 0x00080021,
    "AcquisitionDate": 0x00080022,
    "PatientBirthDate": 0x00100030,
    "PatientAge": 0x00101010,
}


def age_of(values: list[bytes]) -> float | None:
    """Return the age in a header with these elements, which pydicom would refuse to write where they are odd."""
    body = b"".join(made.element(tag, b"LO", value) for tag, value in zip(AGE_TAGS.values(), values, strict=True))
    return _find_age(_open(made.part10(body), "film", DEFAULT_LIMITS, stop=PIXEL_DATA))


def shown(data: bytes) -> Float64:
    """Return the film's shades, from 0 to 1, as stored (a flip undone)."""
    film = read(data)
    return orient(film.pixels, film.orientation) / 65535.0


def window(values: Float64, center: float, width: float) -> Float64:
    """PS3.3 C.11.2.1.2.1, as the standard writes it."""
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    inner = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    return np.where(values <= low, 0.0, np.where(values > high, 1.0, inner))


def dcmtk(path: pathlib.Path, folder: pathlib.Path, *options: str) -> Float64:
    """Return dcmtk's shades of a file, from 0 to 1."""
    made.run("dcm2pnm", "+on2", *options, path, folder / "out.png")
    with Image.open(folder / "out.png") as image:
        return np.asarray(image).astype(np.float64) / 65535.0


# Against dcmtk


@pytest.mark.parametrize(
    ("name", "option"), [("RG1_UNCR", "+Wi"), ("RG3_UNCR", "+Wi"), ("RG3_UNCI", "+Wi"), ("vlut_04", "+Wl")]
)
def test_public_films_are_shown_as_dcmtk_shows_them(name: str, option: str, tmp_path: pathlib.Path) -> None:
    expected = dcmtk(DATA / f"{name}.dcm", tmp_path, option, "1")
    np.testing.assert_allclose(shown((DATA / f"{name}.dcm").read_bytes()), expected, atol=1.6 / 65535)


def test_modality_lut_as_dcmtk(tmp_path: pathlib.Path) -> None:
    # Neither side has a window: dcmtk shows the whole range, and so do we where the film fills it.
    expected = dcmtk(DATA / "mlut_18.dcm", tmp_path)
    result = shown((DATA / "mlut_18.dcm").read_bytes())
    assert np.corrcoef(result.ravel(), expected.ravel())[0, 1] > 0.999999


@pytest.mark.parametrize(
    ("photometric", "shape", "bits"),
    [
        *(
            (photometric, None, bits)
            for photometric in ("MONOCHROME1", "MONOCHROME2")
            for bits in (8, 10, 12, 14, 15, 16)
        ),
        *((photometric, "IDENTITY", 12) for photometric in ("MONOCHROME1", "MONOCHROME2")),
        *((photometric, "INVERSE", 12) for photometric in ("MONOCHROME1", "MONOCHROME2")),
    ],
)
def test_made_films_are_shown_as_dcmtk_shows_them(
    photometric: str, shape: str | None, bits: int, tmp_path: pathlib.Path
) -> None:
    data = made.dicom(bits=bits, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    (tmp_path / "in.dcm").write_bytes(data)
    expected = dcmtk(tmp_path / "in.dcm", tmp_path, "+Wi", "1")
    np.testing.assert_allclose(shown(data), expected, atol=2e-5)


@pytest.mark.parametrize("center_width", [(2000, 1500), (2000, 2), (2000, 1), (-100, 900)])
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
def test_windows_as_dcmtk(center_width: tuple[float, float], function: str, tmp_path: pathlib.Path) -> None:
    center, width = center_width
    data = made.dicom(
        WindowCenter=center, WindowWidth=width, VOILUTFunction=function, RescaleSlope=1, RescaleIntercept=-1024
    )
    (tmp_path / "in.dcm").write_bytes(data)
    np.testing.assert_allclose(shown(data), dcmtk(tmp_path / "in.dcm", tmp_path, "+Wi", "1"), atol=4e-5)


def test_left_aligned_values_as_dcmtk(tmp_path: pathlib.Path) -> None:
    film = made.film(bits=10)
    data = made.dicom(film << 6, bits=10, HighBit=15)
    (tmp_path / "in.dcm").write_bytes(data)
    np.testing.assert_allclose(shown(data), dcmtk(tmp_path / "in.dcm", tmp_path, "+Wi", "1"), atol=2e-5)
    np.testing.assert_array_equal(shown(data), shown(made.dicom(film, bits=10)))


# Against pydicom


@pytest.mark.parametrize("path", sorted(DATA.glob("*.dcm")), ids=lambda path: path.stem)
def test_every_public_file_is_refused_or_read_as_pydicom_reads_it(path: pathlib.Path) -> None:
    try:
        film = read(path)
    except InputError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path)
        assert film.pixels.shape == (ds.Rows, ds.Columns)
        assert film.patient_id == (str(ds.PatientID).strip() or None)
        assert film.study_instance_uid == ds.StudyInstanceUID
        assert film.sop_instance_uid == ds.SOPInstanceUID
        assert film.modality == ds.Modality
        assert film.bits == ds.BitsStored


@pytest.mark.parametrize("name", ["RG1", "RG3"])
def test_public_lossless_films_are_the_same_film(name: str) -> None:
    plain, coded = read(DATA / f"{name}_UNCR.dcm"), read(DATA / f"{name}_J2KR.dcm")
    assert plain.pixels.tobytes() == coded.pixels.tobytes()
    lossy = read(DATA / f"{name}_J2KI.dcm")
    assert lossy.pixels.tobytes() == read(DATA / f"{name}_UNCI.dcm").pixels.tobytes()
    assert "lossy compression" in lossy.notes


# Transfer syntaxes


@pytest.mark.parametrize("syntax", [*made.NATIVE, *made.CODED_LOSSLESS])
@pytest.mark.parametrize(("bits", "small"), [(8, True), (8, False), (10, False), (12, False), (15, False), (16, False)])
def test_each_lossless_syntax_gives_the_same_bytes(syntax: str, bits: int, small: bool) -> None:
    film = made.film(37, 33, bits)
    stored = film.astype(np.uint8) if small else film
    expected = read(made.dicom(film, bits=bits)).pixels.tobytes()
    assert read(made.dicom(stored, bits=bits, syntax=syntax)).pixels.tobytes() == expected


@pytest.mark.parametrize("syntax", [*made.NATIVE, *made.CODED_LOSSLESS])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_signed_values_in_each_lossless_syntax(syntax: str, bits: int) -> None:
    film = made.film(34, 36, bits).astype(np.int64)
    codes = ((film - (1 << (bits - 1))) & ((1 << bits) - 1)).astype(np.uint16)
    data = made.dicom(codes, bits=bits, syntax=syntax, PixelRepresentation=1, WindowCenter=0, WindowWidth=2.0**bits)
    np.testing.assert_allclose(
        shown(data), window(film.astype(np.float64) - 2.0 ** (bits - 1), 0, 2.0**bits), atol=1e-5
    )


@pytest.mark.parametrize(
    ("program", "options"),
    [("dcmcjpeg", ["+e1"]), ("dcmcjpeg", ["+el", "+sv", "4"]), ("dcmcjpls", []), ("dcmcrle", [])],
    ids=["jpeg-lossless-sv1", "jpeg-lossless", "jpeg-ls", "rle"],
)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_transcodes_of_dcmtk_give_the_same_bytes(
    program: str, options: list[str], bits: int, tmp_path: pathlib.Path
) -> None:
    film = made.film8(40, 33) if bits == 8 else made.film(40, 33, bits)
    data = made.dicom(film, bits=bits)
    (tmp_path / "in.dcm").write_bytes(data)
    made.run(program, *options, tmp_path / "in.dcm", tmp_path / "coded.dcm")
    coded = read(tmp_path / "coded.dcm")
    assert coded.pixels.tobytes() == read(data).pixels.tobytes()
    assert "lossy compression" not in coded.notes


def test_a_large_film_in_rle_of_dcmtk(tmp_path: pathlib.Path) -> None:
    made.run("dcmcrle", DATA / "RG3_UNCR.dcm", tmp_path / "coded.dcm")
    assert read(tmp_path / "coded.dcm").pixels.tobytes() == read(DATA / "RG3_UNCR.dcm").pixels.tobytes()


def test_baseline_jpeg() -> None:
    film = made.film8()
    result = read(made.dicom(film, bits=8, syntax=JPEGBaseline8Bit))
    assert "lossy compression" in result.notes
    assert np.abs(result.pixels / 257.0 - film).max() < 16


def test_odd_8_bit_film_in_big_endian_words() -> None:
    film = made.film8(5, 3)
    data = film.tobytes() + b"\0"
    swapped = np.frombuffer(data, np.uint16).byteswap().tobytes()
    file = made.dicom(film, bits=8, syntax=ExplicitVRBigEndian)
    file = file.replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10OW").replace(data, swapped)
    np.testing.assert_array_equal(read(file).pixels, read(made.dicom(film, bits=8)).pixels)


def test_a_file_that_contradicts_its_transfer_syntax_is_read_as_it_is_written() -> None:
    explicit, implicit = made.dicom(), made.dicom(syntax=ImplicitVRLittleEndian)
    # The same length, so that the meta information stays true.
    wrong = explicit.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1)
    assert read(wrong).pixels.tobytes() == read(implicit).pixels.tobytes()


def test_without_preamble_and_meta_information() -> None:
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        data = made.dicom(syntax=syntax)
        body = data[data.index(b"\x08\0\x16\0" if syntax != ExplicitVRBigEndian else b"\0\x08\0\x16") :]
        assert is_dicom(body[:512])
        assert read(body).pixels.tobytes() == read(data).pixels.tobytes()
    assert read(made.dicom()[132:]).pixels.shape == (48, 40)


# Pixel rules


@pytest.mark.parametrize("bits", [10, 12])
def test_stray_bits_are_masked(bits: int) -> None:
    film = made.film(bits=bits)
    assert (
        shown(made.dicom(film | 0xF000 & ~((1 << bits) - 1), bits=bits)).tolist()
        == shown(made.dicom(film, bits=bits)).tolist()
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("center_width", [(300.0, 400.0), (300.0, 2.0), (300.5, 1.0)])
def test_window_formulas(function: str, center_width: tuple[float, float]) -> None:
    center, width = center_width
    values = np.arange(1024.0)
    expected = {
        "LINEAR": window(values, center, width) if width > 1 else (values > center - 0.5).astype(float),
        "LINEAR_EXACT": np.clip((values - center) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))),
    }[function]
    result = apply_window(values, center, width, function)
    assert result is not None
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 0.5), ("LINEAR_EXACT", 0.0), ("SIGMOID", -1.0), ("X", 9.0)])
def test_a_window_that_is_not_usable_gives_way_to_the_films_range(function: str, width: float) -> None:
    film = read(made.dicom(WindowWidth=width, VOILUTFunction=function))
    assert film.notes == ("window in the header not usable", "window from the film's own range")


def test_no_window_uses_percentiles_without_padding() -> None:
    codes = np.full((100, 100), 4000, np.uint16)
    codes[10:90, 10:90] = np.linspace(500, 1500, 6400).reshape(80, 80)
    film = read(made.dicom(codes, WindowCenter=None, WindowWidth=None, PixelPaddingValue=4000))
    low, high = np.quantile(codes[10:90, 10:90], [0.005, 0.995])
    expected = np.clip((codes - low) / (high - low), 0, 1)
    expected[codes == 4000] = 0
    np.testing.assert_allclose(film.pixels / 65535, expected, atol=2e-3)
    assert (
        film.notes == ("padding painted black", "window from the film's own range")
        or "padding painted black" in film.notes
    )


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_in_both_polarities(photometric: str) -> None:
    codes = made.film()
    codes[:5] = 4000
    codes[5:8] = 4050
    film = read(
        made.dicom(codes, PhotometricInterpretation=photometric, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    )
    assert not film.pixels[:8].any()
    assert film.pixels[8:].any()


def test_signed_padding_is_compared_before_the_rescale() -> None:
    values = made.film().astype(np.int64) - 2048
    values[0] = -2000
    file = made.dicom(
        (values & 0xFFFF).astype(np.uint16),
        bits=16,
        PixelRepresentation=1,
        PixelPaddingValue=-2000,
        RescaleSlope=2,
        RescaleIntercept=5000,
        WindowCenter=5000,
        WindowWidth=8192,
    )
    film = read(file)
    assert not film.pixels[0].any()
    expected = window(values.astype(np.float64) * 2.0 + 5000, 5000, 8192)
    expected[values == -2000] = 0
    np.testing.assert_allclose(film.pixels / 65535, expected, atol=1e-5)


def test_first_of_several_windows() -> None:
    film = read(made.dicom(WindowCenter=[1000, 2000, 3000], WindowWidth=[500, 600, 700]))
    assert "first of 3 windows" in film.notes
    np.testing.assert_array_equal(film.pixels, read(made.dicom(WindowCenter=1000, WindowWidth=500)).pixels)


def test_rescale_slope_of_zero_is_ignored() -> None:
    film = read(made.dicom(RescaleSlope=0, RescaleIntercept=0))
    assert "rescale slope of zero ignored" in film.notes
    np.testing.assert_array_equal(film.pixels, read(made.dicom()).pixels)


def test_blank_film_is_black() -> None:
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        blank = np.full((20, 20), 7, np.uint16)
        film = read(made.dicom(blank, PhotometricInterpretation=photometric, WindowCenter=None, WindowWidth=None))
        assert not film.pixels.any()
        assert "blank: one grey level" in film.notes
    padded = read(made.dicom(np.full((20, 20), 7, np.uint16), WindowCenter=None, PixelPaddingValue=7))
    assert not padded.pixels.any()


def lut(descriptor: list[int], entries: bytes) -> list[pydicom.Dataset]:
    item = pydicom.Dataset()
    item.LUTDescriptor = descriptor
    item["LUTDescriptor"].VR = "US"
    item.LUTData = entries
    item["LUTData"].VR = "OW"
    return [item]


def test_voi_lut_wins_over_a_window() -> None:
    curve = (np.linspace(0, 1, 4096) ** 2 * 1023).astype("<u2")
    film = made.film()
    data = made.dicom(film, VOILUTSequence=lut([4096, 0, 10], curve.tobytes()))
    np.testing.assert_allclose(shown(data), curve[film] / 1023.0, atol=1e-5)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_lut_of_65536_entries_and_a_negative_first_value(syntax: str) -> None:
    curve = np.arange(65536, dtype="<u2")
    codes = made.film(bits=16)
    data = made.dicom(
        codes, bits=16, syntax=syntax, PixelRepresentation=1, ModalityLUTSequence=lut([0, 32768, 16], curve.tobytes()),
        WindowCenter=32768, WindowWidth=65536,
    )  # fmt: skip
    np.testing.assert_allclose(shown(data), (codes.astype(np.int16) + 32768.0) / 65535, atol=1e-5)


def test_lut_of_8_bit_entries() -> None:
    curve = np.arange(256, dtype=np.uint8)[::-1]
    film = made.film8()
    data = made.dicom(film, bits=8, VOILUTSequence=lut([256, 0, 8], curve.tobytes()))
    np.testing.assert_allclose(shown(data), curve[film] / 255.0, atol=1e-5)


@pytest.mark.parametrize(
    ("descriptor", "entries"),
    [
        ([4096, 0], b"\0" * 8192),
        ([4096, 0, 40], b"\0" * 8192),
        ([4096, 0, 12], b"\0" * 100),
        ([4096, 0, 12], b"\0" * 5000),
    ],
)
def test_damaged_lookup_tables_are_refused(descriptor: list[int], entries: bytes) -> None:
    with pytest.raises(InputError, match=r"lookup table \(0028,300[26]\) is damaged"):
        read(made.dicom(VOILUTSequence=lut(descriptor, entries)))


def test_damaged_lookup_sequence_is_refused() -> None:
    body = made.dicom()
    broken = made.element(0x00283010, b"SQ", b"\x08\0\x05\0CS\0\0")
    cut = body.index(b"\xe0\x7f\x10\0OW")
    with pytest.raises(InputError, match=r"sequence \(0028,3010\) is damaged"):
        read(body[:cut] + broken + body[cut:])


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "noted"),
    [
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME2", None, False, False),
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME1", "IDENTITY", False, True),
        ("MONOCHROME2", "INVERSE", True, True),
    ],
)
def test_polarity(photometric: str, shape: str | None, inverted: bool, noted: bool) -> None:
    film = read(made.dicom(PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    plain = read(made.dicom()).pixels.astype(int)
    assert np.abs(film.pixels - (65535 - plain if inverted else plain)).max() <= 1
    assert any(note.startswith("polarity in doubt") for note in film.notes) is noted


def test_unknown_presentation_lut_shape_is_ignored_and_noted() -> None:
    film = read(made.dicom(PresentationLUTShape="LIN OD"))
    assert "unknown presentation LUT shape ignored" in film.notes


# What the film is


@pytest.mark.parametrize(
    ("orientation", "code"),
    [("L\\F", 1), ("R\\F", 2), ("R\\H", 3), ("L\\H", 4), ("A\\F", 1), ("P\\F", 1), ("RF\\F", 1), ("R", 1), (None, 1)],
)
def test_patient_orientation(orientation: str | None, code: int) -> None:
    value = None if orientation is None else orientation.split("\\")
    film = read(made.dicom(PatientOrientation=value))
    assert film.orientation == code
    assert ("turned by patient orientation" in film.notes) is (code != 1)
    np.testing.assert_array_equal(film.pixels, orient(read(made.dicom()).pixels, code))


def test_mirrored_public_film_is_flipped() -> None:
    film = read(DATA / "RG3_UNCR.dcm")
    assert film.orientation == 2
    assert film.spacing_mm is None or min(film.spacing_mm) > 0


def test_field_of_view_flip_is_not_done_again() -> None:
    film = read(made.dicom(FieldOfViewHorizontalFlip="YES", FieldOfViewRotation=90, PatientOrientation=["L", "F"]))
    np.testing.assert_array_equal(film.pixels, read(made.dicom()).pixels)


@pytest.mark.parametrize(
    ("elements", "spacing", "note"),
    [
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3), None),
        ({"PixelSpacing": [0.0, 0.0]}, None, "pixel spacing of zero or unreadable, ignored"),
        ({"PixelSpacing": [0.2]}, None, "pixel spacing of zero or unreadable, ignored"),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, None, "pixel spacing known at the detector only"),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]},
            None,
            "pixel spacing known at the detector only",
        ),
        (
            {
                "ImagerPixelSpacing": [0.2, 0.2],
                "PixelSpacing": [0.2, 0.2],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            (0.2, 0.2),
            None,
        ),
        ({}, None, None),
    ],
)
def test_spacing(elements: dict[str, Any], spacing: tuple[float, float] | None, note: str | None) -> None:
    film = read(made.dicom(**elements))
    assert film.spacing_mm == spacing
    assert film.notes == (() if note is None else (note,))


def test_identity() -> None:
    film = read(made.dicom())
    assert (film.patient_id, film.modality, film.body_part_examined, film.view_position) == (
        made.PATIENT_ID,
        "CR",
        "CHEST",
        "PA",
    )
    assert (film.source_format, film.bits, film.sop_class_uid) == ("dicom", 12, "1.2.840.10008.5.1.4.1.1.1")
    assert film.series_instance_uid == "1.2.826.0.1.3680043.10.1.2"
    assert made.PATIENT_ID not in repr(film)
    assert "lossy compression" in read(made.dicom(LossyImageCompression="01")).notes


@pytest.mark.parametrize(
    ("elements", "years"),
    [
        ({"PatientAge": "034Y"}, 34),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 26 * 7 / 365.2425),
        ({"PatientAge": "010D"}, 10 / 365.2425),
        ({"PatientAge": "000D"}, 0),
        ({"PatientAge": "7y"}, 7),
        ({"PatientAge": "12 M"}, 1),
        ({"PatientAge": "034"}, None),
        ({"PatientAge": "Y"}, None),
        ({"PatientAge": "999Y"}, None),
        ({"PatientAge": "-05Y"}, None),
        ({"PatientAge": "old"}, None),
        ({"PatientAge": ""}, None),
        ({"PatientAge": "034Y", "PatientBirthDate": "20000101", "StudyDate": "20010101"}, 34),
        ({"PatientAge": "034", "PatientBirthDate": "20000101", "StudyDate": "20100101"}, 10),
        ({"PatientBirthDate": "20000101", "StudyDate": "20010101"}, 1),
        ({"PatientBirthDate": "2000.01.01", "StudyDate": "2010.01.01"}, 10),
        ({"PatientBirthDate": "20000101", "AcquisitionDate": "20050101"}, 5),
        ({"PatientBirthDate": "20000101", "StudyDate": "unknown", "SeriesDate": "20050101"}, 5),
        ({"PatientBirthDate": "20000101", "StudyDate": "20000101"}, 0),
        ({"PatientBirthDate": "20000229", "StudyDate": "20180301"}, 18 + (1 - 28 / 31) / 12),
        ({"PatientBirthDate": "20000331", "StudyDate": "20180330"}, 18 - 1 / 31 / 12),
        ({"PatientBirthDate": "20000101"}, None),
        ({"StudyDate": "20000101"}, None),
        ({"PatientBirthDate": "20010101", "StudyDate": "20000101"}, None),
        ({"PatientBirthDate": "18000101", "StudyDate": "20000101"}, None),
        ({"PatientBirthDate": "20000231", "StudyDate": "20100101"}, None),
        ({"PatientBirthDate": "00000000", "StudyDate": "20100101"}, None),
        ({"PatientBirthDate": "2000", "StudyDate": "20100101"}, None),
        ({}, None),
    ],
)
def test_age(elements: dict[str, str], years: float | None) -> None:
    values = [elements.get(name, "").encode() for name in AGE_TAGS]
    assert age_of(values) == (None if years is None else pytest.approx(years))


def test_the_age_is_read_and_not_shown() -> None:
    for data in made.dicom(PatientAge="005Y"), made.dicom(PatientBirthDate="20000101", StudyDate="20050101"):
        film = read(data)
        assert film.patient_age_years == pytest.approx(5)
        assert "age" not in repr(film)
    assert read(made.dicom()).patient_age_years is None


@given(st.lists(st.binary(max_size=12), min_size=5, max_size=5))
def test_any_age_and_dates_are_borne(values: list[bytes]) -> None:
    years = age_of(values)
    assert years is None or 0 <= years <= 125


def test_read_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "film"
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, DeflatedExplicitVRLittleEndian):
        path.write_bytes(made.dicom(syntax=syntax))
        assert read_text(path, PATIENT_ID) == made.PATIENT_ID
        assert read_text(path, SOP_INSTANCE_UID) == "1.2.826.0.1.3680043.10.1.3"
    path.write_bytes(made.dicom(PatientID=""))
    assert read_text(str(path), PATIENT_ID) is None
    path.write_bytes(made.dicom(SpecificCharacterSet="ISO_IR 144", PatientID="Їжак"))
    assert read_text(path, PATIENT_ID) == "Їжак"
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="not a DICOM file"):
        read_text(path, PATIENT_ID)
    with pytest.raises(InputError, match="cannot be opened"):
        read_text(tmp_path / "missing", PATIENT_ID)


def test_read_text_of_a_large_deflated_film(tmp_path: pathlib.Path) -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 16, (1500, 1500), np.uint16)
    data = made.dicom(noise, bits=16, syntax=DeflatedExplicitVRLittleEndian)
    assert len(data) > 4_100_000
    path = tmp_path / "film"
    path.write_bytes(data)
    assert read_text(path, PATIENT_ID) == made.PATIENT_ID


def test_read_text_inflates_no_more_than_a_head(tmp_path: pathlib.Path) -> None:
    patient = made.element(PATIENT_ID, b"LO", b"MADE")
    for padding, found in ((3_000_000, True), (50_000_000, False)):
        deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = deflate.compress(made.element(0x00090010, b"OB", bytes(padding)) + patient) + deflate.flush()
        path = tmp_path / "film"
        path.write_bytes(made.part10(body, syntax=DeflatedExplicitVRLittleEndian))
        if found:
            assert read_text(path, PATIENT_ID) == "MADE"
        else:
            with pytest.raises(InputError, match="cut short"):
                read_text(path, PATIENT_ID)


def test_read_text_of_a_damaged_deflated_film(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(made.part10(b"\xff" * 64, syntax=DeflatedExplicitVRLittleEndian))
    with pytest.raises(InputError, match="deflated DICOM file is damaged"):
        read_text(path, SOP_INSTANCE_UID)


def test_is_dicom() -> None:
    assert is_dicom(made.dicom()[:132])
    assert not is_dicom(b"")
    assert not is_dicom(made.png(made.film8())[:512])
    assert not is_dicom(b"\x08\0" * 200)
