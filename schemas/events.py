"""Events in and out: CloudEvents 1.0 in JSON (structured mode), and the JSON Schemas that are the contract.

Other services never import this package: they read `keyrepack events schema`.
Unknown fields are tolerated, unknown types and versions are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from schemas.errors import EventRejected, MalformedMainKeyUri
from schemas.keys import MainKeyUri
from schemas.states import Mode

MAX_EVENT_BYTES = 64 * 1024
"""An event carries ids; anything larger is not one of ours."""

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "keyrepack"
VERSION = 1

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
"""No control characters: a database's text cannot hold a NUL, and a terminal should not act on an event."""

Text = Annotated[str, Field(min_length=1, max_length=256, pattern=PRINTABLE)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Literal[1] = Field(default=1, description="Version of this event's data.")


class _EnvironmentData(_Data):
    environment: UUID = Field(description="The environment's id.")


class _ScopeData(_Data):
    """What happens to one environment, or to all environments of a workspace."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("environment", "workspace")]}
    )
    environment: UUID | None = Field(default=None, description="The environment's id.")
    workspace: Text | None = Field(default=None, description="The workspace's name: all of its environments.")
    reason: Text | None = Field(default=None, description="Why, in the customer's words. Kept in the audit.")

    @model_validator(mode="after")
    def _names_one_scope(self) -> Self:
        if (self.environment is None) == (self.workspace is None):
            raise ValueError("exactly one of environment and workspace is to be given")
        return self


class MainKeyReplaced(_EnvironmentData):
    """The customer names another main key for an environment."""

    main_key: str = Field(max_length=512, description="URI of the main key to move to, e.g. aws-kms:<key ARN>.")
    mode: Mode = Field(default=Mode.DEEP, description="How far to go: `deep` renews every wrapping key.")

    @field_validator("main_key")
    @classmethod
    def _is_a_main_key(cls, value: str) -> str:
        MainKeyUri.parse(value)
        return value


class MainKeyRotated(_EnvironmentData):
    """The KMS is said to have rotated an environment's main key. A hint: the KMS is asked before anything is done."""


class MainKeyRevoked(_ScopeData):
    """The customer takes the main key away: what it protects becomes unreadable at once, everywhere (R8)."""


class MainKeyRestored(_ScopeData):
    """The customer gives a revoked main key back."""


class MainKeyChanged(_Data):
    """A main key is said to have changed in its KMS. A hint: never believed, the KMS is asked at once."""

    main_key: str = Field(max_length=512, description="URI of the main key, e.g. aws-kms:<key ARN>.")
    said: Text | None = Field(default=None, description="What its KMS said had happened, e.g. DisableKey.")

    @field_validator("main_key")
    @classmethod
    def _is_a_main_key(cls, value: str) -> str:
        MainKeyUri.parse(value)
        return value


InboundData = MainKeyReplaced | MainKeyRotated | MainKeyRevoked | MainKeyRestored | MainKeyChanged

INBOUND: dict[str, type[InboundData]] = {
    "main_key.replaced": MainKeyReplaced,
    "main_key.rotated": MainKeyRotated,
    "main_key.revoked": MainKeyRevoked,
    "main_key.restored": MainKeyRestored,
    "main_key.changed": MainKeyChanged,
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
    "main_key.adopted": "A customer's first main key of their own is in force.",
    "main_key.rotation_seen": "The KMS has rotated a main key; a repack follows it.",
    "environment.locked": "An environment's data is unavailable to everyone: its main key was revoked or is refused.",
    "environment.unlocked": "An environment's main key is back; its data is readable again.",
    "environment.reconciled": "What a restored backup brought back is mended as a witness told; the facts say how.",
    "environment.lost": "An environment's main key is deleted for good; its keys can never be opened again.",
}
"""The events that this system publishes, by type (R11)."""


class Event(BaseModel):
    """A CloudEvents 1.0 envelope. `data` is checked against the type's own schema."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    specversion: Literal["1.0"] = "1.0"
    id: Text
    source: Text
    type: Text
    time: datetime | None = None
    subject: Text | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the event as canonical JSON."""
        return json.dumps(
            self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":")
        ).encode()


_ENVELOPE: TypeAdapter[Event] = TypeAdapter(Event)


def read_event(body: bytes) -> Event:
    """Read an envelope from its bytes. Raises EventRejected: too_large, malformed_json or malformed_event."""
    return event_of(read_json(body))


def read_json(body: bytes) -> Any:
    """Parse a message's body as JSON. Raises EventRejected: too_large or malformed_json."""
    if len(body) > MAX_EVENT_BYTES:
        raise EventRejected("too_large", f"It has {len(body)} bytes; the limit is {MAX_EVENT_BYTES}.")
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise EventRejected("malformed_json", "Its body is not JSON.") from error


def event_of(value: Any) -> Event:
    """Read an envelope from parsed JSON. Raises EventRejected: malformed_event."""
    try:
        return _ENVELOPE.validate_python(value)
    except ValidationError as error:
        raise EventRejected("malformed_event", first_error(error)) from error


def read_data(event: Event) -> InboundData:
    """Read the data of an inbound event. Raises EventRejected: unknown_type, unknown_version, malformed_data, …"""
    model = INBOUND.get(event.type)
    if model is None:
        known = ", ".join(sorted(INBOUND))
        raise EventRejected("unknown_type", f"{event.type!r} is no event this system acts on ({known}).")
    version = event.data.get("version", VERSION)
    if type(version) is not int or version != VERSION:
        shown = version if type(version) is int and abs(version) < 10**6 else "of another kind"  # R10: never the value
        raise EventRejected("unknown_version", f"Its data has version {shown}; this program knows {VERSION}.")
    try:
        return model.model_validate(event.data)
    except MalformedMainKeyUri as error:
        raise EventRejected(error.code, error.why, error.remedy) from error
    except ValidationError as error:
        raise EventRejected("malformed_data", first_error(error)) from error


def body_digest(body: bytes) -> bytes:
    """Return the SHA-256 of an event's canonical JSON: it separates a repeat from another event under the same id."""
    with contextlib.suppress(UnicodeDecodeError, ValueError, RecursionError):
        body = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(body).digest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of every event, in and out, by type: what `keyrepack events schema` prints."""
    inbound = {name: _schema(name, model.model_json_schema(), model.__doc__ or "") for name, model in INBOUND.items()}
    outbound = {name: _schema(name, {"type": "object"}, text) for name, text in OUTBOUND.items()}
    return {"inbound": inbound, "outbound": outbound}


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(f"{name} is not JSON")


def _schema(name: str, data: dict[str, Any], text: str) -> dict[str, Any]:
    schema = Event.model_json_schema()
    properties = schema["properties"] | {"type": {"const": name}, "data": data}
    return schema | {"title": name, "description": text, "properties": properties}


def first_error(error: ValidationError) -> str:
    """Describe the first fault, by field; never the value that is wrong (R10)."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the event"
    return f"{where}: {first['msg']}."
