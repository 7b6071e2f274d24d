"""Passwords and tokens as they are kept: a slow salted hash of the one, a plain one of the other.

Passwords are hashed by Argon2id (RFC 9106), as a PHC string: ``$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>``. Hashes
of earlier releases, ``scrypt$<n>$<r>$<p>$<salt>$<hash>``, still match, and are replaced at the next sign-in. A token is
32 random bytes: it cannot be guessed, so SHA-256 is enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from functools import cache

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
"""OWASP's first choice for Argon2id; about a tenth of a second per try."""

SALT_BYTES, HASH_BYTES, TOKEN_BYTES = 16, 32, 32

SHORTEST, LONGEST = 12, 256
"""Characters of a password that a user chooses."""

_ONE_TIME_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""Nothing that is taken for something else when it is typed off a screen."""

_SCRYPT = "scrypt$"
_SCRYPT_MAX_MEMORY = 128 * 1024 * 1024


def hash_password(password: str) -> str:
    """Hash a password, to be kept."""
    argon = Argon2id(
        salt=secrets.token_bytes(SALT_BYTES), length=HASH_BYTES, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB
    )
    return argon.derive_phc_encoded(password.encode())


def is_password(password: str, kept: str) -> bool:
    """Return True if `password` matches `kept`. Constant time; a malformed hash never matches."""
    secret = password[:LONGEST].encode()
    if is_outdated(kept):
        return _matches_scrypt(secret, kept)
    try:
        Argon2id.verify_phc_encoded(secret, kept)
    except InvalidKey:
        return False
    return True


def is_outdated(kept: str) -> bool:
    """Return True for a hash of an earlier release: hash the password anew once it is known to match."""
    return kept.startswith(_SCRYPT)


@cache
def dummy_hash() -> str:
    """Return a hash that is verified if the user does not exist, so that timing does not reveal it."""
    return hash_password(secrets.token_urlsafe(TOKEN_BYTES))


def one_time_password() -> str:
    """Make twenty characters in groups of five: about 100 bits, and can be typed off a screen."""
    return "-".join("".join(secrets.choice(_ONE_TIME_ALPHABET) for _ in range(5)) for _ in range(4))


def make_token() -> str:
    """Make a token for a program."""
    return "kpt_" + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """Hash a token: what is kept of it, and how it is found again."""
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def _matches_scrypt(secret: bytes, kept: str) -> bool:
    try:
        _, cost, block, parallel, salt, digest = kept.split("$")
        found = hashlib.scrypt(
            secret,
            salt=base64.b64decode(salt, validate=True),
            n=int(cost),
            r=int(block),
            p=int(parallel),
            maxmem=_SCRYPT_MAX_MEMORY,
            dklen=HASH_BYTES,
        )
        return hmac.compare_digest(found, base64.b64decode(digest, validate=True))
    except (ValueError, binascii.Error):
        return False
