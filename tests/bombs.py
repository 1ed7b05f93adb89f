"""What a hostile client sends: small files that ask for much, forms and JSON that are none."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from made import dicom, element, film, film8, jpeg, part10, png_chunk
from openjpeg.utils import encode_pixel_data as encode_jpeg_2000
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from rentgen.images.phantom import Finding, draw, to_png

MB = 1_000_000
GOOD = to_png(draw(Finding.NORMAL, np.random.default_rng(1)))


def png_of(width: int, height: int, rows: bytes, depth: int = 8) -> bytes:
    """Return a PNG with a header and a stream that need not fit each other."""
    head = struct.pack(">LLBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """Return so many zero bytes, deflated."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def raw_deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def tiff_of(width: int, height: int, strips: int) -> bytes:
    """Return a TIFF whose strips all lie on the same few bytes."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (273, 4, strips, 200), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, strips, 200 + 4 * strips),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<LH", 8, len(entries))
    head += b"".join(struct.pack("<HHLL", *entry) for entry in entries) + bytes(4)
    data = 200 + 8 * strips
    packed = zeros(1 << 20)
    return head.ljust(200, b"\0") + struct.pack("<L", data) * strips + struct.pack("<L", len(packed)) * strips + packed


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(jpeg(film8()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_2000(side: int, *, header: int | None = None) -> bytes:
    """Return a DICOM with a JPEG 2000 codestream of zeros, whose own header may claim another size."""
    coded = bytearray(
        encode_jpeg_2000(
            bytes(side * side),
            rows=side, columns=side, samples_per_pixel=1, bits_stored=8, bits_allocated=8,
            photometric_interpretation="MONOCHROME2", pixel_representation=0,
        )
    )  # fmt: skip
    if header is not None:
        at = coded.index(b"\xff\x51")
        for place in (6, 22):
            coded[at + place : at + place + 8] = struct.pack(">LL", header, header)
    side = header or side
    return dicom(film8(), bits=8, syntax=JPEG2000Lossless, raw=bytes(coded), Rows=side % 65536, Columns=side % 65536)


def rle_claiming(side: int) -> bytes:
    frame = b"\x02\0\0\0" + struct.pack("<15L", 64, 68, *[0] * 13) + b"\x81\0\x81\0" * 2
    return dicom(film(), syntax=RLELossless, raw=frame, Rows=side, Columns=side)


def nested(depth: int) -> bytes:
    """Return a data set of sequences, each with one item with the next."""
    endless = struct.pack("<L", 0xFFFFFFFF)
    return part10((b"\x08\x00\x15\x11SQ\0\0" + endless + b"\xfe\xff\x00\xe0" + endless) * depth)


def deflated_bomb(size: int) -> bytes:
    head = element(0x00100010, b"PN", b"DOE^JANE")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, size)
    packed = packer.compress(head + pixels) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20))
    return part10(packed + packer.flush(), syntax=DeflatedExplicitVRLittleEndian)


def zipped(size: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film.png", bytes(size))
    return stream.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "deflated DICOM": lambda: deflated_bomb(300 << 20),
    "deflated DICOM header": lambda: part10(
        raw_deflated(element(0x00104000, b"UT", bytes(64 << 20))), syntax=DeflatedExplicitVRLittleEndian
    ),
    "PNG of zeros": lambda: png_of(20_000, 20_000, zeros(400 << 20)),
    "PNG with a text of zeros": lambda: (
        GOOD[:33] + png_chunk(b"zTXt", b"a\0\0" + zeros(200 << 20)) + b"\0" * 4 + GOOD[33:]
    ),
    "PNG of 100,000 x 1": lambda: png_of(100_000, 1, zlib.compress(bytes(100_001))),
    "PNG of 1 x 100,000": lambda: png_of(1, 100_000, zlib.compress(bytes(200_000))),
    "PNG of 2^31 pixels": lambda: png_of(2**31 - 1, 2**31 - 1, b""),
    "PNG without pixels": lambda: png_of(0, 0, b""),
    "TIFF strips": lambda: tiff_of(20_000, 15_000, 15_000),
    "TIFF 100,000 x 1": lambda: tiff_of(100_000, 1, 1),
    "TIFF directory loop": lambda: b"II*\0" + struct.pack("<LH", 8, 0) + struct.pack("<L", 8),
    "TIFF directory of 65,535": lambda: b"II*\0" + struct.pack("<LH", 8, 65535) + b"\1\1\4\0" * 20_000,
    "JPEG of 65,535": lambda: jpeg_claiming(65_535, 65_535),
    "JPEG of 20,000 x 20,000": lambda: jpeg_claiming(20_000, 20_000),
    "JPEG of 65,500 x 1": lambda: jpeg_claiming(65_500, 1),
    "JPEG 2000 of 60,000": lambda: jpeg_2000(64, header=60_000),
    "JPEG 2000 with a smaller header": lambda: dicom(
        film8(8, 8), bits=8, syntax=JPEG2000Lossless, raw=jpeg_2000_stream(2000)
    ),
    "RLE that asks for 8 GiB": lambda: rle_claiming(65_535),
    "RLE of 10,000": lambda: rle_claiming(10_000),
    "pixels cut short": lambda: dicom(Rows=9_000, Columns=9_000),
    "100,000 frames": lambda: dicom(NumberOfFrames=100_000),
    "5,000 nested sequences": lambda: nested(5_000),
    "100,000 nested sequences": lambda: nested(100_000),
    "an element of 4 GiB": lambda: part10(element(0x00104020, b"UT", b"abc", 0xFFFFFFF0)),
    "a private element of 20 MB": lambda: part10(element(0x00091010, b"OB", bytes(20 * MB))),
    "200,000 elements": lambda: part10(element(0x00091010, b"LO", b"DOE^JANE") * 200_000),
    "zip": lambda: zipped(200 << 20),
    "gzip": lambda: gzip.compress(bytes(64 << 20)),
    "PDF": lambda: b"%PDF-1.7\n" + b"DOE^JANE " * 1000,
    "MZ polyglot": lambda: b"MZ".ljust(128, b"\0") + dicom()[128:],
    "ELF polyglot": lambda: b"\x7fELF".ljust(128, b"\0") + dicom()[128:],
    "PDF polyglot": lambda: b"%PDF-1.7".ljust(128, b"\0") + dicom()[128:],
    "zip polyglot": lambda: b"PK\3\4".ljust(128, b"\0") + dicom()[128:],
    "script polyglot": lambda: b"#!/bin/sh\n".ljust(128, b"\0") + dicom()[128:],
    "SVG with an entity bomb": lambda: b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><svg>&c;</svg>',
    "one byte": lambda: b"\0",
    "DICM only": lambda: bytes(128) + b"DICM",
}


def jpeg_2000_stream(side: int) -> bytes:
    return bytes(
        encode_jpeg_2000(
            bytes(side * side),
            rows=side, columns=side, samples_per_pixel=1, bits_stored=8, bits_allocated=8,
            photometric_interpretation="MONOCHROME2", pixel_representation=0,
        )
    )  # fmt: skip


def form(*parts: bytes, boundary: bytes = b"x") -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}


PART = b'Content-Disposition: form-data; name="films"; filename="DOE_JANE.png"\r\n\r\n'
FIELD = b'Content-Disposition: form-data; name="note"\r\n\r\n'
FORMS: dict[str, tuple[bytes, dict[str, str]]] = {
    "a thousand files": form(*[PART + b"x"] * 1000),
    "a thousand fields": form(*[FIELD + b"x"] * 1000, PART + GOOD),
    "a field of 30 MB": form(FIELD + bytes(30 * MB), PART + GOOD),
    "a header of a part of 5 MB": form(b"X-Long: " + b"a" * 5 * MB + b"\r\n" + PART + GOOD),
    "ten thousand headers of a part": form(b"X-Many: a\r\n" * 10_000 + PART + GOOD),
    "no end": (b"--x\r\n" + PART + GOOD, {"Content-Type": "multipart/form-data; boundary=x"}),
    "no boundary": (b"--x\r\n" + PART + GOOD, {"Content-Type": "multipart/form-data"}),
    "a boundary that never comes": (bytes(10 * MB), {"Content-Type": "multipart/form-data; boundary=x"}),
    "a boundary of 60 kB": (b"--x", {"Content-Type": "multipart/form-data; boundary=" + "x" * 10_000}),
    "nearly a boundary, again and again": (
        b"\r\n--" + b"a" * 60 + b"\r\n--" * 1_000_000,
        {"Content-Type": "multipart/form-data; boundary=" + "a" * 69},
    ),
    "no names": form(b"\r\nx"),
    "a broken name": form(b'Content-Disposition: form-data; name="films\r\n\r\nx'),
    "empty": (b"", {"Content-Type": "multipart/form-data; boundary=x"}),
    "binary in a header": form(b"Content-Disposition: form-data; name=\xff\xfe\r\n\r\nx"),
    "an encoding of the part": form(b"Content-Transfer-Encoding: base64\r\n" + FIELD + b"eA=="),
}


JSON_BOMBS: dict[str, bytes] = {
    "a million brackets": b"[" * 1_000_000,
    "nested objects": b'{"instances":' * 200_000,
    "nested but closed": b'{"instances":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
    "a number without end": b'{"instances": ' + b"9" * 10 * MB + b"}",
    "a million instances": b'{"instances": [' + b"0," * 999_999 + b"0]}",
    "ten million empty lists": b'{"instances": [' + b"[]," * 10_000_000 + b"0]}",
    "a million keys": b'{"instances": 1, ' + b",".join(b'"%d": 0' % place for place in range(500_000)) + b"}",
    "no text": b"\xff\xfe\x00\xd8",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-32": '{"instances": 3}'.encode("utf-32"),
    "zeros": bytes(5 * MB),
}
