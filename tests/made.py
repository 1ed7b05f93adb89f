"""Tiny films in memory: arrays, PNG, JPEG, TIFF and DICOM. Nothing here is a patient."""

from __future__ import annotations

import io
import pathlib
import shutil
import struct
import subprocess
import zlib
from typing import Any, cast

import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from openjpeg.utils import encode_pixel_data as encode_jpeg_2000
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

Array = npt.NDArray[Any]

PATIENT_ID = "MADE-0001"
PATIENT_NAME = "Nobody^Made"
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
CODED_LOSSLESS = (RLELossless, JPEGLSLossless, JPEG2000Lossless)


def film(rows: int = 48, columns: int = 40, bits: int = 12, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Return a smooth, slightly noisy film that uses the whole range of `bits`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    shade = np.sin(x / columns * 3.0) * np.cos(y / rows * 2.0) + 0.02 * rng.standard_normal((rows, columns))
    shade = (shade - shade.min()) / (shade.max() - shade.min())
    return np.asarray(np.rint(shade * ((1 << bits) - 1)), np.uint16)


def film8(rows: int = 48, columns: int = 40, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return an 8-bit film."""
    return film(rows, columns, 8, seed).astype(np.uint8)


def page(rows: int = 1100, columns: int = 850, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return a letter: dark words on paper that a lamp lights unevenly."""
    image = Image.new("L", (columns, rows), 235)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(26)
    for y in range(40, rows - 40, 38):
        pen.text((40, y), "the chest film of today shows no change since the last one " * 2, fill=30, font=font)
    light = 1 - 0.2 * np.linspace(0, 1, columns)[None]
    noise = np.random.default_rng(seed).normal(0, 4, (rows, columns))
    return np.clip(np.asarray(image) * light + noise, 0, 255).astype(np.uint8)


def section(rows: int = 256, columns: int = 256, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return a slice of a head: a bright ring round soft matter, free in black air."""
    y, x = np.mgrid[0:rows, 0:columns]
    radius = np.hypot((x - columns / 2) / columns, (y - rows / 2) / rows) / 0.4
    shade = 90 + 40 * np.sin(x / columns * 20) * np.cos(y / rows * 17) + 110 * (radius > 0.9)
    noise = np.random.default_rng(seed).normal(0, 8, (rows, columns))
    return np.asarray(np.clip((shade + noise) * (radius < 1), 0, 255), np.uint8)


def fan(rows: int = 480, columns: int = 640, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return an ultrasound fan of speckle."""
    y, x = np.mgrid[0:rows, 0:columns]
    radius, angle = np.hypot(x - columns / 2, y - 20), np.arctan2(x - columns / 2, y - 20)
    speckle = np.random.default_rng(seed).rayleigh(60, (rows, columns))
    return np.asarray(np.clip(speckle * (radius < rows * 0.9) * (np.abs(angle) < 0.6), 0, 255), np.uint8)


def leaves(rows: int = 480, columns: int = 640, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return shaded discs that hide one another: the simplest thing with the statistics of a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    image = np.full((rows, columns), 128.0)
    for radius in np.sort(1 / rng.uniform(1 / 90, 1 / 8, 700))[::-1]:
        across, down = rng.uniform(0, columns), rng.uniform(0, rows)
        disc = np.hypot(x - across, y - down) < radius
        image[disc] = rng.uniform(10, 230) + 25 * (x - across)[disc] / radius
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def encoded(image: Image.Image | Array, kind: str, **options: object) -> bytes:
    """Return an image, or an array, as a file of Pillow's `kind`."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **cast(dict[str, Any], options))
    return buffer.getvalue()


def png(image: Image.Image | Array, **options: object) -> bytes:
    """Return a PNG file."""
    return encoded(image, "PNG", **options)


def jpeg(image: Image.Image | Array, **options: object) -> bytes:
    """Return a JPEG file."""
    return encoded(image, "JPEG", **options)


def tiff(image: Image.Image | Array, **options: object) -> bytes:
    """Return a TIFF file."""
    return encoded(image, "TIFF", **options)


def exif(orientation: int) -> bytes:
    """Return a block of EXIF with an orientation only."""
    return b"Exif\0\0" + struct.pack("<2sHLHHHLHHL", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def frame(pixels: Array, syntax: str, bits: int) -> bytes:
    """Return one coded frame of grey pixels, uint8 or uint16."""
    rows, columns = pixels.shape
    if syntax == RLELossless:
        return rle(pixels)
    # A coder of 8 bits takes them in single bytes, however many the file allocates.
    if bits <= 8:
        pixels = pixels.astype(np.uint8)
    common = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "bits_stored": bits}
    if syntax == JPEGLSLossless:
        return bytes(jpeg_ls.encode_pixel_data(pixels.tobytes(), bits_allocated=8 * pixels.itemsize, **common))
    if syntax == JPEG2000Lossless:
        # Pixels are coded as unsigned: two's complement in `bits` goes in as it is.
        options: dict[str, Any] = {"photometric_interpretation": "MONOCHROME2", "pixel_representation": 0}
        return bytes(encode_jpeg_2000(pixels.tobytes(), bits_allocated=8 * pixels.itemsize, **common, **options))
    if syntax == JPEGBaseline8Bit:
        return jpeg(pixels, quality=95)
    raise ValueError(f"Expected a syntax that is coded here, but got {syntax}.")


def rle(pixels: Array) -> bytes:
    """Return an RLE frame of literal runs."""
    planes = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, pixels.itemsize).T
    segments = []
    for plane in planes:
        data = plane.tobytes()
        runs = [data[i : i + 128] for i in range(0, len(data), 128)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def dicom(
    pixels: Array | None = None,
    *,
    syntax: str = ExplicitVRLittleEndian,
    bits: int = 12,
    raw: bytes = b"",
    **values: object,
) -> bytes:
    """Return a computed radiograph as a DICOM file.

    Args:
        pixels: (rows, columns) of codes below 2 ** bits, uint8 or uint16; a small film where left out.
        syntax: transfer syntax.
        bits: Bits Stored.
        raw: coded frame that stands in for that of `pixels`.
        values: elements by keyword; None takes one away.
    """
    pixels = film(bits=bits) if pixels is None else pixels
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.826.0.1.3680043.10.1.3")
    elements: dict[str, object] = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.826.0.1.3680043.10.1.3",
        "StudyInstanceUID": "1.2.826.0.1.3680043.10.1.1",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.1.2",
        "PatientName": PATIENT_NAME,
        "PatientID": PATIENT_ID,
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "WindowCenter": (1 << bits) / 2,
        "WindowWidth": float(1 << bits),
    } | values
    for keyword, value in elements.items():
        if value is not None:
            setattr(ds, keyword, value)
    if syntax in NATIVE:
        data = (
            pixels.tobytes()
            if syntax != ExplicitVRBigEndian
            else pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        )
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    else:
        ds.PixelData = encapsulate([raw or frame(pixels, syntax, bits)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return one explicit little endian element, its length true or not."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HL", 0, size) + value
    return head + struct.pack("<H", size) + value


def part10(body: bytes, *, syntax: str = ExplicitVRLittleEndian, preamble: bytes = b"") -> bytes:
    """Return a DICOM file around a data set that is given as bytes."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, b"UI", uid)
    group_length = element(0x00020000, b"UL", struct.pack("<L", len(meta)))
    return preamble.ljust(128, b"\0") + b"DICM" + group_length + meta + body


def run(program: str, *arguments: str | pathlib.Path) -> None:
    """Run one of dcmtk's programs, or skip the test where it is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"dcmtk's {program} is not installed")
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)
