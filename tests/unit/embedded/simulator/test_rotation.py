"""Generations and the clock: rotation on demand and by schedule, and deletion when its time has come."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError

from workers.embedded.simulator import SimulatorClient
from workers.embedded.simulator.clock import DAY, Clock
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.rotation import Schedule


def generation_of(kms: Any, arn: str) -> str:
    return str(kms.describe_key(KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"])


def test_each_rotation_is_new_material(owner: Any, arn: str) -> None:
    """After a rotation the id differs, old blobs tell the old one, new blobs the new, and both open."""
    old_id = generation_of(owner, arn)
    old = owner.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    owner.rotate_key_on_demand(KeyId=arn)
    new_id = generation_of(owner, arn)
    new = owner.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    moved = owner.re_encrypt(CiphertextBlob=old, SourceKeyId=arn, DestinationKeyId=arn)
    assert old_id != new_id
    opened = [owner.decrypt(CiphertextBlob=blob) for blob in (old, new, moved["CiphertextBlob"])]
    assert [answer["KeyMaterialId"] for answer in opened] == [old_id, new_id, new_id]
    assert (moved["SourceKeyMaterialId"], moved["DestinationKeyMaterialId"]) == (old_id, new_id)
    assert owner.generate_data_key(KeyId=arn, KeySpec="AES_256")["KeyMaterialId"] == new_id


def test_a_key_is_rotated_on_demand_25_times_at_most(owner: Any, arn: str) -> None:
    """The 26th rotation on demand is refused, and each of the 25 is listed, page by page."""
    for _ in range(25):
        owner.rotate_key_on_demand(KeyId=arn)
    with pytest.raises(ClientError, match="LimitExceededException"):
        owner.rotate_key_on_demand(KeyId=arn)
    listed = list(owner.get_paginator("list_key_rotations").paginate(KeyId=arn, PaginationConfig={"PageSize": 10}))
    entries = [entry for page in listed for entry in page["Rotations"]]
    assert [len(page["Rotations"]) for page in listed] == [10, 10, 5]
    assert len({entry["KeyMaterialId"] for entry in entries}) == 25
    assert [entry["KeyMaterialState"] for entry in entries] == ["NON_CURRENT"] * 24 + ["CURRENT"]
    assert entries[-1]["KeyMaterialId"] == generation_of(owner, arn)
    assert {entry["RotationType"] for entry in entries} == {"ON_DEMAND"}


def test_the_first_material_is_listed_when_asked_for(owner: Any, arn: str) -> None:
    """ALL_KEY_MATERIAL lists the material a key was born with too, which no rotation made."""
    born = generation_of(owner, arn)
    owner.rotate_key_on_demand(KeyId=arn)
    entries = owner.list_key_rotations(KeyId=arn, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert [entry["KeyMaterialId"] for entry in entries] == [born, generation_of(owner, arn)]
    assert "RotationDate" not in entries[0]


def test_automatic_rotation_follows_the_clock(simulator: SimulatorClient, owner: Any, arn: str) -> None:
    """A key with a period of 90 days has a new generation after 90 days, not before, and two more after 180."""
    owner.enable_key_rotation(KeyId=arn, RotationPeriodInDays=90)
    first = generation_of(owner, arn)
    simulator.advance_clock(days=89.9)
    assert generation_of(owner, arn) == first
    simulator.advance_clock(days=0.2)
    second = generation_of(owner, arn)
    assert second != first
    simulator.advance_clock(days=180)
    rotations = owner.list_key_rotations(KeyId=arn)["Rotations"]
    assert [entry["RotationType"] for entry in rotations] == ["AUTOMATIC"] * 3
    dates = [entry["RotationDate"] for entry in rotations]
    assert {(later - earlier).days for earlier, later in pairwise(dates)} == {90}


def test_rotation_status_tells_the_next_date(simulator: SimulatorClient, owner: Any, arn: str) -> None:
    """GetKeyRotationStatus tells period and next date while it is on, and only that it is off when it is."""
    assert owner.get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"] is False
    owner.enable_key_rotation(KeyId=arn)
    status = owner.get_key_rotation_status(KeyId=arn)
    assert status["RotationPeriodInDays"] == 365
    assert status["NextRotationDate"].timestamp() - simulator.advance_clock() == pytest.approx(365 * 86_400, abs=60)
    owner.rotate_key_on_demand(KeyId=arn)
    assert owner.get_key_rotation_status(KeyId=arn)["NextRotationDate"] == status["NextRotationDate"]
    owner.disable_key_rotation(KeyId=arn)
    simulator.advance_clock(days=1000)
    assert len(owner.list_key_rotations(KeyId=arn)["Rotations"]) == 1


@pytest.mark.parametrize(("days", "allowed"), [(89, False), (90, True), (2560, True), (2561, False)])
def test_the_period_is_90_to_2560_days(days: int, allowed: bool) -> None:
    """AWS's limits hold in the simulator itself: an SDK would stop some of these before they get there."""
    schedule = Schedule()
    if allowed:
        schedule.enable(0.0, days)
        assert schedule.due_at == days * DAY
    else:
        with pytest.raises(Refusal, match="ValidationException"):
            schedule.enable(0.0, days)


def test_a_disabled_key_is_rotated_when_it_is_enabled(simulator: SimulatorClient, owner: Any, arn: str) -> None:
    """A rotation that falls due while a key is disabled waits until it is enabled."""
    owner.enable_key_rotation(KeyId=arn, RotationPeriodInDays=90)
    first = generation_of(owner, arn)
    owner.disable_key(KeyId=arn)
    simulator.advance_clock(days=91)
    assert generation_of(owner, arn) == first
    owner.enable_key(KeyId=arn)
    assert generation_of(owner, arn) != first


def test_a_scheduled_deletion_happens(simulator: SimulatorClient, owner: Any, arn: str) -> None:
    """After the waiting period the key is gone; before, the deletion can be cancelled."""
    answer = owner.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    described = owner.describe_key(KeyId=arn)["KeyMetadata"]
    assert (described["KeyState"], described["DeletionDate"]) == ("PendingDeletion", answer["DeletionDate"])
    owner.cancel_key_deletion(KeyId=arn)
    assert owner.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "Disabled"
    simulator.advance_clock(days=8)
    owner.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    simulator.advance_clock(days=8)
    with pytest.raises(ClientError, match="NotFoundException"):
        owner.describe_key(KeyId=arn)
    assert arn not in [key["arn"] for key in simulator.describe_keys()]


def test_the_clock_goes_forward_only() -> None:
    """A clock can be put forward by any time, and never back."""
    clock = Clock(lambda: 100.0)
    assert clock.advance(5) == clock.now() == 105.0
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
