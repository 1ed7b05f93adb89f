"""What a coded image says of itself before it is decoded: JPEG, JPEG-LS, JPEG 2000 and DICOM's RLE."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SOF_MARKERS = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))


class CodestreamError(ValueError):
    """A coded image whose own header is damaged; the message completes `the image's own header ...`."""


@dataclass(frozen=True, slots=True)
class CodedImage:
    """A coded image's own description.

    Attributes:
        rows: of the image.
        columns: of the image.
        components: grey levels or colours in a pixel.
        precision: bits in a component.
        process: the JPEG marker that began the frame (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS, ...); 0 elsewhere.
    """

    rows: int
    columns: int
    components: int
    precision: int
    process: int = 0


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment of a JPEG up to the first scan; `start` is that of the marker.

    Raises:
        CodestreamError: the segments are damaged or never reach a scan.
    """
    if data[:2] != b"\xff\xd8":
        raise CodestreamError("does not begin as a JPEG does")
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise CodestreamError("is damaged")
        marker = data[position + 1]
        # T.81 B.1.1.2: any number of fill bytes may stand before a marker.
        if marker == 0xFF:
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise CodestreamError("is cut short")
        yield marker, position, end
        if marker == 0xDA:
            return
        position = end
    raise CodestreamError("is cut short")


def bare_jpeg(data: bytes, *, keep: frozenset[int] | None = None) -> bytes:
    """Return a JPEG with nothing but what draws the picture before its first scan.

    What a decoder never sees can neither harm it nor make it warn.

    Args:
        data: the JPEG.
        keep: markers of the segments that stay; where left out, all but application segments and comments, JFIF's and
            Adobe's (which name the colours) among those that stay.

    Raises:
        CodestreamError: the segments are damaged or never reach a scan.
    """
    parts = [data[:2]]
    end = 2
    for marker, start, end in jpeg_segments(data):
        is_extra = (0xE0 <= marker <= 0xEF or marker == 0xFE) and marker not in (0xE0, 0xEE)
        if marker == 0xDA or (not is_extra if keep is None else marker in keep):
            parts.append(data[start:end])
    parts.append(data[end:])
    return b"".join(parts)


def describe_jpeg(data: bytes) -> CodedImage:
    """Return what the frame header of a JPEG or JPEG-LS says.

    Raises:
        CodestreamError: there is none, or more than one.
    """
    frames = [(marker, start, end) for marker, start, end in jpeg_segments(data) if marker in _SOF_MARKERS]
    if len(frames) != 1:
        raise CodestreamError(f"describes {len(frames)} frames, not one")
    marker, start, end = frames[0]
    if end - start < 10:
        raise CodestreamError("is cut short")
    precision, rows, columns, components = struct.unpack_from(">BHHB", data, start + 4)
    return CodedImage(rows, columns, components, precision, marker)


def describe_jpeg_2000(data: bytes) -> CodedImage:
    """Return what the SIZ segment of a JPEG 2000 codestream says.

    Raises:
        CodestreamError: there is none, or it describes an image that is not whole and of one resolution.
    """
    if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 45:
        raise CodestreamError("does not begin as a JPEG 2000 codestream does")
    # T.800 A.5.1
    width, height, left, top, tile_width, tile_height = struct.unpack_from(">6L", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    depth, step_x, step_y = data[42:45]
    rows, columns = height - top, width - left
    if (step_x, step_y) != (1, 1) or min(tile_width, tile_height) < 1:
        raise CodestreamError("describes subsampled or empty tiles")
    if -(-columns // tile_width) * -(-rows // tile_height) > 65_535:
        raise CodestreamError("describes more tiles than the standard allows")
    return CodedImage(rows, columns, components, (depth & 0x7F) + 1)


def decode_rle(data: bytes, size: int, samples: int) -> list[bytes]:
    """Return the segments of an RLE frame (PS3.5 Annex G), decoded.

    It is decoded here, where a compiled decoder would be faster, because the one at hand ends in a panic that is no
    `Exception` when a run passes the end of the image.

    Args:
        data: the frame.
        size: pixels in the image.
        samples: bytes of a pixel, each a segment of its own, the most significant first.

    Raises:
        CodestreamError: the segments do not fit the image.
    """
    if len(data) < 64:
        raise CodestreamError("is cut short")
    count, *offsets = struct.unpack_from("<16L", data)
    if count != samples:
        raise CodestreamError(f"describes {count} segments where the pixels need {samples}")
    ends = [*offsets[1:count], len(data)]
    segments = list(zip(offsets, ends, strict=False))
    for start, end in segments:
        if not 64 <= start < end <= len(data):
            raise CodestreamError("names segments outside its data")
        # Two bytes become 128 at most.
        if (end - start) * 64 < size:
            raise CodestreamError("promises more pixels than its data can hold")
    return [_unpack_bits(data[start:end], size) for start, end in segments]


def _unpack_bits(segment: bytes, size: int) -> bytes:
    runs: list[bytes] = []
    position, left = 0, size
    while left > 0:
        head = segment[position : position + 1]
        if not head:
            raise CodestreamError("promises more pixels than its data hold")
        if head[0] < 128:
            run = segment[position + 1 : position + 2 + head[0]]
            position += 2 + head[0]
        elif head[0] > 128:
            run = segment[position + 1 : position + 2] * (257 - head[0])
            position += 2
        else:
            run = b""
            position += 1
        runs.append(run)
        left -= len(run)
    return b"".join(runs)[:size]
