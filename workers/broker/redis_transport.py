"""kombu's transport for Redis, for workers: bytes that are no message become a message that carries them.

Anyone who reaches Redis can push any bytes into a queue's list. kombu pops them, fails to read them, and the worker
that popped them ends. Here they come out as a message without a task, and are refused like any other that is none of
ours.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

from kombu.transport import redis as kombu_redis
from redis import Redis

_TEXTS = ("content-type", "content-encoding")

_MAX_BRACKETS = 500
"""Opening brackets in an envelope: a message has a few; thousands make its reader's stack overflow."""


def envelope(item: bytes, queue: str) -> bytes:
    """Return an item of a queue's list as kombu reads one: itself, or a message around it if it is none."""
    if _is_envelope(item):
        return item
    properties = {
        "delivery_tag": str(uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue},
        "body_encoding": "base64",
        "priority": 0,
    }
    wrapped = {
        "body": base64.b64encode(item).decode(),
        "content-type": "application/octet-stream",
        "content-encoding": "binary",
        "headers": {},
        "properties": properties,
    }
    return json.dumps(wrapped).encode()


def _is_envelope(item: bytes) -> bool:
    if item.count(b"[") + item.count(b"{") > _MAX_BRACKETS:
        return False
    try:
        value = json.loads(item)
        return isinstance(value, dict) and _has_parts(value) and _has_readable_body(value)
    except (ValueError, RecursionError, KeyError, TypeError):
        return False


def _has_parts(value: dict[str, Any]) -> bool:
    """Check what kombu takes for granted: a tag to acknowledge it by, a place to put it back to, and a table of
    headers.
    """
    delivery = value["properties"]["delivery_info"]
    places = (value["properties"]["delivery_tag"], delivery["exchange"], delivery["routing_key"])
    texts = (value.get(name) for name in _TEXTS)
    return (
        all(isinstance(place, str) for place in places)
        and all(text is None or isinstance(text, str) for text in texts)
        and isinstance(value.get("headers") or {}, dict)
    )


def _has_readable_body(value: dict[str, Any]) -> bool:
    body, encoding = value.get("body"), value["properties"].get("body_encoding")
    if encoding == "base64":
        base64.b64decode(body or "")
    return isinstance(body, str) and encoding in (None, "utf-8", "base64")


class Client(Redis):
    """A client of Redis that gives envelopes back, and nothing else, where it waits at queues."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """See Redis.parse_response; BRPOP answers with the list's name and the item."""
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        queue, item = answer
        return queue, envelope(item, queue.decode().split(Channel.sep)[0])


class Channel(kombu_redis.Channel):
    """A channel that consumes through our client."""

    def _get_client(self) -> type[Redis]:
        super()._get_client()  # it refuses a version of redis that is too old
        return Client


class Transport(kombu_redis.Transport):
    """What Celery is given for redis:// (broker_transport)."""

    Channel = Channel
