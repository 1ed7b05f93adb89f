"""PNG, JPEG and TIFF files: checked and stripped to what draws the film, then decoded by Pillow.

The container is walked over here first, for three reasons. Damaged metadata make Pillow speak through `warnings`, whose
filters belong to the whole process, while films are read in many threads: what Pillow never sees cannot make it
warn. Text chunks and profiles that unfold into gigabytes are left out the same way. And a header that asks for too
much is refused before anything is allocated. Pillow's own file classes are used rather than `Image.open`, whose
limit on pixels is a mutable global.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.codestream import CodestreamError, bare_jpeg, describe_jpeg, jpeg_segments
from rentgen.images.limits import DEFAULT_LIMITS, Limits, orient
from rentgen.records import Pixels, Radiograph

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
TIFF_MAGICS = (b"II*\0", b"MM\0*")

_DEPTHS = (8, 10, 12, 14, 16)
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
_ORIENTATION = 0x0112
# Of 255: what JPEG does to the colours of a grey film is less.
_HUE = 16

_WIDTH, _LENGTH, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT = 256, 257, 259, 262, 339
# TIFF 6.0: the tags that draw the picture; those with one value first.
_TIFF_SINGLE = frozenset((_WIDTH, _LENGTH, _COMPRESSION, _PHOTOMETRIC, 266, 277, 278, 284, 317, 322, 323))
_TIFF_KEPT = _TIFF_SINGLE | {258, 273, 279, 320, 324, 325, 338, _SAMPLE_FORMAT, 347, 530, 532}
_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, slots=True)
class _Container:
    """A file stripped to what draws the film.

    Attributes:
        data: that Pillow reads.
        opener: of Pillow.
        orientation: EXIF code.
        white_is_zero: TIFF's inverse polarity, which Pillow undoes for up to eight bits only.
        notes: on what was found.
    """

    data: bytes
    opener: Callable[[io.BytesIO], ImageFile]
    orientation: int
    white_is_zero: bool = False
    notes: tuple[str, ...] = ()


def read_raster(data: bytes, *, source: str, content_hash: str, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Return the film in a PNG, JPEG or TIFF file; colours become grey (ITU-R 601), what is transparent becomes black.

    Args:
        data: the whole file.
        source: for messages.
        content_hash: of the file.
        limits: on what it may ask for.

    Raises:
        InputError: the file is damaged, cut short or hostile.
        UnsupportedImageError: it is sound, but several pages, an animation or fractions.
    """
    if data.startswith(PNG_MAGIC):
        source_format, container = "png", _strip_png(data, source, limits)
    elif data.startswith(JPEG_MAGIC):
        source_format, container = "jpeg", _strip_jpeg(data, source, limits)
    else:
        source_format, container = "tiff", _strip_tiff(data, source, limits)
    # A catch-all: Pillow's plug-ins raise whatever their parsing runs into, and none of it may leave this room.
    try:
        with container.opener(io.BytesIO(container.data)) as image:
            refused = limits.refuse_size(image.height, image.width, limits.max_side)
            if refused is not None:
                raise InputError(source, refused)
            mode = image.mode
            stored, coloured = _to_array(image)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            source, f"the {source_format.upper()} file is damaged or cut short: its pixels cannot be decoded"
        ) from error
    pixels, bits = _to_full_range(stored, mode, container.white_is_zero, source)
    notes = container.notes
    if mode not in ("1", "L", "LA", "La") and not mode.startswith("I"):
        notes += ("colour turned grey",)
    if coloured:
        notes += ("in colour",)
    if source_format == "jpeg":
        notes += ("lossy compression",)
    return Radiograph(
        pixels=orient(pixels, container.orientation),
        content_hash=content_hash,
        source_format=source_format,
        bits=bits,
        orientation=container.orientation,
        notes=notes,
    )


