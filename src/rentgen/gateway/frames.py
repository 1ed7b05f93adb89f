"""Messages between the gateway and its readers: JSON and blobs over a pipe, their sizes checked before they are read.

A frame is the length of its head in 4 bytes (big endian), the head (JSON, whose `sizes` are those of the blobs), and
the blobs. Nothing that comes from a reader is more than text, numbers and bytes to the gateway.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LONGEST_HEAD = 64_000_000
LONGEST_BLOBS = 1_000_000_000
"""Bytes of all blobs of a frame."""

Json = dict[str, Any]
_LENGTH = struct.Struct(">I")


def pack(head: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """Return a frame in pieces to be written one after the other.

    Args:
        head: plain JSON values.
        blobs: bytes that go with it.
    """
    text = json.dumps({**head, "sizes": [len(blob) for blob in blobs]}, allow_nan=False).encode()
    return [_LENGTH.pack(len(text)), text, *blobs]


def unpack(read: Callable[[int], bytes]) -> tuple[Json, list[bytes]]:
    """Return head and blobs of the next frame.

    Args:
        read: returns exactly as many bytes as it is asked for, or raises EOFError.

    Raises:
        ValueError: what came is no frame, or one beyond the limits.
        EOFError: there is no more.
    """
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    if length > LONGEST_HEAD:
        raise ValueError(f"Expected a head of at most {LONGEST_HEAD} bytes, but one of {length} is announced.")
    try:
        head = json.loads(read(length))
    except RecursionError as error:
        raise ValueError("Expected a flat head, but it is nested too deep.") from error
    sizes = head.get("sizes") if isinstance(head, dict) else None
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("Expected a JSON object with sizes, but got something else.")
    if sum(sizes) > LONGEST_BLOBS:
        raise ValueError(f"Expected blobs of at most {LONGEST_BLOBS} bytes, but {sum(sizes)} are announced.")
    return head, [read(size) for size in sizes]
