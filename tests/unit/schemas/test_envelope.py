"""The byte layout: what holds for any ids and any material. tests/vectors freezes the bytes themselves."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import (
    FINGERPRINT_BYTES,
    LAYOUT_1,
    NONCE_BYTES,
    TAG_BYTES,
    WRAP_BYTES,
    WRAP_LIMIT,
    associated_data,
    fingerprint,
    join_wrap,
    same_bytes,
    split_wrap,
)
from schemas.errors import MalformedWrap
from schemas.keys import KEY_BYTES

ids = st.uuids()
material = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)


def test_the_parts_add_up() -> None:
    """A wrap is a layout byte, a nonce, a key and a tag; a version makes at most 2³² of them."""
    assert len(LAYOUT_1) + NONCE_BYTES + KEY_BYTES + TAG_BYTES == WRAP_BYTES
    assert WRAP_LIMIT == 2**32


@given(st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES), st.binary(min_size=48, max_size=48))
def test_what_was_joined_splits_again(nonce: bytes, sealed: bytes) -> None:
    """Nonce and sealed part come back as they were."""
    assert split_wrap(join_wrap(nonce, sealed)) == (nonce, sealed)


@given(st.binary(max_size=200).filter(lambda wrap: len(wrap) != WRAP_BYTES or wrap[:1] != LAYOUT_1))
def test_any_other_bytes_are_malformed(wrap: bytes) -> None:
    """Bytes of another length or layout are refused, with no byte of them in the message but the layout's number."""
    with pytest.raises(MalformedWrap) as caught:
        split_wrap(wrap)
    assert str(len(wrap)) in caught.value.why or f"layout is {wrap[0]}" in caught.value.why
    assert caught.value.code == "malformed_wrap"


@given(st.tuples(ids, ids, ids), st.tuples(ids, ids, ids))
def test_each_place_has_associated_data_of_its_own(
    left: tuple[UUID, UUID, UUID], right: tuple[UUID, UUID, UUID]
) -> None:
    """R6: two places share their associated data only if environment, key and parent are all the same."""
    assert (associated_data(*left) == associated_data(*right)) == (left == right)


@given(material, material, ids, ids, ids)
def test_a_fingerprint_tells_material_and_place_apart(
    left: bytes, right: bytes, one: UUID, two: UUID, key: UUID
) -> None:
    """Other material, or the same in another tenant or row, has another fingerprint: equal keys do not show."""
    mark = fingerprint(left, one, key)
    assert len(mark) == FINGERPRINT_BYTES
    assert (mark == fingerprint(right, one, key)) == (left == right)
    assert (mark == fingerprint(left, two, key)) == (one == two)
    assert (mark == fingerprint(left, one, two)) == (key == two)


@given(material)
def test_a_fingerprint_holds_no_material(secret: bytes) -> None:
    """R10: no four bytes of the key in a row are in its fingerprint."""
    mark = fingerprint(secret, UUID(int=1), UUID(int=2))
    assert not any(secret[start : start + 4] in mark for start in range(KEY_BYTES - 3))


@given(material, material)
def test_same_bytes_is_equality(left: bytes, right: bytes) -> None:
    """The constant-time comparison says what == says."""
    assert same_bytes(left, right) == (left == right)
    assert same_bytes(left, bytes(left))
