"""What AWS says through EventBridge: each becomes a hint to look at one key, or is rejected with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.aws_events import API_CALLS, KMS_EVENTS, read_message
from schemas.errors import EventRejected
from schemas.events import MainKeyChanged, read_data

KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{KEY}"
ROTATION: dict[str, Any] = {
    "version": "0",
    "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
    "detail-type": "KMS CMK Rotation",
    "source": "aws.kms",
    "account": "111122223333",
    "time": "2026-08-24T17:06:34Z",
    "region": "eu-west-1",
    "resources": [ARN],
    "detail": {"key-id": KEY},
}
DISABLE: dict[str, Any] = ROTATION | {
    "detail-type": "AWS API Call via CloudTrail",
    "resources": [],
    "detail": {
        "eventSource": "kms.amazonaws.com",
        "eventName": "DisableKey",
        "requestParameters": {"keyId": KEY},
        "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": ARN}],
    },
}


def read(value: object) -> MainKeyChanged:
    data = read_data(read_message(json.dumps(value).encode()))
    assert isinstance(data, MainKeyChanged)
    return data


def code_of(value: object) -> str:
    """The code an event is rejected with, or "read"."""
    try:
        read(value)
    except EventRejected as error:
        return error.code
    return "read"


def test_a_rotation_is_a_hint_to_look_at_the_key() -> None:
    """KMS's own event keeps AWS's id, has the source aws.kms, and names the key by its ARN."""
    event = read_message(json.dumps(ROTATION).encode())
    assert (event.id, event.source, event.type) == (ROTATION["id"], "aws.kms", "main_key.changed")
    assert read(ROTATION) == MainKeyChanged(main_key=f"aws-kms:{ARN}", said="KMS CMK Rotation")


@pytest.mark.parametrize("name", sorted(API_CALLS))
def test_each_call_that_changes_a_keys_use_is_looked_into(name: str) -> None:
    """CloudTrail's records of such calls name the key and what was called; a failed call is looked into as well."""
    detail = DISABLE["detail"] | {"eventName": name, "errorCode": "AccessDenied"}
    assert read(DISABLE | {"detail": detail}) == MainKeyChanged(main_key=f"aws-kms:{ARN}", said=name)


@pytest.mark.parametrize("name", sorted(KMS_EVENTS))
def test_each_event_of_kms_is_looked_into(name: str) -> None:
    """Rotation, deletion and the end of imported material each lead to a look."""
    assert read(ROTATION | {"detail-type": name}).said == name


@pytest.mark.parametrize(
    ("detail", "resources"),
    [
        ({"key-id": KEY}, []),
        ({"key-id": ARN}, ["not an ARN", "arn:aws:s3:::bucket"]),
        ({"requestParameters": {"keyId": ARN}}, []),
        ({"requestParameters": {"keyId": KEY}, "resources": "none"}, []),
        ({"requestParameters": {"keyId": "alias/a"}, "resources": [{"ARN": ARN}]}, []),
    ],
)
def test_the_key_is_found_wherever_it_is_named(detail: dict[str, Any], resources: list[str]) -> None:
    """By ARN in the resources, or by ARN or id in the details, with the envelope's region and account."""
    assert read(ROTATION | {"detail": detail, "resources": resources}).main_key == f"aws-kms:{ARN}"


def test_partitions_follow_from_the_region() -> None:
    """A key that is named by id alone in China or GovCloud gets that partition's ARN."""
    bare = {"resources": [], "detail": {"key-id": KEY}}
    assert "arn:aws-cn:kms:cn-north-1" in read(ROTATION | bare | {"region": "cn-north-1"}).main_key
    assert "arn:aws-us-gov:kms:us-gov-west-1" in read(ROTATION | bare | {"region": "us-gov-west-1"}).main_key


@pytest.mark.parametrize(
    ("value", "code", "why"),
    [
        (ROTATION | {"source": "aws.s3"}, "unknown_type", "not of aws.kms"),
        (ROTATION | {"detail-type": "KMS CMK Something"}, "unknown_type", "KMS CMK Rotation"),
        (DISABLE | {"detail": {"eventName": "Decrypt"}}, "unknown_type", "DisableKey"),
        (ROTATION | {"account": "me"}, "malformed_event", "account"),
        (ROTATION | {"id": ""}, "malformed_event", "id"),
        (ROTATION | {"detail": {"key-id": "alias/a"}, "resources": []}, "malformed_event", "names no key"),
        (ROTATION | {"detail": [], "resources": []}, "malformed_event", "detail"),
    ],
)
def test_other_events_are_rejected_with_the_reason(value: object, code: str, why: str) -> None:
    """What is not about a key's use, or names no key, is rejected by code and reason."""
    with pytest.raises(EventRejected, match=why) as caught:
        read(value)
    assert caught.value.code == code


@given(
    st.sampled_from(["id", "source", "account", "region", "resources", "detail", "detail-type"]),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_any_value_in_any_field_is_read_or_rejected(name: str, value: object) -> None:
    """Nothing but a rejection is raised: the consumer cannot be stopped by an odd event."""
    assert {code_of(event | {name: value}) for event in (ROTATION, DISABLE)} <= {
        "read",
        "malformed_event",
        "unknown_type",
    }
