"""Stage one: roots get wraps under the new top version, beside the ones they have (R1)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from schemas.keys import MainKeyUri
from schemas.ranges import END, Cursor
from schemas.states import Stage
from workers.crypto.rewrap import check_fingerprint
from workers.errors import KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.port import RootWrap, encryption_context
from workers.repack.batches import Batch, Run
from workers.runtime.failpoints import Point, reach
from workers.store.database import Connection
from workers.store.keys import insert_root_wraps
from workers.store.quarantine import SetAside, set_aside
from workers.store.roots import Root, root_page, swap_parent_versions
from workers.store.shards import Shard, Tally

ROOTS_IN_BATCH = 64
"""Roots moved in one transaction: at 50 ms a call and 16 at once a fraction of a second, far below a lease."""

Outcome = RootWrap | WrapRefused | KmsRefused | KmsUnreachable | None
"""What the KMS made of a root; None: it had its wrap already."""


class MoveWalk:
    """The way over a shard of roots."""

    def __init__(self, run: Run, shard: Shard) -> None:
        self._run, self._shard = run, shard

    def prepare(self, cursor: Cursor) -> Batch:
        """See Walk.prepare."""
        services, repack = self._run.services, self._run.repack
        with services.database.read() as connection:
            roots = root_page(
                connection,
                repack.environment,
                self._shard.kind,
                after=cursor[0],
                upto=self._shard.upto[0],
                limit=ROOTS_IN_BATCH,
            )
        calls = services.kms.total_calls()
        outcomes = services.loop.run(self._move_all(roots))
        kms_calls = services.kms.total_calls() - calls
        reach(Point.MOVE_PREPARED)
        return _batch(self._run, self._shard, cursor, list(zip(roots, outcomes, strict=True)), kms_calls)

    async def _move_all(self, roots: list[Root]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._move(root) for root in roots)))

    async def _move(self, root: Root) -> Outcome:
        """Move one root: inside the KMS if it can (one call, the plaintext stays there), else unwrap and wrap."""
        repack = self._run.repack
        if root.is_under(repack.to_top):
            return None
        wrap = root.source_for(repack.to_top)
        if wrap is None:
            return WrapRefused(reason=WrapReason.PARENT_MISSING, key=root.key_id)
        environment, kms = self._run.environment.environment_id, self._run.services.kms
        context = encryption_context(environment, root.key_id)
        source, target = kms.main_key(wrap.main_key), kms.main_key(repack.target_key)
        try:
            if target.can_rewrap_from(source.uri):
                return await target.rewrap(wrap.wrapped, context, MainKeyUri.parse(wrap.main_key))
            opened = await source.unwrap(wrap.wrapped, context)
            check_fingerprint(opened.material, environment=environment, key=root.key_id, born_with=root.fingerprint)
            reach(Point.MOVE_UNWRAPPED)
            return await target.wrap(opened.material, context)
        except (WrapRefused, KmsRefused, KmsUnreachable) as error:
            return error


@dataclass(slots=True, kw_only=True)
class MoveBatch:
    """Roots with their new wraps, up to the first one whose main key could not be used."""

    run: Run
    moved: list[tuple[Root, RootWrap]]
    refused: list[tuple[Root, WrapRefused]]
    already: int
    cursor: Cursor
    is_last: bool
    kms_calls: int
    failure: KmsRefused | KmsUnreachable | None = None

    def write(self, connection: Connection) -> Tally:
        """See Batch.write. A root that another one moved meanwhile keeps its first wrap (R2)."""
        repack = self.run.repack
        new = insert_root_wraps(connection, [self._row(root, wrap) for root, wrap in self.moved])
        swap_parent_versions(connection, [root for root, _ in self.moved], repack.to_top)
        set_aside(
            connection,
            repack=repack.id,
            environment=repack.environment,
            stage=Stage.MOVE,
            keys=[_set_aside(root, error) for root, error in self.refused],
        )
        return Tally(
            seen=len(self.moved) + len(self.refused) + self.already,
            rewrapped=new,
            already_current=self.already + len(self.moved) - new,
            quarantined=len(self.refused),
            kms_calls=self.kms_calls,
        )

    def written(self) -> None:
        """Remember nothing: no plaintext was kept."""

    def _row(self, root: Root, wrap: RootWrap) -> dict[str, Any]:
        return {
            "environment": self.run.repack.environment,
            "kind": root.kind,
            "key": root.key,
            "key_version": root.version,
            "top_version": self.run.repack.to_top,
            "generation": wrap.generation,
            "wrapped": wrap.blob,
        }


def _batch(run: Run, shard: Shard, cursor: Cursor, outcomes: list[tuple[Root, Outcome]], kms_calls: int) -> MoveBatch:
    """Build a batch of what can be committed: everything before the first root whose main key failed, in whole keys."""
    failed = next((pair for pair in outcomes if isinstance(pair[1], KmsRefused | KmsUnreachable)), None)
    good = outcomes if failed is None else list(takewhile(lambda pair: pair[0].key != failed[0].key, outcomes))
    if failed is None:
        reached = good[-1][0].key if good else shard.upto[0]
        is_last = len({root.key for root, _ in outcomes}) < ROOTS_IN_BATCH
    else:
        reached, is_last = (good[-1][0].key if good else cursor[0]), False
    return MoveBatch(
        run=run,
        cursor=(reached, END),
        is_last=is_last,
        kms_calls=kms_calls,
        moved=[(root, outcome) for root, outcome in good if isinstance(outcome, RootWrap)],
        refused=[(root, outcome) for root, outcome in good if isinstance(outcome, WrapRefused)],
        already=sum(outcome is None for _, outcome in good),
        failure=failed[1] if failed and isinstance(failed[1], KmsRefused | KmsUnreachable) else None,
    )


def _set_aside(root: Root, error: WrapRefused) -> SetAside:
    return SetAside(
        kind=root.kind,
        key=root.key,
        key_version=root.version,
        key_id=root.key_id,
        parent=None,
        parent_version=root.parent_version,
        reason=error.reason,
    )
