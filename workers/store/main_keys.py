"""Main keys in use: what was last seen of each, when it is polled next, and whose top it is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schemas.keys import TopState
from schemas.states import OPEN
from workers.store.environments import ENVIRONMENT, LIVE, Environment, TopVersion
from workers.store.models import environments, main_keys, repacks, top_versions
from workers.store.types import read_clock

REGISTERED_AT_ONCE = 1000
CLAIM_SECONDS = 120.0
"""Until when a claimed poll is one process's: if that process died, the poll is claimed again after that."""

SOON_SECONDS = 5.0
"""The first wait after a poll without success; doubled from poll to poll, up to the interval of healthy keys."""

MAX_DETAIL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class MainKeyRecord:
    """What is known of a main key. Times in seconds since the epoch; `cause` None: it could be used when last seen."""

    uri: str
    generation: str | None
    cause: str | None
    detail: str | None
    since: float | None
    last_looked_at: float | None
    last_answered_at: float | None
    next_look_at: float
    interval: float

    @property
    def hides_generation(self) -> bool:
        """Return True if the KMS answers and shows no generation: the roots are rewrapped on a timer."""
        return self.generation is None and self.last_answered_at is not None and self.cause is None


def phase_of(uri: str) -> float:
    """Return where in the interval a main key's polls fall, in [0, 1): polls spread evenly, and stay so."""
    return int.from_bytes(hashlib.sha256(uri.encode()).digest()[:6]) / 2**48


def next_poll(uri: str, now: float, interval: float) -> float:
    """Return the first poll of a key after `now`."""
    phase = phase_of(uri) * interval
    return ((now - phase) // interval + 1) * interval + phase


def register(connection: Connection, *, interval: float, limit: int = REGISTERED_AT_ONCE) -> int:
    """Take up to `limit` main keys that came into use since the last time. Returns how many there were."""
    known = exists().where(main_keys.c.uri == top_versions.c.main_key)
    query = select(top_versions.c.main_key).distinct().where(top_versions.c.state.in_(LIVE), ~known).limit(limit)
    found = list(connection.execute(query).scalars())
    if found:
        now = read_clock(connection)
        rows = [{"uri": uri, "next_look_at": next_poll(uri, now, interval), "interval": interval} for uri in found]
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(main_keys).on_conflict_do_nothing(), rows)
    return len(found)


def claim_due(connection: Connection, *, limit: int) -> list[str]:
    """Claim the main keys in use whose poll is due, the longest overdue first: no other process's for CLAIM_SECONDS."""
    now = read_clock(connection)
    in_use = exists().where(top_versions.c.main_key == main_keys.c.uri, top_versions.c.state.in_(LIVE))
    query = select(main_keys.c.uri).where(main_keys.c.next_look_at <= now, in_use)
    query = query.order_by(main_keys.c.next_look_at).limit(limit).with_for_update(skip_locked=True)
    uris = list(connection.execute(query).scalars())
    if uris:
        connection.execute(update(main_keys).where(main_keys.c.uri.in_(uris)).values(next_look_at=now + CLAIM_SECONDS))
    return uris


def mark_due(connection: Connection, uri: str) -> bool:
    """Mark a main key as due now. Return False if it is not in use: an unused key is not polled."""
    in_use = select(top_versions.c.main_key).where(top_versions.c.main_key == uri, top_versions.c.state.in_(LIVE))
    if connection.execute(in_use.limit(1)).first() is None:
        return False
    now = read_clock(connection)
    changed = connection.execute(update(main_keys).where(main_keys.c.uri == uri).values(next_look_at=now))
    if not changed.rowcount:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(main_keys).values(uri=uri, next_look_at=now, interval=SOON_SECONDS)
        connection.execute(statement.on_conflict_do_update(index_elements=["uri"], set_={"next_look_at": now}))
    return True


