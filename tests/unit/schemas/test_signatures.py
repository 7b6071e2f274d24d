"""Signatures: what is read from a message's headers, and that no byte of what was signed can change."""

from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from producers.signing import generate_key, sign
from schemas.errors import EventRejected, MalformedKey
from schemas.signatures import (
    HEADERS,
    MAX_SIGNATURES,
    read_headers,
    read_public_key,
    read_secret_key,
    signed_content,
    write_headers,
    write_secret_key,
)

KEY = generate_key()
names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)
header_values = st.none() | st.text(max_size=100) | st.binary(max_size=100) | st.integers() | st.lists(st.integers())


def code_of(headers: dict[str, object]) -> str:
    """What becomes of a message with these headers."""
    try:
        return "unsigned" if read_headers(headers) is None else "read"
    except EventRejected as error:
        return error.code


def test_the_content_is_id_timestamp_and_body() -> None:
    """The signed bytes are the specification's: id, timestamp and raw body, dots between."""
    assert signed_content("msg_1", 1700000000, b'{"a": 1}') == b'msg_1.1700000000.{"a": 1}'


def test_a_signature_of_a_known_key_is_frozen() -> None:
    """RFC 8032's first key signs as any other implementation of Ed25519 does."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    headers = sign("msg_1", b"{}", write_secret_key(seed), clock=lambda: 1700000000.9)
    assert headers["webhook-timestamp"] == "1700000000"
    public = Ed25519PublicKey.from_public_bytes(
        bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    )
    signature = base64.b64decode(headers["webhook-signature"].removeprefix("v1a,"))
    public.verify(signature, b"msg_1.1700000000.{}")


@given(names, st.binary(max_size=200), st.integers(0, 10**11), st.data())
def test_no_byte_of_what_was_signed_can_change(event_id: str, body: bytes, at: int, data: st.DataObject) -> None:
    """What was signed verifies; with one bit of body, id or time changed it does not."""
    signed = read_headers(sign(event_id, body, KEY.secret, clock=lambda: at))
    assert signed is not None
    assert (signed.id, signed.timestamp) == (event_id, at)
    key = Ed25519PublicKey.from_public_bytes(read_public_key(KEY.public))
    content = signed_content(event_id, at, body)
    key.verify(signed.signatures[0], content)
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignature):
        key.verify(signed.signatures[0], bytes(changed))


@given(st.dictionaries(st.sampled_from(HEADERS), header_values))
def test_any_headers_are_read_or_rejected(headers: dict[str, object]) -> None:
    """Whatever stands in the headers is read or rejected as a bad signature; no header of ours is: unsigned."""
    assert (code_of(headers) == "unsigned") == (not headers)
    assert code_of(headers) in {"unsigned", "read", "bad_signature"}


def test_headers_come_as_brokers_hand_them_out() -> None:
    """Names in any case, values as bytes or numbers, and other headers beside them change nothing."""
    plain = sign("e", b"{}", KEY.secret, clock=lambda: 7)
    odd: dict[str, object] = {"Webhook-Id": b"e", "WEBHOOK-TIMESTAMP": 7, "x-death": [1]}
    assert read_headers(odd | {"webhook-signature": plain["webhook-signature"]}) == read_headers(plain)


def test_signatures_of_other_schemes_are_passed_over() -> None:
    """HMAC's, cut ones and nonsense in the list are no signatures of ours, and at most sixteen entries are read."""
    good = sign("e", b"{}", KEY.secret)["webhook-signature"]
    headers = {"webhook-id": "e", "webhook-timestamp": "7", "webhook-signature": f"v1,AAAA v1a,AAAA v1a,* x {good}"}
    signed = read_headers(headers)
    assert signed is not None
    assert len(signed.signatures) == 1
    many = read_headers(write_headers("e", 7, [b"s" * 64] * (MAX_SIGNATURES + 1)))
    assert many is not None
    assert len(many.signatures) == MAX_SIGNATURES


@pytest.mark.parametrize("timestamp", ["", "now", "1e9", "-1", "1.5", "007", "1" * 13, "١٢"])
def test_a_timestamp_is_plain_seconds(timestamp: str) -> None:
    """Any other number than decimal seconds is refused: two writings of one time would be two signed contents."""
    with pytest.raises(EventRejected, match=r"webhook-timestamp"):
        read_headers({"webhook-id": "e", "webhook-timestamp": timestamp, "webhook-signature": "v1a,"})


def test_several_keys_make_several_signatures() -> None:
    """While a key is rotated a producer signs with both."""
    other = generate_key()
    signed = read_headers(sign("e", b"{}", [KEY.secret, other.secret]))
    assert signed is not None
    assert len(set(signed.signatures)) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (KEY.public, "does not begin with whsk_"),
        ("whsk_@@@", "is not base64"),
        ("whsk_" + base64.b64encode(b"s" * 31).decode(), "31 bytes instead of 32 or 64"),
    ],
    ids=["public", "not-base64", "short"],
)
def test_a_malformed_key_is_named_and_not_repeated(text: str, why: str) -> None:
    """R10: what is wrong with a key is said, and the key is in no message."""
    with pytest.raises(MalformedKey, match=why) as caught:
        read_secret_key(text)
    assert text.removeprefix("whsk_") not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_key_shows_in_no_repr_and_comes_in_both_writings() -> None:
    """R10: the pair's repr holds no secret; seed and public key together are read as the seed."""
    assert KEY.secret not in repr(KEY)
    seed, public = read_secret_key(KEY.secret), read_public_key(KEY.public)
    assert read_secret_key(write_secret_key(seed + public)) == seed
