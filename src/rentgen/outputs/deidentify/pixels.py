"""The pixels as they are, and what may hide in them: words between coded data, and bits that no pixel uses."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.codestream import CodestreamError, jpeg_segments
from rentgen.images.dicom_elements import PIXEL_DATA, UNDEFINED, Header, read_element
from rentgen.images.dicom_pixels import JPEG_2000, NATIVE, RLE, PixelFormat

_ITEM = 0xFFFEE000
_OVERLAY_BIT = 0x0102
_OVERLAYS = range(0x6000, 0x6020, 2)

# JPEG: application segments and comments; JFIF's and Adobe's, which have a fixed size, describe the picture.
_NAMES = ((0xE0, b"JFIF\0", 18), (0xEE, b"Adobe", 16))
_LATE_WORDS = re.compile(rb"\xff[\xe0-\xef\xfe]", re.DOTALL)
_COM, _SOT, _SOD, _EOC = 0xFF64, 0xFF90, 0xFF93, 0xFFD9
# What coders write of themselves. Any other word may be somebody's.
_CODERS = re.compile(
    rb"Kakadu-v?[\d.]{1,12}"
    rb"|Kdu-Layer-Info: log_2\{Delta-D\((squared-error|MSE)\)/Delta-L\(bytes\)\}, L\(bytes\)\s[-+0-9.e,\s]*"
    rb"|Created by OpenJPEG version [\d.]{1,12}"
    rb"|Creator: JasPer Version [\d.]{1,12}"
    rb"|LEAD Technologies Inc\. V[\d.]{1,6}"
)


def refuse_hidden(header: Header, pixel_format: PixelFormat) -> None:
    """Refuse a film whose pixel data may hold more than the picture.

    Raises:
        UnsupportedImageError: a graphic in unused bits, bits that no pixel uses, words between the coded data, or data
            behind their end.
    """
    if any(
        group << 16 | _OVERLAY_BIT in header and header.shorts(group << 16 | _OVERLAY_BIT)[:1] not in ((), (0,))
        for group in _OVERLAYS
    ):
        raise UnsupportedImageError(header.source, "a graphic lies in unused bits of the pixels; it may be words")
    if header.transfer_syntax_uid in NATIVE:
        if pixel_format.allocated == 16 and _has_stray_bits(header, pixel_format):
            raise UnsupportedImageError(header.source, "bits of the pixels that no grey level uses are not empty")
        return
    if header.transfer_syntax_uid == RLE:
        return
    frame = b"".join(header.data[start:end] for start, end in list(_fragments(header))[1:])
    try:
        words = list(_jpeg_2000_words(frame) if header.transfer_syntax_uid in JPEG_2000 else _jpeg_words(frame))
    except (CodestreamError, struct.error) as error:
        raise InputError(header.source, "the compressed image's own header is damaged") from error
    if any(not _CODERS.fullmatch(word.rstrip(b"\0 ")) for word in words):
        raise UnsupportedImageError(header.source, "the compressed image carries words of its own beside the picture")
    # An odd length was made even, with whatever byte the writer had at hand.
    rest = frame[frame.rindex(b"\xff\xd9") + 2 :]
    if len(rest) > 1 and rest.strip(b"\0"):
        raise UnsupportedImageError(header.source, "something follows the end of the compressed image")


def pixel_value(header: Header, pixel_format: PixelFormat) -> tuple[str, bytes, int | None]:
    """Return value representation, bytes and length of the pixel data; length None is that of the bytes.

    The picture's bytes are those of the file. What lies beside them is not kept: the table of offsets, which a single
    frame does not need, and whatever follows the last pixel.
    """
    element = header.elements[PIXEL_DATA]
    if header.transfer_syntax_uid in NATIVE:
        size = pixel_format.size
        value = header.data[element.start : element.start + size]
        if size % 2:
            # Within big endian words the last byte is the one before the last.
            value = header.data[element.start : element.start + size + 1] if not header.syntax.little else value + b"\0"
        short = element.vr == b"OB" or (element.vr != b"OW" and pixel_format.allocated == 8)
        return "OB" if short else "OW", value, None
    items = [header.data[start:end] for start, end in _fragments(header)][1:]
    coded = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return "OB", struct.pack("<HHL", 0xFFFE, 0xE000, 0) + coded + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0), UNDEFINED


def _fragments(header: Header) -> Iterator[tuple[int, int]]:
    """Yield where each item of encapsulated pixel data lies; the first is the table of offsets."""
    position, tag = header.elements[PIXEL_DATA].start, _ITEM
    while True:
        tag, item = read_element(header.data, position, len(header.data), header.syntax, header.source)
        if tag != _ITEM:
            return
        position = item.start + item.length
        yield item.start, position


def _has_stray_bits(header: Header, pixel_format: PixelFormat) -> bool:
    element = header.elements[PIXEL_DATA]
    order = "<" if header.syntax.little else ">"
    raw = np.frombuffer(header.data, f"{order}u2", pixel_format.rows * pixel_format.columns, element.start)
    above = 0xFFFF & ~((1 << (pixel_format.shift + pixel_format.stored)) - 1)
    below = (1 << pixel_format.shift) - 1
    if np.bitwise_or.reduce(raw & below):
        return True
    if not pixel_format.signed:
        return bool(np.bitwise_or.reduce(raw & above))
    negative = (raw >> (pixel_format.shift + pixel_format.stored - 1)) & 1
    # Two's complement repeats the sign above; some writers leave zeros there.
    stray = (raw & above).astype(np.int64)
    return bool(((stray != 0) & (stray != negative * np.int64(above))).any())


def _jpeg_words(frame: bytes) -> Iterator[bytes]:
    """Yield what the application segments and comments of a JPEG or JPEG-LS hold."""
    position = 0
    for marker, start, end in jpeg_segments(frame):
        position = end
        if marker != 0xFE and not 0xE0 <= marker <= 0xEF:
            continue
        value = frame[start + 4 : end]
        if not any(marker == own and value.startswith(name) and end - start <= size for own, name, size in _NAMES):
            yield value
    # Coded data never hold such a marker: T.81 B.1.1.5 and T.87 A.1 stuff what would be one.
    if _LATE_WORDS.search(frame, position):
        yield b"between scans"


def _jpeg_2000_words(frame: bytes) -> Iterator[bytes]:
    """Yield the comments of a JPEG 2000 codestream, in its main header and in those of its tiles (T.800 A.4, A.9.2)."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        # A JP2 file around the codestream has boxes for words of all kinds.
        yield b"JP2"
        return
    position, tile_end = 2, 0
    while True:
        (marker,) = struct.unpack_from(">H", frame, position)
        if marker == _EOC:
            return
        if marker == _SOD:
            # A last tile-part without a length reaches to the end.
            if tile_end <= position:
                return
            position = tile_end
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker == _SOT:
            (size,) = struct.unpack_from(">L", frame, position + 6)
            tile_end = position + size if size else 0
        elif marker == _COM:
            yield frame[position + 6 : position + 2 + length]
        elif not 0xFF50 <= marker <= 0xFF6F:
            raise CodestreamError("is damaged")
        if length < 2:
            raise CodestreamError("is damaged")
        position += 2 + length
