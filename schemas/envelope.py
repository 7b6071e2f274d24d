"""The byte layout of a local wrap: one key encrypted under a wrapping key.

Version 1, 61 bytes::

    0x01 ‖ nonce (12) ‖ AES-256-GCM ciphertext (32) ‖ tag (16)

    associated data: "keyrepack/1" ‖ environment id (16) ‖ key id (16) ‖ parent key id (16)

Ids are UUIDs as 16 big-endian bytes. The associated data names environment, key and parent, so a wrap that was moved
to another row, tenant or parent does not open (R6). Nonces are random, so a version makes at most `WRAP_LIMIT` wraps
(NIST SP 800-38D, section 8.3). `tests/vectors/` freezes the layout.
"""

from __future__ import annotations

import hmac
from uuid import UUID

from schemas.errors import MalformedWrap

LAYOUT_1 = b"\x01"
NONCE_BYTES = 12
TAG_BYTES = 16
WRAP_BYTES = 61
FINGERPRINT_BYTES = 16
WRAP_LIMIT = 2**32
"""Wraps that one wrapping version may make before it has to be rekeyed: random 96-bit nonces (R6)."""

_ASSOCIATED = b"keyrepack/1"
_FINGERPRINT = b"keyrepack/fingerprint"


def associated_data(environment: UUID, key: UUID, parent: UUID) -> bytes:
    """Return what a wrap is bound to (R6)."""
    return b"".join((_ASSOCIATED, environment.bytes, key.bytes, parent.bytes))


def associated_prefix(environment: UUID) -> bytes:
    """Return the part of the associated data that all keys of an environment share; key id and parent id (bytes)
    follow.
    """
    return _ASSOCIATED + environment.bytes


def fingerprint_prefix(environment: UUID) -> bytes:
    """Return the part of a fingerprint's message that all keys of an environment share; the key id (bytes) follows."""
    return _FINGERPRINT + environment.bytes


def fingerprint(material: bytes, environment: UUID, key: UUID) -> bytes:
    """16 bytes that show whether a key's material is still the one it was born with, and nothing else of it."""
    return hmac.digest(material, fingerprint_prefix(environment) + key.bytes, "sha256")[:FINGERPRINT_BYTES]


def same_bytes(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)


def join_wrap(nonce: bytes, sealed: bytes) -> bytes:
    """Return the wrap of `sealed` (ciphertext and tag, 48 bytes)."""
    return LAYOUT_1 + nonce + sealed


def split_wrap(wrap: bytes) -> tuple[bytes, bytes]:
    """Split a wrap into nonce (12 bytes) and sealed part (48 bytes). Raises MalformedWrap."""
    if len(wrap) != WRAP_BYTES:
        raise MalformedWrap(f"It has {len(wrap)} bytes instead of {WRAP_BYTES}.")
    if wrap[:1] != LAYOUT_1:
        raise MalformedWrap(f"Its layout is {wrap[0]}; this program knows 1.")
    return wrap[1 : 1 + NONCE_BYTES], wrap[1 + NONCE_BYTES :]
