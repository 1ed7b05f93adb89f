"""Words in the picture: suspected by the header, or read by tesseract. A film with any is held back, never mended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from rentgen.errors import PeerError
from rentgen.images.dicom_elements import Header
from rentgen.records import Float32, UInt8

SURE = 60.0
"""Confidence, of 100, above which tesseract's word is believed."""
SHORTEST = 3
"""Letters and digits in a word that counts; a side marker has fewer."""

_CONVERSION_TYPE = 0x00080064
_WORD = re.compile(r"[^\W_]")
_LANGUAGES = ("eng", "ukr")
# Mean difference of two pictures, of 255, from which on they are not the same picture.
_ANOTHER = 48.0
# About half the height of the letters that stations burn in.
_AROUND_PX = 12


def suspect(header: Header, *, allow_derived: bool = False) -> str | None:
    """Return why words are to be expected in the picture, by the header alone; None where nothing says so.

    Args:
        header: of the film.
        allow_derived: let DERIVED images pass: many systems mark every processed film so.
    """
    if header.text(0x00280301) not in (None, "NO"):
        return "Burned In Annotation says that words are burned into the picture"
    kind = header.texts(0x00080008)
    if "SECONDARY" in kind:
        return "Image Type says SECONDARY: made after the examination, often a screenshot"
    if "DERIVED" in kind and not allow_derived:
        return "Image Type says DERIVED: pixels were made from other pixels, so words may have been burned in"
    if _CONVERSION_TYPE in header:
        return "Conversion Type says that the picture was scanned, filmed or drawn"
    return None


@dataclass(frozen=True, slots=True)
class Tesseract:
    """An installed tesseract.

    Attributes:
        program: its path.
        languages: that it reads, as its option `-l` takes them.
        timeout_s: for one picture.
    """

    program: str
    languages: str = "eng"
    timeout_s: float = 60.0

    @classmethod
    def find(cls) -> Self | None:
        """Return the one on the path, or None where there is none that can read."""
        program = shutil.which("tesseract")
        if program is None:
            return None
        try:
            told = subprocess.run([program, "--list-langs"], capture_output=True, timeout=20, check=False).stdout  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return None
        known = set(told.decode("utf-8", "replace").split())
        languages = "+".join(name for name in _LANGUAGES if name in known)
        return cls(program, languages) if languages else None

    def count_words(self, grey: UInt8) -> int:
        """Return how many words are read in a picture; tesseract itself looks for white on black, too.

        Raises:
            PeerError: tesseract failed or took too long.
        """
        rows, columns = grey.shape
        picture = f"P5 {columns} {rows} 255\n".encode() + np.ascontiguousarray(grey).tobytes()
        command = [self.program, "stdin", "stdout", "-l", self.languages, "--psm", "11", "--dpi", "150", "tsv"]
        try:
            # One thread each: films are read side by side.
            done = subprocess.run(  # noqa: S603
                command,
                input=picture,
                capture_output=True,
                timeout=self.timeout_s,
                check=True,
                env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            # What it printed may be a patient's name.
            raise PeerError(
                f"tesseract failed ({type(error).__name__}) or took more than {self.timeout_s:g} s."
            ) from None
        return sum(map(_counts, done.stdout.decode("utf-8", "replace").splitlines()[1:]))


def pictures(display: UInt8, values: npt.NDArray[np.int64]) -> tuple[UInt8, ...]:
    """Return what to read: words are missed in one picture and found in the next.

    The whole range of stored values; the same without its slow changes of tone, where words stand out from a bright
    lung or a bone; and the film as it is shown, where a window makes that another picture.

    Args:
        display: as it is shown; of the same shape.
        values: stored.
    """
    low, high = int(values.min()), int(values.max())
    fine = (values - low).astype(np.float32) * np.float32(255.0 / max(high - low, 1))
    whole = fine.astype(np.uint8)
    shown, stored = display.astype(np.int16), whole.astype(np.int16)
    unlike = min(float(np.abs(shown - other).mean()) for other in (stored, 255 - stored))
    return (whole, _flatten(fine), *((display, _flatten(display.astype(np.float32))) if unlike > _ANOTHER else ()))


def _flatten(grey: Float32) -> UInt8:
    """Return a picture as its difference from the tone round each pixel, stretched to nearly its full range."""
    around = Image.fromarray(grey.astype(np.uint8)).filter(ImageFilter.BoxBlur(_AROUND_PX))
    difference = grey - np.asarray(around, np.float32)
    strong = max(float(np.percentile(np.abs(difference), 99.9)), 1.0)
    return np.asarray(np.clip(128 + difference * (120 / strong), 0, 255), np.uint8)


def _counts(line: str) -> bool:
    """Return whether a line of tesseract's table holds a word that counts."""
    fields = line.split("\t")
    if len(fields) != 12:
        return False
    return float(fields[10]) > SURE and len(_WORD.findall(fields[11])) >= SHORTEST
