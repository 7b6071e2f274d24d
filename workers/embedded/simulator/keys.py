"""The simulator's keys: moto's, by account and region, with the material, schedule and clock that moto lacks."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moto.core.base_backend import BackendDict
from moto.kms.models import Key, KmsBackend

from workers.embedded.simulator.clock import DAY, Clock
from workers.embedded.simulator.material import Material
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.rotation import Schedule

_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<resource>(?:key|alias)/.+)")
_SYMMETRIC = "SYMMETRIC_DEFAULT"
_FAST_SPEC = "ECC_NIST_P256"


class SimulatorBackend(KmsBackend):
    """moto's backend of one account and region. A symmetric key there comes with an unused RSA key: skip that."""

    def create_key(
        self,
        policy: str | None,
        key_usage: str | None,
        key_spec: str | None,
        description: str | None,
        tags: list[dict[str, str]] | None,
        multi_region: bool | None = False,
        origin: str = "AWS_KMS",
    ) -> Key:
        """Create a key, with every default filled in."""
        spec = key_spec or _SYMMETRIC
        quick = _FAST_SPEC if spec == _SYMMETRIC else spec
        usage = key_usage or "ENCRYPT_DECRYPT"
        key = super().create_key(policy, usage, quick, description or "", tags, bool(multi_region), origin)
        key.key_spec = spec
        if multi_region:
            self._rename(key)
        if origin == "EXTERNAL":
            key.key_state, key.enabled = "PendingImport", False
        return key

    def _rename(self, key: Key) -> None:
        """Rename a multi-region key: its id has no dashes in AWS; moto's has."""
        del self.keys[key.id]
        key.id = f"mrk-{key.id.removeprefix('mrk-').replace('-', '')}"
        key.arn = f"{key.arn.rpartition('/')[0]}/{key.id}"
        key.multi_region_configuration["PrimaryKey"]["Arn"] = key.arn
        self.keys[key.id] = key


@dataclass(slots=True, kw_only=True)
class SimulatedKey:
    """One key. `moto` holds its metadata, state and policy. Replicas share material and schedule, nothing else."""

    moto: Key
    material: Material = field(repr=False)
    schedule: Schedule = field(default_factory=Schedule)
    deletes_at: float | None = None
    hides_material_id: bool = False

    @property
    def arn(self) -> str:
        """Return the key's ARN."""
        return str(self.moto.arn)

    @property
    def state(self) -> str:
        """Return the key's KeyState."""
        return str(self.moto.key_state)

    @property
    def is_symmetric(self) -> bool:
        """Return True if it is a symmetric encryption key."""
        return bool(self.moto.key_spec == _SYMMETRIC and self.moto.key_usage == "ENCRYPT_DECRYPT")

    @property
    def is_replica(self) -> bool:
        """Return True if it is a replica of a multi-region key."""
        return bool(self.moto.multi_region and self.moto.multi_region_configuration["MultiRegionKeyType"] == "REPLICA")

    def is_of(self, arn: str) -> bool:
        """Return True if `arn` names it, or a multi-region key of the same material."""
        mine, theirs = self.arn.split(":"), arn.split(":")
        mine[3:4] = theirs[3:4] if self.moto.multi_region else mine[3:4]
        return mine == theirs

    def set_state(self, state: str) -> None:
        """Put it into `state`; one that leaves PendingDeletion is no longer deleted."""
        self.moto.key_state, self.moto.enabled = state, state == "Enabled"
        if state != "PendingDeletion":
            self.deletes_at = None

    def delete_after(self, now: float, days: int) -> None:
        """Schedule its deletion."""
        self.set_state("PendingDeletion")
        self.deletes_at = now + days * DAY

    def material_id(self, material_id: str | None = None) -> dict[str, str]:
        """`{"KeyMaterialId": …}` of the current or the named generation; empty where the key hides it."""
        if self.hides_material_id or not self.is_symmetric:
            return {}
        return {"KeyMaterialId": material_id or self.material.current.material_id}

    def metadata(self) -> dict[str, Any]:
        """Return its KeyMetadata, as DescribeKey answers."""
        if self.state == "PendingDeletion":  # moto computes DeletionDate from a time of its own clock
            self.moto.deletion_date = datetime.fromtimestamp(self.deletes_at or 0, UTC).replace(tzinfo=None)
        found: dict[str, Any] = self.moto.to_dict()["KeyMetadata"]
        if self.moto.key_usage != "ENCRYPT_DECRYPT":
            found.pop("EncryptionAlgorithms", None)
        if self.deletes_at is not None:
            found["DeletionDate"] = self.deletes_at
        if self.material_id():
            found["CurrentKeyMaterialId"] = self.material.current.material_id
        return {name: value for name, value in found.items() if value is not None}


