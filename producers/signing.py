"""Signs events, so that the receiver knows who said so: Ed25519 over the raw bytes (schemas.signatures).

key = generate_key()                       # key.secret stays with the producer, key.public goes to the receiver
publish_event(publisher, body, signing_key=key.secret)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.signatures import read_secret_key, signed_content, write_headers, write_public_key, write_secret_key


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A pair of keys, written as Standard Webhooks writes them."""

    public: str
    secret: str = field(repr=False)  # R10


def generate_key() -> SigningKey:
    """Generate a fresh pair."""
    key = Ed25519PrivateKey.generate()
    public = write_public_key(key.public_key().public_bytes_raw())
    return SigningKey(public=public, secret=write_secret_key(key.private_bytes_raw()))


def sign(
    event_id: str, body: bytes, keys: str | Sequence[str], *, clock: Callable[[], float] = time.time
) -> dict[str, str]:
    """Return the headers of a signed message; several secret keys (`whsk_…`) make several signatures. Raises
    MalformedKey.
    """
    timestamp = int(clock())
    content = signed_content(event_id, timestamp, body)
    seeds = [read_secret_key(key) for key in ([keys] if isinstance(keys, str) else keys)]
    signatures = [Ed25519PrivateKey.from_private_bytes(seed).sign(content) for seed in seeds]
    return write_headers(event_id, timestamp, signatures)
