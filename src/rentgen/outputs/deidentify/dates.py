"""Dates that moved, and ages that tell no more than they must."""

from __future__ import annotations

import re
from datetime import date, timedelta
from enum import StrEnum

OLDEST_YEARS = 89
_OLDER = "090Y"
_MONTHS_UP_TO = 2
# As DICOM writes it, and as ACR-NEMA did.
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)", re.ASCII)


class Dates(StrEnum):
    """What becomes of dates. Times of day go in either case."""

    SHIFTED = "shifted"
    """Moved back by a number of days that is the patient's: what lies between two films of a patient is kept."""
    ZERO = "zero"
    """Emptied."""


def shift(text: str | None, days: int) -> str:
    """Return a DICOM date so many days earlier, or nothing where there is none that can be read.

    Example:
        >>> shift("20240301", 1)
        '20240229'
    """
    found = _DATE.fullmatch(text or "")
    if found is None:
        return ""
    try:
        moved = date(int(found[1]), int(found[2]), int(found[3])) - timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def write_age(years: float | None) -> str:
    """Return an age as DICOM writes it: whole years from two on, months below, 090Y for all above 89; empty for None.

    Example:
        >>> write_age(34.8), write_age(0.5), write_age(101.0)
        ('034Y', '006M', '090Y')
    """
    if years is None:
        return ""
    if years >= OLDEST_YEARS + 1:
        return _OLDER
    # A twelfth of a year is not a binary fraction.
    return f"{int(years):03d}Y" if years >= _MONTHS_UP_TO else f"{int(years * 12 + 1e-6):03d}M"
