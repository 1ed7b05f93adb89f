"""The stored values of a DICOM image: checked first, then decoded by one fixed decoder for each transfer syntax."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gdcm
import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode_pixel_data as decode_jpeg_2000
from PIL.JpegImagePlugin import JpegImageFile

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.codestream import (
    CodedImage,
    CodestreamError,
    bare_jpeg,
    decode_rle,
    describe_jpeg,
    describe_jpeg_2000,
)
from rentgen.images.dicom_elements import PIXEL_DATA, UNDEFINED, Header, read_element

UInt16 = npt.NDArray[np.uint16]
Coded = npt.NDArray[np.uint8] | UInt16

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
JPEG_BASELINE, JPEG_EXTENDED = f"{_JPEG}50", f"{_JPEG}51"
JPEG_LOSSLESS = (f"{_JPEG}57", f"{_JPEG}70")
JPEG_LS = (f"{_JPEG}80", f"{_JPEG}81")
JPEG_2000 = (f"{_JPEG}90", f"{_JPEG}91")

NATIVE = frozenset((IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG))
LOSSY = frozenset((JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS[1], JPEG_2000[1]))
SUPPORTED = NATIVE | {RLE, JPEG_BASELINE, JPEG_EXTENDED, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000}

# Huffman tables, the frame, the restart interval.
_LOSSLESS_SEGMENTS = frozenset((0xC3, 0xC4, 0xDD))

# A film that is one grey level compresses without bound; up to this size nobody minds.
_ALWAYS_EXPANDED = 16_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored values of an image, as codes.

    Attributes:
        codes: (rows, columns), each below `2 ** bits`; negative values stand as two's complement.
        bits: Bits Stored.
        signed: Pixel Representation.
    """

    codes: UInt16
    bits: int
    signed: bool

    def values(self) -> npt.NDArray[np.int64]:
        """Return the stored value of every possible code: shape (2 ** bits,)."""
        values = np.arange(1 << self.bits, dtype=np.int64)
        if self.signed:
            values[1 << (self.bits - 1) :] -= 1 << self.bits
        return values


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The Image Pixel Module of a grey single-frame image.

    Attributes:
        rows: of the image.
        columns: of the image.
        allocated: bits in the file for each pixel, 8 or 16.
        stored: bits of them in use.
        shift: unused bits below those.
        signed: whether values are two's complement.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    shift: int
    signed: bool

    @property
    def size(self) -> int:
        """The bytes of the pixels."""
        return self.rows * self.columns * self.allocated // 8


