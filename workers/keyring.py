"""The read side: unwrap keys, and create new ones, while repacks come and go.

    keyring = Keyring(services)
    parent = keyring.create_wrapping_key("acme/production")
    created = keyring.create_data_key("acme/production", parent)
    material = keyring.unwrap(created.key_id)

Safe under threads. Plaintext stays in the cache for at most `cache_ttl` seconds from when it was filled (R8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

from schemas.envelope import WRAP_LIMIT
from schemas.keys import MAX_LEVELS, KeyKind, MainKeyUri
from workers.cache import PlaintextCache
from workers.chain import OPENING_FAILED, ChainRows, open_as_stored
from workers.errors import (
    EnvironmentLocked,
    HierarchyBroken,
    KmsRefused,
    LostRace,
    NotFound,
    WrapReason,
    WrapRefused,
)
from workers.flights import Failures, Flights
from workers.locking import suspect
from workers.minting import Minted, check_tops, material_of, mint_child, mint_roots, store_version
from workers.rewrap import open_wrap
from workers.services import Services
from workers.store import environments, keys, versions
from workers.store.database import Connection
from workers.store.environments import Environment, TopVersion, live_tops
from workers.store.keys import DataKeyRow, StoredRootWrap, WrappingKeyRow
from workers.store.outbox import tell

TRIES = 10
"""How often a key that lost a race (its version was shredded, the top changed) takes the new state of things."""

RESERVED = 1000
"""Wraps reserved against WRAP_LIMIT at once, so that creators of keys under one parent do not wait for each other."""

S = TypeVar("S")
T = TypeVar("T")


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
    rows: ChainRows
    root_wraps: list[StoredRootWrap]


_Made = tuple[Environment, list[Minted]]


class Keyring:
    """Unwraps and creates the keys of every environment, for one process."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._services = services
        self._data: PlaintextCache[UUID] = PlaintextCache(
            ttl=settings.cache_ttl, size=settings.cache_size, clock=services.clock
        )
        self._epochs = services.epochs
        self._epochs.keep_honest(self._data)
        self._flights: Flights[UUID, bytes] = Flights()
        self._failures: Failures[UUID] = Failures(clock=services.clock)
        self._reserved: dict[keys.Pair, int] = {}

    # Environments -----------------------------------------------------------------------------------------------

    def create_environment(self, workspace: str, name: str, *, main_key: str = "managed:", actor: str) -> Environment:
        """A new environment on `main_key`, which has to answer. Raises KmsRefused, KmsUnreachable."""
        services = self._services
        uri = MainKeyUri.parse(main_key)
        described = services.loop.run(services.kms.main_key(uri).describe())
        with services.database.write() as connection:
            environment = environments.create_environment(
                connection, workspace=workspace, name=name, main_key=str(uri), generation=described.generation
            )
            tell(
                connection,
                "environment.created",
                actor=actor,
                environment_id=environment.environment_id,
                facts={"workspace": workspace, "name": name, "main_key": str(uri)},
            )
        services.wake.outbox()
        return environment

    # Reading ----------------------------------------------------------------------------------------------------

    def unwrap(self, key_id: UUID) -> bytes:
        """A data key's material (32 bytes).

        Raises NotFound, EnvironmentLocked, WrapRefused (this key is broken), KmsRefused, KmsUnreachable (no live main
        key opens it).
        """
        found = self._data.find(key_id)
        if found is not None and self._epochs.check(found[0]) == found[1]:
            return found[2]
        return self._flights.fetch(key_id, lambda: self._fill(key_id))

    def _fill(self, key_id: UUID) -> bytes:
        """Open a key and keep it, unless it failed a moment ago; a refusal of its main key is looked into."""
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
                suspect(self._services, environment, error)
            raise
        self._epochs.check(environment.environment_id)  # R8: locked while we waited for the KMS
        self._data.put(key_id, material, environment=environment.environment_id, epoch=environment.epoch)
        return material

    def _read(self, key_id: UUID) -> _Stored:
        """Everything that opens a data key, as of one moment: a repack may go on right after."""
        services = self._services
        with services.database.snapshot() as connection:
            row = keys.find_data_key(connection, key_id)
            if row is None:
                raise NotFound("data key", key_id)
            environment = _unlocked(environments.get_environment(connection, row.environment))
            if row.parent is None:
                wraps = keys.load_root_wraps(connection, KeyKind.DATA, [row.id])
                return _Stored(row, environment, ChainRows({}, {}), wraps.get((row.id, 0), []))
            pairs = [(row.parent, row.parent_version)]
            rows = services.chain.read_rows(connection, pairs, environment.epoch)
            return _Stored(row, environment, rows, [])

    def _open(self, stored: _Stored) -> bytes:
        if stored.row.parent is None:
            return self._open_data_root(stored.environment, stored.row, stored.root_wraps)
        return self._open_data(stored.environment, stored.row, stored.rows)

    def _open_data_root(self, environment: Environment, row: DataKeyRow, wraps: list[StoredRootWrap]) -> bytes:
        services = self._services
        opened = services.chain.open_root(environment.environment_id, row.key_id, wraps, row.fingerprint)
        return material_of(services.loop.run(opened))

    def _open_data(self, environment: Environment, row: DataKeyRow, rows: ChainRows) -> bytes:
        assert row.parent is not None
        pair = (row.parent, row.parent_version)
        chain = self._services.chain
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
        """A new wrapping key below `parent`, or a root. Returns its id. Raises as `unwrap`, and HierarchyBroken."""
        return self._create(environment, parent, KeyKind.WRAPPING, 1)[0].key_id

    def create_data_key(self, environment: str | UUID, parent: UUID | None = None) -> Created:
        """A new data key below `parent`, or a root (a connection key)."""
        return self._create(environment, parent, KeyKind.DATA, 1)[0]

    def create_data_keys(self, environment: str | UUID, parent: UUID | None, count: int) -> list[Created]:
        """Many data keys below one parent, in one transaction."""
        return self._create(environment, parent, KeyKind.DATA, count)

    def create_wrapping_keys(self, environment: str | UUID, parent: UUID | None, count: int) -> list[UUID]:
        """Many wrapping keys below one parent, in one transaction."""
        return [created.key_id for created in self._create(environment, parent, KeyKind.WRAPPING, count)]

    def _create(self, reference: str | UUID, parent: UUID | None, kind: KeyKind, count: int) -> list[Created]:
        ids = [uuid4() for _ in range(count)]
        attempt = self._try_roots if parent is None else self._try_children
        environment, minted = _again_after_lost_races(lambda: attempt(reference, parent, kind, ids))
        # Only what was committed is remembered: a key whose transaction rolled back is never served.
        for one in minted if kind == KeyKind.DATA else []:
            self._data.put(one.key_id, one.material, environment=environment.environment_id, epoch=environment.epoch)
        return [Created(key_id=one.key_id, material=one.material) for one in minted]

    def _try_roots(self, reference: str | UUID, _parent: UUID | None, kind: KeyKind, ids: list[UUID]) -> _Made:
        """Roots, wrapped under every live main key while a move is open (R1)."""
        services = self._services
        with services.database.read() as connection:
            environment = _unlocked(environments.find_environment(connection, reference))
            tops = live_tops(connection, environment.id)
        minted = self._mint_roots(environment, tops, ids)
        with services.database.write() as connection:
            check_tops(connection, environment, tops)
            _store(connection, environment, minted, kind, parent=None)
        return environment, minted

    def _try_children(self, reference: str | UUID, parent: UUID | None, kind: KeyKind, ids: list[UUID]) -> _Made:
        """Keys below a wrapping key's active version, which is held from being shredded until they are stored (R5)."""
        assert parent is not None
        services = self._services
        with services.database.read() as connection:
            environment = _unlocked(environments.find_environment(connection, reference))
            above = keys.find_wrapping_key(connection, parent)
        _check_place(above, environment, kind)
        pair = (above.id, above.active_version or 0)
        self._reserve(environment, above, len(ids))
        minted = self._mint_children(environment, above, ids)
        with services.database.write() as connection:
            versions.hold_version(connection, pair)
            _store(connection, environment, minted, kind, parent=above)
        return environment, minted

    def _reserve(self, environment: Environment, above: WrappingKeyRow, count: int) -> None:
        """Count wraps before they are made; a version that has made 2^32 is rekeyed, not used (R6)."""
        pair = (above.id, above.active_version or 0)
        left = self._reserved.get(pair, 0) - count
        if left < 0:
            block = max(RESERVED, count)
            with self._services.database.write() as connection:
                total = versions.add_wraps(connection, pair, block)
            if total > WRAP_LIMIT:
                self.rekey(environment, above)
                raise _Rekeyed("The wrapping key has a new version.")
            left = self._reserved.get(pair, 0) + block - count
        self._reserved[pair] = left

    def rekey(self, environment: Environment, row: WrappingKeyRow) -> None:
        """Give a wrapping key its next version at once; the old one drains until the next deep repack."""
        services = self._services
        with services.database.read() as connection:
            version = versions.last_versions(connection, [row.id]).get(row.id, 0) + 1
            tops = live_tops(connection, environment.id)
            above = keys.find_wrapping_key(connection, row.parent) if row.parent is not None else None
        if above is None:
            minted = self._mint_roots(environment, tops, [row.key_id])[0]
        else:
            minted = self._mint_children(environment, above, [row.key_id])[0]
        with services.database.write() as connection:
            if above is None:
                check_tops(connection, environment, tops)
            if store_version(connection, environment, minted, wrapping_key=row.id, version=version) and minted.parent:
                versions.add_wraps(connection, minted.parent, 1)

    def _mint_roots(self, environment: Environment, tops: list[TopVersion], ids: list[UUID]) -> list[Minted]:
        def look(connection: Connection) -> list[TopVersion]:
            return live_tops(connection, environment.id)

        return self._unless_passed_by(lambda: mint_roots(self._services, environment, tops, ids), tops, look)

    def _mint_children(self, environment: Environment, above: WrappingKeyRow, ids: list[UUID]) -> list[Minted]:
        services, pair = self._services, (above.id, above.active_version or 0)

        def mint() -> list[Minted]:
            material = material_of(services.chain.open(environment.environment_id, [pair])[pair])
            return [
                mint_child(
                    services, environment, key=key, parent=pair, parent_id=above.key_id, parent_material=material
                )
                for key in ids
            ]

        def look(connection: Connection) -> WrappingKeyRow:
            return keys.find_wrapping_key(connection, above.key_id)

        return self._unless_passed_by(mint, above, look)

    def _unless_passed_by(self, mint: Callable[[], T], seen: S, look: Callable[[Connection], S]) -> T:
        """What `mint` makes. Where it fails, and what it was made from is not in force any more, a race was lost.

        R1, R5: a version that was shredded, a main key that was left behind and disabled meanwhile, stop no creator.
        """
        try:
            return mint()
        except OPENING_FAILED:
            with self._services.database.read() as connection:
                if look(connection) == seen:
                    raise
            raise _PassedBy("A repack has gone by.") from None


