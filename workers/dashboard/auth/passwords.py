"""Passwords and tokens as they are kept: a slow salted hash of the one, a plain one of the other.

``scrypt$<n>$<r>$<p>$<salt>$<hash>``, base64. A token is 32 random bytes: nobody can guess it, so SHA-256 is enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from functools import cache

COST, BLOCK, PARALLEL = 2**15, 8, 1
"""32 MiB and about a tenth of a second a try: what OWASP asks of scrypt at this memory and more."""

MAX_MEMORY = 128 * 1024 * 1024
SALT_BYTES, HASH_BYTES, TOKEN_BYTES = 16, 32, 32

SHORTEST, LONGEST = 12, 256
"""Characters of a password that somebody chooses."""

_ONE_TIME_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""Nothing that is taken for something else when it is typed off a screen."""


def hash_password(password: str) -> str:
    """What is kept of a password."""
    salt = secrets.token_bytes(SALT_BYTES)
    parts = (COST, BLOCK, PARALLEL, _text(salt), _text(_scrypt(password, salt, COST, BLOCK, PARALLEL)))
    return "$".join(("scrypt", *map(str, parts)))


def is_password(password: str, kept: str) -> bool:
    """Whether it is the one; as long for a wrong one as for the right one. What is not of the form is no password's."""
    try:
        scheme, cost, block, parallel, salt, digest = kept.split("$")
        if scheme != "scrypt":
            return False
        found = _scrypt(password[:LONGEST], _bytes(salt), int(cost), int(block), int(parallel))
        return hmac.compare_digest(found, _bytes(digest))
    except (ValueError, binascii.Error):
        return False


@cache
def nobodys() -> str:
    """What a name that nobody has is compared with: its answer takes as long as another's."""
    return hash_password(secrets.token_urlsafe(TOKEN_BYTES))


def one_time_password() -> str:
    """Twenty characters in groups of five: about 100 bits, and can be typed off a screen."""
    return "-".join("".join(secrets.choice(_ONE_TIME_ALPHABET) for _ in range(5)) for _ in range(4))


def make_token() -> str:
    """A token for a program."""
    return "kpt_" + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """What is kept of a token, and how it is found again."""
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=MAX_MEMORY, dklen=HASH_BYTES
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
