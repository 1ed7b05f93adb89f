"""From stored values to what a person would see: the grey transformations of DICOM, in the standard's order.

Stored value, Modality LUT or rescale, VOI LUT or window, Presentation LUT shape (PS3.4 Annex N). Each is a function
of one pixel's value, and a value has 16 bits at most: the whole chain is computed once for each possible value, and
the film is then looked up in that table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rentgen.errors import InputError
from rentgen.images.dicom_elements import Header, name_tag
from rentgen.images.dicom_pixels import Stored, UInt16
from rentgen.records import Float64

_LOW, _HIGH = 0.005, 0.995
_ROWS_AT_ONCE = 256


def display(header: Header, stored: Stored) -> tuple[UInt16, tuple[str, ...]]:
    """Return (rows, columns) uint16 over its full range, air dark and bone bright, and the notes.

    Args:
        header: with the grey transformations among its elements.
        stored: of its pixels.

    Raises:
        InputError: a lookup table is damaged.
    """
    notes: list[str] = []
    values = stored.values()
    physical = _apply_modality(header, values, stored.signed, notes)
    padding = _find_padding(header, values, stored.signed)
    if padding.any():
        notes.append("padding painted black")
    shades = _apply_voi(header, stored, physical, padding, notes)
    if _is_inverse(header, notes):
        shades = 1.0 - shades
    table = np.rint(np.clip(shades, 0.0, 1.0) * 65535.0).astype(np.uint16)
    table[padding] = 0
    return table[stored.codes], tuple(notes)


def _apply_modality(header: Header, values: npt.NDArray[np.int64], signed: bool, notes: list[str]) -> Float64:
    """Return what each stored value means to the modality."""
    table = header.first_item(0x00283000)
    if table is not None:
        return _look_up(table, values.astype(np.float64), signed=signed)[0]
    intercepts, slopes = header.numbers(0x00281052), header.numbers(0x00281053)
    intercept, slope = (intercepts or (0.0,))[0], (slopes or (1.0,))[0]
    if slope == 0.0:
        notes.append("rescale slope of zero ignored")
        slope = 1.0
    return values.astype(np.float64) * slope + intercept


def _find_padding(header: Header, values: npt.NDArray[np.int64], signed: bool) -> npt.NDArray[np.bool_]:
    """Return which stored values are padding; they are compared before any transformation (PS3.3 C.7.5.1.1.2)."""
    limits = header.shorts(0x00280120, signed=signed)[:1] + header.shorts(0x00280121, signed=signed)[:1]
    if 0x00280120 not in header or not limits:
        return np.zeros(values.shape, np.bool_)
    return (values >= min(limits)) & (values <= max(limits))


def _apply_voi(
    header: Header, stored: Stored, physical: Float64, padding: npt.NDArray[np.bool_], notes: list[str]
) -> Float64:
    """Return the shade of each value, from 0 to 1: by VOI LUT, else by window, else by the film's own range."""
    table = header.first_item(0x00283010)
    if table is not None:
        shades, depth = _look_up(table, physical, signed=bool(physical.min() < 0))
        return shades / (2.0**depth - 1.0)
    centers, widths = header.numbers(0x00281050), header.numbers(0x00281051)
    if centers and widths:
        function = header.text(0x00281056) or "LINEAR"
        shades_or_none = apply_window(physical, centers[0], widths[0], function)
        if shades_or_none is not None:
            if min(len(centers), len(widths)) > 1:
                notes.append(f"first of {min(len(centers), len(widths))} windows")
            return shades_or_none
    if 0x00281050 in header or 0x00281051 in header:
        notes.append("window in the header not usable")
    notes.append("window from the film's own range")
    low, high = _measure_range(stored, physical, padding)
    if high <= low:
        notes.append("blank: one grey level")
        # Black after the inversion too: nothing was seen.
        return np.full(physical.shape, 1.0 if _is_inverse(header, []) else 0.0)
    return np.clip((physical - low) / (high - low), 0.0, 1.0)