class _Rekeyed(LostRace):
    """The version was full; look again, there is a fresh one."""


class _PassedBy(LostRace):
    """What a key was to be made under is not in force any more; look again."""


def _again_after_lost_races(attempt: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        try:
            return attempt()
        except LostRace:
            continue
    return attempt()


def _unlocked(environment: Environment) -> Environment:
    if environment.lock_cause is not None:
        raise EnvironmentLocked(environment=environment.environment_id, cause=environment.lock_cause)
    return environment


def _check_place(above: WrappingKeyRow, environment: Environment, kind: KeyKind) -> None:
    if above.environment != environment.id:
        raise NotFound("wrapping key", f"{above.key_id} in {environment}")
    if kind == KeyKind.WRAPPING and above.level >= MAX_LEVELS:
        raise HierarchyBroken(fault="too_deep", keys=[above.key_id])


def _store(
    connection: Connection,
    environment: Environment,
    minted: list[Minted],
    kind: KeyKind,
    *,
    parent: WrappingKeyRow | None,
) -> None:
    """Insert minted keys; their parent's version, or the live tops, are held."""
    level = 1 if parent is None else parent.level + 1
    place = {"environment": environment.id, "parent": parent.id if parent else None, "level": level}
    if kind == KeyKind.WRAPPING:
        for one in minted:
            row = keys.insert_wrapping_key(connection, key_id=one.key_id, **place)  # type: ignore[arg-type]
            store_version(connection, environment, one, wrapping_key=row, version=1)
        return
    keys.insert_data_keys(connection, [_data_row(one, place) for one in minted])
    if parent is None:
        rows = keys.data_key_rows(connection, [one.key_id for one in minted])
        for one in minted:
            own = one.root_rows(environment=environment.id, kind=KeyKind.DATA, key=rows[one.key_id], version=0)
            keys.insert_root_wraps(connection, own)


def _data_row(minted: Minted, place: dict[str, Any]) -> dict[str, Any]:
    own = {"key_id": minted.key_id, "fingerprint": minted.fingerprint, "wrapped": minted.wrapped}
    return own | place | {"parent_version": minted.parent_version}
