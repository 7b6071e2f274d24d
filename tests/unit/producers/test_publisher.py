"""What a publisher refuses by itself, without any broker."""

from __future__ import annotations

from uuid import uuid4

import pytest

from producers.publisher import BrokerAway, MemoryPublisher, publish_event
from schemas.errors import EventRejected, KeyrepackError
from schemas.events import INBOUND, MAX_EVENT_BYTES, OUTBOUND, Event


def an_event(kind: str) -> bytes:
    return Event(id="1", source="test", type=kind, data={"environment": str(uuid4())}).to_bytes()


@pytest.mark.parametrize("kind", sorted(INBOUND))
def test_an_inbound_event_is_published_under_its_type(kind: str) -> None:
    """The bytes go out untouched."""
    publisher = MemoryPublisher()
    body = an_event(kind)
    publish_event(publisher, body)
    assert publisher.published == [(body, kind)]


@pytest.mark.parametrize("kind", [*sorted(OUTBOUND), "main_key", "main_key.#", "*"])
def test_a_type_that_nobody_acts_on_is_refused(kind: str) -> None:
    """It would end among the rejected events: the one who publishes through us is told at once instead."""
    publisher = MemoryPublisher()
    with pytest.raises(EventRejected) as refused:
        publish_event(publisher, an_event(kind))
    assert refused.value.code == "unknown_type"
    assert publisher.published == []


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "malformed_json"), (b"[]", "malformed_event"), (b"x" * (MAX_EVENT_BYTES + 1), "too_large")],
    ids=["empty", "list", "large"],
)
def test_what_is_no_event_is_refused(body: bytes, code: str) -> None:
    """Nothing is published of what no consumer would take."""
    publisher = MemoryPublisher()
    with pytest.raises(EventRejected) as refused:
        publish_event(publisher, body)
    assert refused.value.code == code
    assert publisher.published == []


def test_a_broker_that_is_away_is_told_in_sentences() -> None:
    """What, why and what to do, as every error of ours."""
    error = BrokerAway("ConnectionError while publishing.")
    assert isinstance(error, KeyrepackError)
    assert (error.code, error.what, error.why) == (
        "broker_away",
        "The broker does not answer.",
        "ConnectionError while publishing.",
    )
    assert "KEYREPACK_BROKER_URL" in error.remedy
