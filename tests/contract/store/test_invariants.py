"""The checker: all is well after any story; damage to any row that matters is seen, by the invariant it breaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, delete, insert, select, update

from schemas.states import Mode
from tests.corruption import flip
from tests.engine import World, chain_of_keys, usual_tree
from tests.servers import PostgresServer
from workers.integrity.invariants import INVARIANTS, InvariantResult, check_invariants
from workers.kms.local.memory import MemoryKms
from workers.locks import locking
from workers.repack import control
from workers.repack.lifecycle import walk_slice
from workers.store import models as m
from workers.store.database import Database
from workers.store.environments import Environment, list_environments
from workers.store.schema import migrate

Damage = Callable[[World], None]

SMALL = {"batch_size": 7, "shard_size": 20}


def told_story(world: World) -> Environment:
    """A repack, one that was aborted, one revoked in mid-run, a renewal that was stopped, and a last one to the end."""
    environment = world.environment()
    usual_tree(world, environment, hours=3, jobs=12)
    chain_of_keys(world, environment, 3, jobs=3)
    world.repack(environment, "memory:b")
    control.abort(world.main, world.start(environment, "memory:c"), actor="test")
    repack = world.start(environment, "memory:c")
    walk_slice(world.process(slice_seconds=0.001), repack.id)
    locking.revoke(world.main, [environment], actor="test")
    locking.restore(world.main, [environment], actor="test")
    world.run(repack)
    repack = world.start(environment, "memory:d")
    while not world.rows(m.shards, m.shards.c.repack == repack.id, m.shards.c.stage == "renew", m.shards.c.seen > 0):
        walk_slice(world.process(slice_seconds=0.001), repack.id)
    control.stop(world.main, repack, actor="test")
    world.repack(environment, "memory:e")
    world.repack(environment, "memory:f", Mode.SHALLOW)
    world.repack(environment, "memory:a")
    return environment


def judged(world: World) -> dict[str, InvariantResult]:
    """The verdicts of a process that remembers nothing."""
    services = world.process()
    with services.database.read() as connection:
        environments = list_environments(connection)
    return {verdict.invariant: verdict for verdict in check_invariants(services, environments)}


def change(world: World, table: Table, condition: Any = None, **values: Any) -> None:
    """Write into rows, past the engine."""
    with world.main.database.write() as connection:
        statement = update(table).values(**values)
        connection.execute(statement if condition is None else statement.where(condition))


def first(world: World, query: Any) -> Any:
    """The first row of a query."""
    with world.main.database.read() as connection:
        return connection.execute(query).mappings().first()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A database with a history in which all is well, and the KMS that opens it."""

    kms: MemoryKms
    file: Path | None = None
    server: PostgresServer | None = None
    name: str = ""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The story is told once, and copied for each damage."""
    if request.param == "sqlite":
        told = Told(kms=MemoryKms(), file=tmp_path_factory.mktemp("told") / "told.db")
        url = f"sqlite:///{told.file}"
    else:
        server = request.getfixturevalue("postgresql_server")
        told = Told(kms=MemoryKms(), server=server, name=server.create_database())
        url = server.url(told.name)
    database = Database(url)
    migrate(database)
    database.close()
    world = World(url=url, kms=told.kms, clock=None, settings=SMALL)
    told_story(world)
    assert [verdict.breaches for verdict in judged(world).values() if not verdict.held] == []
    world.close()
    yield told
    if told.server is not None:
        told.server.drop_database(told.name)


@pytest.fixture
def whole(told: Told, tmp_path: Path) -> Iterator[World]:
    """A copy to damage."""
    name = ""
    if told.server is not None:
        name = told.server.create_database(told.name)
        url = told.server.url(name)
    else:
        shutil.copy(str(told.file), tmp_path / "copy.db")
        url = f"sqlite:///{tmp_path}/copy.db"
    world = World(url=url, kms=told.kms, clock=None, settings=SMALL)
    yield world
    world.close()
    if told.server is not None:
        told.server.drop_database(name)


def _last_walk(world: World) -> Any:
    columns = m.shards.c
    query = select(m.shards).where(columns.stage == "renew", columns.rewrapped > 2).order_by(columns.id.desc())
    return first(world, query)


def flipped_wrap(world: World) -> None:
    row = first(world, select(m.data_keys).where(m.data_keys.c.parent.is_not(None)))
    change(world, m.data_keys, m.data_keys.c.id == row["id"], wrapped=flip(row["wrapped"]))


def other_fingerprint(world: World) -> None:
    row = first(world, select(m.data_keys))
    change(world, m.data_keys, m.data_keys.c.id == row["id"], fingerprint=flip(row["fingerprint"]))


def lost_version(world: World) -> None:
    key = first(world, select(m.data_keys).where(m.data_keys.c.parent.is_not(None)))
    own = (m.wrapping_versions.c.wrapping_key == key["parent"]) & (m.wrapping_versions.c.state == "active")
    change(world, m.wrapping_versions, own, state="shredded", wrapped=None)


def key_counted_twice(world: World) -> None:
    shard, columns = _last_walk(world), m.shards.c
    change(world, m.shards, columns.id == shard["id"], seen=columns.seen + 1, rewrapped=columns.rewrapped + 1)
    columns = m.checkpoints.c
    last = first(world, select(columns.id).where(columns.shard == shard["id"]).order_by(columns.id.desc()))
    change(world, m.checkpoints, columns.id == last["id"], seen=columns.seen + 1, rewrapped=columns.rewrapped + 1)


def roots_moved_again(world: World) -> None:
    columns = m.shards.c
    change(world, m.shards, columns.stage == "move", seen=columns.seen + 100, rewrapped=columns.rewrapped + 100)


def cursor_put_back(world: World) -> None:
    shard, columns = _last_walk(world), m.shards.c
    change(
        world, m.shards, columns.id == shard["id"],
        cursor_parent=shard["after_parent"], cursor_key=shard["after_key"],
    )  # fmt: skip


def checkpoints_swapped(world: World) -> None:
    shard, columns = _last_walk(world), m.checkpoints.c
    query = select(columns.id).where(columns.shard == shard["id"], ~columns.claimed).order_by(columns.id.desc())
    change(world, m.checkpoints, columns.id == first(world, query.offset(1))["id"], cursor_parent=2**40)


def older_version_active(world: World) -> None:
    columns = m.wrapping_versions.c
    row = first(world, select(m.wrapping_versions).where(columns.state == "active"))
    own = columns.wrapping_key == row["wrapping_key"]
    change(world, m.wrapping_versions, own & (columns.version == row["version"]), state="draining")
    change(world, m.wrapping_versions, own & (columns.version == row["version"] - 1), state="active")


def older_top_active(world: World) -> None:
    columns = m.top_versions.c
    newest = first(world, select(columns.version).order_by(columns.version.desc()))["version"]
    change(world, m.top_versions, columns.version == newest, state="draining")
    change(world, m.top_versions, columns.version == newest - 1, state="active")


def older_generation(world: World) -> None:
    columns = m.top_versions.c
    newest = first(world, select(m.top_versions).order_by(columns.version.desc()))
    for number, generation in enumerate(("1", "2", "1"), start=1):
        with world.main.database.write() as connection:
            values = {**newest, "version": newest["version"] + number, "generation": generation, "state": "retired"}
            connection.execute(insert(m.top_versions).values(values))


def uncounted_key(world: World) -> None:
    shard = _last_walk(world)
    change(world, m.shards, m.shards.c.id == shard["id"], seen=m.shards.c.seen - 1)


def unwritten_keys(world: World) -> None:
    shard, columns = _last_walk(world), m.shards.c
    change(world, m.shards, columns.id == shard["id"], seen=columns.seen - 1, rewrapped=columns.rewrapped - 1)


def state_untold(world: World) -> None:
    newest = first(world, select(m.repacks.c.id).order_by(m.repacks.c.id.desc()))["id"]
    change(world, m.repacks, m.repacks.c.id == newest, state="stopped")


def batch_under_a_lock(world: World) -> None:
    query = select(m.audit).where(m.audit.c.action == "environment.locked")
    locked, columns = json.loads(first(world, query)["facts"]), m.checkpoints.c
    last = first(world, select(columns.id).where(~columns.claimed).order_by(columns.id.desc()))["id"]
    change(world, m.checkpoints, columns.id == last, epoch=locked["epoch"])


def batch_at_a_locked_time(world: World) -> None:
    query = select(m.audit.c.at).where(m.audit.c.action.in_(["environment.locked", "environment.unlocked"]))
    with world.main.database.read() as connection:
        since, until = connection.execute(query.order_by(m.audit.c.seq)).scalars().all()[:2]
    columns = m.checkpoints.c
    last = first(world, select(columns.id).where(~columns.claimed).order_by(columns.id.desc()))["id"]
    change(world, m.checkpoints, columns.id == last, at=(since + until) / 2)


def overtaken_lease(world: World) -> None:
    columns = m.checkpoints.c
    row = first(world, select(m.checkpoints).where(~columns.claimed).order_by(columns.id.desc()))
    with world.main.database.write() as connection:
        newer = {**row, "id": None, "token": row["token"] + 1, "claimed": True, "seen": 0, "rewrapped": 0}
        late = {**row, "id": None, "seen": 0, "rewrapped": 0}
        for values in (newer, late):
            del values["id"]
            connection.execute(insert(m.checkpoints).values(values))


def batch_of_a_closed_shard(world: World) -> None:
    closed = first(world, select(m.shards).where(m.shards.c.state == "closed", m.shards.c.seen > 0))
    columns = m.checkpoints.c
    own = (columns.shard == closed["id"]) & ~columns.claimed
    change(world, m.checkpoints, own, at=closed["finished_at"] + 1)


def audit_changed(world: World) -> None:
    change(world, m.audit, m.audit.c.seq == 3, actor="nobody")


def audit_cut_off(world: World) -> None:
    with world.main.database.write() as connection:
        last = connection.execute(select(m.audit.c.seq).order_by(m.audit.c.seq.desc()).limit(1)).scalar_one()
        connection.execute(delete(m.audit).where(m.audit.c.seq == last))


def event_lost(world: World) -> None:
    with world.main.database.write() as connection:
        connection.execute(delete(m.outbox).where(m.outbox.c.type == "repack.finished"))


def event_made_up(world: World) -> None:
    row = first(world, select(m.outbox).order_by(m.outbox.c.id.desc()))
    with world.main.database.write() as connection:
        values = {name: value for name, value in row.items() if name != "id"}
        connection.execute(insert(m.outbox).values(values))


def event_in_other_words(world: World) -> None:
    row = first(world, select(m.outbox).where(m.outbox.c.type == "repack.finished"))
    said = json.loads(row["body"])
    said["data"]["rewrapped"] += 1
    change(world, m.outbox, m.outbox.c.id == row["id"], body=json.dumps(said).encode())


def stale_key(world: World) -> None:
    row = first(world, select(m.data_keys).where(m.data_keys.c.parent.is_not(None)))
    version = row["parent_version"] - 1
    change(world, m.data_keys, m.data_keys.c.id == row["id"], parent_version=version)


def version_left(world: World) -> None:
    columns = m.wrapping_versions.c
    row = first(world, select(m.wrapping_versions).where(columns.state == "shredded"))
    own = (columns.wrapping_key == row["wrapping_key"]) & (columns.version == row["version"])
    change(world, m.wrapping_versions, own, state="draining")


def old_wrap_kept(world: World) -> None:
    row = first(world, select(m.root_wraps))
    with world.main.database.write() as connection:
        connection.execute(insert(m.root_wraps).values({**row, "top_version": 1}))


def root_left_behind(world: World) -> None:
    row, columns = first(world, select(m.root_wraps)), m.root_wraps.c
    own = (columns.kind == row["kind"]) & (columns.key == row["key"])
    change(world, m.root_wraps, own, top_version=1)


def shard_left_open(world: World) -> None:
    shard = _last_walk(world)
    change(world, m.shards, m.shards.c.id == shard["id"], state="pending")


DAMAGES: list[tuple[Damage, str]] = [
    (flipped_wrap, "readable"), (other_fingerprint, "readable"), (lost_version, "readable"),
    (key_counted_twice, "once"), (roots_moved_again, "once"),
    (cursor_put_back, "forward"), (checkpoints_swapped, "forward"), (older_version_active, "forward"),
    (older_top_active, "forward"), (older_generation, "forward"),
    (uncounted_key, "counted"), (unwritten_keys, "counted"), (state_untold, "counted"),
    (batch_under_a_lock, "locked"), (batch_at_a_locked_time, "locked"),
    (overtaken_lease, "leased"), (batch_of_a_closed_shard, "leased"),
    (audit_changed, "chained"), (audit_cut_off, "chained"),
    (event_lost, "told"), (event_made_up, "told"), (event_in_other_words, "told"),
    (stale_key, "finished"), (version_left, "finished"), (old_wrap_kept, "finished"), (root_left_behind, "finished"),
    (shard_left_open, "finished"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "invariant"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_planted_damage_is_seen(whole: World, damage: Damage, invariant: str) -> None:
    """By the invariant that it breaks, which says where."""
    damage(whole)
    verdict = judged(whole)[invariant]
    assert not verdict.held
    assert verdict.breaches


def test_every_invariant_has_its_damage() -> None:
    """None is only claimed."""
    assert {invariant.name for invariant in INVARIANTS} == {name for _, name in DAMAGES}
