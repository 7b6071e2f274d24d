"""Items of a queue's list in Redis: kombu's own pass as they are, anything else comes out as a message around it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from kombu.transport.virtual import Channel, Message

from workers.broker.redis_transport import envelope


class Reader:
    """As much of a channel as a message needs to be read."""

    codecs = Channel.codecs
    decode_body = Channel.decode_body


def kombus(**changes: Any) -> dict[str, Any]:
    """What kombu pushes, with parts changed."""
    whole: dict[str, Any] = {
        "body": base64.b64encode(b"[[1], {}, {}]").decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "keyrepack.walk", "id": "1"},
        "properties": {
            "delivery_tag": "t",
            "delivery_info": {"exchange": "", "routing_key": "keyrepack.repacks"},
            "body_encoding": "base64",
        },
    }
    return whole | changes


def properties(**changes: Any) -> dict[str, Any]:
    return kombus()["properties"] | changes


@pytest.mark.parametrize(
    "value",
    [kombus(), kombus(headers=None), kombus(body="plain", properties=properties(body_encoding=None))],
    ids=["whole", "no headers", "not encoded"],
)
def test_a_message_passes_as_it_is(value: dict[str, Any]) -> None:
    """Not a byte of it is touched."""
    item = json.dumps(value).encode()
    assert envelope(item, "q") is item


@pytest.mark.parametrize(
    "item",
    [
        b"", b"\xff\xfe\x00", b"{", b"null", b"7", b"[]", b"{}", b'"text"', b"[" * 100_000, b'{"a":' * 5_000,
        b"x" * 1_000_000,
        *(json.dumps(kombus(**{name: value})).encode() for name, value in [
            ("body", None), ("body", 7), ("body", ["a"]), ("body", "ü"), ("body", "a"), ("headers", [1]),
            ("headers", "x"), ("content-type", 7), ("content-encoding", {}), ("properties", None), ("properties", []),
            ("properties", {}), ("properties", properties(delivery_tag=None)),
            ("properties", properties(delivery_info=7)),
            ("properties", properties(delivery_info={})), ("properties", properties(body_encoding="rot13")),
            ("properties", properties(delivery_info={"exchange": "", "routing_key": None})),
            ("headers", {"deep": json.loads("[" * 600 + "]" * 600)}),
        ]),
    ],
)  # fmt: skip
def test_anything_else_comes_out_whole_and_readable(item: bytes) -> None:
    """A message that kombu can read, acknowledge and put back, and whose body is what was pushed."""
    made = json.loads(envelope(item, "keyrepack.urgent"))
    message = Message(made, channel=Reader())
    assert message.errors == []
    assert message.body in (item, "")
    assert message.headers == {}
    assert message.delivery_tag
    assert message.delivery_info == {"exchange": "", "routing_key": "keyrepack.urgent"}
    assert envelope(json.dumps(made).encode(), "q") == json.dumps(made).encode(), "put back, it is a message"
