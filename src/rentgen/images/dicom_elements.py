"""The elements of a DICOM file, walked over without recursion, without warnings and without trusting a length.

pydicom's reader is not used here, for three reasons. It recurses into nested sequences and allocates what a length
field asks for. It speaks through `warnings`, whose filters belong to the whole process, while films are read in many
threads. And its messages quote the values of elements, which may be a patient's. Only some thirty top-level
elements are of interest, so that a flat walk is short, and safe by its shape.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from rentgen.errors import InputError
from rentgen.images.limits import Limits

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
# PS3.5 7.1.2: these have two reserved bytes and a length of four.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ENCODINGS = {
    "ISO_IR 100": "iso8859_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 192": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}


@dataclass(frozen=True, slots=True)
class Syntax:
    """How elements are written.

    Attributes:
        explicit: each element names its value representation.
        little: the low byte comes first.
    """

    explicit: bool = True
    little: bool = True


@dataclass(frozen=True, slots=True)
class Element:
    """Where an element's value lies.

    Attributes:
        vr: its value representation, empty where the file does not say.
        start: of the value, in bytes from the start of the data.
        length: in bytes, or `UNDEFINED`.
    """

    vr: bytes
    start: int
    length: int


def read_element(data: bytes, position: int, end: int, syntax: Syntax, source: str) -> tuple[int, Element]:
    """Return the tag and the element whose header stands at `position`.

    Raises:
        InputError: the header is cut short or holds no value representation.
    """
    if position + 8 > end:
        raise InputError(source, "the file is cut short: its DICOM header ends in the middle of an element")
    order = "<" if syntax.little else ">"
    group, number = struct.unpack_from(f"{order}HH", data, position)
    tag = group << 16 | number
    # PS3.5 7.5: items and their delimiters never name a value representation.
    if not syntax.explicit or group == 0xFFFE:
        (length,) = struct.unpack_from(f"{order}L", data, position + 4)
        return tag, Element(b"", position + 8, length)
    vr = data[position + 4 : position + 6]
    if not (vr.isalpha() and vr.isupper()):
        raise InputError(source, f"the DICOM header is damaged at byte {position}: no value representation there")
    if vr not in _LONG_VRS:
        (length,) = struct.unpack_from(f"{order}H", data, position + 6)
        return tag, Element(vr, position + 8, length)
    if position + 12 > end:
        raise InputError(source, "the file is cut short: its DICOM header ends in the middle of an element")
    (length,) = struct.unpack_from(f"{order}L", data, position + 8)
    return tag, Element(vr, position + 12, length)


class _Walk:
    """A walk over elements that counts its steps."""

    def __init__(self, data: bytes, end: int, source: str, limits: Limits) -> None:
        self.data = data
        self.end = end
        self.source = source
        self.limits = limits
        self.steps = 0

    def step(self, position: int, syntax: Syntax) -> tuple[int, Element]:
        self.steps += 1
        if self.steps > self.limits.max_elements:
            raise InputError(
                self.source, f"the DICOM header has more than {self.limits.max_elements} elements before its pixels"
            )
        return read_element(self.data, position, self.end, syntax, self.source)

    def after(self, element: Element) -> int:
        """Return where a value of known length ends."""
        stop = element.start + element.length
        if stop > self.end:
            raise InputError(self.source, "the file is cut short: a DICOM element is longer than what is left of it")
        return stop

    def skip_sequence(self, element: Element, syntax: Syntax) -> int:
        """Return where a value of undefined length ends."""
        # One entry for each container that is open: its syntax, and whether it is a sequence (of items) or an item.
        open_containers: list[tuple[Syntax, bool]] = [(_inside(element, syntax), True)]
        position = element.start
        while open_containers:
            inner, is_sequence = open_containers[-1]
            tag, child = self.step(position, inner)
            if is_sequence:
                if tag == _SEQUENCE_END:
                    open_containers.pop()
                elif tag != _ITEM:
                    raise InputError(self.source, f"the DICOM header is damaged at byte {position}: no sequence item")
                elif child.length == UNDEFINED:
                    open_containers.append((inner, False))
            elif tag == _ITEM_END:
                open_containers.pop()
            elif child.length == UNDEFINED:
                open_containers.append((_inside(child, inner), True))
            if len(open_containers) > 2 * self.limits.max_depth:
                raise InputError(
                    self.source, f"the DICOM header nests more than {self.limits.max_depth} sequences in one another"
                )
            is_marker = tag in (_ITEM_END, _SEQUENCE_END)
            position = child.start if is_marker or child.length == UNDEFINED else self.after(child)
        return position


def _inside(element: Element, syntax: Syntax) -> Syntax:
    # PS3.5 6.2.2 note 2: a sequence of unknown representation and undefined length is implicit little endian.
    return Syntax(explicit=False) if element.vr == b"UN" else syntax


def scan(
    data: bytes,
    start: int,
    end: int,
    syntax: Syntax,
    *,
    source: str,
    limits: Limits,
    stop: int = PIXEL_DATA,
    wanted: frozenset[int] | None = None,
) -> dict[int, Element]:
    """Return the top-level elements from `start` up to and including the tag `stop`.

    Args:
        data: the file.
        start: where the first element stands.
        end: where the last one ends.
        syntax: how they are written.
        source: for messages.
        limits: on steps and depth.
        stop: the first tag at which the walk ends; its value is not walked over.
        wanted: keep only these, or all.

    Raises:
        InputError: the header is damaged, cut short, too long or too deep.
    """
    walk = _Walk(data, end, source, limits)
    found: dict[int, Element] = {}
    position = start
    while position < end:
        # Some writers pad a file with zeros to an even block.
        if end - position < 8 and not data[position:end].strip(b"\0"):
            break
        tag, element = walk.step(position, syntax)
        if tag >> 16 == 0xFFFE:
            raise InputError(source, f"the DICOM header is damaged at byte {position}: an item outside a sequence")
        if wanted is None or tag in wanted:
            found[tag] = element
        if tag >= stop:
            break
        position = walk.skip_sequence(element, syntax) if element.length == UNDEFINED else walk.after(element)
    return found


@dataclass(frozen=True, slots=True, repr=False)
class Header:
    """A data set whose values are read on demand.

    Attributes:
        source: for messages.
        data: the bytes in which the elements lie.
        elements: by tag.
        syntax: how they are written.
        limits: on the length of a value.
        transfer_syntax_uid: of the pixels.
    """

    source: str
    data: bytes
    elements: Mapping[int, Element]
    syntax: Syntax
    limits: Limits
    transfer_syntax_uid: str

    def __contains__(self, tag: int) -> bool:
        return tag in self.elements

    def value(self, tag: int) -> bytes:
        """Return an element's bytes, empty where it is absent."""
        element = self.elements.get(tag)
        if element is None:
            return b""
        if element.length > self.limits.max_element_bytes:
            raise InputError(
                self.source,
                f"the DICOM element {name_tag(tag)} is longer than {self.limits.max_element_bytes} bytes",
            )
        return self.data[element.start : element.start + element.length]

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return the values of a text element, stripped; empty where it is absent or blank."""
        value = self.value(tag).rstrip(b"\0 ")
        if not value:
            return ()
        charset = self.value(0x00080005).decode("ascii", "replace").strip("\0 ")
        # Any byte is a Latin-1 letter: what cannot be read as declared stays distinct.
        try:
            text = value.decode(_ENCODINGS.get(charset, "iso8859_1"))
        except UnicodeDecodeError:
            text = value.decode("iso8859_1")
        return tuple(part.strip("\0 ") for part in text.split("\\"))

    def text(self, tag: int) -> str | None:
        """Return the first value of a text element, or None where it is absent or blank."""
        return next((text for text in self.texts(tag) if text), None)

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Return the values of a DS or IS element; empty where it is absent or any is not a finite number."""
        try:
            values = tuple(float(text) for text in self.texts(tag))
        except ValueError:
            return ()
        return values if all(math.isfinite(value) for value in values) else ()

    def shorts(self, tag: int, *, signed: bool = False) -> tuple[int, ...]:
        """Return the values of a US or SS element; empty where it is absent."""
        value = self.value(tag)
        code = f"{'<' if self.syntax.little else '>'}{len(value) // 2}{'h' if signed else 'H'}"
        return struct.unpack_from(code, value)

    def first_item(self, tag: int) -> Header | None:
        """Return the first item of a sequence, or None where there is none.

        Raises:
            InputError: the sequence is damaged.
        """
        element = self.elements.get(tag)
        if element is None or element.length == 0:
            return None
        syntax = _inside(element, self.syntax)
        end = len(self.data) if element.length == UNDEFINED else element.start + element.length
        marker, item = read_element(self.data, element.start, end, syntax, self.source)
        if marker != _ITEM:
            if marker == _SEQUENCE_END:
                return None
            raise InputError(self.source, f"the DICOM sequence {name_tag(tag)} is damaged")
        if item.length != UNDEFINED:
            end = min(end, item.start + item.length)
        found: dict[int, Element] = {}
        walk = _Walk(self.data, end, self.source, self.limits)
        position = item.start
        while position < end:
            child_tag, child = walk.step(position, syntax)
            if child_tag == _ITEM_END:
                break
            found[child_tag] = child
            position = walk.skip_sequence(child, syntax) if child.length == UNDEFINED else walk.after(child)
        return Header(self.source, self.data, found, syntax, self.limits, self.transfer_syntax_uid)


def name_tag(tag: int) -> str:
    """Return a tag as the standard writes it.

    Example:
        >>> name_tag(0x00280010)
        '(0028,0010)'
    """
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
