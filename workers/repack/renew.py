"""Stage two: each wrapping key of a level gets a fresh version, and its data keys are rewrapped under it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from schemas.keys import KeyKind
from schemas.ranges import END, Cursor, Group, last_cursor
from schemas.states import Stage
from workers.crypto.key_opener import OpenedVersions
from workers.crypto.rewrap import Rewrapped, refuse_group, rewrap_group
from workers.errors import KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.keyring.minting import Minted, check_tops, mint_child, mint_roots, store_version
from workers.repack.batches import Batch, EmptyBatch, Run
from workers.runtime.failpoints import Point, reach
from workers.store.database import Connection
from workers.store.environments import TopVersion, live_tops
from workers.store.keys import Pair, WrappingKeyRow, wrapping_page, wrapping_rows
from workers.store.quarantine import SetAside, set_aside
from workers.store.shards import Shard, Tally
from workers.store.versions import add_wraps, last_versions

ROOTS_IN_BATCH = 64
"""Wrapping roots minted in one transaction; each costs calls to the KMS."""

PARENTS_IN_BATCH = 500
"""Wrapping keys read together: enough that keys with few children still make full batches."""


class RenewWalk:
    """The way over a shard: a chunk of wrapping keys at a time, first minted, then their data keys rewrapped."""

    def __init__(self, run: Run, shard: Shard) -> None:
        self._run, self._shard = run, shard
        self._chunk: list[WrappingKeyRow] = []
        self._refused: set[int] = set()  # keys that cannot be minted: their parent does not open
        roots = min(ROOTS_IN_BATCH, run.services.settings.roots_minted_at_once)
        self._limit = roots if shard.level == 1 else PARENTS_IN_BATCH

    def prepare(self, cursor: Cursor) -> Batch:
        """See Walk.prepare."""
        if not self._chunk or cursor >= (self._chunk[-1].id, END):
            self._chunk = self._load_chunk(cursor)
        if not self._chunk:
            return EmptyBatch(cursor=self._shard.upto, is_last=True)
        mine = self._run.repack.id
        stale = [row for row in self._chunk if row.minted_by != mine and row.id not in self._refused]
        if stale:
            self._chunk = []  # read again once the new versions are committed
            return self._mint(cursor, stale)
        return self._rewrap(cursor)

    def _load_chunk(self, cursor: Cursor) -> list[WrappingKeyRow]:
        after = cursor[0] if cursor[1] == END else cursor[0] - 1
        with self._run.services.database.read() as connection:
            return wrapping_page(
                connection,
                self._run.environment.id,
                self._shard.level,
                after=after,
                upto=self._shard.upto[0],
                limit=self._limit,
            )

    def _mint(self, cursor: Cursor, rows: list[WrappingKeyRow]) -> Batch:
        """Mint a fresh version for each key, durable before anything is wrapped by it (R1)."""
        run = self._run
        calls = run.services.kms.total_calls()
        tops: list[TopVersion] = []
        refused: dict[int, WrapRefused] = {}
        with run.services.database.read() as connection:
            versions = last_versions(connection, [row.id for row in rows])
            if self._shard.level == 1:
                tops = live_tops(connection, run.environment.id)
        if self._shard.level == 1:
            minted = mint_roots(run.services, run.environment, tops, [row.key_id for row in rows])
            fresh = dict(zip((row.id for row in rows), minted, strict=True))
        else:
            fresh, refused = self._mint_children(rows)
            self._refused |= refused.keys()
        run.timer.lap("mint")
        reach(Point.MINT_PREPARED)
        return MintBatch(
            run=run,
            cursor=cursor,
            rows=rows,
            fresh=fresh,
            refused=refused,
            versions=versions,
            tops=tops,
            kms_calls=run.services.kms.total_calls() - calls,
        )

    def _mint_children(self, rows: list[WrappingKeyRow]) -> tuple[dict[int, Minted], dict[int, WrapRefused]]:
        services, environment = self._run.services, self._run.environment
        with services.database.read() as connection:
            parents = wrapping_rows(connection, {row.parent for row in rows if row.parent is not None})
        pairs = {key: (key, parent.active_version) for key, parent in parents.items() if parent.active_version}
        opened = services.key_opener.open(environment.environment_id, pairs.values())
        fresh: dict[int, Minted] = {}
        refused: dict[int, WrapRefused] = {}
        for row in rows:
            assert row.parent is not None
            pair = pairs.get(row.parent, (row.parent, 0))
            material = opened.get(pair, WrapRefused(reason=WrapReason.PARENT_MISSING, key=row.key_id))
            if isinstance(material, WrapRefused):
                refused[row.id] = material
            else:
                fresh[row.id] = mint_child(
                    services,
                    environment,
                    key=row.key_id,
                    parent=pair,
                    parent_id=parents[row.parent].key_id,
                    parent_material=material,
                )
        return fresh, refused

    def _rewrap(self, cursor: Cursor) -> Batch:
        run, limit = self._run, self._run.services.settings.batch_size
        chunk_end = (self._chunk[-1].id, END)
        upto = min(self._shard.upto, chunk_end)
        with run.services.database.autocommit_read() as connection:
            groups = self._page(connection, after=cursor, upto=upto, limit=limit)
            reached = last_cursor(groups) if sum(len(group.ids) for group in groups) >= limit else upto
            # A page may be full and the last one: one more read is cheaper than an empty batch.
            if reached[0] == upto[0] and not self._page(connection, after=reached, upto=upto, limit=1):
                reached = upto
        run.timer.lap("read")
        is_last = reached == upto and (len(self._chunk) < self._limit or upto == self._shard.upto)
        parents = {row.id: row for row in self._chunk}
        return prepare_rewrap(run, groups, parents, stage=Stage.RENEW, cursor=reached, is_last=is_last)

    def _page(self, connection: Connection, *, after: Cursor, upto: Cursor, limit: int) -> list[Group]:
        environment, level = self._run.environment.id, self._shard.level + 1
        return self._run.services.pages.read(connection, environment, level, after=after, upto=upto, limit=limit)


def prepare_rewrap(
    run: Run,
    groups: Sequence[Group],
    parents: dict[int, WrappingKeyRow],
    *,
    stage: Stage,
    cursor: Cursor,
    is_last: bool,
) -> Batch:
    """Rewrap each group under its parent's active version; groups that are there already are only counted."""
    if not groups:
        return EmptyBatch(cursor=cursor, is_last=is_last)
    services, environment = run.services, run.environment.environment_id
    calls = services.kms.total_calls()
    stale = [group for group in groups if group.parent_version != _active(group, parents)]
    opened = services.key_opener.open(environment, _pairs(stale, parents))
    run.timer.lap("open")
    reach(Point.RENEW_OPENED)
    seen = sum(len(group.ids) for group in groups)
    batch = RewrapBatch(
        run=run,
        stage=stage,
        cursor=cursor,
        is_last=is_last,
        kms_calls=services.kms.total_calls() - calls,
        seen=seen,
        already=seen - sum(len(group.ids) for group in stale),
    )
    for group in stale:
        new = _active(group, parents)
        batch.add(group, new, _rewrapped(run, group, parents, opened, new))
    reach(Point.RENEW_PREPARED)
    return batch


