"""A main key in software: a secret a generation, and the wraps that they make. `managed:` and `memory:` share it.

Wrap, version 1::

    0x01 ‖ length of generation (1) ‖ generation (ASCII) ‖ nonce (12) ‖ AES-256-GCM ciphertext (32) ‖ tag (16)

    associated data: everything before the nonce ‖ main key's URI ‖ 0x00 ‖ encryption context as canonical JSON

A wrap names its generation, so an older one still opens after a rotation; it is bound to the main key and to the
context, so it opens nowhere else (R6).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.envelope import NONCE_BYTES, TAG_BYTES, same_bytes
from schemas.keys import KEY_BYTES, MainKeyUri
from workers.errors import WrapReason, WrapRefused
from workers.kms.port import Context, Opened, RootWrap

LAYOUT = 1
MAX_GENERATION_LENGTH = 64
"""Characters: as many as AWS's key material ids have, the longest generations we know."""

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftKey:
    """The secrets of one main key, by generation. `current` is the one that wraps; all of them open."""

    uri: MainKeyUri
    current: str
    secrets: Mapping[str, bytes] = field(repr=False)  # R10

    def wrap(self, material: bytes, context: Context, random_bytes: RandomBytes) -> RootWrap:
        """Wrap `material` by the current generation; opened again and compared before it is returned (R6)."""
        if len(material) != KEY_BYTES:
            raise ValueError(f"A key is {KEY_BYTES} bytes.")
        name = self.current.encode("ascii")
        head, nonce = bytes([LAYOUT, len(name)]) + name, random_bytes(NONCE_BYTES)
        sealed = AESGCM(self.secrets[self.current]).encrypt(nonce, material, self._bound(head, context))
        blob = head + nonce + sealed
        if not same_bytes(material, self.open(blob, context).material):
            raise WrapRefused(reason=WrapReason.WRONG_FINGERPRINT)
        return RootWrap(blob=blob, generation=self.current)

    def open(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of any generation. Raises WrapRefused."""
        generation, nonce_at = _generation_of(blob)
        secret = self.secrets.get(generation)
        if secret is None:  # of another main key, or of a generation that was taken out
            raise WrapRefused(reason=WrapReason.DOES_NOT_OPEN)
        head, sealed_at = blob[:nonce_at], nonce_at + NONCE_BYTES
        try:
            material = AESGCM(secret).decrypt(blob[nonce_at:sealed_at], blob[sealed_at:], self._bound(head, context))
        except InvalidTag as error:
            raise WrapRefused(reason=WrapReason.DOES_NOT_OPEN) from error
        return Opened(material=material, generation=generation)

    def _bound(self, head: bytes, context: Context) -> bytes:
        told = json.dumps(dict(context), sort_keys=True, separators=(",", ":"))
        return b"".join((head, str(self.uri).encode(), b"\x00", told.encode()))


def _generation_of(blob: bytes) -> tuple[str, int]:
    """Read a wrap's generation, and where its nonce begins. Raises WrapRefused for bytes of another layout."""
    nonce_at = 2 + blob[1] if len(blob) > 1 else 0
    if len(blob) != nonce_at + NONCE_BYTES + KEY_BYTES + TAG_BYTES or blob[0] != LAYOUT:
        raise WrapRefused(reason=WrapReason.MALFORMED)
    return blob[2:nonce_at].decode("ascii", errors="replace"), nonce_at
