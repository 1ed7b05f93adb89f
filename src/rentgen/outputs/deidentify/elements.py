"""DICOM elements as bytes, in the syntax of the file that they come from."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from rentgen.images.dicom_elements import Syntax
from rentgen.images.dicom_pixels import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE
from rentgen.outputs.dicom_common import IMPLEMENTATION_UID

# PS3.5 7.1.2: these have two reserved bytes and a length of four.
_LONG_VRS = frozenset(("OB", "OW", "SQ"))
_ITEM = 0xFFFEE000
_META = Syntax()


def syntax_of(transfer_syntax_uid: str) -> Syntax:
    """Return how a transfer syntax writes elements."""
    return Syntax(
        explicit=transfer_syntax_uid != IMPLICIT_LITTLE,
        little=transfer_syntax_uid != EXPLICIT_BIG,
    )


def encode(tag: int, vr: str, value: bytes, syntax: Syntax, length: int | None = None) -> bytes:
    """Return one element.

    Args:
        tag: of it.
        vr: its value representation.
        value: of an even number of bytes, in the byte order of `syntax`.
        syntax: how it is written.
        length: that stands in its head, where it is not that of `value`.
    """
    order = "<" if syntax.little else ">"
    size = len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if not syntax.explicit or tag == _ITEM:
        return head + struct.pack(f"{order}L", size) + value
    if vr in _LONG_VRS:
        return head + vr.encode() + struct.pack(f"{order}HL", 0, size) + value
    return head + vr.encode() + struct.pack(f"{order}H", size) + value


def encode_text(values: Iterable[str], vr: str) -> bytes:
    """Return ASCII values as those of an element, padded to an even number of bytes."""
    text = "\\".join(values).encode("ascii")
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)


def encode_items(items: Iterable[bytes], syntax: Syntax) -> bytes:
    """Return the value of a sequence of items."""
    return b"".join(encode(_ITEM, "", item, syntax) for item in items)


def encode_code(value: str, scheme: str, meaning: str, syntax: Syntax) -> bytes:
    """Return what a code is as an item's elements."""
    return b"".join(
        encode(tag, vr, encode_text([text], vr), syntax)
        for tag, vr, text in ((0x00080100, "SH", value), (0x00080102, "SH", scheme), (0x00080104, "LO", meaning))
    )


def encode_head(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> bytes:
    """Return how a DICOM file begins: an empty preamble, and file meta information that knows nothing."""
    fields = (
        (0x00020002, sop_class_uid),
        (0x00020003, sop_instance_uid),
        (0x00020010, transfer_syntax),
        (0x00020012, IMPLEMENTATION_UID),
    )
    meta = encode(0x00020001, "OB", b"\0\1", _META)
    meta += b"".join(encode(tag, "UI", encode_text([uid], "UI"), _META) for tag, uid in fields)
    meta += encode(0x00020013, "SH", encode_text(["RENTGEN"], "SH"), _META)
    return b"".join((bytes(128), b"DICM", encode(0x00020000, "UL", struct.pack("<L", len(meta)), _META), meta))


def encode_file(elements: Iterable[bytes], *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> bytes:
    """Return a DICOM file: how all of them begin, and the data set."""
    body = b"".join(elements)
    if transfer_syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflater.compress(body) + deflater.flush()
        body += b"\0" * (len(body) % 2)
    head = encode_head(sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, transfer_syntax=transfer_syntax)
    return head + body
