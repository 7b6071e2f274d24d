"""The byte layout of a local wrap is frozen: rows in customers' databases have these bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.envelope import (
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
from workers.crypto.rewrap import open_wrap, seal
from workers.errors import WrapReason, WrapRefused


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One frozen case, in bytes."""

    name: str
    environment: UUID
    key: UUID
    parent: UUID
    parent_material: bytes
    material: bytes
    nonce: bytes
    associated_data: bytes
    fingerprint: bytes
    wrap: bytes

    @classmethod
    def of(cls, case: dict[str, str]) -> Vector:
        ids = {name: UUID(case[name]) for name in ("environment", "key", "parent")}
        rest = {name: bytes.fromhex(text) for name, text in case.items() if name not in ids and name != "name"}
        return cls(name=case["name"], **ids, **rest)  # type: ignore[arg-type]


def _load() -> list[Vector]:
    value: dict[str, Any] = json.loads((Path(__file__).parent / "envelope-1.json").read_text())
    return [Vector.of(case) for case in value["cases"]]


VECTORS = _load()
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name.replace(" ", "-"))


def opens(vector: Vector, **changed: Any) -> bytes:
    """What the code under test makes of the vector's wrap, with parts of it changed."""
    parts: dict[str, Any] = {
        "wrap": vector.wrap,
        "environment": vector.environment,
        "key": vector.key,
        "parent": vector.parent,
    }
    parts |= changed
    return open_wrap(vector.parent_material, born_with=vector.fingerprint, **parts)


@each_vector
def test_associated_data_is_frozen(vector: Vector) -> None:
    """A wrap is bound to the format's name, environment, key and parent, in this order, as big-endian bytes."""
    assert associated_data(vector.environment, vector.key, vector.parent) == vector.associated_data
    prefixed = associated_prefix(vector.environment) + vector.key.bytes + vector.parent.bytes
    assert prefixed == vector.associated_data


@each_vector
def test_fingerprint_is_frozen(vector: Vector) -> None:
    """A fingerprint is the first half of the HMAC of its key's place, keyed by the key's material."""
    assert fingerprint(vector.material, vector.environment, vector.key) == vector.fingerprint
    assert fingerprint_prefix(vector.environment) == b"keyrepack/fingerprint" + vector.environment.bytes


@each_vector
def test_wrap_is_frozen(vector: Vector) -> None:
    """With this nonce this key under this parent has these 61 bytes, and the program itself makes them."""
    sealed = AESGCM(vector.parent_material).encrypt(vector.nonce, vector.material, vector.associated_data)
    assert join_wrap(vector.nonce, sealed) == vector.wrap
    place: dict[str, Any] = {"environment": vector.environment, "key": vector.key, "parent": vector.parent}
    assert seal(vector.parent_material, vector.material, **place, random=lambda _: vector.nonce) == vector.wrap
    assert len(vector.wrap) == WRAP_BYTES == 61


@each_vector
def test_old_wraps_open(vector: Vector) -> None:
    """Whatever was written under this layout opens to its material (R1)."""
    assert split_wrap(vector.wrap)[0] == vector.nonce
    assert same_bytes(opens(vector), vector.material)


def refusal(attempt: Callable[[], bytes]) -> WrapReason:
    with pytest.raises(WrapRefused) as caught:
        attempt()
    return caught.value.reason


@pytest.mark.parametrize("position", range(WRAP_BYTES))
def test_a_flipped_byte_does_not_open(position: int) -> None:
    """R6: a change of any single byte, by one bit or by all, is noticed; in the first it names the layout."""
    for vector in VECTORS:
        for mask in (0x01, 0x80, 0xFF):
            wrap = bytearray(vector.wrap)
            wrap[position] ^= mask
            reason = refusal(lambda vector=vector, wrap=wrap: opens(vector, wrap=bytes(wrap)))  # type: ignore[misc]
            assert reason is (WrapReason.MALFORMED if position == 0 else WrapReason.DOES_NOT_OPEN)


@pytest.mark.parametrize("length", [*range(WRAP_BYTES), WRAP_BYTES + 1, 2 * WRAP_BYTES])
def test_another_length_is_malformed(length: int) -> None:
    """A wrap cut short at any length, or longer, is refused before a cipher sees it."""
    for vector in VECTORS:
        wrap = (vector.wrap * 2)[:length]
        with pytest.raises(MalformedWrap, match=f"{length} bytes instead of 61"):
            split_wrap(wrap)
        assert refusal(lambda vector=vector, wrap=wrap: opens(vector, wrap=wrap)) is WrapReason.MALFORMED  # type: ignore[misc]


@pytest.mark.parametrize("part", ["environment", "key", "parent"])
@each_vector
def test_a_wrap_in_another_place_does_not_open(vector: Vector, part: str) -> None:
    """R6: under the same parent material, a wrap moved to another row, tenant or parent does not open."""
    elsewhere = uuid5(getattr(vector, part), "elsewhere")
    assert refusal(lambda: opens(vector, **{part: elsewhere})) is WrapReason.DOES_NOT_OPEN


@each_vector
def test_ids_that_trade_places_do_not_open(vector: Vector) -> None:
    """Key and parent, or key and environment, swapped with one another do not open either."""
    assert refusal(lambda: opens(vector, key=vector.parent, parent=vector.key)) is WrapReason.DOES_NOT_OPEN
    swapped = {"environment": vector.key, "key": vector.environment}
    assert refusal(lambda: opens(vector, **swapped)) is WrapReason.DOES_NOT_OPEN


def test_swapped_rows_do_not_open() -> None:
    """Two keys of one parent whose wraps were swapped are both refused."""
    vector = VECTORS[0]
    other = uuid5(vector.key, "sibling")
    place: dict[str, Any] = {"environment": vector.environment, "parent": vector.parent}
    wrap = seal(vector.parent_material, bytes(32), key=other, **place)
    assert refusal(lambda: opens(vector, wrap=wrap)) is WrapReason.DOES_NOT_OPEN
    assert refusal(lambda: opens(vector, key=other)) is WrapReason.DOES_NOT_OPEN


@each_vector
def test_another_parents_material_does_not_open(vector: Vector) -> None:
    """The bare cipher agrees: other material of the parent opens nothing."""
    nonce, sealed = split_wrap(vector.wrap)
    with pytest.raises(InvalidTag):
        AESGCM(vector.material).decrypt(nonce, sealed, vector.associated_data)


@each_vector
def test_other_material_in_the_same_place_is_noticed(vector: Vector) -> None:
    """R6: a wrap that opens, to other material than the key was born with, is refused by its fingerprint."""
    place: dict[str, Any] = {"environment": vector.environment, "key": vector.key, "parent": vector.parent}
    forged = seal(vector.parent_material, bytes(32), **place)
    assert refusal(lambda: opens(vector, wrap=forged)) is WrapReason.WRONG_FINGERPRINT
