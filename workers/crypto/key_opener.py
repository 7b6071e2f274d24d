"""Opens versions of wrapping keys: from the main key down, a level at a time, each root's wrap by its KMS.

Used by the walk and by the keyring. Plaintext stays in the cache (R8) and in the caller's hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from schemas.keys import KeyKind
from workers.crypto.epochs import Epochs
from workers.crypto.plaintext_cache import PlaintextCache
from workers.crypto.rewrap import check_fingerprint, open_wrap
from workers.errors import KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.port import encryption_context
from workers.kms.registry import KmsRegistry
from workers.runtime.event_loop import LoopThread
from workers.store.database import Connection, Database
from workers.store.keys import Link, Pair, StoredRootWrap, load_links, load_root_wraps

S = TypeVar("S")
T = TypeVar("T")

LOOKS = 10
"""How often an opening whose rows have changed reads them again: a repack changes those of a key a handful of times."""

OPENING_FAILED = (KmsRefused, KmsUnreachable, WrapRefused)

OpenedVersions = dict[Pair, bytes | WrapRefused]
"""By version: its material, or why it does not open."""


@dataclass(frozen=True, slots=True)
class OpeningRows:
    """What a chain needs from the database, read in one snapshot."""

    links: Mapping[Pair, Link]
    root_wraps: Mapping[Pair, list[StoredRootWrap]]
    # What the cache held at that moment: it may have expired by the time the rows are opened, and its roots' wraps were
    # not read. R10: in no repr.
    cached: Mapping[Pair, bytes] = field(default_factory=dict, repr=False, compare=False)


def open_as_stored(stored: S, look: Callable[[], S], open_: Callable[[S], T]) -> T:
    """Open from what is stored; where that fails and `look` finds something else by now, open from that (R1).

    Rows that were read a moment ago may hold wraps of a main key that a move has left behind since, and that its owner
    has just disabled. Raises what `open_` does.
    """
    for _ in range(LOOKS):
        try:
            return open_(stored)
        except OPENING_FAILED:
            found = look()
            if found == stored:
                raise
            stored = found
    return open_(stored)


class KeyOpener:
    """Opens versions of one process's environments."""

    def __init__(
        self, database: Database, kms: KmsRegistry, loop: LoopThread, cache: PlaintextCache[Pair], epochs: Epochs
    ) -> None:
        self._database, self._kms, self._loop, self._cache, self._epochs = database, kms, loop, cache, epochs

    def open(self, environment: UUID, pairs: Iterable[Pair]) -> OpenedVersions:
        """Open these versions: each one's material, or why it does not open.

        A version whose own wrap, or an ancestor's, does not open comes back as the WrapRefused. Raises KmsRefused,
        KmsUnreachable (of the active main key's) where no live main key opens a root that is needed; EnvironmentLocked.
        """
        wanted = set(pairs)
        epoch = self._epochs.check(environment)
        opened: OpenedVersions = {**self._cached(wanted, epoch)}
        missing = wanted - opened.keys()
        if not missing:
            return opened

        def look() -> OpeningRows:
            with self._database.snapshot() as connection:
                return self.read_rows(connection, missing, epoch)

        return opened | open_as_stored(look(), look, lambda rows: self.open_rows(environment, epoch, rows, missing))

    def read_rows(self, connection: Connection, pairs: Iterable[Pair], epoch: int) -> OpeningRows:
        """Links up to the roots or to what is cached, and the roots' wraps."""
        links = load_links(connection, pairs)
        cached = self._cached(links, epoch)
        roots = [link.id for link in links.values() if link.parent is None and link.pair not in cached]
        return OpeningRows(links, load_root_wraps(connection, KeyKind.WRAPPING, roots), cached)

    def open_rows(self, environment: UUID, epoch: int, rows: OpeningRows, wanted: Iterable[Pair]) -> OpenedVersions:
        """Open from rows that were read before, in `epoch`: no database is touched while a KMS is waited for."""
        known = {**self._cached(rows.links, epoch), **rows.cached}
        opened: OpenedVersions = {**known}
        roots = [link for link in rows.links.values() if link.parent is None and link.pair not in opened]
        if roots:
            opened |= self._loop.run(self._open_roots(environment, roots, rows))
        for link in sorted(rows.links.values(), key=lambda link: link.level):
            if link.pair not in opened:
                opened[link.pair] = _open_link(environment, link, rows, opened)
        for pair, material in opened.items():
            if isinstance(material, bytes) and pair not in known:  # R8: nothing known is given a second life
                self._cache.put(pair, material, environment=environment, epoch=epoch)
        missing = WrapRefused(reason=WrapReason.PARENT_MISSING)
        return {pair: opened.get(pair, missing) for pair in wanted}

    def remember(self, environment: UUID, epoch: int, pair: Pair, material: bytes) -> None:
        """Keep a version that was just committed; never one whose transaction may still roll back."""
        self._cache.put(pair, material, environment=environment, epoch=epoch)

    async def open_root(
        self, environment: UUID, key: UUID, wraps: list[StoredRootWrap], born_with: bytes
    ) -> bytes | WrapRefused:
        """Open a root through whichever live main key opens it, the active one first (R1)."""
        failure: KmsRefused | KmsUnreachable | None = None
        refused = WrapRefused(reason=WrapReason.PARENT_MISSING, key=key)
        for wrap in wraps:
            try:
                opened = await self._kms.main_key(wrap.main_key).unwrap(
                    wrap.wrapped, encryption_context(environment, key)
                )
                return check_fingerprint(opened.material, environment=environment, key=key, born_with=born_with)
            except WrapRefused as error:
                refused = WrapRefused(reason=error.reason, key=key)
            except (KmsRefused, KmsUnreachable) as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return refused

    async def _open_roots(self, environment: UUID, roots: list[Link], rows: OpeningRows) -> OpenedVersions:
        materials = await asyncio.gather(
            *(
                self.open_root(environment, link.key_id, rows.root_wraps.get(link.pair, []), link.fingerprint)
                for link in roots
            )
        )
        return {link.pair: material for link, material in zip(roots, materials, strict=True)}

    def _cached(self, pairs: Iterable[Pair], epoch: int) -> dict[Pair, bytes]:
        found = ((pair, self._cache.get(pair, epoch)) for pair in pairs)
        return {pair: material for pair, material in found if material is not None}


def _open_link(environment: UUID, link: Link, rows: OpeningRows, opened: OpenedVersions) -> bytes | WrapRefused:
    """Open one version from its parent's, which was opened before."""
    assert link.parent_pair is not None
    parent = opened.get(link.parent_pair)
    if parent is None or link.wrapped is None:
        return WrapRefused(reason=WrapReason.PARENT_MISSING, key=link.key_id)
    if isinstance(parent, WrapRefused):
        return WrapRefused(reason=WrapReason.PARENT_DOES_NOT_OPEN, key=link.key_id)
    try:
        return open_wrap(
            parent,
            link.wrapped,
            environment=environment,
            key=link.key_id,
            parent=rows.links[link.parent_pair].key_id,
            born_with=link.fingerprint,
        )
    except WrapRefused as error:
        return error
