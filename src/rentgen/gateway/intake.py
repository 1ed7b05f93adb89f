"""What happens to an object that has arrived whole: its header is read and checked, then it is handed to the queue."""

from __future__ import annotations

import re
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from rentgen.errors import InputError
from rentgen.gateway.nouns import Header
from rentgen.images.dicom import read_text

INCOMING = "incoming"
"""Folder in the spool for what has not arrived whole; what a start finds there was never acknowledged."""

DEFLATED = "1.2.840.10008.1.2.1.99"

_UID = re.compile(r"[0-9]+(\.[0-9]+)+", re.ASCII)
_AGE = re.compile(r"([0-9]{1,3})([DWMY])", re.ASCII)
_PER_YEAR = {"D": 365.2425, "W": 365.2425 / 7, "M": 12.0, "Y": 1.0}
_OLDEST_YEARS = 125
_WORD = 64


class Taken(StrEnum):
    """What became of an object that arrived."""

    RECEIVED = "received"
    """It is new."""
    DUPLICATE = "duplicate"
    """It is here already; nothing is done twice."""
    CONFLICT = "conflict"
    """Another object with its SOP Instance UID is here; the first one counts, this one is put aside."""


class Intake(Protocol):
    """Where objects go that have arrived. Safe from any thread."""

    def receive(self, path: Path, header: Header, origin: str) -> Taken:
        """Keep an object for good, and return what became of it; only then is the sender told that it is here.

        Args:
            path: of a Part 10 file on the spool's disk, which may be moved away; it is deleted afterwards if it is
                still there.
            header: of the object.
            origin: who sent it, as `dimse:AE`, `stow` or `pull:NAME`.

        Raises:
            OSError: it cannot be kept now; the sender is told to try again.
            StoreError: likewise.
        """

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether an object was kept for good."""


def is_uid(text: str) -> bool:
    """Return whether a text is digits and dots as a UID is, 64 characters at most.

    Leading zeros are let through: devices in use send them.

    Example:
        >>> is_uid("1.2.840.10008.1.1"), is_uid("../../etc/passwd")
        (True, False)
    """
    return len(text) <= _WORD and _UID.fullmatch(text) is not None


def read_header(path: Path) -> Header:
    """Return what a Part 10 file says of itself; pixels are not read.

    Raises:
        InputError: it is no DICOM file, is damaged, has a UID that is none, or is deflated; the reason holds no value.
    """
    uids = {name: _uid(path, name, tag) for name, tag in _UIDS.items()}
    if uids["transfer_syntax_uid"] == DEFLATED:
        raise InputError("object", "its transfer syntax is deflated, which is not taken; send it without")
    return Header(
        **uids,
        modality=_word(path, 0x00080060).upper(),
        manufacturer=_word(path, 0x00080070),
        patient_age_years=_age(_word(path, 0x00101010)),
        body_part_examined=_word(path, 0x00180015).upper(),
        view_position=_word(path, 0x00185101).upper(),
    )


def free_mb(folder: Path) -> float:
    """Return how much room a folder's disk has, in MB of 10^6 bytes.

    Raises:
        OSError: the folder is not there.
    """
    return shutil.disk_usage(folder).free / 1e6


def open_incoming(folder: Path) -> Path:
    """Return the folder for what arrives, made and emptied: what it held was never acknowledged.

    Args:
        folder: of the spool.
    """
    incoming = folder / INCOMING
    incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in incoming.iterdir():
        left.unlink(missing_ok=True)
    return incoming


_UIDS = {
    "transfer_syntax_uid": 0x00020010,
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
}


def _uid(path: Path, name: str, tag: int) -> str:
    text = _read(path, tag)
    if not is_uid(text):
        raise InputError("object", f"its {name} is missing or no UID: expected digits and dots, 64 characters at most")
    return text


def _read(path: Path, tag: int) -> str:
    try:
        return read_text(path, tag) or ""
    except InputError as error:
        # The path is of no use to a sender.
        raise InputError("object", error.reason) from error


def _word(path: Path, tag: int) -> str:
    text = _read(path, tag)[:_WORD]
    return text if text.isprintable() else ""


def _age(text: str) -> float | None:
    found = _AGE.fullmatch(text)
    if found is None:
        return None
    years = int(found[1]) / _PER_YEAR[found[2]]
    return years if years <= _OLDEST_YEARS else None
