"""From a file to a film: the content decides which reader is asked, never the name."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import replace
from pathlib import Path

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.dicom import is_dicom, read_dicom
from rentgen.images.limits import DEFAULT_LIMITS, Limits
from rentgen.images.prepare import to_uint8
from rentgen.images.raster import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS, read_raster
from rentgen.records import Radiograph

__all__ = ["DEFAULT_LIMITS", "Limits", "read"]

_SNIFFED = 512
# What people send instead of a film, by first bytes: the second column is sound but not read.
_OTHERS = (
    (b"GIF8", True, "a GIF image"),
    (b"BM", True, "a BMP image"),
    (b"\x00\x00\x00\x0cjP  ", True, "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", True, "a JPEG 2000 codestream"),
    (b"II+\0", True, "a BigTIFF image"),
    (b"MM\0+", True, "a BigTIFF image"),
    (b"%PDF", False, "a PDF document"),
    (b"PK\x03\x04", False, "a ZIP archive; unpack it first"),
    (b"PK\x05\x06", False, "an empty ZIP archive"),
    (b"\x1f\x8b", False, "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", False, "a 7-Zip archive; unpack it first"),
)
_EXPECTED = "expected a DICOM, PNG, JPEG or TIFF file"


def read(source: str | Path | bytes, *, name: str | None = None, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Return the film in a DICOM, PNG, JPEG or TIFF file.

    Args:
        source: the file's path, or its bytes.
        name: what stands for the file in messages; the path, where there is one.
        limits: on what it may ask for.

    Raises:
        InputError: the file cannot be read as a radiograph; the reason says why.
        UnsupportedImageError: it is sound, but of a kind that is not analysed.

    Example:
        >>> read(b"hello", name="letter.txt")
        Traceback (most recent call last):
        rentgen.errors.InputError: letter.txt: expected a DICOM, PNG, JPEG or TIFF file, but got text
    """
    if isinstance(source, bytes):
        label = name or "the bytes given"
        data = source
        if len(data) > limits.max_bytes:
            raise _too_large(label, len(data), limits)
    else:
        label = name or str(source)
        data = _load(source, label, limits)
    if not data:
        raise InputError(label, "the file is empty")
    content_hash = hashlib.sha256(data).hexdigest()
    try:
        if is_dicom(data[:_SNIFFED]):
            return _named(read_dicom(data, source=label, content_hash=content_hash, limits=limits))
        if data.startswith((PNG_MAGIC, JPEG_MAGIC, *TIFF_MAGICS)):
            return _named(read_raster(data, source=label, content_hash=content_hash, limits=limits))
    except MemoryError as error:
        raise InputError(label, "the image is too large for the memory of this computer") from error
    raise _refuse(data, label)


def _named(film: Radiograph) -> Radiograph:
    """Return the film with the hash of what it shows; 16 bits of an 8-bit film show the same."""
    digest = hashlib.sha256(f"{film.pixels.shape}".encode())
    digest.update(to_uint8(film.pixels).tobytes())
    return replace(film, pixel_hash=digest.hexdigest())


def _too_large(label: str, size: int, limits: Limits) -> InputError:
    return InputError(
        label, f"the file is too large: {size} bytes; at most {limits.max_bytes // 1_000_000} MB are read"
    )


def _load(path: str | Path, label: str, limits: Limits) -> bytes:
    """Return a file's bytes, and no more of them than the limit, whatever its size is said to be."""
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(label, "this is a folder; give the files in it")
        # A pipe or a device would be waited for without end.
        if not stat.S_ISREG(status.st_mode):
            raise InputError(label, "this is not an ordinary file")
        if status.st_size > limits.max_bytes:
            raise _too_large(label, status.st_size, limits)
        with Path(path).open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise InputError(label, "there is no such file") from error
    # A ValueError is a path with a zero byte in it.
    except (OSError, ValueError) as error:
        raise InputError(label, "the file cannot be opened; check the path and the permission to read it") from error
    if len(data) > limits.max_bytes:
        raise _too_large(label, len(data), limits)
    return data


def _refuse(data: bytes, label: str) -> InputError:
    """Return the error that says what the file is instead."""
    for magic, is_image, kind in _OTHERS:
        if data.startswith(magic):
            error = UnsupportedImageError if is_image else InputError
            return error(label, f"{_EXPECTED}, but got {kind}")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return UnsupportedImageError(label, f"{_EXPECTED}, but got a WebP image")
    if data[4:8] == b"ftyp":
        return UnsupportedImageError(label, f"{_EXPECTED}, but got a HEIF image or a video")
    head = data[:_SNIFFED]
    if head.lstrip()[:1] == b"<":
        return InputError(label, f"{_EXPECTED}, but got a web page or XML")
    if all(byte in b"\t\n\r\f" or byte >= 0x20 for byte in head):
        return InputError(label, f"{_EXPECTED}, but got text")
    return InputError(label, f"{_EXPECTED}, but got something else, or a damaged one")