def _rewrapped(
    run: Run, group: Group, parents: dict[int, WrappingKeyRow], opened: OpenedVersions, version: int
) -> Rewrapped:
    """Return a group's new wraps, or why none of its keys can have one."""
    if group.parent not in parents:
        return refuse_group(group, WrapReason.PARENT_MISSING)
    old, new = opened[(group.parent, group.parent_version)], opened[(group.parent, version)]
    for material in (old, new):
        if isinstance(material, WrapRefused):
            is_missing = material.reason == WrapReason.PARENT_MISSING and material.key is None
            return refuse_group(group, WrapReason.PARENT_MISSING if is_missing else WrapReason.PARENT_DOES_NOT_OPEN)
    assert isinstance(old, bytes)
    assert isinstance(new, bytes)
    return rewrap_group(
        group,
        old=old,
        new=new,
        environment=run.environment.environment_id,
        parent=parents[group.parent].key_id,
        random=run.services.random,
        lap=run.timer.lap,
    )


def _active(group: Group, parents: dict[int, WrappingKeyRow]) -> int:
    """Return the active version of a group's parent; 0, which no version is, if there is none."""
    row = parents.get(group.parent)
    return row.active_version or 0 if row else 0


def _pairs(groups: Iterable[Group], parents: dict[int, WrappingKeyRow]) -> set[Pair]:
    """Return the versions that have to be opened: the one that each group leaves and the one it goes to."""
    pairs: set[Pair] = set()
    for group in groups:
        if group.parent in parents:
            pairs |= {(group.parent, group.parent_version), (group.parent, _active(group, parents))}
    return pairs


