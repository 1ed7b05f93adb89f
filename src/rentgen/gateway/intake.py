"""What happens to an object that has arrived whole: its header is read and checked, then it is handed to the queue."""

from __future__ import annotations

import re
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from rentgen.errors import InputError
from rentgen.gateway.nouns import Header
from rentgen.images.dicom import data_set_start, read_texts
from rentgen.outputs.deidentify.elements import encode_head

INCOMING = "incoming"
"""Folder in the spool for what has not arrived whole; what a start finds there was never acknowledged."""

DEFLATED = "1.2.840.10008.1.2.1.99"

_BLOCK = 1 << 20
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
    try:
        found = read_texts(path, (*_UIDS.values(), *_WORDS.values(), _AGE_TAG))
    except InputError as error:
        # The path is of no use to a sender.
        raise InputError("object", error.reason) from error
    uids = {name: _uid(found[tag], name) for name, tag in _UIDS.items()}
    if uids["transfer_syntax_uid"] == DEFLATED:
        raise InputError("object", "its transfer syntax is deflated, which is not taken; send it without")
    words = {name: _word(found[tag]) for name, tag in _WORDS.items()}
    coded = {name: value if name == "manufacturer" else value.upper() for name, value in words.items()}
    return Header(**uids, **coded, patient_age_years=_age(_word(found[_AGE_TAG])))


def rewrite(path: Path, header: Header) -> None:
    """Give a Part 10 file a preamble of zeros and a file meta information of ours; its data set stays as it is.

    What two stacks send of one object then is one file, and a preamble that makes a program of a film is gone
    (CVE-2019-11687).

    Args:
        path: of a file whose header was read.
        header: what `read_header` found in it.

    Raises:
        InputError: its file meta information is damaged.
        OSError: it cannot be written.
    """
    head = encode_head(
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax=header.transfer_syntax_uid,
    )
    fresh = path.with_name(f"{path.name}.rewritten")
    try:
        start = data_set_start(path)
        with path.open("rb") as old, fresh.open("xb") as new:
            old.seek(start)
            new.write(head)
            shutil.copyfileobj(old, new, _BLOCK)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


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


_WORDS = {
    "modality": 0x00080060,
    "manufacturer": 0x00080070,
    "body_part_examined": 0x00180015,
    "view_position": 0x00185101,
}
_AGE_TAG = 0x00101010


def _uid(found: str | None, name: str) -> str:
    text = found or ""
    if not is_uid(text):
        raise InputError("object", f"its {name} is missing or no UID: expected digits and dots, 64 characters at most")
    return text


def _word(found: str | None) -> str:
    text = (found or "")[:_WORD]
    return text if text.isprintable() else ""


def _age(text: str) -> float | None:
    found = _AGE.fullmatch(text)
    if found is None:
        return None
    years = int(found[1]) / _PER_YEAR[found[2]]
    return years if years <= _OLDEST_YEARS else None
