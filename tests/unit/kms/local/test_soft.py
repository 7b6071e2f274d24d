"""The soft cipher's layout, and that nothing but the wrap itself opens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import MainKeyUri
from workers.errors import WrapReason, WrapRefused
from workers.kms.local.soft import SoftKey
from workers.kms.port import Opened

MATERIAL = bytes(range(32))
CONTEXT = {"keyrepack:environment": "1", "keyrepack:key": "2"}
KEY = SoftKey(uri=MainKeyUri("memory", "a"), current="g2", secrets={"g1": b"1" * 32, "g2": b"2" * 32})

VECTOR = "348d5d0c83bc2f6cd5fbe614347f0c63f1b3ca788120932426a8d9a8ef0dab539ca2a0a37f82fcffbedeec4190cec37e"


def zeros(size: int) -> bytes:
    return bytes(size)


def test_the_layout_of_a_wrap() -> None:
    """Layout, length and name of the generation, nonce, ciphertext and tag: the bytes are frozen by this vector."""
    blob = KEY.wrap(MATERIAL, CONTEXT, zeros).blob
    assert blob[:4] == b"\x01\x02g2"
    assert blob[4:16] == bytes(12)
    assert len(blob) == 2 + 2 + 12 + 32 + 16
    assert blob[16:].hex() == VECTOR


@given(place=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_flipped_bit_opens(place: int, bit: int) -> None:
    """Any one flipped bit, in name, nonce, ciphertext or tag, keeps a wrap shut."""
    blob = bytearray(KEY.wrap(MATERIAL, CONTEXT, zeros).blob)
    blob[place] ^= 1 << bit
    with pytest.raises(WrapRefused):
        KEY.open(bytes(blob), CONTEXT)


@given(blob=st.binary(max_size=200))
def test_no_bytes_at_all_crash_it(blob: bytes) -> None:
    """Whatever the bytes, they are refused as a wrap, and nothing else is raised."""
    with pytest.raises(WrapRefused):
        KEY.open(blob, CONTEXT)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_no_other_context_opens(context: dict[str, str]) -> None:
    """A wrap opens under its own context alone, whatever characters the other is made of."""
    blob = KEY.wrap(MATERIAL, CONTEXT, zeros).blob
    with pytest.raises(WrapRefused):
        KEY.open(blob, context)
    own = KEY.wrap(MATERIAL, context, zeros).blob
    assert KEY.open(own, context).material == MATERIAL


def test_the_borders_of_a_contexts_entries_count() -> None:
    """Contexts whose names and values only run together alike are different contexts."""
    contexts = [{"ab": "c"}, {"a": "bc"}, {"a": 'b","c":"'}, {"a": "b", "c": ""}, {"": "abc"}]
    for one, other in itertools.permutations(contexts, 2):
        with pytest.raises(WrapRefused):
            KEY.open(KEY.wrap(MATERIAL, one, zeros).blob, other)


def test_an_older_generation_opens_and_a_missing_one_does_not() -> None:
    """A wrap opens by the generation it names, and not without it."""
    old = SoftKey(uri=KEY.uri, current="g1", secrets={"g1": b"1" * 32})
    blob = old.wrap(MATERIAL, CONTEXT, zeros).blob
    assert KEY.open(blob, CONTEXT).generation == "g1"
    without = SoftKey(uri=KEY.uri, current="g2", secrets={"g2": b"2" * 32})
    with pytest.raises(WrapRefused) as caught:
        without.open(blob, CONTEXT)
    assert caught.value.reason is WrapReason.DOES_NOT_OPEN


def test_a_wrap_is_bound_to_its_main_key() -> None:
    """Even a main key with the same secrets does not open another's wraps."""
    twin = SoftKey(uri=MainKeyUri("memory", "b"), current=KEY.current, secrets=KEY.secrets)
    with pytest.raises(WrapRefused):
        twin.open(KEY.wrap(MATERIAL, CONTEXT, zeros).blob, CONTEXT)


@pytest.mark.parametrize("damage", ["cut", "longer", "other layout", "name too long", "empty", "one byte"])
def test_bytes_of_another_layout_are_malformed(damage: str) -> None:
    """What is not of the layout is told apart from what is, and does not open."""
    blob = KEY.wrap(MATERIAL, CONTEXT, zeros).blob
    damaged = {
        "cut": blob[:-1],
        "longer": blob + b"\x00",
        "other layout": b"\x02" + blob[1:],
        "name too long": b"\x01\xff" + blob[2:],
        "empty": b"",
        "one byte": b"\x01",
    }[damage]
    with pytest.raises(WrapRefused) as caught:
        KEY.open(damaged, CONTEXT)
    assert caught.value.reason is WrapReason.MALFORMED


def test_a_new_wrap_that_opens_to_something_else_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrap is opened and compared before anybody gets it (R6)."""
    monkeypatch.setattr(SoftKey, "open", lambda *_: Opened(material=bytes(32), generation="g2"))
    with pytest.raises(WrapRefused) as caught:
        KEY.wrap(MATERIAL, CONTEXT, zeros)
    assert caught.value.reason is WrapReason.WRONG_FINGERPRINT


def test_its_repr_shows_no_secret() -> None:
    """The secrets stay out of the repr (R10)."""
    assert "1111" not in repr(KEY)
    assert "secrets" not in repr(KEY)
