"""Training curves as TensorBoard reads them: an event file, written without TensorBoard."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from rentgen.records import Epoch

_POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), reflected: what TFRecord frames are checked by."""


def events(parts: Mapping[str, Sequence[Epoch]], wall_time: float) -> bytes:
    """Return an event file with one curve for each part and figure, a step an epoch.

    Args:
        parts: of `records.History`.
        wall_time: seconds since 1970, noted with every point.
    """
    return b"".join(map(_frame, _records(parts, wall_time)))


def _records(parts: Mapping[str, Sequence[Epoch]], wall_time: float) -> Iterator[bytes]:
    """Yield messages `tensorflow.Event`: wall_time = 1, step = 2, file_version = 3, summary = 5."""
    time = b"\x09" + struct.pack("<d", wall_time)
    yield time + _bytes(3, b"brain.Event:2")
    for part, epochs in parts.items():
        for step, epoch in enumerate(epochs):
            values = b"".join(
                # Summary.value = 1 with tag = 1 and simple_value = 2
                _bytes(1, _bytes(1, f"{item.name}/{part}".encode()) + b"\x15" + struct.pack("<f", value))
                for item in fields(epoch)
                if isinstance(value := getattr(epoch, item.name), int | float)
            )
            yield time + b"\x10" + _varint(step) + _bytes(5, values)


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


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    # Masked, as TFRecord has it: rotated and shifted by a constant.
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
