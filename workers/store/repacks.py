"""Repacks: the only writer of their state. Every move is checked against the legal ones and recorded (R11)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from schemas.states import ENDED, OPEN, RUNNING, Mode, RepackState, Stage, check_move, legal_actions
from workers.errors import AnotherStarted, NotFound, UnknownWord
from workers.runtime.logs import log
from workers.store.environments import find_environment, share_environment
from workers.store.models import environments, repacks
from workers.store.outbox import record_event
from workers.store.types import db_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Repack:
    """One run over an environment. `id` inside, `repack_id` outside; times in seconds since the epoch."""

    id: int
    repack_id: UUID
    environment: int
    environment_id: UUID
    mode: Mode
    state: RepackState
    stage: Stage
    level: int
    levels: int
    from_top: int
    to_top: int
    source_key: str
    target_key: str
    actor: str
    block_side: str | None
    block_cause: str | None
    block_detail: str | None
    blocked_at: float | None
    probe_at: float | None
    probes: int
    kms_calls: int
    certificate: dict[str, Any] | None
    created_at: float
    move_closed_at: float | None
    ended_at: float | None

    @property
    def is_running(self) -> bool:
        """Return True if workers may rewrap."""
        return self.state in RUNNING

    @property
    def legal_actions(self) -> list[str]:
        """List what an operator may do to it now, by the command's name."""
        return legal_actions(self.state, self.stage, is_move_closed=self.move_closed_at is not None)

    @property
    def is_open(self) -> bool:
        """Return True if it keeps other repacks of its environment from starting."""
        return self.state in OPEN

    @property
    def stage_state(self) -> RepackState:
        """Return the running state of its stage: where a pause or a block goes back to."""
        return RepackState.MOVING if self.stage == Stage.MOVE else RepackState.RENEWING


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a batch's transaction keeps from changing."""

    state: RepackState
    stage: Stage
    epoch: int
    lock_cause: str | None

    @property
    def is_at_work(self) -> bool:
        """Return True if keys may be rewrapped: the repack runs and its environment is not locked (R8)."""
        return self.state in RUNNING and self.lock_cause is None


def create_repack(
    connection: Connection,
    *,
    environment: int,
    mode: Mode,
    levels: int,
    from_top: int,
    to_top: int,
    source_key: str,
    target_key: str,
    actor: str,
    kms_calls: int,
) -> Repack:
    """Create a repack that is moving. Raises AnotherStarted if the environment has an open one."""
    statement = insert(repacks).values(
        repack_id=uuid4(),
        environment=environment,
        mode=mode,
        state=RepackState.MOVING,
        stage=Stage.MOVE,
        level=1,
        levels=levels,
        from_top=from_top,
        to_top=to_top,
        source_key=source_key,
        target_key=target_key,
        actor=actor,
        kms_calls=kms_calls,
        created_at=db_now(),
    )
    try:
        with connection.begin_nested():
            key = int(connection.execute(statement.returning(repacks.c.id)).scalar_one())
    except IntegrityError as error:  # the index of open repacks
        raise AnotherStarted from error
    return get_repack(connection, key)


def get_repack(connection: Connection, key: int) -> Repack:
    """Read a repack by its row. Raises NotFound."""
    row = connection.execute(_REPACK.where(repacks.c.id == key)).first()
    if row is None:
        raise NotFound("repack", key)
    return _repack(row)


def find_repack(connection: Connection, repack_id: str | UUID) -> Repack:
    """Find a repack by its outer id. Raises NotFound."""
    try:
        condition = repacks.c.repack_id == UUID(str(repack_id))
    except ValueError as error:
        raise NotFound("repack", repack_id, "List them with `keyrepack repack list`.") from error
    row = connection.execute(_REPACK.where(condition)).first()
    if row is None:
        raise NotFound("repack", repack_id, "List them with `keyrepack repack list`.")
    return _repack(row)


def open_repack(connection: Connection, environment: int) -> Repack | None:
    """Return the environment's open repack."""
    row = connection.execute(_REPACK.where(repacks.c.environment == environment, repacks.c.state.in_(OPEN))).first()
    return _repack(row) if row else None


