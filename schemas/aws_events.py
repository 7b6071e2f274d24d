"""Reads what AWS says about a KMS key through EventBridge, in its own envelope: a hint to poll that key, nothing more.

::

    {"version": "0", "id": …, "source": "aws.kms", "account": …, "region": …, "resources": […],
     "detail-type": "KMS CMK Rotation", "detail": {"key-id": …}}
    {… "detail-type": "AWS API Call via CloudTrail",
     "detail": {"eventName": "DisableKey", "requestParameters": {"keyId": …}, "resources": [{"ARN": …}]}}

Each becomes a `main_key.changed` of source `aws.kms`, with the id that AWS gave. AWS delivers such events at least once
and on a best effort; the poll is the truth. Source: the AWS KMS Developer Guide, "Monitor KMS keys with EventBridge".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.errors import EventRejected, MalformedMainKeyUri
from schemas.events import Event, Text, event_of, first_error, read_json
from schemas.keys import MainKeyUri

AWS_SOURCE = "aws.kms"

KMS_EVENTS = frozenset({"KMS CMK Rotation", "KMS CMK Deletion", "KMS Imported Key Material Expiration"})
"""Detail types that KMS itself sends."""

CLOUDTRAIL = "AWS API Call via CloudTrail"

API_CALLS = frozenset(
    {
        "DisableKey",
        "EnableKey",
        "ScheduleKeyDeletion",
        "CancelKeyDeletion",
        "PutKeyPolicy",
        "RotateKeyOnDemand",
        "RevokeGrant",
        "ImportKeyMaterial",
        "DeleteImportedKeyMaterial",
    }
)
"""Calls after which a key may have another generation, or may no longer, or again, be used."""


class _Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    id: Text
    source: Text
    detail_type: Text = Field(alias="detail-type")
    account: str = Field(pattern=r"^[0-9]{12}$")
    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")
    resources: list[str] = Field(default=[], max_length=16)
    detail: dict[str, Any] = {}


_ENVELOPE: TypeAdapter[_Envelope] = TypeAdapter(_Envelope)


def read_message(body: bytes) -> Event:
    """Read an event in CloudEvents' envelope, or in AWS's. Raises EventRejected."""
    value = read_json(body)
    if isinstance(value, dict) and "detail-type" in value and "specversion" not in value:
        return _translated(value)
    return event_of(value)


def _translated(value: dict[str, Any]) -> Event:
    try:
        envelope = _ENVELOPE.validate_python(value)
    except ValidationError as error:
        raise EventRejected("malformed_event", f"As an event of AWS: {first_error(error)}") from error
    if envelope.source != AWS_SOURCE:
        raise EventRejected("unknown_type", f"It is an event of AWS, and not of {AWS_SOURCE}.")
    said = _said(envelope)
    data = {"main_key": str(_main_key(envelope)), "said": said}
    return Event(id=envelope.id, source=AWS_SOURCE, type="main_key.changed", data=data)


def _said(envelope: _Envelope) -> str:
    """Return what happened, in AWS's words. Raises EventRejected for what says nothing about the use of a key."""
    said = envelope.detail_type
    if said == CLOUDTRAIL:
        said = str(envelope.detail.get("eventName", ""))
    known = API_CALLS if envelope.detail_type == CLOUDTRAIL else KMS_EVENTS
    if said not in known:
        raise EventRejected(
            "unknown_type", f"It is none of the events of AWS that are looked into ({', '.join(sorted(known))})."
        )
    return said


def _main_key(envelope: _Envelope) -> MainKeyUri:
    """Return the key that an event is about. Raises EventRejected if no key is named by ARN or id (an alias could be
    any key's).
    """
    for name in _names(envelope):
        try:
            return MainKeyUri.parse(f"aws-kms:{name}")
        except MalformedMainKeyUri:
            continue
    raise EventRejected("malformed_event", "It names no key by ARN or id.")


def _names(envelope: _Envelope) -> Iterator[str]:
    """Yield what may be the ARN of the key, the surest first."""
    yield from envelope.resources
    resources = envelope.detail.get("resources")
    for resource in resources if isinstance(resources, list) else []:
        if isinstance(resource, dict):
            yield str(resource.get("ARN"))
    parameters = envelope.detail.get("requestParameters")
    for key in (parameters.get("keyId") if isinstance(parameters, dict) else None, envelope.detail.get("key-id")):
        yield str(key)
        yield f"arn:{_partition(envelope.region)}:kms:{envelope.region}:{envelope.account}:key/{key}"


def _partition(region: str) -> str:
    return "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
