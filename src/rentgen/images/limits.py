"""How much a file may ask for before it is refused, and the flips and turns that both readers share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from rentgen.records import Pixels


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may ask for; a file that asks for more is refused before anything is allocated.

    Attributes:
        max_bytes: of the file.
        max_pixels: rows times columns.
        max_side: rows, or columns, of a PNG, JPEG or TIFF.
        max_dicom_side: rows, or columns, of a DICOM image.
        max_expansion: how many times larger than its coded form a large image or a deflated header may become.
        max_elements: DICOM elements that are walked over on the way to the pixels.
        max_element_bytes: of a DICOM element that is read, the pixels apart.
        max_depth: DICOM sequences inside one another.
    """

    max_bytes: int = 200_000_000
    max_pixels: int = 100_000_000
    max_side: int = 20_000
    max_dicom_side: int = 10_000
    max_expansion: int = 1_000
    max_elements: int = 100_000
    max_element_bytes: int = 1_000_000
    max_depth: int = 32

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 1:
                raise ValueError(f"Expected limit `{each.name}` to be at least 1, but got {getattr(self, each.name)}.")

    def refuse_size(self, rows: int, columns: int, side: int) -> str | None:
        """Return why an image of that size is refused, or None where it is welcome.

        Args:
            rows: of the image.
            columns: of the image.
            side: the longest that a side may be.
        """
        if rows < 1 or columns < 1:
            return f"the image has no pixels: {rows} rows x {columns} columns"
        if max(rows, columns) > side or rows * columns > self.max_pixels:
            return (
                f"the image is too large: {rows} rows x {columns} columns; "
                f"at most {side} a side and {self.max_pixels // 1_000_000} million pixels are read"
            )
        return None


DEFAULT_LIMITS = Limits()


def orient(pixels: Pixels, code: int) -> Pixels:
    """Return `pixels` flipped and turned as an EXIF orientation code from 1 to 8 says.

    Args:
        pixels: (height, width), as stored.
        code: 1 leaves them as they are; 5 to 8 swap height and width.
    """
    view: npt.NDArray[Any] = pixels.T if code >= 5 else pixels
    if code in (3, 4, 7, 8):
        view = view[::-1]
    if code in (2, 3, 6, 7):
        view = view[:, ::-1]
    return np.ascontiguousarray(view)
