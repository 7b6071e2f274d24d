"""Events in and out: what is read, what is rejected and why, what counts as the same event."""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import EventRejected
from schemas.events import (
    INBOUND,
    MAX_EVENT_BYTES,
    OUTBOUND,
    Event,
    InboundData,
    MainKeyReplaced,
    MainKeyRotated,
    body_digest,
    json_schema,
    read_data,
    read_event,
)
from schemas.states import Mode

ENVIRONMENT = UUID("0198c0de-0000-7000-8000-000000000001")
ROTATED: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "console",
    "type": "main_key.rotated",
    "data": {"environment": str(ENVIRONMENT)},
}
REPLACED = ROTATED | {
    "type": "main_key.replaced",
    "data": {"environment": str(ENVIRONMENT), "main_key": "managed:", "mode": "shallow"},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def read(value: object) -> InboundData:
    return read_data(read_event(value if isinstance(value, bytes) else json.dumps(value).encode()))


def code_of(value: object) -> str:
    """The code an event is rejected with, or "read"."""
    try:
        read(value)
    except EventRejected as error:
        return error.code
    return "read"


def with_data(event: dict[str, Any], **data: object) -> dict[str, Any]:
    return event | {"data": event["data"] | data}


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


def test_a_replacement_is_read() -> None:
    """The event of a replaced main key tells environment, main key and mode; without a mode it goes deep."""
    assert read(REPLACED) == MainKeyReplaced(environment=ENVIRONMENT, main_key="managed:", mode=Mode.SHALLOW)
    plain = read(REPLACED | {"data": without(REPLACED["data"], "mode")})
    assert isinstance(plain, MainKeyReplaced)
    assert plain.mode is Mode.DEEP


def test_a_rotation_is_read() -> None:
    """The event of a rotated main key tells the environment alone."""
    assert read(ROTATED) == MainKeyRotated(environment=ENVIRONMENT)


SCOPES = st.fixed_dictionaries(
    {}, optional={"environment": st.just(str(ENVIRONMENT)), "workspace": st.just("acme"), "reason": st.just("we left")}
)


@pytest.mark.parametrize("kind", ["main_key.revoked", "main_key.restored"])
@given(data=SCOPES)
def test_a_revocation_names_exactly_one_scope(kind: str, data: dict[str, str]) -> None:
    """Revoked and restored name an environment or a workspace; neither and both are malformed."""
    one = len(data.keys() & {"environment", "workspace"}) == 1
    assert (code_of(ROTATED | {"type": kind, "data": data}) == "read") == one


@pytest.mark.parametrize("field", ["workspace", "reason"])
@pytest.mark.parametrize("text", ["", "x" * 257, "a\x00b"])
def test_a_revocations_text_is_bounded(field: str, text: str) -> None:
    """A workspace and a reason are 1 to 256 characters without a NUL."""
    data = {"reason": "r", "workspace": "acme"} | {field: text}
    assert code_of(ROTATED | {"type": "main_key.revoked", "data": data}) == "malformed_data"


def test_the_schema_says_that_one_scope_is_named() -> None:
    """The contract that other services read demands exactly one of environment and workspace."""
    for kind in ("main_key.revoked", "main_key.restored"):
        data = json_schema()["inbound"][kind]["properties"]["data"]
        assert data["oneOf"] == [{"required": ["environment"]}, {"required": ["workspace"]}]


@pytest.mark.parametrize("event", [ROTATED, REPLACED], ids=["rotated", "replaced"])
def test_unknown_fields_are_tolerated(event: dict[str, Any]) -> None:
    """A producer may add fields, in the envelope and in the data: they change nothing."""
    more = with_data(event, ticket="X-1", nested={"a": [1]}) | {"traceparent": "00-1", "dataschema": "v1"}
    assert read(more) == read(event)


REJECTED: dict[str, tuple[object, str, str]] = {
    "too large": (b" " * (MAX_EVENT_BYTES + 1), "too_large", "65537 bytes; the limit is 65536"),
    "empty": (b"", "malformed_json", "not JSON"),
    "not UTF-8": (b"\xff\xfe\xfd", "malformed_json", "not JSON"),
    "cut short": (json.dumps(ROTATED).encode()[:-1], "malformed_json", "not JSON"),
    "nested without end": (b"[" * 60_000, "malformed_json", "not JSON"),
    "a number of 6,000 digits": (b"1" * 6000, "malformed_json", "not JSON"),
    "a list": ([], "malformed_event", "the event"),
    "null": (None, "malformed_event", "the event"),
    "no id": (without(ROTATED, "id"), "malformed_event", "id: Field required"),
    "an empty id": (ROTATED | {"id": ""}, "malformed_event", "id:"),
    "a number as id": (ROTATED | {"id": 7}, "malformed_event", "id:"),
    "a long id": (ROTATED | {"id": "x" * 257}, "malformed_event", "id:"),
    "half a character": (json.dumps(ROTATED | {"id": "\ud800"}).encode(), "malformed_event", "id:"),
    "no source": (without(ROTATED, "source"), "malformed_event", "source: Field required"),
    "no type": (without(ROTATED, "type"), "malformed_event", "type: Field required"),
    "no data": (without(ROTATED, "data"), "malformed_event", "data: Field required"),
    "data that is text": (ROTATED | {"data": "{}"}, "malformed_event", "data:"),
    "an older specversion": (ROTATED | {"specversion": "0.3"}, "malformed_event", "specversion:"),
    "a content type of its own": (ROTATED | {"datacontenttype": "text/xml"}, "malformed_event", "datacontenttype:"),
    "a time that is none": (ROTATED | {"time": "yesterday"}, "malformed_event", "time:"),
    "an unknown type": (ROTATED | {"type": "main_key.lost"}, "unknown_type", "main_key.replaced, main_key.restored"),
    "one of our own types": (ROTATED | {"type": "repack.finished"}, "unknown_type", "repack.finished"),
    "version 2": (with_data(ROTATED, version=2), "unknown_version", "version 2; this program knows 1"),
    "version null": (with_data(ROTATED, version=None), "unknown_version", "of another kind; this program knows 1"),
    "no environment": (ROTATED | {"data": {}}, "malformed_data", "environment: Field required"),
    "an environment that is none": (with_data(ROTATED, environment="prod"), "malformed_data", "environment:"),
    "no main key": (REPLACED | {"data": ROTATED["data"]}, "malformed_data", "main_key: Field required"),
    "a number as main key": (with_data(REPLACED, main_key=5), "malformed_data", "main_key:"),
    "an endless main key": (with_data(REPLACED, main_key="m" * 513), "malformed_data", "main_key:"),
    "a name that is none": (with_data(REPLACED, main_key="aws-kms:x"), "malformed_main_key", "aws-kms:arn:aws:kms:"),
    "an unknown mode": (with_data(REPLACED, mode="half"), "malformed_data", "mode:"),
}


@pytest.mark.parametrize(("value", "code", "why"), REJECTED.values(), ids=[name.replace(" ", "-") for name in REJECTED])
def test_a_bad_event_is_rejected_with_a_code_and_the_reason(value: object, code: str, why: str) -> None:
    """Whatever is wrong with an event is told by a code to sort by, a reason that names the field, and a remedy."""
    with pytest.raises(EventRejected) as caught:
        read(value)
    assert caught.value.code == code
    assert why in caught.value.why
    assert caught.value.remedy


def test_64_kib_is_the_limit() -> None:
    """An event of exactly 64 KiB is read, one byte more is not."""
    body = json.dumps(ROTATED).encode()
    assert read(body + b" " * (MAX_EVENT_BYTES - len(body))) == read(ROTATED)
    with pytest.raises(EventRejected, match="65537 bytes"):
        read(body + b" " * (MAX_EVENT_BYTES - len(body) + 1))


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_rejected(body: bytes) -> None:
    """Whatever arrives is an event or rejected: nothing else is raised, so the consumer cannot be stopped by it."""
    assert code_of(body) in {"read", "malformed_json", "malformed_event", "unknown_type"}


@given(st.sampled_from(["id", "source", "type", "time", "subject", "data", "specversion"]), JSON)
def test_any_value_in_any_field_is_read_or_rejected(name: str, value: object) -> None:
    """The same holds field by field."""
    codes = {"read", "malformed_event", "unknown_type", "unknown_version", "malformed_data"}
    assert code_of(ROTATED | {name: value}) in codes


@pytest.mark.parametrize("field", ["environment", "main_key", "mode", "version"])
def test_a_reason_never_repeats_what_the_field_held(field: str) -> None:
    """R10: a secret put into the wrong field is not in the reason, which is stored and shown."""
    secret = "c2VjcmV0LWtleS1tYXRlcmlhbA=="
    with pytest.raises(EventRejected) as caught:
        read(with_data(REPLACED, **{field: f"uploaded:{secret}" if field == "main_key" else secret}))
    assert secret not in str(caught.value)


@pytest.mark.parametrize("field", ["id", "source", "type", "subject"])
def test_text_with_a_nul_is_rejected(field: str) -> None:
    """A NUL in an envelope's text is rejected as malformed: no database column could hold it."""
    with pytest.raises(EventRejected) as caught:
        read_event(json.dumps(ROTATED | {field: "a\x00b"}).encode())
    assert caught.value.code == "malformed_event"


def test_nan_is_not_json() -> None:
    """NaN and Infinity are rejected as malformed JSON."""
    with pytest.raises(EventRejected):
        read_event(json.dumps(with_data(ROTATED, rate=float("nan"))).encode())


def shuffled(value: object, seed: int) -> object:
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(seed).shuffle(items)
        return {key: shuffled(inner, seed) for key, inner in items}
    return [shuffled(inner, seed) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5), st.integers(0, 99))
