"""Create, describe, enable, disable, delete and rotate keys: what moto does without material, clock or states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workers.embedded.simulator.clock import Clock
from workers.embedded.simulator.keys import Keys, SimulatedKey
from workers.embedded.simulator.policy import require_permission
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.request import KmsCall
from workers.embedded.simulator.rotation import rotate_on_demand
from workers.embedded.simulator.states import require_state

DEFAULT_WINDOW_DAYS = 30
MIN_WINDOW_DAYS = 7
"""AWS's (API_ScheduleKeyDeletion)."""

Answer = dict[str, Any] | None


class LifecycleOperations:
    """The operations that change or describe a key."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys, self._clock = keys, clock
        self.table: Mapping[str, Callable[[KmsCall, SimulatedKey], Answer]] = {
            "DescribeKey": self._describe,
            "EnableKey": self._enable,
            "DisableKey": self._disable,
            "ScheduleKeyDeletion": self._schedule_deletion,
            "CancelKeyDeletion": self._cancel_deletion,
            "EnableKeyRotation": self._enable_rotation,
            "DisableKeyRotation": self._disable_rotation,
            "GetKeyRotationStatus": self._rotation_status,
            "RotateKeyOnDemand": self._rotate,
            "ListKeyRotations": self._list_rotations,
            "ReplicateKey": self._replicate,
        }

    def answer(self, call: KmsCall) -> Answer:
        """Do it, if the key's policy and state let the caller."""
        key = self._keys.find(call.text("KeyId"), call.account, call.region)
        owner, policy = key.moto.account_id, key.moto.policy
        require_permission(policy=policy, action=call.operation, caller=call.account, owner=owner, arn=key.arn)
        require_state(call.operation, key.state, key.arn)
        return self.table[call.operation](call, key)

    def create(self, call: KmsCall) -> Answer:
        """CreateKey, in the caller's account."""
        wanted = call.parameters
        key = self._keys.create(
            call.account,
            call.region,
            policy=wanted.get("Policy"),
            key_usage=wanted.get("KeyUsage"),
            key_spec=wanted.get("KeySpec") or wanted.get("CustomerMasterKeySpec"),
            description=wanted.get("Description"),
            tags=wanted.get("Tags"),
            multi_region=wanted.get("MultiRegion"),
            origin=wanted.get("Origin") or "AWS_KMS",
        )
        return {"KeyMetadata": key.metadata()}

    def _describe(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        return {"KeyMetadata": key.metadata()}

    def _enable(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        key.set_state("Enabled")
        return None

    def _disable(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        key.set_state("Disabled")
        return None

    def _schedule_deletion(self, call: KmsCall, key: SimulatedKey) -> Answer:
        days = call.parameters.get("PendingWindowInDays", DEFAULT_WINDOW_DAYS)
        if not isinstance(days, int) or not MIN_WINDOW_DAYS <= days <= DEFAULT_WINDOW_DAYS:
            raise Refusal("ValidationException", f"PendingWindowInDays is {MIN_WINDOW_DAYS} to {DEFAULT_WINDOW_DAYS}.")
        key.delete_after(self._clock.now(), days)
        return {
            "KeyId": key.arn,
            "DeletionDate": key.deletes_at,
            "KeyState": key.state,
            "PendingWindowInDays": days,
        }

    def _cancel_deletion(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        key.set_state("Disabled")
        return {"KeyId": key.arn}

    def _enable_rotation(self, call: KmsCall, key: SimulatedKey) -> Answer:
        _require_primary(key)
        key.schedule.enable(self._clock.now(), call.parameters.get("RotationPeriodInDays"))
        return None

    def _disable_rotation(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        _require_primary(key)
        key.schedule.disable()
        return None

    def _rotation_status(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        _require_rotatable(key)
        due = key.schedule.due_at
        if due is None or key.state == "PendingDeletion":  # AWS reports no rotation while a deletion is pending
            return {"KeyId": key.arn, "KeyRotationEnabled": False}
        period = key.schedule.period_days
        return {"KeyId": key.arn, "KeyRotationEnabled": True, "RotationPeriodInDays": period, "NextRotationDate": due}

    def _rotate(self, _call: KmsCall, key: SimulatedKey) -> Answer:
        _require_primary(key)
        rotate_on_demand(key.material, self._clock.now())
        return {"KeyId": key.arn}

    def _replicate(self, call: KmsCall, key: SimulatedKey) -> Answer:
        replica = self._keys.replicate(key, call.text("ReplicaRegion"))
        replica.moto.policy = call.parameters.get("Policy") or replica.moto.generate_default_policy()
        replica.moto.description = call.parameters.get("Description", "")
        return {"ReplicaKeyMetadata": replica.metadata(), "ReplicaPolicy": replica.moto.policy, "ReplicaTags": []}

    def _list_rotations(self, call: KmsCall, key: SimulatedKey) -> Answer:
        _require_rotatable(key)
        whole = call.parameters.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
        entries = [entry for entry in _rotation_entries(key) if whole or "RotationType" in entry]
        start, limit = _page(call)
        page: dict[str, Any] = {"Rotations": entries[start : start + limit], "Truncated": len(entries) > start + limit}
        if page["Truncated"]:
            page["NextMarker"] = str(start + limit)
        return page


def _rotation_entries(key: SimulatedKey) -> list[dict[str, Any]]:
    """List one entry per generation; only those made by a rotation have a date and a type."""
    entries = []
    for generation in key.material.generations:
        state = "CURRENT" if generation is key.material.current else "NON_CURRENT"
        entry: dict[str, Any] = {
            "KeyId": key.moto.id,
            "KeyMaterialState": state,
            **key.material_id(generation.material_id),
        }
        if generation.rotation is not None:
            entry |= {"RotationDate": generation.made_at, "RotationType": generation.rotation}
        entries.append(entry)
    return entries


def _page(call: KmsCall) -> tuple[int, int]:
    marker, limit = str(call.parameters.get("Marker", "0")), call.parameters.get("Limit", 100)
    if not marker.isdecimal():
        raise Refusal("InvalidMarkerException")
    return int(marker), int(limit)


def _require_rotatable(key: SimulatedKey) -> None:
    if not key.is_symmetric:
        raise Refusal("UnsupportedOperationException", f"{key.arn} is not a symmetric encryption key.")


def _require_primary(key: SimulatedKey) -> None:
    _require_rotatable(key)
    if key.is_replica:
        raise Refusal("UnsupportedOperationException", f"{key.arn} is a replica: its primary key is rotated.")
