"""Creates keys, while repacks come and go: durable before they are served, and under what is in force by then.

Everything is read and made outside a transaction, and checked again inside the one that stores it. Whatever changed
meanwhile is a lost race: the key is made anew, from what is there now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

from schemas.envelope import WRAP_LIMIT
from schemas.keys import MAX_LEVELS, KeyKind
from workers.crypto.key_opener import OPENING_FAILED
from workers.errors import HierarchyBroken, LostRace, NotFound
from workers.keyring.minting import Minted, check_tops, material_of, mint_child, mint_roots, store_version
from workers.locks.guards import require_open
from workers.services import Services
from workers.store import environments, keys, versions
from workers.store.database import Connection
from workers.store.environments import Environment, TopVersion, live_tops
from workers.store.keys import WrappingKeyRow

TRIES = 10
"""How often a key that lost a race (its version was shredded, the top changed) takes the new state of things."""

RESERVED = 1000
"""Wraps reserved against WRAP_LIMIT at once, so that creators of keys under one parent do not wait for each other."""

S = TypeVar("S")
T = TypeVar("T")

Made = tuple[Environment, list[Minted]]
"""Keys that were stored, and the environment as it was when they were made."""


class Creation:
    """Creates the keys of every environment, for one process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._reserved: dict[keys.Pair, int] = {}

    def create(self, reference: str | UUID, parent: UUID | None, kind: KeyKind, count: int) -> Made:
        """Create keys below `parent`, or roots. Their material is the caller's: keep it only now that it is committed.

        Raises NotFound, HierarchyBroken, EnvironmentLocked, WrapRefused, KmsRefused, KmsUnreachable.
        """
        ids = [uuid4() for _ in range(count)]
        if parent is None:
            return _again_after_lost_races(lambda: self._try_roots(reference, kind, ids))
        return _again_after_lost_races(lambda: self._try_children(reference, parent, kind, ids))

    def _try_roots(self, reference: str | UUID, kind: KeyKind, ids: list[UUID]) -> Made:
        """Roots, wrapped under every live main key while a move is open (R1)."""
        services = self._services
        with services.database.read() as connection:
            environment = require_open(environments.find_environment(connection, reference))
            tops = live_tops(connection, environment.id)
        minted = self._mint_roots(environment, tops, ids)
        with services.database.write() as connection:
            check_tops(connection, environment, tops)
            _store(connection, environment, minted, kind, parent=None)
        return environment, minted

    def _try_children(self, reference: str | UUID, parent: UUID, kind: KeyKind, ids: list[UUID]) -> Made:
        """Keys below a wrapping key's active version, which is held from being shredded until they are stored (R5)."""
        services = self._services
        with services.database.read() as connection:
            environment = require_open(environments.find_environment(connection, reference))
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
            material = material_of(services.key_opener.open(environment.environment_id, [pair])[pair])
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
        """Call `mint`. If it fails, and what it was made from is not in force any more, a race was lost.

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
    """The version was full; read again, there is a fresh one."""


class _PassedBy(LostRace):
    """What a key was to be made under is not in force any more; read again."""


def _again_after_lost_races(attempt: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        try:
            return attempt()
        except LostRace:
            continue
    return attempt()


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
