"""Pseudonyms, moved dates and ages, as they are made."""

from __future__ import annotations

import datetime

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rentgen.errors import SettingError
from rentgen.outputs.deidentify.dates import shift, write_age
from rentgen.outputs.deidentify.pseudonyms import FURTHEST_DAYS, Pseudonyms

OURS = Pseudonyms(b"k" * 32)


@pytest.mark.parametrize(
    ("years", "text"),
    [
        (None, ""),
        (0.0, "000M"),
        (11 / 12, "011M"),
        (1.99, "023M"),
        (2.0, "002Y"),
        (89.9, "089Y"),
        (90.0, "090Y"),
        (120.0, "090Y"),
    ],
)
def test_ages(years: float | None, text: str) -> None:
    assert write_age(years) == text


@given(st.dates(), st.integers(1, FURTHEST_DAYS))
def test_shifted_dates_are_earlier_by_so_many_days(day: datetime.date, days: int) -> None:
    moved = shift(f"{day:%Y%m%d}".zfill(8), days)
    if moved:
        found = np.datetime64(f"{moved[:4]}-{moved[4:6]}-{moved[6:]}")
        assert np.datetime64(day) - found == np.timedelta64(days, "D")
    else:
        assert day.toordinal() <= days


@pytest.mark.parametrize("text", [None, "", "20241301", "yesterday", "2024", "00010101"])
def test_what_is_no_date_goes(text: str | None) -> None:
    assert shift(text, 1) == ""


@given(st.text(max_size=64), st.text(max_size=64))
def test_pseudonyms(first: str, second: str) -> None:
    uid = OURS.uid(first)
    assert pydicom.uid.UID(uid).is_valid
    assert uid.startswith("2.25.")
    assert (uid == OURS.uid(second)) is (OURS.patient(first) == OURS.patient(second)) is (first == second)
    assert 1 <= OURS.days(first) <= FURTHEST_DAYS
    assert len(OURS.patient(first)) == 26


@pytest.mark.parametrize("key", ["", "short", "a2V5" * 20, "ключ"])
def test_keys_are_32_bytes(key: str) -> None:
    with pytest.raises(SettingError, match="openssl rand -base64 32"):
        Pseudonyms.parse(key)
    assert "kkkk" not in repr(OURS)
