"""The ends of a repack: what is written when its move closes, and when nothing is stale any more."""

from __future__ import annotations

from schemas.keys import MANAGED, TopState
from schemas.states import Mode, RepackState, Stage
from workers.repack.certificate import make_certificate
from workers.runtime.failpoints import Point, reach
from workers.services import Services
from workers.store import shards
from workers.store.database import Connection
from workers.store.environments import Environment, drop_root_wraps, live_tops, set_top_state
from workers.store.hierarchy_queries import count_draining, deepest_level
from workers.store.outbox import record_event
from workers.store.quarantine import count_open
from workers.store.repacks import Repack, change_state, set_columns


def retire_source(connection: Connection, services: Services, repack: Repack, environment: Environment) -> None:
    """Drop every root's wraps under the old top versions, retire these, and certify it (R1, R11).

    Call it only once no root lacks its wrap under the new top version, under the environment's lock.
    """
    older = [top.version for top in live_tops(connection, environment.id) if top.version < repack.to_top]
    certificate = make_certificate(connection, repack, environment, backup_retention=services.settings.backup_retention)
    drop_root_wraps(connection, environment.id, older)
    for version in older:
        set_top_state(connection, environment.id, version, TopState.RETIRED)
    set_columns(connection, repack, move_closed_at=certificate["closed_at"], certificate=certificate)
    record_event(
        connection,
        "repack.move_closed",
        actor="keyrepack",
        environment_id=environment.environment_id,
        repack_id=repack.repack_id,
        facts={"certificate": certificate},
    )
    if repack.source_key == str(MANAGED) != repack.target_key:
        record_event(
            connection,
            "main_key.adopted",
            actor=repack.actor,
            environment_id=environment.environment_id,
            repack_id=repack.repack_id,
            facts={"main_key": repack.target_key},
        )
    reach(Point.CLOSE_WRITTEN)


def finish(connection: Connection, services: Services, repack: Repack) -> None:
    """End a repack: nothing is stale, or only what quarantined keys hold back (R9)."""
    walked = None if repack.mode == Mode.DEEP else Stage.MOVE
    quarantined = count_open(connection, environment=repack.environment, stage=walked)
    if repack.mode == Mode.DEEP and not quarantined and count_draining(connection, repack.environment):
        set_columns(connection, repack, stage=Stage.RENEW, level=deepest_level(connection, repack.environment))
        return  # a version began to drain after its level was shredded: once more from the bottom up
    state = RepackState.FINISHED_WITH_QUARANTINE if quarantined else RepackState.FINISHED
    totals = shards.totals(connection, repack.id)
    change_state(
        connection,
        repack,
        state,
        f"repack.{state.value}",
        actor=services.owner,
        facts={
            "seen": totals.seen,
            "rewrapped": totals.rewrapped,
            "already_current": totals.already_current,
            "quarantined": quarantined,
            "minted": totals.minted,
            "shredded": totals.shredded,
            "kms_calls": totals.kms_calls + repack.kms_calls,
        },
    )
    reach(Point.FINISH_WRITTEN)
