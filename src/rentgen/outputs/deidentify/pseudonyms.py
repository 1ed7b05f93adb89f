"""What stands for a UID, a patient and a date: made from a key, so that it is the same each time, and only with it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Self

from rentgen.errors import SettingError

KEY_BYTES = 32
FURTHEST_DAYS = 3652
"""Ten years: dates move back by 1 to so many days."""


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """HMAC-SHA256 with one secret; each kind of value has a range of its own.

    Attributes:
        secret: of 32 bytes. With it every pseudonym can be tried out; without it none leads back.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise SettingError(f"Expected a key of {KEY_BYTES} bytes, but got {len(self.secret)}.")

    @classmethod
    def parse(cls, key: str) -> Self:
        """Return those of a key as text.

        Args:
            key: base64 of 32 bytes, as `openssl rand -base64 32` prints it.

        Raises:
            SettingError: it is not.
        """
        try:
            secret = base64.b64decode(key.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise SettingError(
                f"Expected the key as base64 of {KEY_BYTES} bytes. Make one with: openssl rand -base64 {KEY_BYTES}"
            )
        return cls(secret)

    def uid(self, uid: str) -> str:
        """Return the UID that stands for another, under 2.25, the arc for UUIDs; at most 44 characters."""
        value = bytearray(self._digest("uid", uid)[:16])
        # RFC 9562 section 5.8: version 8, a UUID of one's own making.
        value[6] = value[6] & 0x0F | 0x80
        value[8] = value[8] & 0x3F | 0x80
        return f"2.25.{int.from_bytes(value)}"

    def patient(self, patient_id: str) -> str:
        """Return what stands for a PatientID: 26 characters of A to Z and 2 to 7; 128 bits."""
        return base64.b32encode(self._digest("patient", patient_id)[:16]).decode().rstrip("=")

    def days(self, patient_id: str) -> int:
        """Return by how many days the dates of a patient move back, 1 to `FURTHEST_DAYS`."""
        return 1 + int.from_bytes(self._digest("days", patient_id)[:8]) % FURTHEST_DAYS

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self.secret, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256)