def _to_array(
    image: ImageFile,
) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.int32] | npt.NDArray[np.uint16], bool]:
    """Return a Pillow image's grey pixels, decoded, and whether there is colour in it."""
    image.load()
    # A single transparent grey level or colour would make Pillow warn, and no film has one.
    transparency = image.info.pop("transparency", None)
    if image.mode in ("I", "F"):
        return np.asarray(image), False
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), False
    picture: Image.Image = image
    if image.mode == "P" and transparency is not None:
        image.info["transparency"] = transparency
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        # Pillow leaves "La" by way of "LA" only.
        picture = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), picture).convert("RGB")
    elif image.mode in ("P", "CMYK", "YCbCr"):
        picture = image.convert("RGB")
    return np.asarray(picture.convert("L"), np.uint8), picture.mode == "RGB" and _is_coloured(picture)


def _is_coloured(picture: Image.Image) -> bool:
    """Return whether more than a tenth of an RGB image has another hue than the rest of its brightness.

    A film that is kept in three channels, toned blue or marked with an arrow has one hue for each shade of grey, or
    nearly.
    """
    sample = np.asarray(picture.resize((64, 64), Image.Resampling.NEAREST), np.float32).reshape(-1, 3)
    shade = sample.mean(axis=1)
    hue = sample - shade[:, None]
    if np.abs(hue).max() <= _HUE:
        return False
    for step in range(0, 256, 16):
        same = (shade >= step) & (shade < step + 16)
        if same.any():
            hue[same] -= np.median(hue[same], axis=0)
    return bool((np.abs(hue).max(axis=1) > _HUE).mean() > 0.1)


def _to_full_range(
    stored: npt.NDArray[np.uint8] | npt.NDArray[np.int32] | npt.NDArray[np.uint16],
    mode: str,
    white_is_zero: bool,
    source: str,
) -> tuple[Pixels, int]:
    """Return pixels over their type's full range, and the bits in use."""
    if mode == "F":
        raise UnsupportedImageError(source, "the TIFF file holds fractions; save it with 8 or 16 bits a pixel")
    if stored.dtype == np.uint8:
        return stored.astype(np.uint8, copy=False), 1 if mode == "1" else 8
    low, high = int(stored.min()), int(stored.max())
    if low < 0 or high > 65_535:
        raise UnsupportedImageError(
            source, "the file has negative or more than 16-bit pixels; save it with 8 or 16 bits a pixel"
        )
    # There is no window in such a file: a 12-bit film in 16 bits must not come out black.
    bits = next(depth for depth in _DEPTHS if high < 1 << depth)
    most = (1 << bits) - 1
    table = np.rint(np.arange(most + 1) * (65_535.0 / most)).astype(np.uint16)
    return (table[::-1] if white_is_zero else table)[stored], bits


def _read_orientation(exif: bytes) -> tuple[int, tuple[str, ...]]:
    """Return the orientation code in a block of EXIF, and a note where it cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is None:
            raise ValueError("no TIFF header")
        (position,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, position)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", exif, position + 2 + 12 * entry)
            if tag == _ORIENTATION and kind == 3:
                return _check_orientation(value)
    except (struct.error, ValueError):
        return 1, ("damaged EXIF ignored",)
    return 1, ()


def _check_orientation(value: int) -> tuple[int, tuple[str, ...]]:
    return (value, ()) if 1 <= value <= 8 else (1, ("unknown EXIF orientation ignored",))


def _check_size(rows: int, columns: int, source: str, limits: Limits) -> None:
    refused = limits.refuse_size(rows, columns, limits.max_side)
    if refused is not None:
        raise InputError(source, refused)


def _png_chunks(data: bytes, source: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk, its length and checksum included."""
    position = len(PNG_MAGIC)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">L", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            break
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end
    raise InputError(source, "the PNG file is cut short")