def latest_repack(connection: Connection, environment: int) -> Repack | None:
    """Return the environment's newest repack."""
    query = _REPACK.where(repacks.c.environment == environment).order_by(repacks.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    return _repack(row) if row else None


def replacements(connection: Connection, environment: int) -> list[Repack]:
    """Repacks that put another main key in force, oldest first; aborted ones did not."""
    query = _REPACK.where(
        repacks.c.environment == environment,
        repacks.c.source_key != repacks.c.target_key,
        repacks.c.state != RepackState.ABORTED,
    )
    return [_repack(row) for row in connection.execute(query.order_by(repacks.c.id))]


def list_repacks(
    connection: Connection,
    *,
    environment: int | None = None,
    states: frozenset[RepackState] | None = None,
    rows: Collection[int] | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Repack]:
    """List the newest repacks first, of these `rows` alone or of those `before` a row; without those that a newer
    program works on, which are logged.
    """
    query = _REPACK.order_by(repacks.c.id.desc()).limit(limit)
    if rows is not None:
        query = query.where(repacks.c.id.in_(rows))
    if before is not None:
        query = query.where(repacks.c.id < before)
    if environment is not None:
        query = query.where(repacks.c.environment == environment)
    if states is not None:
        query = query.where(repacks.c.state.in_(states))
    found = []
    for row in connection.execute(query):
        try:
            found.append(_repack(row))
        except UnknownWord as error:
            log.warning("repack.left_to_newer_program", repack=str(row.repack_id), kind=error.kind, word=error.word)
    return found


def change_state(
    connection: Connection,
    repack: Repack,
    state: RepackState,
    action: str,
    *,
    actor: str,
    facts: dict[str, Any] | None = None,
    **columns: Any,
) -> Repack:
    """Move a locked repack to `state`, and record it. Raises IllegalMove."""
    check_move(repack.state, state)
    if state != RepackState.BLOCKED:
        columns |= {"block_side": None, "block_cause": None, "block_detail": None, "blocked_at": None, "probe_at": None}
    columns["ended_at"] = db_now() if state in ENDED else None
    connection.execute(update(repacks).where(repacks.c.id == repack.id).values(state=state, **columns))
    record_event(
        connection,
        action,
        actor=actor,
        environment_id=repack.environment_id,
        repack_id=repack.repack_id,
        facts={"from": repack.state.value, "to": state.value, "mode": repack.mode.value, **(facts or {})},
    )
    return get_repack(connection, repack.id)


def set_columns(connection: Connection, repack: Repack, **columns: Any) -> Repack:
    """Change what is not its state: stage, level, certificate, the next probe."""
    connection.execute(update(repacks).where(repacks.c.id == repack.id).values(**columns))
    return get_repack(connection, repack.id)


def hold_running(connection: Connection, repack: Repack) -> Held:
    """Keep a repack's state and its environment's epoch as they are until the batch commits (R8).

    Every change of either is made under the environment's lock: batches share it and do not wait for each other.
    """
    share_environment(connection, repack.environment)
    row = connection.execute(_HELD, {"repack": repack.id}).one()
    return Held(state=RepackState(row.state), stage=Stage(row.stage), epoch=row.epoch, lock_cause=row.lock_cause)


def _repack(row: Any) -> Repack:
    values = dict(row._mapping)
    for name, kind in (("mode", Mode), ("state", RepackState), ("stage", Stage)):
        try:
            values[name] = kind(values[name])
        except ValueError as error:
            raise UnknownWord(kind=name, word=values[name], of=f"Repack {values['repack_id']}") from error
    return Repack(**values)


_HELD = (
    select(repacks.c.state, repacks.c.stage, environments.c.epoch, environments.c.lock_cause)
    .join(environments, environments.c.id == repacks.c.environment)
    .where(repacks.c.id == bindparam("repack"))
)
"""Made once: each batch asks, and to build a statement costs as much as to execute it."""

_REPACK = select(
    *(repacks.c[name] for name in Repack.__slots__ if name != "environment_id"),
    environments.c.environment_id,
).join(environments, environments.c.id == repacks.c.environment)


def find_any_repack(connection: Connection, reference: str) -> Repack:
    """Find a repack by its id, or an environment's newest (by workspace/name or id). Raises NotFound."""
    if "/" not in reference:
        try:
            return find_repack(connection, reference)
        except NotFound as error:
            try:
                environment = find_environment(connection, reference)
            except NotFound:
                raise error from None
    else:
        environment = find_environment(connection, reference)
    newest = latest_repack(connection, environment.id)
    if newest is None:
        raise NotFound("repack of", environment, "Start one with `keyrepack main-key replace`.")
    return newest
