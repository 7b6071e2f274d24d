"""The read side: unwrap keys, and create new ones, while repacks come and go.

    keyring = Keyring(services)
    parent = keyring.create_wrapping_key("acme/production")
    created = keyring.create_data_key("acme/production", parent)
    material = keyring.unwrap(created.key_id)

Safe under threads. Plaintext stays in the cache for at most `cache_ttl` seconds from when it was filled (R8).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from schemas.keys import KeyKind, MainKeyUri
from workers.crypto.key_opener import OPENING_FAILED, OpeningRows, open_as_stored
from workers.crypto.plaintext_cache import PlaintextCache
from workers.crypto.rewrap import open_wrap
from workers.errors import (
    KmsRefused,
    NotFound,
    WrapReason,
    WrapRefused,
)
from workers.keyring.creation import Creation
from workers.keyring.minting import material_of
from workers.locks.guards import require_open
from workers.locks.locking import lock_newborn
from workers.locks.restriction import confirm_refusal
from workers.runtime.single_flight import FailureCache, SingleFlight
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import environments, keys
from workers.store.environments import Environment
from workers.store.keys import DataKeyRow, StoredRootWrap
from workers.store.outbox import record_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new key. `material` is its 32 bytes of plaintext: use it and let go of it."""

    key_id: UUID
    material: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is stored of a data key, and of all that it takes to open it."""

    row: DataKeyRow
    environment: Environment
    rows: OpeningRows
    root_wraps: list[StoredRootWrap]


class Keyring:
    """Unwraps and creates the keys of every environment, for one process."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._services = services
        self._data: PlaintextCache[UUID] = PlaintextCache(
            ttl=settings.cache_ttl, size=settings.cache_size, clock=services.clock
        )
        self._epochs = services.epochs
        self._epochs.register_cache(self._data)
        self._flights: SingleFlight[UUID, bytes] = SingleFlight()
        self._failures: FailureCache[UUID] = FailureCache(clock=services.clock)
        self._creation = Creation(services)

    # Environments -----------------------------------------------------------------------------------------------

    @again_after_conflict
    def create_environment(self, workspace: str, name: str, *, main_key: str = "managed:", actor: str) -> Environment:
        """Create an environment on `main_key`, which has to answer. Raises KmsRefused, KmsUnreachable, AlreadyThere.

        In a workspace that is revoked it is born locked.
        """
        services = self._services
        uri = MainKeyUri.parse(main_key)
        described = services.loop.run(services.kms.main_key(uri).describe())
        with services.database.write() as connection:
            environment = environments.create_environment(
                connection, workspace=workspace, name=name, main_key=str(uri), generation=described.generation
            )
            record_event(
                connection,
                "environment.created",
                actor=actor,
                environment_id=environment.environment_id,
                facts={"workspace": workspace, "name": name, "main_key": str(uri)},
            )
            environment = lock_newborn(connection, services, environment, actor=actor)
        services.wake.outbox()
        return environment

    # Reading ----------------------------------------------------------------------------------------------------

    def unwrap(self, key_id: UUID) -> bytes:
        """Return a data key's material (32 bytes).

        Raises NotFound, EnvironmentLocked, WrapRefused (this key is broken), KmsRefused, KmsUnreachable (no live main
        key opens it).
        """
        found = self._data.find(key_id)
        if found is not None and self._epochs.check(found[0]) == found[1]:
            return found[2]
        return self._flights.fetch(key_id, lambda: self._fill(key_id))

    def _fill(self, key_id: UUID) -> bytes:
        """Open a key and keep it, unless it failed a moment ago; a refusal of its main key is confirmed."""
        stored = self._read(key_id)
        environment = stored.environment
        failed = self._failures.find(key_id)
        if failed is not None and failed[0] == environment.epoch:
            raise failed[1]
        try:
            material = open_as_stored(stored, lambda: self._read(key_id), self._open)
        except OPENING_FAILED as error:
            self._failures.put(key_id, error, epoch=environment.epoch)
            if isinstance(error, KmsRefused):
                confirm_refusal(self._services, environment, error)
            raise
        self._epochs.check(environment.environment_id)  # R8: locked while we waited for the KMS
        self._data.put(key_id, material, environment=environment.environment_id, epoch=environment.epoch)
        return material

    def _read(self, key_id: UUID) -> _Stored:
        """Read everything that opens a data key, as of one moment: a repack may go on right after."""
        services = self._services
        with services.database.snapshot() as connection:
            row = keys.find_data_key(connection, key_id)
            if row is None:
                raise NotFound("data key", key_id)
            environment = require_open(environments.get_environment(connection, row.environment))
            if row.parent is None:
                wraps = keys.load_root_wraps(connection, KeyKind.DATA, [row.id])
                return _Stored(row, environment, OpeningRows({}, {}), wraps.get((row.id, 0), []))
            pairs = [(row.parent, row.parent_version)]
            rows = services.key_opener.read_rows(connection, pairs, environment.epoch)
            return _Stored(row, environment, rows, [])

    def _open(self, stored: _Stored) -> bytes:
        if stored.row.parent is None:
            return self._open_data_root(stored.environment, stored.row, stored.root_wraps)
        return self._open_data(stored.environment, stored.row, stored.rows)

    def _open_data_root(self, environment: Environment, row: DataKeyRow, wraps: list[StoredRootWrap]) -> bytes:
        services = self._services
        opened = services.key_opener.open_root(environment.environment_id, row.key_id, wraps, row.fingerprint)
        return material_of(services.loop.run(opened))

    def _open_data(self, environment: Environment, row: DataKeyRow, rows: OpeningRows) -> bytes:
        assert row.parent is not None
        pair = (row.parent, row.parent_version)
        chain = self._services.key_opener
        opened = chain.open_rows(environment.environment_id, environment.epoch, rows, [pair])
        parent = material_of(opened[pair])
        if row.wrapped is None:
            raise WrapRefused(reason=WrapReason.MALFORMED, key=row.key_id)
        return open_wrap(
            parent,
            row.wrapped,
            environment=environment.environment_id,
            key=row.key_id,
            parent=rows.links[pair].key_id,
            born_with=row.fingerprint,
        )

    # Creating ---------------------------------------------------------------------------------------------------

    def create_wrapping_key(self, environment: str | UUID, parent: UUID | None = None) -> UUID:
        """Create a wrapping key below `parent`, or a root; return its id. Raises as `unwrap`, and HierarchyBroken."""
        return self._create(environment, parent, KeyKind.WRAPPING, 1)[0].key_id

    def create_data_key(self, environment: str | UUID, parent: UUID | None = None) -> Created:
        """Create a data key below `parent`, or a root (a connection key)."""
        return self._create(environment, parent, KeyKind.DATA, 1)[0]

    def create_data_keys(self, environment: str | UUID, parent: UUID | None, count: int) -> list[Created]:
        """Create many data keys below one parent, in one transaction."""
        return self._create(environment, parent, KeyKind.DATA, count)

    def create_wrapping_keys(self, environment: str | UUID, parent: UUID | None, count: int) -> list[UUID]:
        """Create many wrapping keys below one parent, in one transaction; return their ids."""
        return [created.key_id for created in self._create(environment, parent, KeyKind.WRAPPING, count)]

    @again_after_conflict
    def _create(self, reference: str | UUID, parent: UUID | None, kind: KeyKind, count: int) -> list[Created]:
        environment, minted = self._creation.create(reference, parent, kind, count)
        # Only what was committed is remembered: a key whose transaction rolled back is never served.
        for one in minted if kind == KeyKind.DATA else []:
            self._data.put(one.key_id, one.material, environment=environment.environment_id, epoch=environment.epoch)
        return [Created(key_id=one.key_id, material=one.material) for one in minted]
