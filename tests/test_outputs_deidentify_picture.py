"""What hides in the pixels: words burned in, words beside the coded data, bits that no pixel uses."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import data_store
import numpy as np
import pytest
from made import CODED_LOSSLESS, Array, dicom, element, film, film8, frame, jpeg
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from rentgen.errors import InputError, PeerError, UnsupportedImageError
from rentgen.outputs.deidentify.burned_in import Tesseract
from rentgen.outputs.deidentify.dataset import deidentify
from rentgen.outputs.deidentify.pseudonyms import Pseudonyms

REAL = Path(data_store.__file__).parent / "data"
OURS = Pseudonyms(b"k" * 32)
WORDS = b"DOE^JOHN 1940"


@pytest.fixture(scope="module")
def tesseract() -> Tesseract:
    found = Tesseract.find()
    if found is None:
        pytest.skip("tesseract is not installed (Debian: tesseract-ocr)")
    return found


def smooth(rows: int = 400, columns: int = 600) -> Array:
    """Return a film of 12 bits that is dark above and bright below."""
    return film(rows, columns) // 4 + np.linspace(300, 2600, rows).astype(np.uint16)[:, None]


def burn(pixels: Array, value: int, row: int) -> Array:
    """Return pixels with a name and a number in them."""
    mask = Image.new("L", pixels.shape[::-1])
    ImageDraw.Draw(mask).text((40, row), "DOE^JOHN MRN 445566", fill=255, font=ImageFont.load_default(32))
    return np.where(np.asarray(mask) > 127, np.uint16(value), pixels).astype(np.uint16)


def test_a_clean_film_passes(tesseract: Tesseract) -> None:
    assert deidentify(dicom(smooth()), OURS, count_words=tesseract.count_words).data


@pytest.mark.parametrize(
    ("value", "row", "options"),
    [
        (4095, 20, {}),
        (0, 300, {}),
        # The window that the header asks for hides these.
        (4095, 300, {"WindowCenter": 500, "WindowWidth": 400}),
        (4095, 200, {}),
        # One stray pixel makes the range so wide that only the window shows these.
        (2000, 20, {"WindowCenter": 1500, "WindowWidth": 3000, "stray": 60_000}),
    ],
    ids=["white", "black", "outside the window", "white on bright", "faint"],
)
def test_burned_in_words_hold_a_film_back(
    tesseract: Tesseract, value: int, row: int, options: dict[str, float]
) -> None:
    pixels = burn(smooth(), value, row)
    stray = int(options.pop("stray", 0))
    pixels[0, 0] = stray or pixels[0, 0]
    data = dicom(pixels, bits=16 if stray else 12, **options)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedImageError, match=r"burned into the picture: \d+ were read") as told:
        deidentify(data, OURS, source="film", count_words=tesseract.count_words)
    assert "DOE" not in str(told.value)
    assert "445566" not in str(told.value)


@pytest.mark.parametrize("name", ["RG1_UNCR", "RG3_UNCR"])
def test_real_films_without_words_pass(tesseract: Tesseract, name: str) -> None:
    data = (REAL / f"{name}.dcm").read_bytes()
    assert deidentify(data, OURS, count_words=tesseract.count_words, allow_derived=True).data


def test_a_reader_that_fails_lets_nothing_pass() -> None:
    with pytest.raises(PeerError, match="tesseract failed"):
        deidentify(dicom(), OURS, count_words=Tesseract("/bin/false").count_words)
    with pytest.raises(PeerError, match="tesseract failed"):
        deidentify(dicom(), OURS, count_words=Tesseract("/there/is/none").count_words)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "Burned In Annotation"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, "DERIVED"),
        ({"ImageType": ["ORIGINAL", "SECONDARY"]}, "SECONDARY"),
        ({"ConversionType": "WSD"}, "Conversion Type"),
    ],
)
def test_suspects_by_the_header(values: dict[str, object], reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        deidentify(dicom(**values), OURS)  # type: ignore[arg-type]


def test_derived_films_pass_where_told_so() -> None:
    assert deidentify(dicom(ImageType=["DERIVED", "PRIMARY"], BurnedInAnnotation="NO"), OURS, allow_derived=True)
    with pytest.raises(UnsupportedImageError, match="SECONDARY"):
        deidentify(dicom(ImageType=["DERIVED", "SECONDARY"]), OURS, allow_derived=True)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("values", "bits", "passes"),
    [
        ({}, 0x0000, True),
        ({}, 0x8000, False),
        ({"HighBit": 15}, 0x0001, False),
        ({"PixelRepresentation": 1}, 0xF000, True),
        ({"PixelRepresentation": 1}, 0x7000, False),
    ],
)
def test_bits_that_no_pixel_uses(syntax: str, values: dict[str, object], bits: int, passes: bool) -> None:
    pixels = np.full((32, 32), 0x0800, np.uint16)
    pixels[::2] = 0x0400
    if values.get("HighBit"):
        pixels = (pixels << 4).astype(np.uint16)
    pixels[0, 0] |= np.uint16(bits)
    if values.get("PixelRepresentation"):
        pixels[0, 0] |= np.uint16(0x0800)
    data = dicom(pixels, syntax=syntax, **values)  # type: ignore[arg-type]
    if passes:
        assert deidentify(data, OURS).data
    else:
        with pytest.raises(UnsupportedImageError, match="no grey level uses"):
            deidentify(data, OURS)


def test_a_graphic_in_unused_bits() -> None:
    overlay = element(0x60000100, b"US", struct.pack("<H", 16)) + element(0x60000102, b"US", struct.pack("<H", 12))
    data = dicom()
    place = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    with pytest.raises(UnsupportedImageError, match="unused bits"):
        deidentify(data[:place] + overlay + data[place:], OURS)


def test_what_follows_the_pixels_goes() -> None:
    data = dicom()
    place = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW")) + 8
    (size,) = struct.unpack_from("<L", data, place)
    longer = data[:place] + struct.pack("<L", size + 14) + data[place + 4 :] + WORDS + b"\0"
    made = deidentify(longer, OURS)
    assert made.data == deidentify(data, OURS).data


def comment(coded: bytes, words: bytes) -> bytes:
    """Return a JPEG with a comment behind its first marker."""
    return coded[:2] + b"\xff\xfe" + struct.pack(">H", len(words) + 2) + words + coded[2:]


def comment_2000(coded: bytes, words: bytes) -> bytes:
    """Return a JPEG 2000 codestream with a comment behind its size."""
    end = 4 + struct.unpack_from(">H", coded, 4)[0]
    return coded[:end] + b"\xff\x64" + struct.pack(">HH", len(words) + 4, 1) + words + coded[end:]


def late(coded: bytes, words: bytes) -> bytes:
    """Return a JPEG with a comment before its end."""
    end = coded.rindex(b"\xff\xd9")
    return coded[:end] + b"\xff\xfe" + struct.pack(">H", len(words) + 2) + words + coded[end:]


def behind(coded: bytes, words: bytes) -> bytes:
    return coded + words


def in_exif(_: bytes, words: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = words.decode()
    return jpeg(film8(), quality=95, exif=exif)


@pytest.mark.parametrize(
    ("syntax", "put"),
    [
        (JPEGBaseline8Bit, comment),
        (JPEGBaseline8Bit, late),
        (JPEGBaseline8Bit, behind),
        (JPEGBaseline8Bit, in_exif),
        (JPEGLSLossless, comment),
        (JPEGLSLossless, late),
        (JPEG2000Lossless, comment_2000),
        (JPEG2000Lossless, behind),
    ],
)
def test_words_beside_the_coded_data(syntax: str, put: Callable[[bytes, bytes], bytes]) -> None:
    coded = frame(film8(), syntax, 8)
    coded += b"\0" * (len(coded) % 2)
    assert deidentify(dicom(film8(), bits=8, syntax=syntax, raw=coded), OURS).data
    with pytest.raises(InputError) as told:
        deidentify(dicom(film8(), bits=8, syntax=syntax, raw=put(coded.rstrip(b"\0"), WORDS)), OURS, source="film")
    assert "DOE" not in str(told.value)


@pytest.mark.parametrize(
    "words", [b"Kakadu-v5.2.1", b"Created by OpenJPEG version 2.5.0", b"Creator: JasPer Version 1.900.1"]
)
def test_coders_may_name_themselves(words: bytes) -> None:
    coded = comment_2000(frame(film8(), JPEG2000Lossless, 8), words)
    assert words in deidentify(dicom(film8(), bits=8, syntax=JPEG2000Lossless, raw=coded), OURS).data


@pytest.mark.parametrize("syntax", [RLELossless, *CODED_LOSSLESS[1:]])
def test_the_table_of_offsets_goes(syntax: str) -> None:
    data = dicom(syntax=syntax)
    place = data.index(struct.pack("<HHL", 0xFFFE, 0xE000, 4))
    planted = data[: place + 8] + b"DOE^" + data[place + 12 :]
    assert b"DOE^" not in deidentify(planted, OURS).data
