"""A key's material: one secret a generation, and the ciphertext blobs that they make.

Blob::

    0x01 "KSM" ‖ length of ARN (1) ‖ ARN ‖ material id (32) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag

    associated data: everything before the nonce ‖ encryption context as canonical JSON

The blob names its key and generation, as AWS's do, so a decryption need not name the key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.embedded.simulator.refusals import Refusal

_MAGIC = b"\x01KSM"
_ID_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One version of a key's material. `rotation` is None for the first, else AUTOMATIC or ON_DEMAND."""

    material_id: str
    made_at: float
    rotation: str | None
    cipher: AESGCM = field(repr=False)

    @classmethod
    def fresh(cls, now: float, rotation: str | None) -> Generation:
        """Make new material. Its id (64 hex digits) reveals nothing of it."""
        secret = os.urandom(32)
        material_id = hashlib.sha256(b"keyrepack/simulator" + secret).hexdigest()
        return cls(material_id=material_id, made_at=now, rotation=rotation, cipher=AESGCM(secret))


class Material:
    """Every generation of one key, oldest first; the last is current."""

    def __init__(self, now: float) -> None:
        self.generations = [Generation.fresh(now, None)]

    @property
    def current(self) -> Generation:
        """Return the generation that wraps."""
        return self.generations[-1]

    def rotate(self, now: float, rotation: str) -> None:
        """Add a generation; older ones still open what they made."""
        self.generations.append(Generation.fresh(now, rotation))

    def seal(self, arn: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Seal `plaintext` under the current generation; return the blob."""
        name = arn.encode()
        head = _MAGIC + bytes([len(name)]) + name + bytes.fromhex(self.current.material_id)
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + self.current.cipher.encrypt(nonce, plaintext, head + canonical(context))

    def open(self, blob: Blob, context: Mapping[str, str]) -> bytes:
        """Open a blob. Raises Refusal InvalidCiphertextException for other bytes or another context."""
        for generation in self.generations:
            if generation.material_id == blob.material_id:
                try:
                    return generation.cipher.decrypt(blob.nonce, blob.sealed, blob.head + canonical(context))
                except InvalidTag:
                    break
        raise Refusal("InvalidCiphertextException")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A ciphertext blob, taken apart."""

    arn: str
    material_id: str
    head: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    sealed: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Blob:
        """Take a blob apart. Raises Refusal InvalidCiphertextException where it is none of ours."""
        name_at = len(_MAGIC) + 1
        id_at = name_at + (data[len(_MAGIC)] if len(data) > len(_MAGIC) else 0)
        nonce_at = id_at + _ID_BYTES
        sealed_at = nonce_at + _NONCE_BYTES
        if not data.startswith(_MAGIC) or len(data) <= sealed_at:
            raise Refusal("InvalidCiphertextException")
        return cls(
            arn=data[name_at:id_at].decode(errors="replace"),
            material_id=data[id_at:nonce_at].hex(),
            head=data[:nonce_at],
            nonce=data[nonce_at:sealed_at],
            sealed=data[sealed_at:],
        )


def canonical(context: Mapping[str, str]) -> bytes:
    """Encode an encryption context: the order of its entries does not matter, where each begins and ends does."""
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
