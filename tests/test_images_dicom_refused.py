"""DICOM files that are refused: unsound, hostile, or sound and not analysed; and how the reader behaves."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import struct
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from time import perf_counter
from typing import Any

import made
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.dicom import read_dicom
from rentgen.images.limits import Limits
from rentgen.images.read import read
from rentgen.records import Radiograph

UNSEEN = (made.PATIENT_ID, made.PATIENT_NAME, "Nobody")


# Refused


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 2}, "several frames"),
        ({"SamplesPerPixel": 3}, "in colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"BitsAllocated": 32}, "allocates 32 bits"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10", "FileSetID": "X", "DirectoryRecordSequence": []}, "DICOMDIR"),
    ],
)
def test_sound_but_not_analysed(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        read(made.dicom(**elements))


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PhotometricInterpretation": None}, "lacks Photometric Interpretation"),
        ({"Rows": None}, "lacks Rows"),
        ({"Columns": 0}, "has no pixels: 48 rows x 0 columns"),
        ({"Rows": 60000}, "too large: 60000 rows x 40 columns; at most 10000 a side and 100 million pixels"),
        ({"Rows": 480}, "cut short: 480 x 40 pixels need 38400 bytes, and 3840 are there"),
        ({"BitsStored": 17}, "contradicts itself: Bits Allocated 16, Bits Stored 17"),
        ({"HighBit": 5}, "contradicts itself: Bits Allocated 16, Bits Stored 12, High Bit 5"),
        ({"PixelRepresentation": 2}, "Expected Pixel Representation to be 0 or 1, but got 2"),
    ],
)
def test_contradictory_headers(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(made.dicom(**elements))


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.840.10008.1.2.4.102", "is a video"),
        ("1.2.840.10008.1.2.4.201", r"coding that is not read \(transfer syntax 1\.2\.840\.10008\.1\.2\.4\.201\)"),
        ("NOBODY^MADE", r"transfer syntax not a UID"),
    ],
)
def test_other_transfer_syntaxes(syntax: str, reason: str) -> None:
    body = made.dicom(syntax=RLELossless)
    body = body[body.index(b"\x08\0\x16\0") :]
    with pytest.raises(UnsupportedImageError, match=reason):
        read(made.part10(body, syntax=syntax))


def test_no_image_in_it() -> None:
    body = made.element(0x00080060, b"CS", b"SR") + made.element(0x00100020, b"LO", b"X ")
    with pytest.raises(UnsupportedImageError, match="holds no image"):
        read(made.part10(body))
    with pytest.raises(UnsupportedImageError, match="pixels that are fractions"):
        read(made.part10(body + made.element(0x7FE00008, b"OW", b"\0\0\0\0") + b""))


def test_no_transfer_syntax() -> None:
    data = made.part10(made.element(0x00100020, b"LO", b"X "), syntax="")
    with pytest.raises(InputError, match="does not name its transfer syntax"):
        read(data)


def test_12_bit_lossy_jpeg() -> None:
    coded = b"\xff\xd8" + struct.pack(">2sHBHHBBBB", b"\xff\xc1", 11, 12, 48, 40, 1, 1, 0x11, 0)
    coded += struct.pack(">2sHBBBBBB", b"\xff\xda", 8, 1, 1, 0, 0, 63, 0) + b"\0\xff\xd9"
    with pytest.raises(UnsupportedImageError, match="12-bit lossy JPEG"):
        read(made.dicom(syntax=JPEGExtended12Bit, raw=coded))


@pytest.mark.parametrize("preamble", [b"MZ", b"\x7fELF", b"#!/bin/sh\n", b"PK\x03\x04", b"%PDF-1.7"])
def test_polyglots(preamble: bytes) -> None:
    with pytest.raises(InputError, match="first 128 bytes are not empty"):
        read(preamble.ljust(128, b"\0") + made.dicom()[128:])


@pytest.mark.parametrize("preamble", [b"II*\0", b"MM\0*"])
def test_a_tiff_preamble_is_welcome(preamble: bytes) -> None:
    assert read(preamble.ljust(128, b"\1") + made.dicom()[128:]).source_format == "dicom"


@pytest.mark.parametrize(
    ("syntax", "raw", "elements", "reason"),
    [
        (
            JPEG2000Lossless,
            b"",
            {"Rows": 8, "Columns": 8},
            "compressed image is 48 x 40 pixels, but the DICOM header says",
        ),
        (JPEGLSLossless, b"", {"Rows": 49}, "compressed image is 48 x 40 pixels"),
        (JPEG2000Lossless, b"junk" * 30, {}, "own header does not begin as a JPEG 2000"),
        (JPEGLSLossless, b"junk" * 30, {}, "own header does not begin as a JPEG does"),
        (JPEGLSLossless, b"\xff\xd8junk" * 30, {}, "own header is damaged"),
        (JPEGLSLossless, b"\xff\xd8\xff\xf7\xff\xff", {}, "own header is cut short"),
        (JPEGLossless, made.frame(made.film(), JPEGLSLossless, 12), {}, "not of the JPEG process"),
        (JPEGBaseline8Bit, made.frame(made.film(), JPEGLSLossless, 12), {}, "not of the JPEG process"),
        (JPEG2000Lossless, made.frame(made.film(), JPEG2000Lossless, 12)[:-200], {}, "cut short: they have no end"),
        (JPEGLSLossless, made.frame(made.film(), JPEGLSLossless, 12)[:300] + b"\xff\xd9", {}, "cannot be decoded"),
        (RLELossless, b"\0" * 20, {}, "own header is cut short"),
        (RLELossless, b"\1" + b"\0" * 99, {}, "describes 1 segments where the pixels need 2"),
        (RLELossless, struct.pack("<16L", 2, 64, 9999, *[0] * 13) + b"\0" * 99, {}, "segments outside its data"),
        (RLELossless, struct.pack("<16L", 2, 64, 70, *[0] * 13) + b"\0" * 99, {}, "more pixels than its data can hold"),
        (
            RLELossless,
            struct.pack("<16L", 2, 64, 1064, *[0] * 13) + b"\x80" * 2000,
            {},
            "more pixels than its data hold",
        ),
        (RLELossless, b"", {"HighBit": 15}, "High Bit above Bits Stored in a compressed image"),
    ],
)
def test_codestreams_that_contradict_the_header(syntax: str, raw: bytes, elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(made.dicom(syntax=syntax, raw=raw, **elements))


def test_codestreams_in_colour_too_deep_or_doubled() -> None:
    colour = made.jpeg(np.zeros((48, 40, 3), np.uint8))
    with pytest.raises(UnsupportedImageError, match="in colour, though the DICOM header says grey"):
        read(made.dicom(made.film8(), bits=8, syntax=JPEGBaseline8Bit, raw=colour))
    deep = made.frame(made.film(bits=16), JPEGLSLossless, 16)
    with pytest.raises(InputError, match="16 bits a pixel, but the DICOM header allocates 8"):
        read(made.dicom(made.film8(), bits=8, syntax=JPEGLSLossless, raw=deep))
    doubled = deep[:2] + deep[2:15] + deep[2:]
    with pytest.raises(InputError, match="describes 2 frames, not one"):
        read(made.dicom(syntax=JPEGLSLossless, raw=doubled))
    tiles = bytearray(made.frame(made.film(), JPEG2000Lossless, 12))
    tiles[24:32] = b"\0" * 8
    with pytest.raises(InputError, match="subsampled or empty tiles"):
        read(made.dicom(syntax=JPEG2000Lossless, raw=bytes(tiles)))
    wide = bytearray(made.frame(made.film(300, 300), JPEG2000Lossless, 12))
    wide[24:32] = struct.pack(">LL", 1, 1)
    with pytest.raises(InputError, match="more tiles than the standard allows"):
        read(made.dicom(made.film(300, 300), syntax=JPEG2000Lossless, raw=bytes(wide)))


def test_damaged_encapsulation() -> None:
    data = made.dicom(syntax=RLELossless)
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    head = data[: data.rindex(b"\xe0\x7f\x10\0OB") + 12]
    for body, reason in (
        (data.removesuffix(end), "compressed pixels have no end"),
        (data[:-100], "a fragment of its pixels is not complete"),
        (head + b"\xfe\xff\0\xe0\0\0\0\0" + end, "compressed pixels are empty"),
        (head + b"\x08\0\x05\0CS\0\0" + end, "a fragment is not where it should be"),
    ):
        with pytest.raises(InputError, match=reason):
            read(body)
    many = head + b"\xfe\xff\0\xe0\0\0\0\0" * 40 + end
    with pytest.raises(InputError, match="too many fragments"):
        read(many, limits=Limits(max_elements=30))
    plain = made.dicom()
    with pytest.raises(InputError, match="compressed, but the DICOM header says they are not"):
        read(data.replace(RLELossless.encode() + b"\0", ExplicitVRLittleEndian.encode() + b"\0", 1))
    with pytest.raises(InputError, match="not compressed, but the DICOM header says they are"):
        read(made.part10(plain[plain.index(b"\x08\0\x16\0") :], syntax=RLELossless))


def test_damaged_elements() -> None:
    for body, reason in (
        (made.element(0x00080060, b"CS", b"CR", length=500), "longer than what is left"),
        (made.element(0x00080060, b"CS", b"CR") + b"\x08\0\x61", "ends in the middle of an element"),
        (made.element(0x00080060, b"CS", b"CR") + b"\x08\0\x61\0UT\0\0", "ends in the middle of an element"),
        (made.element(0x00080060, b"CS", b"CR") + b"\xfe\xff\0\xe0\0\0\0\0", "an item outside a sequence"),
        (made.element(0x00080060, b"CS", b"CR") + b"\x08\0\x61\0\1\2\0\0", "no value representation there"),
        (made.element(0x00081115, b"SQ", b"\x08\0\x05\0CS\0\0", length=0xFFFFFFFF), "no sequence item"),
    ):
        with pytest.raises(InputError, match=reason):
            read(made.part10(body))
    with pytest.raises(InputError, match="meta information is damaged or cut short"):
        read(made.part10(b"")[:150] + b"\xff" * 4)


def test_too_many_or_too_long_elements() -> None:
    many = made.element(0x00080061, b"CS", b"CR") * 50
    with pytest.raises(InputError, match="more than 40 elements before its pixels"):
        read(made.part10(many), limits=Limits(max_elements=40))
    data = made.dicom()
    cut = data.index(b"\xe0\x7f\x10\0OW")
    with pytest.raises(InputError, match=r"element \(0018,0015\) is longer than 1000 bytes"):
        read(
            data[:cut] + made.element(0x00180015, b"CS", b"9" * 2000) + data[cut:],
            limits=Limits(max_element_bytes=1000),
        )


# Bombs: refused at once and for nothing


def refused_cheaply(data: bytes, reason: str) -> None:
    tracemalloc.start()
    began = perf_counter()
    try:
        with pytest.raises(InputError, match=reason):
            read(data)
        took, peak = perf_counter() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < 2.0
    assert peak < 50_000_000


def nested(depth: int) -> bytes:
    opened = made.element(0x00081115, b"SQ", b"", length=0xFFFFFFFF) + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    return made.element(0x00080060, b"CS", b"CR") + opened * depth


def big_jpeg_2000(side: int) -> bytes:
    coded = bytearray(made.frame(made.film(), JPEG2000Lossless, 12))
    coded[8:16] = coded[24:32] = struct.pack(">LL", side, side)
    return made.dicom(syntax=JPEG2000Lossless, raw=bytes(coded), Rows=side, Columns=side)


def tiny_rle(side: int) -> bytes:
    coded = struct.pack("<16L", 2, 64, 68, *[0] * 13) + b"\x81\0\x81\0" * 2
    return made.dicom(syntax=RLELossless, raw=coded, Rows=side, Columns=side)


def deflated() -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = made.element(0x00080060, b"CS", b"CR") + made.element(0x7FE00010, b"OW", b"", length=64_000_000)
    body = deflate.compress(head) + b"".join(deflate.compress(bytes(1_000_000)) for _ in range(64)) + deflate.flush()
    return made.part10(body, syntax=DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        (lambda: tiny_rle(65535), "too large: 65535 rows"),
        (lambda: tiny_rle(9999), "grow more than 1000 times"),
        (lambda: tiny_rle(1000), "more pixels than its data can hold"),
        (lambda: big_jpeg_2000(60000), "too large: 60000 rows"),
        (lambda: big_jpeg_2000(9999), "grow more than 1000 times"),
        (lambda: made.dicom(Rows=65535, Columns=65535), "too large"),
        (lambda: made.dicom(Rows=9999, Columns=9999), "cut short: 9999 x 9999 pixels"),
        (lambda: made.dicom(NumberOfFrames=100000), "several frames"),
        (deflated, "grows to more than 16 MB"),
        (lambda: made.part10(nested(5000)), "nests more than 32 sequences"),
        (lambda: made.part10(made.element(0x00104020, b"UT", b"abc", length=0xFFFFFFF0)), "longer than what is left"),
    ],
    ids=[
        "rle",
        "rle-9999",
        "rle-1000",
        "j2k",
        "j2k-9999",
        "native",
        "native-9999",
        "frames",
        "deflate",
        "deep",
        "long",
    ],
)
def test_bombs(bomb: Callable[[], bytes], reason: str) -> None:
    refused_cheaply(bomb(), reason)


def test_damaged_deflate() -> None:
    data = made.dicom(syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(InputError, match=r"deflated data have no end|deflated DICOM file is damaged"):
        read(data[:-300])
    meta = made.part10(b"", syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(InputError, match="deflated DICOM file is damaged"):
        read(meta + b"\xff" * 50)


def test_sequences_as_deep_as_allowed_are_walked_over() -> None:
    data = made.dicom()
    opened = made.element(0x00081115, b"SQ", b"", length=0xFFFFFFFF) + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    cut = data.index(b"\x10\0\x10\0PN")
    assert read(data[:cut] + opened * 20 + closed * 20 + data[cut:]).patient_id == made.PATIENT_ID


# Conduct


def test_messages_hold_nothing_of_the_patient() -> None:
    data = made.dicom(syntax=RLELossless)
    for cut in range(140, len(data), 97):
        try:
            read(data[:cut])
        except InputError as error:
            chain: BaseException | None = error
            while chain is not None:
                assert not any(word in str(chain) for word in UNSEEN)
                chain = chain.__cause__


def test_a_damaged_lossless_jpeg_does_not_end_the_process(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.dcm").write_bytes(made.dicom())
    made.run("dcmcjpeg", tmp_path / "in.dcm", tmp_path / "coded.dcm")
    data = (tmp_path / "coded.dcm").read_bytes()
    jfif = data.index(b"JFIF\0")
    # GDCM aborts on a JFIF revision that it does not know, unless it never sees it.
    changed = data[: jfif + 5] + b"\xca" + data[jfif + 6 :]
    assert read(changed).pixels.tobytes() == read(data).pixels.tobytes()


def test_reading_in_threads_gives_the_same_and_leaves_the_warning_filters_alone() -> None:
    files = [made.dicom(syntax=syntax) for syntax in (*made.NATIVE, *made.CODED_LOSSLESS)] * 4
    expected = read(files[0]).pixels.tobytes()
    filters = list(warnings.filters)
    wrong: list[int] = []

    def work(index: int) -> None:
        if read(files[index]).pixels.tobytes() != expected:
            wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert warnings.filters == filters


def test_read_dicom_leaves_the_data_alone() -> None:
    data = made.dicom()
    film = read_dicom(data, source="made", content_hash="0" * 64)
    assert isinstance(film, Radiograph)
    assert dataclasses.replace(film, notes=()).content_hash == "0" * 64
    assert data == made.dicom()
    assert pydicom.dcmread(io.BytesIO(data)).PatientID == made.PATIENT_ID
