"""One key, and one batch of keys: open under the old version, check, seal under the new one, check again.

`rewrap_group` is what a deep repack spends its life in: it takes one-shot calls, no object a key, random bytes by the
batch, and goes over the group once for each step, so that the time of a step can be measured without reading the clock
for each key.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.envelope import (
    FINGERPRINT_BYTES,
    LAYOUT_1,
    NONCE_BYTES,
    WRAP_BYTES,
    associated_data,
    associated_prefix,
    fingerprint,
    fingerprint_prefix,
    join_wrap,
    same_bytes,
    split_wrap,
)
from schemas.errors import MalformedWrap
from schemas.ranges import Group
from workers.errors import WrapReason, WrapRefused

RandomBytes = Callable[[int], bytes]


def seal(
    parent_material: bytes,
    material: bytes,
    *,
    environment: UUID,
    key: UUID,
    parent: UUID,
    random: RandomBytes = os.urandom,
) -> bytes:
    """Seal a key under its parent: return its wrap (61 bytes), opened again and compared before (R6)."""
    cipher = AESGCM(parent_material)
    bound = associated_data(environment, key, parent)
    nonce = random(NONCE_BYTES)
    sealed = cipher.encrypt(nonce, material, bound)
    if not same_bytes(cipher.decrypt(nonce, sealed, bound), material):
        raise RuntimeError("A wrap did not open to what was sealed.")  # broken hardware: store nothing
    return join_wrap(nonce, sealed)


def open_wrap(
    parent_material: bytes, wrap: bytes, *, environment: UUID, key: UUID, parent: UUID, born_with: bytes
) -> bytes:
    """Open a wrap: return the key's material, if it opens here and is still the key it was born as (R6). Raises
    WrapRefused.
    """
    try:
        nonce, sealed = split_wrap(wrap)
        material = AESGCM(parent_material).decrypt(nonce, sealed, associated_data(environment, key, parent))
    except MalformedWrap:
        raise WrapRefused(reason=WrapReason.MALFORMED, key=key) from None
    except InvalidTag:
        raise WrapRefused(reason=WrapReason.DOES_NOT_OPEN, key=key) from None
    return check_fingerprint(material, environment=environment, key=key, born_with=born_with)


def check_fingerprint(material: bytes, *, environment: UUID, key: UUID, born_with: bytes) -> bytes:
    """Return the same material, if it is what the key was born with. Raises WrapRefused."""
    if not same_bytes(fingerprint(material, environment, key), born_with):
        raise WrapRefused(reason=WrapReason.WRONG_FINGERPRINT, key=key)
    return material


def _lap_nothing(_phase: str) -> None:
    """Measure nothing: the default where no phase is timed."""


@dataclass(slots=True)
class Rewrapped:
    """What became of a group: new wraps by row, and the keys that did not open."""

    ids: list[int]
    wraps: list[bytes] = field(repr=False)
    refused: list[tuple[int, bytes, WrapReason]] = field(default_factory=list)  # row, key id, why


def rewrap_group(
    group: Group,
    *,
    old: bytes,
    new: bytes,
    environment: UUID,
    parent: UUID,
    random: RandomBytes = os.urandom,
    lap: Callable[[str], None] = _lap_nothing,
) -> Rewrapped:
    """Rewrap every data key of a group from its parent's version `old` to `new` (the two versions' material).

    A key that does not open, or opens to other material than it was born with, is in `refused`; the others go on.
    `lap` is called when all are unwrapped, wrapped and verified.
    """
    done = Rewrapped([], [])
    bounds, materials = _unwrap(group, done, AESGCM(old).decrypt, environment, parent)
    lap("unwrap")
    cipher = AESGCM(new)
    fresh = random(NONCE_BYTES * len(bounds))
    nonces = [fresh[at : at + NONCE_BYTES] for at in range(0, len(fresh), NONCE_BYTES)]
    sealed = list(map(cipher.encrypt, nonces, materials, bounds))
    lap("wrap")
    reopened = map(cipher.decrypt, nonces, sealed, bounds)
    if not all(map(hmac.compare_digest, reopened, materials)):
        raise RuntimeError("A wrap did not open to what was sealed.")
    done.wraps = [LAYOUT_1 + nonce + wrap for nonce, wrap in zip(nonces, sealed, strict=True)]
    lap("verify")
    return done


def _unwrap(
    group: Group, done: Rewrapped, unseal: Callable[..., bytes], environment: UUID, parent: UUID
) -> tuple[list[bytes], list[bytes]]:
    """Open each key: return what its new wrap is bound to, and its material; `done` gets rows and refusals."""
    bound_to, fingerprinted, parent_id = associated_prefix(environment), fingerprint_prefix(environment), parent.bytes
    digest, equal = hmac.digest, hmac.compare_digest
    bounds: list[bytes] = []
    materials: list[bytes] = []
    for row, key_id, born_with, wrap in zip(group.ids, group.key_ids, group.fingerprints, group.wraps, strict=True):
        if len(wrap) != WRAP_BYTES or wrap[0] != 1:
            done.refused.append((row, key_id, WrapReason.MALFORMED))
            continue
        bound = bound_to + key_id + parent_id
        try:
            material = unseal(wrap[1:13], wrap[13:], bound)
        except InvalidTag:
            done.refused.append((row, key_id, WrapReason.DOES_NOT_OPEN))
            continue
        if not equal(digest(material, fingerprinted + key_id, "sha256")[:FINGERPRINT_BYTES], born_with):
            done.refused.append((row, key_id, WrapReason.WRONG_FINGERPRINT))
            continue
        done.ids.append(row)
        bounds.append(bound)
        materials.append(material)
    return bounds, materials


def refuse_group(group: Group, reason: WrapReason) -> Rewrapped:
    """Refuse a group whose parent's version cannot be opened: every key of it is set aside, none is skipped (R9)."""
    return Rewrapped([], [], [(row, key_id, reason) for row, key_id in zip(group.ids, group.key_ids, strict=True)])
