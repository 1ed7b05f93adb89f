"""Encryption at rest: AES-256-GCM, bound to the row that a value belongs to, so that none can be moved to another."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rentgen.errors import SettingError, StoreError

PLAIN, SEALED = b"\0", b"\1"
NONCE_BYTES = 12


class Sealer:
    """Seals values with a key; without one it leaves them readable.

    The first byte says which: 0 and the value, or 1, a random nonce of 12 bytes and the ciphertext with its tag.
    """

    def __init__(self, key: bytes | None) -> None:
        self._cipher = None if key is None else AESGCM(key)

    @classmethod
    def from_text(cls, key: str | None) -> Self:
        """Return a sealer.

        Args:
            key: base64 of 32 bytes; None for no encryption.

        Raises:
            SettingError: it is something else.
        """
        return cls(None if key is None else _decoded(key))

    def __repr__(self) -> str:
        return f"Sealer({'with' if self.has_key else 'without'} a key)"

    @property
    def has_key(self) -> bool:
        """Whether what it writes is encrypted."""
        return self._cipher is not None

    def seal(self, value: bytes, row: str) -> bytes:
        """Return what is to be kept.

        Args:
            value: of a field.
            row: table, field and id of the row: authenticated with it.
        """
        if self._cipher is None:
            return PLAIN + value
        nonce = os.urandom(NONCE_BYTES)
        return SEALED + nonce + self._cipher.encrypt(nonce, value, row.encode())

    def open(self, kept: bytes, row: str) -> bytes:
        """Return the value that `seal` was given.

        Raises:
            StoreError: the key is another, or what was kept was changed or moved.
        """
        kind, rest = kept[:1], kept[1:]
        if kind == PLAIN and self._cipher is None:
            return rest
        if kind == SEALED and self._cipher is None:
            raise StoreError("The store is encrypted, but no key was given. Set RENTGEN_KEY to the store's key.")
        # A readable value under a key is not believed: anyone who can write to the database could have put it there.
        if kind != SEALED or self._cipher is None:
            raise StoreError(f"Expected {row} to be encrypted, but it is not: it was changed from outside.")
        try:
            return self._cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], row.encode())
        except (InvalidTag, ValueError) as error:
            raise StoreError(f"{row} cannot be decrypted: it was changed or moved, or the key is another.") from error


def _decoded(key: str) -> bytes:
    try:
        raw = base64.b64decode(key.strip().translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise SettingError("Expected key to be base64 of 32 bytes. Make one with: openssl rand -base64 32")
    return raw
