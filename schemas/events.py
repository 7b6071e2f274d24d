"""Events in and out: CloudEvents 1.0 in JSON (structured mode), and the JSON Schemas that are the contract.

Other services never import this package: they read `keyrepack events schema`.
Unknown fields are tolerated, unknown types and versions are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from schemas.errors import EventRejected, MalformedMainKeyUri
from schemas.keys import MainKeyUri
from schemas.states import Mode

MAX_EVENT_BYTES = 64 * 1024
"""An event carries ids; anything larger is not one of ours."""

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "keyrepack"
VERSION = 1

Text = Annotated[str, Field(min_length=1, max_length=256)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Literal[1] = Field(default=1, description="Version of this event's data.")
    environment: UUID = Field(description="The environment's id.")


class MainKeyReplaced(_Data):
    """The customer names another main key for an environment."""

    main_key: str = Field(max_length=512, description="URI of the main key to move to, e.g. aws-kms:<key ARN>.")
    mode: Mode = Field(default=Mode.DEEP, description="How far to go: `deep` renews every wrapping key.")

    @field_validator("main_key")
    @classmethod
    def _is_a_main_key(cls, value: str) -> str:
        MainKeyUri.parse(value)
        return value


class MainKeyRotated(_Data):
    """The KMS is said to have rotated an environment's main key. A hint: the KMS is asked before anything is done."""


INBOUND: dict[str, type[_Data]] = {
    "main_key.replaced": MainKeyReplaced,
    "main_key.rotated": MainKeyRotated,
}
"""The events this system acts on, by type."""

OUTBOUND: dict[str, str] = {
    "environment.created": "An environment exists, with a main key of its own.",
    "repack.started": "A repack was planned and its first shards can be claimed.",
    "repack.move_closed": "The old main key is needed for nothing any more; the certificate says so.",
    "repack.renewing": "The renewal of the wrapping keys has begun.",
    "repack.paused": "An operator paused a repack.",
    "repack.resumed": "A repack goes on.",
    "repack.blocked": "A main key refused or did not answer; the repack goes on by itself when it does.",
    "repack.retried": "Quarantined keys are tried again.",
    "repack.aborted": "The old main key is in force again.",
    "repack.stopped": "A renewal was stopped; nothing is lost, the next deep repack picks it up.",
    "repack.finished": "A repack has ended and nothing is stale.",
    "repack.finished_with_quarantine": "A repack has ended; some keys could not be rewrapped.",
    "key.quarantined": "Keys were set aside because they could not be rewrapped.",
    "main_key.uploaded": "A customer uploaded a main key; nothing uses it yet.",
    "main_key.upload_refused": "An upload was refused; nothing of it is kept.",
    "main_key.deleted": "An uploaded main key was deleted by the customer's word, for good.",
    "main_key.rejected": "A replacement was refused before anything changed.",
}
"""The events this system tells, by type (R11)."""


class Event(BaseModel):
    """A CloudEvents 1.0 envelope. `data` is checked against the type's own schema."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    specversion: Literal["1.0"] = "1.0"
    id: Text
    source: Text
    type: Text
    time: datetime | None = None
    subject: str | None = Field(default=None, max_length=256)
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The event as canonical JSON."""
        return json.dumps(
            self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":")
        ).encode()


_ENVELOPE: TypeAdapter[Event] = TypeAdapter(Event)


def read_event(body: bytes) -> Event:
    """An envelope from its bytes. Raises EventRejected: too_large, malformed_json or malformed_event."""
    if len(body) > MAX_EVENT_BYTES:
        raise EventRejected("too_large", f"It has {len(body)} bytes; the limit is {MAX_EVENT_BYTES}.")
    try:
        value = json.loads(body)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise EventRejected("malformed_json", "Its body is not JSON.") from error
    try:
        return _ENVELOPE.validate_python(value)
    except ValidationError as error:
        raise EventRejected("malformed_event", _first_error(error)) from error


def read_data(event: Event) -> MainKeyReplaced | MainKeyRotated:
    """The data of an inbound event. Raises EventRejected: unknown_type, unknown_version, malformed_data, …"""
    model = INBOUND.get(event.type)
    if model is None:
        known = ", ".join(sorted(INBOUND))
        raise EventRejected("unknown_type", f"{event.type!r} is no event this system acts on ({known}).")
    if event.data.get("version", VERSION) != VERSION:
        raise EventRejected("unknown_version", f"Its data has version {event.data['version']!r}; this program knows 1.")
    try:
        return model.model_validate(event.data)  # type: ignore[return-value]
    except MalformedMainKeyUri as error:
        raise EventRejected(error.code, error.why, error.remedy) from error
    except ValidationError as error:
        raise EventRejected("malformed_data", _first_error(error)) from error


def body_digest(body: bytes) -> bytes:
    """What tells a repeated event from another one under the same id: SHA-256 of its canonical JSON."""
    with contextlib.suppress(UnicodeDecodeError, ValueError, RecursionError):
        body = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(body).digest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of every event, in and out, by type: what `keyrepack events schema` prints."""
    inbound = {name: _schema(name, model.model_json_schema(), model.__doc__ or "") for name, model in INBOUND.items()}
    outbound = {name: _schema(name, {"type": "object"}, text) for name, text in OUTBOUND.items()}
    return {"inbound": inbound, "outbound": outbound}


def _schema(name: str, data: dict[str, Any], text: str) -> dict[str, Any]:
    schema = Event.model_json_schema()
    properties = schema["properties"] | {"type": {"const": name}, "data": data}
    return schema | {"title": name, "description": text, "properties": properties}


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the event"
    return f"{where}: {first['msg']}."
