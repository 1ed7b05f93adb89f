"""What an ONNX file says of itself, read without the onnx package: that all its weights lie inside it.

ONNX lets a weight live in another file, named by a path. An engine would read whatever file that is, and no hash of the
bundle would cover it. The fields below are those of `onnx.proto` (ONNX IR version 10) that lead to a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

from rentgen.errors import BundleError

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION = range(7)
_LEADS = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 32


def check_whole(model: bytes) -> None:
    """Check that no weight of an ONNX file lies outside it.

    Raises:
        BundleError: one does, or the file is not ONNX.
    """
    try:
        _check(memoryview(model), _MODEL, 0)
    except (IndexError, ValueError) as error:
        raise BundleError("The model's graph is not ONNX, or is damaged. Fetch or train the bundle anew.") from error


def _check(message: memoryview, kind: int, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    for field, value in _fields(message):
        if kind == _TENSOR and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
            raise BundleError(
                "The model's graph keeps weights in another file, which no hash covers. A bundle holds all of them: do "
                "not use it."
            )
        below = _LEADS[kind].get(field)
        if below is not None and isinstance(value, memoryview):
            _check(value, below, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of each field of a protocol buffer message (its wire format, types 0, 1, 2 and 5)."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield field, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(message):
            raise ValueError("cut short")
        yield field, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