class Keys:
    """Every key of every account and region. Nothing is kept on disk."""

    def __init__(self, clock: Clock) -> None:
        self.backends = BackendDict(SimulatorBackend, "kms")
        self._clock = clock
        self._known: dict[str, SimulatedKey] = {}

    def backend(self, account: str, region: str) -> SimulatorBackend:
        """moto's backend. Raises Refusal for a region that AWS has not."""
        try:
            backend: SimulatorBackend = self.backends[account][region]
        except KeyError as error:
            raise Refusal("UnrecognizedClientException", f"There is no region {region}.") from error
        return backend

    def find(self, identifier: str, account: str, region: str) -> SimulatedKey:
        """Find the key that an id, ARN or alias names to a caller in `account`. Raises Refusal NotFoundException."""
        named = _ARN.fullmatch(identifier)
        if named and named["region"] != region:
            raise Refusal("NotFoundException", f"Invalid arn {named['region']}")
        backend = self.backend(named["account"] if named else account, region)
        resource = named["resource"] if named else identifier
        key_id = resource.removeprefix("key/")
        if resource.startswith("alias/"):
            key_id = backend.get_key_id_from_alias(resource) or ""
        return self._settled(backend, key_id, identifier)

    def create(self, account: str, region: str, **fields: Any) -> SimulatedKey:
        """Create a key; `fields` are those of `SimulatorBackend.create_key`."""
        defaults = {"policy": None, "key_usage": None, "key_spec": None, "description": None, "tags": None}
        key = self.backend(account, region).create_key(**{**defaults, **fields})
        return self._wrapped(key)

    def replicate(self, key: SimulatedKey, region: str) -> SimulatedKey:
        """Create a replica of a multi-region key. Raises Refusal for another kind of key, or if there is one."""
        if not key.moto.multi_region or key.is_replica:
            raise Refusal("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.")
        backend, configuration = self.backend(key.moto.account_id, region), key.moto.multi_region_configuration
        if key.moto.id in backend.keys:
            raise Refusal("AlreadyExistsException", f"There is a replica of {key.arn} in {region}.")
        moto = copy(key.moto)
        moto.region, moto.arn = region, key.arn.replace(f":{key.moto.region}:", f":{region}:", 1)
        moto.aliases, moto.grants, moto.key_state, moto.enabled = {}, {}, "Enabled", True
        configuration["ReplicaKeys"].append({"Arn": moto.arn, "Region": region})
        moto.multi_region_configuration = {
            "MultiRegionKeyType": "REPLICA",
            "PrimaryKey": configuration["PrimaryKey"],
            "ReplicaKeys": configuration["ReplicaKeys"],
        }
        backend.keys[moto.id] = moto
        replica = SimulatedKey(moto=moto, material=key.material, schedule=key.schedule)
        self._known[moto.arn] = replica
        return replica

    def delete(self, key: SimulatedKey) -> None:
        """Delete it now, material and all."""
        self.backend(key.moto.account_id, key.moto.region).delete_key(key.moto.id)
        self._known.pop(key.arn, None)

    def all(self) -> list[SimulatedKey]:
        """Return every key there is."""
        backends = [backend for regions in self.backends.values() for backend in regions.values()]
        found = [self._wrapped(key) for backend in backends for key in list(backend.keys.values())]
        return [key for key in found if not self._has_expired(key)]

    def _settled(self, backend: SimulatorBackend, key_id: str, identifier: str) -> SimulatedKey:
        key = backend.keys.get(key_id)
        if key is None or self._has_expired(self._wrapped(key)):
            raise Refusal("NotFoundException", f"Key '{identifier}' does not exist")
        found = self._wrapped(key)
        if found.state == "Enabled":
            found.schedule.catch_up(found.material, self._clock.now())
        return found

    def _has_expired(self, key: SimulatedKey) -> bool:
        if key.deletes_at is None or key.deletes_at > self._clock.now():
            return False
        self.delete(key)
        return True

    def _wrapped(self, key: Key) -> SimulatedKey:
        found = self._known.get(key.arn)
        if found is None:
            now = self._clock.now()
            key.creation_date = now
            found = self._known[key.arn] = SimulatedKey(moto=key, material=Material(now))
        return found
