"""`POST /events`: CloudEvents over HTTP, for services that speak no AMQP or Redis; signed as on the broker.

Structured mode: the body is the event, and the signature is over its bytes. Binary mode: attributes are headers
(`ce-id`, `ce-source`, `ce-type` …), the body is `data`; the signature is over the event they make together, as
canonical JSON (members sorted, no blanks): over the body alone it would leave type and source to anyone who carries it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from schemas.aws_events import read_message
from schemas.errors import EventRejected
from schemas.events import CONTENT_TYPE, MAX_EVENT_BYTES, Event, read_json
from workers.dashboard.refusals import WrongKind
from workers.dashboard.site import Site
from workers.events.receiving import Incoming, keep_rejected, read_incoming, receive
from workers.runtime.logs import log
from workers.store.inbox import RECEIVED

PREFIX = "ce-"
STRUCTURED = frozenset({CONTENT_TYPE, "application/json"})
ATTRIBUTES = ("specversion", "id", "source", "type", "time", "subject")


def event_bytes(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the event in structured mode, whichever mode it came in. Raises WrongKind, EventRejected."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if f"{PREFIX}specversion" not in headers:
        if kind not in STRUCTURED:
            raise WrongKind(f"{CONTENT_TYPE}, or application/json with ce- headers")
        return body
    if kind != "application/json":
        raise WrongKind("application/json")
    if len(body) > MAX_EVENT_BYTES:
        raise EventRejected("too_large", f"It has {len(body)} bytes; the limit is {MAX_EVENT_BYTES}.")
    attributes = {name: headers[f"{PREFIX}{name}"] for name in ATTRIBUTES if f"{PREFIX}{name}" in headers}
    document = {**attributes, "datacontenttype": "application/json", "data": read_json(body)}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def judge(site: Site, body: bytes, headers: Mapping[str, str]) -> Incoming:
    """Verify who says what. Raises EventRejected, WrongKind, NotConfigured.

    What strangers send is answered and not kept: they would fill the table of dead letters.
    """
    event: Event | None = None
    try:
        message = event_bytes(body, headers)
        event = read_message(message)
        incoming = read_incoming(event, message, headers, site.sources)
        if (
            incoming.sender.signed_at is None
        ):  # a trusted source is one that reaches the broker; anyone may reach a port
            raise EventRejected("unsigned", "Over HTTP every event is signed.", "Sign it with a key of its source.")
    except EventRejected as error:
        log.warning("event.rejected", code=error.code, event_id=event.id if event else None, over="http")
        raise
    return incoming


def take(site: Site, incoming: Incoming, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Take an event: return (HTTP status, what is answered). Raises EventRejected, which is kept; DatabaseAway."""
    event = incoming.event
    try:
        received = receive(site.services, incoming)
    except EventRejected as error:
        keep_rejected(site.services, incoming.body, error, event, headers)
        raise
    waits = received.state == RECEIVED
    if waits:
        site.services.wake.event(received.id)
    return 202 if waits or received.is_new else 200, {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "state": received.state,
    }