def apply_window(values: Float64, center: float, width: float, function: str) -> Float64 | None:
    """Return the shade of each value, from 0 to 1 (PS3.3 C.11.2.1.2), or None where the window is not usable.

    Args:
        values: after the modality transformation.
        center: Window Center.
        width: Window Width.
        function: VOI LUT Function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """
    if function == "LINEAR" and width >= 1.0:
        if width == 1.0:
            return (values > center - 0.5).astype(np.float64)
        return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT" and width > 0.0:
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID" and width > 0.0:
        # The exponent is held where exp() does not overflow and the shade is 0 or 1 to 16 bits all the same.
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * ((values - center) / width), -60.0, 60.0)))
    return None


def _measure_range(stored: Stored, physical: Float64, padding: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the values below and above which half a percent of the film lies, padding apart."""
    counts = np.zeros(physical.shape, np.int64)
    # By strips: a histogram of the whole film at once would need eight bytes a pixel.
    for row in range(0, stored.codes.shape[0], _ROWS_AT_ONCE):
        counts += np.bincount(stored.codes[row : row + _ROWS_AT_ONCE].ravel(), minlength=len(counts))
    counts[padding] = 0
    if not counts.any():
        return 0.0, 0.0
    order = np.argsort(physical, kind="stable")
    reached = np.cumsum(counts[order]) / counts.sum()
    low, high = np.searchsorted(reached, [_LOW, _HIGH])
    if physical[order[high]] > physical[order[low]]:
        return float(physical[order[low]]), float(physical[order[high]])
    present = physical[counts > 0]
    return float(present.min()), float(present.max())


def _is_inverse(header: Header, notes: list[str]) -> bool:
    """Return whether low values are bright. Presentation LUT Shape decides where it is given."""
    inverse = header.text(0x00280004) == "MONOCHROME1"
    shape = header.text(0x20500020)
    if shape is None:
        return inverse
    if shape not in ("IDENTITY", "INVERSE"):
        notes.append("unknown presentation LUT shape ignored")
        return inverse
    if (shape == "INVERSE") != inverse:
        notes.append(f"polarity in doubt: {header.text(0x00280004)} with presentation LUT shape {shape}")
    return shape == "INVERSE"


def _look_up(item: Header, values: Float64, *, signed: bool) -> tuple[Float64, int]:
    """Return the lookup table's answer to each value, and the bits of an answer.

    Args:
        item: of a Modality or VOI LUT Sequence.
        values: that are looked up, rounded.
        signed: whether the first value mapped is, where the file does not say.
    """
    descriptor, data = 0x00283002, 0x00283006
    element = item.elements.get(descriptor)
    if element is not None and element.vr in (b"US", b"SS"):
        signed = signed or element.vr == b"SS"
    numbers = item.shorts(descriptor)
    if len(numbers) != 3 or data not in item:
        raise InputError(item.source, f"the DICOM lookup table {name_tag(descriptor)} is damaged")
    # PS3.3 C.11.1.1: 65536 entries are written as 0.
    count, first, depth = numbers[0] or 65536, numbers[1], numbers[2]
    if signed and first >= 0x8000:
        first -= 0x10000
    raw = item.value(data)
    if not 8 <= depth <= 16 or len(raw) < count:
        raise InputError(item.source, f"the DICOM lookup table {name_tag(data)} is damaged")
    if len(raw) >= 2 * count:
        entries = np.frombuffer(raw, "<u2" if item.syntax.little else ">u2", count)
    elif depth == 8 and len(raw) <= count + 1:
        words = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2" if item.syntax.little else ">u2").astype("<u2")
        entries = (words.view(np.uint8) if len(raw) > 1 else np.frombuffer(raw, np.uint8))[:count].astype(np.uint16)
    else:
        raise InputError(item.source, f"the DICOM lookup table {name_tag(data)} is damaged")
    position = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)
    return entries[position].astype(np.float64), depth