def _strip_png(data: bytes, source: str, limits: Limits) -> _Container:
    parts = [PNG_MAGIC]
    orientation = 1
    notes: tuple[str, ...] = ()
    for kind, start, end in _png_chunks(data, source):
        if len(parts) == 1:
            if kind != b"IHDR" or end - start != 25:
                raise InputError(source, "the PNG file is damaged: it does not begin with its header")
            columns, rows = struct.unpack_from(">LL", data, start + 8)
            _check_size(rows, columns, source, limits)
        if kind == b"acTL":
            raise UnsupportedImageError(source, "the PNG file is an animation; send a single film")
        if kind == b"eXIf":
            orientation, notes = _read_orientation(data[start + 8 : end - 4])
        if kind in _PNG_KEPT:
            parts.append(data[start:end])
    return _Container(b"".join(parts), PngImageFile, orientation, notes=notes)


def _strip_jpeg(data: bytes, source: str, limits: Limits) -> _Container:
    try:
        coded = describe_jpeg(data)
        exif = next(
            (
                data[start + 4 : end]
                for marker, start, end in jpeg_segments(data)
                if marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0"
            ),
            None,
        )
        bare = bare_jpeg(data)
    except CodestreamError as error:
        raise InputError(source, f"the JPEG file's header {error}") from error
    _check_size(coded.rows, coded.columns, source, limits)
    if coded.process not in (0xC0, 0xC1, 0xC2) or coded.precision != 8:
        raise UnsupportedImageError(source, "the JPEG file is lossless or has 12 bits; save it as PNG")
    orientation, notes = (1, ()) if exif is None else _read_orientation(exif)
    return _Container(bare, JpegImageFile, orientation, notes=notes)


def _strip_tiff(data: bytes, source: str, limits: Limits) -> _Container:
    order = "<" if data.startswith(b"II") else ">"
    damaged = InputError(source, "the TIFF file is damaged or cut short: its tags cannot be read")
    try:
        (position,) = struct.unpack_from(f"{order}L", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, position)
        entries = [struct.unpack_from(f"{order}HHLL", data, position + 2 + 12 * entry) for entry in range(count)]
        (following,) = struct.unpack_from(f"{order}L", data, position + 2 + 12 * count)
    except struct.error as error:
        raise damaged from error
    if following:
        raise UnsupportedImageError(source, "the TIFF file has several pages; send a single film")
    kept, singles, total = [], {}, 0
    for entry, (tag, kind, values, _) in enumerate(entries):
        start = position + 2 + 12 * entry
        if tag in _TIFF_SINGLE or tag == _ORIENTATION:
            if values != 1 or kind not in (1, 3, 4):
                raise damaged
            code = {1: "B", 3: "H", 4: "L"}[kind]
            (singles[tag],) = struct.unpack_from(f"{order}{code}", data, start + 8)
        if tag in _TIFF_KEPT:
            size = values * _TIFF_TYPES.get(kind, len(data))
            total += size
            (offset,) = struct.unpack_from(f"{order}L", data, start + 8)
            if values == 0 or total > len(data) or (size > 4 and offset + size > len(data)):
                raise damaged
            kept.append(data[start : start + 12])
    _check_size(singles.get(_LENGTH, 0), singles.get(_WIDTH, 0), source, limits)
    # Pillow's own limit on a TIFF is a warning, and a global.
    if Image.MAX_IMAGE_PIXELS is not None and singles[_LENGTH] * singles[_WIDTH] > Image.MAX_IMAGE_PIXELS:
        raise InputError(source, f"the TIFF image is too large: at most {Image.MAX_IMAGE_PIXELS} pixels are read")
    # The same directory with fewer entries, so shorter, in its old place; no next page, no EXIF, no orientation.
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + struct.pack(f"{order}L", 0)
    bare = data[:position] + directory + data[position + len(directory) :]
    orientation, notes = _check_orientation(singles.get(_ORIENTATION, 1))
    return _Container(bare, TiffImageFile, orientation, singles.get(_PHOTOMETRIC) == 0, notes)
