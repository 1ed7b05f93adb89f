"""Curves, figures and pictures as TensorBoard reads them: an event file, written without TensorBoard."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from rentgen.records import Epoch
from rentgen.records.runs import Findings

_POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), reflected: what TFRecord frames are checked by."""

_PNG_SIZE = slice(16, 24)
"""Where a PNG says its width and height: the IHDR chunk is the first (PNG 11.2.2)."""


def events(parts: Mapping[str, Sequence[Epoch]], wall_time: float, found: Findings | None = None) -> bytes:
    """Return an event file with one curve for each part and figure, a step an epoch.

    Args:
        parts: of `records.History`.
        wall_time: seconds since 1970, noted with every point.
        found: figures and pictures of the end, at step 0; None for none.
    """
    return b"".join(map(_frame, _records(parts, wall_time, found)))


def file_name(wall_time: float) -> str:
    """Return a name for an event file; TensorBoard takes files with `tfevents` in theirs."""
    return f"events.out.tfevents.{int(wall_time)}.rentgen"


def _records(parts: Mapping[str, Sequence[Epoch]], wall_time: float, found: Findings | None) -> Iterator[bytes]:
    """Yield messages `tensorflow.Event`: wall_time = 1, step = 2, file_version = 3, summary = 5."""
    time = b"\x09" + struct.pack("<d", wall_time)
    yield time + _bytes(3, b"brain.Event:2")
    for part, epochs in parts.items():
        for step, epoch in enumerate(epochs):
            values = b"".join(
                _scalar(f"{item.name}/{part}", value)
                for item in fields(epoch)
                if isinstance(value := getattr(epoch, item.name), int | float)
            )
            yield time + b"\x10" + _varint(step) + _bytes(5, values)
    if found is not None:
        scalars = b"".join(_scalar(name, value) for name, value in found.metrics.items())
        yield time + b"\x10\x00" + _bytes(5, scalars)
        for name, png in found.pictures.items():
            yield time + b"\x10\x00" + _bytes(5, _picture(name, png))


def _scalar(tag: str, value: float) -> bytes:
    """Return `Summary.value` = 1 with tag = 1 and simple_value = 2."""
    return _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))


def _picture(tag: str, png: bytes) -> bytes:
    """Return `Summary.value` with tag = 1 and image = 4: height = 1, width = 2, colorspace = 3, encoded = 4."""
    width, height = struct.unpack(">LL", png[_PNG_SIZE])
    image = b"\x08" + _varint(height) + b"\x10" + _varint(width) + b"\x18\x03" + _bytes(4, png)
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(4, image))


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _frame(data: bytes) -> bytes:
    """Return a TFRecord: length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        rows.append(crc)
    return tuple(rows)


_TABLE = _table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    # Masked, as TFRecord has it: rotated and shifted by a constant.
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