@dataclass(slots=True, kw_only=True)
class MintBatch:
    """Fresh versions of wrapping keys; the cursor stays, their data keys come next."""

    run: Run
    cursor: Cursor
    rows: list[WrappingKeyRow]
    fresh: dict[int, Minted]
    refused: dict[int, WrapRefused]
    versions: dict[int, int]
    tops: list[TopVersion]
    kms_calls: int
    is_last: bool = False
    failure: KmsRefused | KmsUnreachable | None = None
    stored: list[tuple[Pair, Minted]] = field(default_factory=list)

    def write(self, connection: Connection) -> Tally:
        """See Batch.write. Raises TopChanged where a root's wraps are no longer those of every live top (R1)."""
        repack = self.run.repack
        self.stored = []  # of a try that was given up
        if self.tops:
            check_tops(connection, self.run.environment, self.tops)
        wraps: Counter[Pair] = Counter()
        for key, minted in sorted(self.fresh.items()):
            version = self.versions.get(key, 0) + 1
            if store_version(
                connection, self.run.environment, minted, wrapping_key=key, version=version, repack=repack.id
            ):
                self.stored.append(((key, version), minted))
                wraps.update([minted.parent] if minted.parent is not None else [])
        # Last, and in order: two batches whose keys have the same parents would else wait for each other.
        for pair, count in sorted(wraps.items()):
            add_wraps(connection, pair, count)
        set_aside(
            connection,
            repack=repack.id,
            environment=repack.environment,
            stage=Stage.RENEW,
            keys=[_unminted(row, self.refused[row.id]) for row in self.rows if row.id in self.refused],
        )
        held = len(self.refused)
        reach(Point.MINT_WRITTEN)
        return Tally(seen=held, quarantined=held, minted=len(self.stored), kms_calls=self.kms_calls)

    def written(self) -> None:
        """Remember the new versions, which are about to wrap: that saves one call per root."""
        for pair, minted in self.stored:
            environment = self.run.environment
            self.run.services.key_opener.remember(environment.environment_id, environment.epoch, pair, minted.material)


def _unminted(row: WrappingKeyRow, error: WrapRefused) -> SetAside:
    return SetAside(
        kind=KeyKind.WRAPPING,
        key=row.id,
        key_version=row.active_version or 0,
        key_id=row.key_id,
        parent=row.parent,
        parent_version=0,
        reason=error.reason,
    )


@dataclass(slots=True, kw_only=True)
class RewrapBatch:
    """New wraps of data keys, by (old parent version, new parent version)."""

    run: Run
    stage: Stage
    cursor: Cursor
    is_last: bool
    seen: int
    already: int
    kms_calls: int
    failure: KmsRefused | KmsUnreachable | None = None
    swaps: dict[tuple[int, int], tuple[list[int], list[bytes]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )
    wraps: dict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    refused: list[SetAside] = field(default_factory=list)

    def add(self, group: Group, new: int, done: Rewrapped) -> None:
        """Take a group's outcome in."""
        if done.ids:
            ids, wraps = self.swaps[group.parent_version, new]
            ids += done.ids
            wraps += done.wraps
            self.wraps[group.parent, new] += len(done.ids)
        self.refused += [
            SetAside(
                kind=KeyKind.DATA,
                key=row,
                key_version=0,
                key_id=UUID(bytes=bytes(key_id)),
                parent=group.parent,
                parent_version=group.parent_version,
                reason=reason,
            )
            for row, key_id, reason in done.refused
        ]

    def write(self, connection: Connection) -> Tally:
        """See Batch.write. Keys that another one swapped meanwhile are current already (R2, R9)."""
        repack, pages = self.run.repack, self.run.services.pages
        tried = swapped = 0
        for (old, new), (ids, wraps) in sorted(self.swaps.items()):
            tried += len(ids)
            swapped += pages.swap(connection, old=old, new=new, ids=ids, wraps=wraps)
        for pair, count in sorted(self.wraps.items()):
            add_wraps(connection, pair, count)
        set_aside(connection, repack=repack.id, environment=repack.environment, stage=self.stage, keys=self.refused)
        reach(Point.RENEW_SWAPPED)
        return Tally(
            seen=self.seen,
            rewrapped=swapped,
            already_current=self.already + tried - swapped,
            quarantined=len(self.refused),
            kms_calls=self.kms_calls,
        )

    def written(self) -> None:
        """Remember nothing."""
