"""`multipart/related` as DICOMweb has it: parts that are written to disk as they come."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import BinaryIO

from rentgen.errors import InputError

DICOM = "application/dicom"
_LONGEST_HEADERS = 8_192
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary of a `multipart/related` body of DICOM objects, or None where the type is another."""
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_type() != "multipart/related":
        return None
    kind = message.get_param("type")
    # The standard asks for the parameter; clients leave it out.
    if kind is not None and str(kind).lower() != DICOM:
        return None
    boundary = message.get_param("boundary")
    return boundary.encode() if isinstance(boundary, str) and _BOUNDARY.fullmatch(boundary) else None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may hold.

    Attributes:
        part_bytes: of one part.
        parts: in one body.
    """

    part_bytes: int = 200_000_000
    parts: int = 500


class Parts:
    r"""Takes a body in pieces, and writes each part to a file of its own.

    Example:
        >>> import io
        >>> files = [io.BytesIO()]
        >>> parts = Parts(b"x", Limits(), lambda: files[0])
        >>> parts.feed(b"--x\r\nContent-Type: application/dicom\r\n\r\nabc\r\n--x--")
        >>> parts.finish(), files[0].getvalue()
        (None, b'abc')
    """

    def __init__(self, boundary: bytes, limits: Limits, open_part: Callable[[], BinaryIO]) -> None:
        """Begin a body.

        Args:
            boundary: of the parts.
            limits: on them.
            open_part: returns where the next part goes.
        """
        self._mark = b"\r\n--" + boundary
        self._limits = limits
        self._open_part = open_part
        # As if a line had ended before: the first boundary may begin the body.
        self._rest = bytearray(b"\r\n")
        self._state = "preamble"
        self._file: BinaryIO | None = None
        self._count = self._size = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            InputError: it is damaged, too large, or a part is no DICOM.
        """
        self._rest += data
        step = {"preamble": self._skip, "mark": self._begin, "headers": self._read_headers, "body": self._write}
        while self._state != "end" and step[self._state]():
            pass
        if self._state == "end":
            self._rest.clear()

    def finish(self) -> None:
        """End the body.

        Raises:
            InputError: it was cut off.
        """
        if self._state != "end":
            raise InputError("body", "it ends before its last boundary")

    def _skip(self) -> bool:
        at = self._rest.find(self._mark)
        if at < 0:
            del self._rest[: -len(self._mark)]
            return False
        del self._rest[: at + len(self._mark)]
        self._state = "mark"
        return True

    def _begin(self) -> bool:
        if len(self._rest) < 2:
            return False
        if self._rest.startswith(b"--"):
            self._state = "end"
            return False
        line = self._rest.find(b"\r\n")
        if line < 0:
            if len(self._rest) > 100:
                raise InputError("body", "a boundary is damaged")
            return False
        if self._rest[:line].strip(b" \t"):
            raise InputError("body", "a boundary is damaged")
        # The line's end stays: headers may be none.
        del self._rest[:line]
        self._state = "headers"
        return True

    def _read_headers(self) -> bool:
        end = self._rest.find(b"\r\n\r\n")
        if end < 0 or end > _LONGEST_HEADERS:
            if len(self._rest) > _LONGEST_HEADERS:
                raise InputError("body", "the headers of a part are too long")
            return False
        if not _is_dicom(bytes(self._rest[:end])):
            raise InputError("body", f"a part is not {DICOM}")
        self._count += 1
        if self._count > self._limits.parts:
            raise InputError("body", f"it has more than {self._limits.parts} parts")
        del self._rest[: end + 4]
        self._size = 0
        self._file = self._open_part()
        self._state = "body"
        return True

    def _write(self) -> bool:
        at = self._rest.find(self._mark)
        ready = at if at >= 0 else max(0, len(self._rest) - len(self._mark))
        self._size += ready
        if self._size > self._limits.part_bytes:
            raise InputError("body", f"a part is longer than {self._limits.part_bytes} bytes")
        if self._file is not None:
            self._file.write(self._rest[:ready])
        if at < 0:
            del self._rest[:ready]
            return False
        del self._rest[: at + len(self._mark)]
        self._state = "mark"
        return True


def _is_dicom(headers: bytes) -> bool:
    for line in headers.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            return value.partition(";")[0].strip().lower() == DICOM
        if name.strip().lower() in ("content-encoding", "content-transfer-encoding") and value.strip().lower() not in (
            "binary",
            "identity",
        ):
            return False
    return False