def check_format(header: Header) -> PixelFormat:
    """Return the pixel format, or refuse it before anything is allocated.

    Raises:
        InputError: the description is missing, contradicts itself or asks for too much.
        UnsupportedImageError: colour, several frames, or a depth that is not read.
    """
    source = header.source
    frames = header.numbers(0x00280008)
    if frames and frames[0] > 1:
        raise UnsupportedImageError(source, "the DICOM image has several frames; send a single film")
    samples = _one_short(header, 0x00280002, "Samples per Pixel", 1)
    photometric = header.text(0x00280004)
    if photometric is None:
        raise InputError(source, "the DICOM header lacks Photometric Interpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedImageError(source, "the DICOM image is in colour; a radiograph is MONOCHROME1 or MONOCHROME2")
    rows, columns = _one_short(header, 0x00280010, "Rows"), _one_short(header, 0x00280011, "Columns")
    refused = header.limits.refuse_size(rows, columns, header.limits.max_dicom_side)
    if refused is not None:
        raise InputError(source, refused)
    allocated = _one_short(header, 0x00280100, "Bits Allocated")
    if allocated not in (8, 16):
        raise UnsupportedImageError(source, f"the DICOM image allocates {allocated} bits a pixel; 8 and 16 are read")
    stored = _one_short(header, 0x00280101, "Bits Stored", allocated)
    high = _one_short(header, 0x00280102, "High Bit", stored - 1)
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        raise InputError(
            source,
            f"the DICOM header contradicts itself: Bits Allocated {allocated}, Bits Stored {stored}, High Bit {high}",
        )
    signed = _one_short(header, 0x00280103, "Pixel Representation", 0)
    if signed not in (0, 1):
        raise InputError(source, f"Expected Pixel Representation to be 0 or 1, but got {signed}")
    return PixelFormat(rows, columns, allocated, stored, high + 1 - stored, bool(signed))


def decode(header: Header, pixel_format: PixelFormat) -> Stored:
    """Return the stored values; stray bits above Bits Stored are masked, values are moved down from the High Bit.

    Args:
        header: of the file, with the pixel data among its elements.
        pixel_format: of its pixels, checked.

    Raises:
        InputError: the pixels are cut short, damaged or contradict the header.
        UnsupportedImageError: the transfer syntax is not read.
    """
    if header.transfer_syntax_uid in NATIVE:
        raw = _read_native(header, pixel_format)
        raw >>= pixel_format.shift
    else:
        if pixel_format.shift:
            raise InputError(
                header.source, "the DICOM header contradicts itself: High Bit above Bits Stored in a compressed image"
            )
        raw = _read_compressed(header, pixel_format)
    raw &= (1 << pixel_format.stored) - 1
    return Stored(raw, pixel_format.stored, pixel_format.signed)


def _one_short(header: Header, tag: int, name: str, default: int | None = None) -> int:
    values = header.shorts(tag) if tag in header else ()
    if values:
        return values[0]
    if default is None:
        raise InputError(header.source, f"the DICOM header lacks {name}")
    return default


def _read_native(header: Header, pixel_format: PixelFormat) -> UInt16:
    element = header.elements[PIXEL_DATA]
    if element.length == UNDEFINED:
        raise InputError(header.source, "the pixels are compressed, but the DICOM header says they are not")
    if element.length < pixel_format.size or element.start + pixel_format.size > len(header.data):
        raise InputError(
            header.source,
            f"the file is cut short: {pixel_format.rows} x {pixel_format.columns} pixels need {pixel_format.size} bytes"
            f", and {min(element.length, len(header.data) - element.start)} are there",
        )
    count = pixel_format.rows * pixel_format.columns
    big = not header.syntax.little
    if pixel_format.allocated == 16:
        raw = np.frombuffer(header.data, ">u2" if big else "<u2", count, element.start).astype(np.uint16)
    elif big and element.vr == b"OW":
        # PS3.5 8.1.1: bytes within big endian words change places; an odd count is padded to a whole word.
        words = -(-count // 2)
        if element.start + 2 * words > len(header.data):
            raise InputError(header.source, "the file is cut short: its last pixel is missing")
        pairs = np.frombuffer(header.data, ">u2", words, element.start).astype("<u2")
        raw = pairs.view(np.uint8)[:count].astype(np.uint16)
    else:
        raw = np.frombuffer(header.data, np.uint8, count, element.start).astype(np.uint16)
    return raw.reshape(pixel_format.rows, pixel_format.columns)


def _read_frame(header: Header) -> bytes:
    """Return the one frame of encapsulated pixel data (PS3.5 A.4), its fragments joined."""
    element = header.elements[PIXEL_DATA]
    if element.length != UNDEFINED:
        raise InputError(header.source, "the pixels are not compressed, but the DICOM header says they are")
    fragments: list[bytes] = []
    position, end = element.start, len(header.data)
    while True:
        if position + 8 > end:
            raise InputError(header.source, "the file is cut short: its compressed pixels have no end")
        tag, item = read_element(header.data, position, end, header.syntax, header.source)
        if tag == 0xFFFEE0DD:
            break
        if tag != 0xFFFEE000 or item.length == UNDEFINED:
            raise InputError(header.source, "the compressed pixels are damaged: a fragment is not where it should be")
        position = item.start + item.length
        if position > end:
            raise InputError(header.source, "the file is cut short: a fragment of its pixels is not complete")
        fragments.append(header.data[item.start : position])
        if len(fragments) > header.limits.max_elements:
            raise InputError(header.source, "the compressed pixels are in too many fragments")
    # The first item is the offset table.
    frame = b"".join(fragments[1:])
    if not frame:
        raise InputError(header.source, "the compressed pixels are empty")
    return frame


def _read_compressed(header: Header, pixel_format: PixelFormat) -> UInt16:
    syntax = header.transfer_syntax_uid
    frame = _read_frame(header)
    source = header.source
    if pixel_format.size > max(_ALWAYS_EXPANDED, len(frame) * header.limits.max_expansion):
        raise InputError(
            source,
            f"the compressed pixels would grow more than {header.limits.max_expansion} times; they cannot be genuine",
        )
    try:
        if syntax == RLE:
            coded = CodedImage(pixel_format.rows, pixel_format.columns, 1, pixel_format.allocated)
        elif syntax in JPEG_2000:
            # Some writers wrap the codestream in a JP2 file; what is checked is what is decoded.
            if frame[4:8] == b"jP  ":
                frame = frame[max(frame.find(b"\xff\x4f\xff\x51"), 0) :]
            coded = describe_jpeg_2000(frame)
        else:
            coded = describe_jpeg(frame)
    except CodestreamError as error:
        raise InputError(source, f"the compressed image's own header {error}") from error
    _compare(header, pixel_format, coded)
    # GDCM and OpenJPEG fill in what is missing of a codestream without a word. Padding may follow its end.
    if syntax != RLE and b"\xff\xd9" not in frame[-64:]:
        raise InputError(source, "the compressed pixels are cut short: they have no end")
    # A catch-all: five decoders of five makers each have errors of their own, and none may leave this room.
    try:
        raw = _DECODERS[syntax](frame, pixel_format, coded)
        raw = raw.reshape(pixel_format.rows, pixel_format.columns).astype(np.uint16)
    except CodestreamError as error:
        raise InputError(source, f"the compressed image's own header {error}") from error
    except Exception as error:
        raise InputError(source, "the compressed pixels are damaged: they cannot be decoded") from error
    raw &= (1 << coded.precision) - 1
    if pixel_format.signed and coded.precision < pixel_format.stored:
        # The codestream's sign bit lies below that of the header's.
        raw[raw >= 1 << (coded.precision - 1)] |= 0xFFFF ^ ((1 << coded.precision) - 1)
    return raw


def _compare(header: Header, pixel_format: PixelFormat, coded: CodedImage) -> None:
    """Refuse a codestream that contradicts the header, before it is decoded."""
    source, syntax = header.source, header.transfer_syntax_uid
    if (coded.rows, coded.columns) != (pixel_format.rows, pixel_format.columns):
        raise InputError(
            source,
            f"the compressed image is {coded.rows} x {coded.columns} pixels, "
            f"but the DICOM header says {pixel_format.rows} x {pixel_format.columns}",
        )
    if coded.components != 1:
        raise UnsupportedImageError(source, "the compressed image is in colour, though the DICOM header says grey")
    if syntax in (JPEG_BASELINE, JPEG_EXTENDED):
        if coded.process not in (0xC0, 0xC1, 0xC2):
            raise InputError(source, "the compressed image is not of the JPEG process that the DICOM header names")
        if coded.precision != 8:
            raise UnsupportedImageError(
                source,
                "the pixels are 12-bit lossy JPEG (JPEG Extended), which is not read; send the film uncompressed",
            )
    processes = {0xC3} if syntax in JPEG_LOSSLESS else {0xF7} if syntax in JPEG_LS else {coded.process}
    if coded.process not in processes:
        raise InputError(source, "the compressed image is not of the JPEG process that the DICOM header names")
    if not 2 <= coded.precision <= 16 or coded.precision > max(8, pixel_format.allocated):
        raise InputError(
            source,
            f"the compressed image has {coded.precision} bits a pixel, "
            f"but the DICOM header allocates {pixel_format.allocated}",
        )


def _as_words(buffer: bytes | bytearray, precision: int) -> Coded:
    return np.frombuffer(buffer, np.uint8 if precision <= 8 else "<u2")


def _decode_rle(frame: bytes, pixel_format: PixelFormat, coded: CodedImage) -> Coded:
    high, *low = (
        np.frombuffer(plane, np.uint8)
        for plane in decode_rle(frame, coded.rows * coded.columns, pixel_format.allocated // 8)
    )
    return np.asarray(high.astype(np.uint16) << 8 | low[0], np.uint16) if low else high


def _decode_jpeg(frame: bytes, pixel_format: PixelFormat, coded: CodedImage) -> Coded:
    with JpegImageFile(io.BytesIO(bare_jpeg(frame))) as image:
        if image.mode != "L":
            raise ValueError("Expected a grey JPEG")
        return np.asarray(image, np.uint8)


def _decode_jpeg_ls(frame: bytes, pixel_format: PixelFormat, coded: CodedImage) -> Coded:
    buffer, _ = jpeg_ls.decode_pixel_data(frame)
    return _as_words(buffer, coded.precision)


def _decode_jpeg_2000(frame: bytes, pixel_format: PixelFormat, coded: CodedImage) -> Coded:
    return _as_words(bytes(decode_jpeg_2000(frame, version=2)), coded.precision)


def _decode_jpeg_lossless(frame: bytes, pixel_format: PixelFormat, coded: CodedImage) -> Coded:
    fragment = gdcm.Fragment()
    # Any warning on a header, of a JFIF revision even, makes GDCM abort the process: it gets the bare minimum.
    fragment.SetByteStringValue(bare_jpeg(frame, keep=_LOSSLESS_SEGMENTS))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((pixel_format.columns, pixel_format.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = gdcm.TransferSyntax.GetTSType(JPEG_LOSSLESS[1])
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    allocated = 8 if coded.precision <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, coded.precision, coded.precision - 1, 0))
    # GDCM hands its bytes over as text.
    return _as_words(image.GetBuffer().encode("utf-8", "surrogateescape"), coded.precision)


# One decoder a syntax, never the first that happens to be installed: all were proven on films, and what they give is
# bit for bit the same in every lossless syntax.
_DECODERS: Mapping[str, Callable[[bytes, PixelFormat, CodedImage], Coded]] = {
    RLE: _decode_rle,
    JPEG_BASELINE: _decode_jpeg,
    JPEG_EXTENDED: _decode_jpeg,
    **dict.fromkeys(JPEG_LOSSLESS, _decode_jpeg_lossless),
    **dict.fromkeys(JPEG_LS, _decode_jpeg_ls),
    **dict.fromkeys(JPEG_2000, _decode_jpeg_2000),
}