def record_poll(
    connection: Connection,
    uri: str,
    *,
    generation: str | None,
    cause: str | None,
    detail: str,
    answered: bool,
    usual: float,
) -> MainKeyRecord | None:
    """Record what a poll showed, and plan the next one. Return what was known before; None: it is not known.

    `usual` is the interval of healthy keys. A silent KMS says nothing of the generation: the last one seen stays.
    """
    before = find(connection, uri, lock=True)
    if before is None:
        return None
    now = read_clock(connection)
    interval = usual if cause is None else min(usual, SOON_SECONDS if before.cause is None else before.interval * 2)
    changed = cause != before.cause or before.last_looked_at is None
    values = {
        "generation": generation if answered and cause is None else before.generation,
        "cause": cause,
        "detail": detail[:MAX_DETAIL] or None,
        "since": now if changed else before.since,
        "last_looked_at": now,
        "last_answered_at": now if answered else before.last_answered_at,
        "next_look_at": next_poll(uri, now, usual) if interval >= usual else now + interval,
        "interval": interval,
    }
    connection.execute(update(main_keys).where(main_keys.c.uri == uri).values(values))
    return before


def put_off(connection: Connection, uris: list[str]) -> None:
    """Put off keys that were not asked: they are polled again soon."""
    later = update(main_keys).where(main_keys.c.uri.in_(uris))
    connection.execute(later.values(next_look_at=read_clock(connection) + SOON_SECONDS))


def find(connection: Connection, uri: str, *, lock: bool = False) -> MainKeyRecord | None:
    """Read what is known of a main key."""
    query = select(main_keys).where(main_keys.c.uri == uri)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    return MainKeyRecord(**row) if row else None


def list_main_keys(connection: Connection, *, after: str = "", limit: int = 1000) -> list[MainKeyRecord]:
    """Read a page of main keys, by URI."""
    query = select(main_keys).where(main_keys.c.uri > after).order_by(main_keys.c.uri).limit(limit)
    return [MainKeyRecord(**row) for row in connection.execute(query).mappings()]


def workspaces_of(connection: Connection, uri: str) -> set[str]:
    """List the workspaces in which a main key is in use."""
    query = select(environments.c.workspace).distinct().select_from(_IN_USE)
    return set(connection.execute(query.where(*_live(uri))).scalars())


def users(
    connection: Connection, uri: str, *, locks: Collection[str] | None, after: int, limit: int
) -> list[Environment]:
    """Read a page of the environments that a main key is a live top of, by row.

    `locks`: only those locked by one of these causes; empty: only unlocked ones; None: all.
    """
    query = ENVIRONMENT.where(environments.c.id.in_(select(top_versions.c.environment).where(*_live(uri))))
    if locks is not None:
        lock = environments.c.lock_cause
        query = query.where(lock.in_(locks) if locks else lock.is_(None))
    query = query.where(environments.c.id > after).order_by(environments.c.id).limit(limit)
    return [Environment(**row) for row in connection.execute(query).mappings()]


def left_behind(
    connection: Connection, uri: str, *, generation: str | None, hidden_before: float, after: int, limit: int
) -> list[tuple[Environment, TopVersion]]:
    """Read a page of the environments to move to their main key's current generation, with their top in force.

    Where the KMS hides its generation: those whose top is from before `hidden_before`. Locked ones, and those with an
    open repack, follow at a later poll.
    """
    columns = top_versions.c
    if generation is None:
        behind = columns.created_at < hidden_before
    else:
        behind = or_(columns.generation.is_(None), columns.generation != generation)
    is_open = exists().where(repacks.c.environment == environments.c.id, repacks.c.state.in_(OPEN))
    query = ENVIRONMENT.join(top_versions, columns.environment == environments.c.id)
    query = query.add_columns(columns.version, columns.generation)
    query = query.where(columns.main_key == uri, columns.state == TopState.ACTIVE, behind)
    query = query.where(environments.c.lock_cause.is_(None), ~is_open, environments.c.id > after)
    found = []
    for row in connection.execute(query.order_by(environments.c.id).limit(limit)).mappings():
        own = {name: value for name, value in row.items() if name not in ("version", "generation")}
        top = TopVersion(version=row["version"], main_key=uri, generation=row["generation"], state=TopState.ACTIVE)
        found.append((Environment(**own), top))
    return found


_IN_USE = top_versions.join(environments, environments.c.id == top_versions.c.environment)


def _live(uri: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return top_versions.c.main_key == uri, top_versions.c.state.in_(LIVE)
