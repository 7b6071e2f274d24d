"""The last stage, bottom up: prove that nothing is wrapped under a draining version, and delete its wrap for good (R5).

Stragglers (keys that late writers wrapped under a draining version) are rewrapped first. A version that a quarantined
key is wrapped under is held back; it is itself wrapped under its parent's active version, so that it holds back nothing
above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.keys import KeyKind
from schemas.ranges import END, Cursor
from schemas.states import Stage
from workers.crypto.rewrap import seal
from workers.errors import KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.repack.batches import Batch, EmptyBatch, Run
from workers.repack.renew import prepare_rewrap
from workers.runtime.failpoints import Point, reach
from workers.store.database import Connection
from workers.store.keys import Link, Pair, WrappingKeyRow, wrapping_rows
from workers.store.quarantine import SetAside, set_aside
from workers.store.queries.stragglers import read_stragglers, unheld_versions
from workers.store.shards import Shard, Tally
from workers.store.versions import (
    add_wraps,
    draining_page,
    lock_versions,
    shred,
    swap_version_wrap,
    versions_with_data_keys,
    versions_wrapped_under,
)

KEYS_IN_BATCH = 200
"""Wrapping keys whose draining versions are locked together: writers to them wait that long."""


class ShredWalk:
    """The way over a shard's draining versions."""

    def __init__(self, run: Run, shard: Shard) -> None:
        self._run, self._shard = run, shard
        self._busy = False  # whether the last try found something wrapped under them that is not in quarantine

    def prepare(self, cursor: Cursor) -> Batch:
        """See Walk.prepare. First the proof itself; only where it fails, what is wrapped under them is looked up and
        moved.
        """
        with self._run.services.database.read() as connection:
            links = draining_page(
                connection,
                self._run.environment.id,
                self._shard.level,
                after=cursor[0],
                upto=self._shard.upto[0],
                limit=KEYS_IN_BATCH,
            )
        if not links:
            return EmptyBatch(cursor=self._shard.upto, is_last=True)
        moved = self._move_away(links, cursor) if self._busy else None
        return moved or ShredBatch(walk=self, links=links, before=cursor, cursor=(links[-1].id, END))

    def found_busy(self, busy: bool) -> None:
        """Learn whether something was wrapped under the versions of the batch that was just written."""
        self._busy = busy

    def _move_away(self, links: list[Link], cursor: Cursor) -> Batch | None:
        """Move stragglers first, then versions below that are wrapped here; None once there are neither."""
        services = self._run.services
        with services.database.read() as connection:
            groups = read_stragglers(connection, links, limit=services.settings.batch_size)
            parents = wrapping_rows(connection, {link.id for link in links})
            below = unheld_versions(connection, versions_wrapped_under(connection, [link.pair for link in links]))
        if groups:
            return prepare_rewrap(self._run, groups, parents, stage=Stage.SHRED, cursor=cursor, is_last=False)
        return self._rewrap_versions(below, parents, cursor) if below else None

    def _rewrap_versions(self, below: list[Link], parents: dict[int, WrappingKeyRow], cursor: Cursor) -> Batch:
        """Rewrap versions below a draining one: held back by a quarantined key, or late. Same material."""
        services, environment = self._run.services, self._run.environment.environment_id
        active = {row.id: (row.id, row.active_version or 0) for row in parents.values()}
        pairs = {link.pair for link in below} | {active[link.parent] for link in below if link.parent is not None}
        calls = services.kms.total_calls()
        opened = services.key_opener.open(environment, pairs)
        batch = VersionRewrapBatch(run=self._run, cursor=cursor, kms_calls=services.kms.total_calls() - calls)
        for link in below:
            assert link.parent is not None
            own, above = opened[link.pair], opened[active[link.parent]]
            if isinstance(own, WrapRefused) or isinstance(above, WrapRefused):
                broken = own if isinstance(own, WrapRefused) else above
                batch.refused.append(_set_aside(link, broken))
            else:
                wrapped = seal(
                    above,
                    own,
                    environment=environment,
                    key=link.key_id,
                    parent=parents[link.parent].key_id,
                    random=services.random,
                )
                batch.hung.append((link, active[link.parent], wrapped))
        return batch


@dataclass(slots=True, kw_only=True)
class VersionRewrapBatch:
    """Versions of wrapping keys with new wraps under their parents' active versions."""

    run: Run
    cursor: Cursor
    kms_calls: int
    is_last: bool = False
    failure: KmsRefused | KmsUnreachable | None = None
    hung: list[tuple[Link, Pair, bytes]] = field(default_factory=list)
    refused: list[SetAside] = field(default_factory=list)

    def write(self, connection: Connection) -> Tally:
        """See Batch.write."""
        repack = self.run.repack
        swapped = 0
        for link, above, wrapped in self.hung:
            swapped += swap_version_wrap(connection, link, parent_version=above[1], wrapped=wrapped)
            add_wraps(connection, above, 1)
        set_aside(connection, repack=repack.id, environment=repack.environment, stage=Stage.SHRED, keys=self.refused)
        seen = len(self.hung) + len(self.refused)
        return Tally(
            seen=seen,
            rewrapped=swapped,
            already_current=len(self.hung) - swapped,
            quarantined=len(self.refused),
            kms_calls=self.kms_calls,
        )

    def written(self) -> None:
        """Tell the walk whether to move keys away before it tries again."""


@dataclass(slots=True, kw_only=True)
class ShredBatch:
    """Draining versions, to be shredded where the proof holds."""

    walk: ShredWalk
    links: Sequence[Link]
    before: Cursor
    cursor: Cursor
    is_last: bool = False
    failure: KmsRefused | KmsUnreachable | None = None

    def write(self, connection: Connection) -> Tally:
        """See Batch.write. A version with stragglers stays, and the cursor with it."""
        locked = lock_versions(connection, [link.pair for link in self.links])
        links = [link for link in self.links if link.pair in locked]
        # R5: from here on no transaction can wrap a key under these versions; what is under them is all there is.
        data, below = (
            versions_with_data_keys(connection, links),
            versions_wrapped_under(connection, [link.pair for link in links]),
        )
        busy = data | {link.parent_pair for link in below if link.parent_pair is not None}
        if (data and read_stragglers(connection, links, limit=1)) or unheld_versions(connection, below):
            self.cursor = self.before
        else:
            self.cursor = (self.links[-1].id, END)  # a try that was given up may have found some
        reach(Point.SHRED_PROVED)
        return Tally(shredded=shred(connection, [link.pair for link in links if link.pair not in busy]))

    def written(self) -> None:
        """Tell the walk whether to move something away before it tries again."""
        self.walk.found_busy(self.cursor == self.before)


def _set_aside(link: Link, error: bytes | WrapRefused) -> SetAside:
    reason = error.reason if isinstance(error, WrapRefused) else WrapReason.DOES_NOT_OPEN
    return SetAside(
        kind=KeyKind.WRAPPING,
        key=link.id,
        key_version=link.version,
        key_id=link.key_id,
        parent=link.parent,
        parent_version=link.parent_version,
        reason=reason,
    )