def test_a_digest_ignores_order_and_spaces(value: dict[str, object], seed: int) -> None:
    """The same event with its keys in another order, spaced or escaped otherwise, has the same digest."""
    plain = json.dumps(value).encode()
    other = json.dumps(shuffled(value, seed), indent=3, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert body_digest(plain) == body_digest(other)
    assert len(body_digest(plain)) == 32


@given(JSON, JSON)
def test_a_digest_tells_bodies_apart(left: object, right: object) -> None:
    """Another body under the same id shows: its digest differs."""
    one, two = (json.dumps(value, sort_keys=True).encode() for value in (left, right))
    assert (body_digest(one) == body_digest(two)) == (one == two)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_json_have_a_digest_too(body: bytes) -> None:
    """What cannot be read can still be told apart."""
    assert len(body_digest(body)) == 32
    assert body_digest(b"[" * 60_000) != body_digest(b"[" * 59_999)


def test_an_event_writes_what_it_reads() -> None:
    """An event's bytes are canonical JSON, and reading them gives the same event."""
    event = read_event(json.dumps(REPLACED | {"time": "2026-01-02T03:04:05Z", "subject": "s"}).encode())
    assert read_event(event.to_bytes()) == event
    assert event.to_bytes() == json.dumps(json.loads(event.to_bytes()), sort_keys=True, separators=(",", ":")).encode()
    assert Event(id="1", source="s", type="t", data={}).to_bytes().count(b"null") == 0


def test_the_contract_has_a_schema_for_every_event() -> None:
    """Every type in and out has a JSON Schema with its name, a sentence, and required fields; it is plain JSON."""
    schema = json.loads(json.dumps(json_schema()))
    assert set(schema["inbound"]) == set(INBOUND)
    assert set(schema["outbound"]) == set(OUTBOUND)
    for name, each in (schema["inbound"] | schema["outbound"]).items():
        assert each["title"] == name
        assert each["properties"]["type"] == {"const": name}
        assert each["description"].endswith(".")
        assert {"id", "source", "type", "data"} <= set(each["required"])
    replaced = schema["inbound"]["main_key.replaced"]["properties"]["data"]
    assert set(replaced["required"]) == {"environment", "main_key"}


def test_the_words_on_the_wire_are_frozen() -> None:
    """Other services match on these types: one may be added, none may change."""
    assert set(INBOUND) >= {"main_key.replaced", "main_key.rotated"}
    assert set(OUTBOUND) >= {"repack.started", "repack.move_closed", "repack.finished", "repack.aborted"}
    assert not set(INBOUND) & set(OUTBOUND)
