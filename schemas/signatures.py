"""Signatures of events: the Standard Webhooks scheme over the raw bytes of a message, with Ed25519 keys.

A signed message carries three headers::

    webhook-id          the event's id
    webhook-timestamp   seconds since the epoch, when it was signed
    webhook-signature   "v1a,<base64>", several of them with spaces between: one a key, while keys are rotated

What is signed is `<id>.<timestamp>.<body>`. An id with dots in it confuses nobody: the body, which is signed too, says
the id once more. Keys are written as `whpk_<base64>` (public, 32 bytes) and `whsk_<base64>` (secret: the seed of 32
bytes, or seed and public key, 64 bytes). Source: the Standard Webhooks specification, on asymmetric signatures.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import EventRejected, MalformedKey

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
HEADERS = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)

PUBLIC_PREFIX = "whpk_"
SECRET_PREFIX = "whsk_"  # noqa: S105 - how a secret begins, not one
SCHEME = "v1a"
"""The scheme's version for Ed25519; "v1" is its HMAC, which we do not take: a shared secret proves no sender."""

PUBLIC_KEY_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES = 64
MAX_SIGNATURES = 16
"""Signatures read from one message: more are not a rotation but work for us."""

_DIGITS = re.compile(r"0|[1-9][0-9]{0,11}")
_MAX_HEADER = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a message's headers say. Nothing of it is verified."""

    id: str
    timestamp: int
    signatures: tuple[bytes, ...]


def signed_content(event_id: str, timestamp: int, body: bytes) -> bytes:
    """Return the bytes that are signed."""
    return b".".join((event_id.encode(), str(timestamp).encode(), body))


def read_headers(headers: Mapping[str, object]) -> Signed | None:
    """Read the signature headers among a message's headers; None if it is unsigned.

    Raises EventRejected (`bad_signature`) where they are there and not of the form.
    """
    found = {
        name.lower(): value for name, value in headers.items() if isinstance(name, str) and name.lower() in HEADERS
    }
    if not found:
        return None
    texts = [_text(found.get(name), name) for name in HEADERS]
    if not _DIGITS.fullmatch(texts[1]):
        raise _bad(f"Its header {TIMESTAMP_HEADER} is not a number of seconds.")
    signatures = [_signature(part) for part in texts[2].split()[:MAX_SIGNATURES]]
    return Signed(id=texts[0], timestamp=int(texts[1]), signatures=tuple(each for each in signatures if each))


def write_headers(event_id: str, timestamp: int, signatures: list[bytes]) -> dict[str, str]:
    """Write the headers of a signed message."""
    written = " ".join(f"{SCHEME},{base64.b64encode(signature).decode()}" for signature in signatures)
    return {ID_HEADER: event_id, TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: written}


def read_public_key(text: str) -> bytes:
    """Read a public key's 32 bytes. Raises MalformedKey."""
    return _key(text, PUBLIC_PREFIX, (PUBLIC_KEY_BYTES,))


def read_secret_key(text: str) -> bytes:
    """Read a secret key's seed (32 bytes). Raises MalformedKey, which does not repeat the key (R10)."""
    return _key(text, SECRET_PREFIX, (SEED_BYTES, SEED_BYTES + PUBLIC_KEY_BYTES))[:SEED_BYTES]


def write_public_key(key: bytes) -> str:
    """`whpk_…`."""
    return PUBLIC_PREFIX + base64.b64encode(key).decode()


def write_secret_key(seed: bytes) -> str:
    """`whsk_…`."""
    return SECRET_PREFIX + base64.b64encode(seed).decode()


def _key(text: str, prefix: str, lengths: tuple[int, ...]) -> bytes:
    if not text.startswith(prefix):
        raise MalformedKey(f"It does not begin with {prefix}.", expected=prefix)
    try:
        key = base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedKey(f"What follows {prefix} is not base64.", expected=prefix) from None  # R10: it quotes the key
    if len(key) not in lengths:
        allowed = " or ".join(str(length) for length in lengths)
        raise MalformedKey(f"It has {len(key)} bytes instead of {allowed}.", expected=prefix)
    return key


def _text(value: object, name: str) -> str:
    """Return a header's text: brokers hand out strings, and numbers or bytes if a producer sent such."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_HEADER or not _is_unicode(value):
        raise _bad(f"Its header {name} is missing, empty or too long: all three of {', '.join(HEADERS)} are needed.")
    return value


def _is_unicode(text: str) -> bool:
    """Return True if a text can be written as UTF-8: JSON can carry half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _signature(part: str) -> bytes | None:
    """Decode one signature; None for one of another scheme or length: it may be meant for another receiver."""
    scheme, _, text = part.partition(",")
    if scheme != SCHEME:
        return None
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return signature if len(signature) == SIGNATURE_BYTES else None


def _bad(why: str) -> EventRejected:
    return EventRejected("bad_signature", why, "Sign the message's bytes with a key of its source.")
