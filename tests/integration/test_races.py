"""Real threads on a real database: writers, readers and walkers while a repack renews and shreds (R1, R2, R5)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import make_url, text

from schemas.keys import KeyKind
from schemas.states import Mode, RepackState, Stage
from tests.engine import World, chain_of_keys
from tests.oracle import Oracle
from tests.poll import poll
from workers.integrity.verify import verify_environment
from workers.keyring import creation
from workers.keyring.keyring import Keyring
from workers.keyring.minting import material_of, mint_child
from workers.locks import locking
from workers.repack import renew
from workers.repack.batches import Run
from workers.repack.lifecycle import walk_slice
from workers.repack.renew import MintBatch, RenewWalk
from workers.services import Services
from workers.store import models
from workers.store.database import Connection, Database
from workers.store.environments import Environment, create_environment, get_environment
from workers.store.keys import find_wrapping_key
from workers.store.repacks import Repack, get_repack
from workers.store.shards import claim_shard
from workers.store.versions import hold_version

HOURS, JOBS = 12, 60


ISOLATIONS = ("read committed", "repeatable read", "serializable")
"""What a database's operator may have set as its default. The code path is the same, so two of them run at length."""


@pytest.fixture(
    params=["sqlite", "repeatable read", *(pytest.param(name, marks=pytest.mark.long) for name in ISOLATIONS[::2])]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world on a file that several processes would share, and on a real server, whatever its default isolation is."""
    if request.param == "sqlite":
        url = str(request.getfixturevalue("migrated_sqlite_url"))
    else:
        url = str(request.getfixturevalue("migrated_postgresql_url"))
        set_default(url, "default_transaction_isolation", request.param)
    world = World(url=url, clock=None, settings={"batch_size": 50, "shard_size": 100, "lease_seconds": 5})
    yield world
    world.close()


def set_default(url: str, name: str, value: str) -> None:
    """Set a database's default, as its operator can at any time."""
    database = Database(url)
    with database.write() as connection:
        connection.execute(text(f"ALTER DATABASE \"{make_url(url).database}\" SET {name} = '{value}'"))
    database.close()


class Crew:
    """Threads that work until they are told to leave; what one raises fails the test."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.errors: list[Exception] = []
        self._threads: list[threading.Thread] = []

    def add(self, work: Callable[[], None], *, once: bool = False) -> None:
        """One more thread, which does its work again and again, or once."""

        def run() -> None:
            try:
                work()
                while not once and not self.leave.is_set():
                    work()
            except Exception as error:
                error.add_note(repr(error.__cause__))
                self.errors.append(error)

        self._threads.append(threading.Thread(target=run, daemon=True))

    def __enter__(self) -> Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        for thread in self._threads:
            thread.join(60)
        assert not self.errors, [(error, error.__notes__) for error in self.errors]


def grow(world: World) -> tuple[Environment, list[UUID], dict[UUID, bytes]]:
    """The usual tree and a branch of three levels."""
    environment = world.environment()
    keyring, name = world.keyring, environment.environment_id
    parents = keyring.create_wrapping_keys(name, None, HOURS) + chain_of_keys(world, environment, 3)
    known = {}
    for parent in parents:
        known |= {one.key_id: one.material for one in keyring.create_data_keys(name, parent, JOBS)}
    return environment, parents, known


def walk(services: Services, repack: Repack) -> Callable[[], None]:
    """A worker that is woken again and again."""

    def work() -> None:
        walk_slice(services, repack.id)
        time.sleep(0.005)  # makes room: a wake-up takes a while

    return work


def ended(world: World, repack: Repack) -> bool:
    """Whether it has ended."""
    return not world.look(repack).is_open


def verify(world: World, environment: Environment, known: dict[UUID, bytes]) -> None:
    """Every key opens, to what its creator got; nothing is stale; no version is shredded that is needed."""
    with world.main.database.read() as connection:
        environment = get_environment(connection, environment.id)
    report = verify_environment(world.process(), environment)
    assert (report.broken, report.stale, report.draining) == (0, 0, 0), report
    fresh = Keyring(world.process())
    sample = sorted(known)[:: max(1, len(known) // 300)]
    assert all(fresh.unwrap(key) == known[key] for key in sample)
    assert set(known) <= {row["key_id"] for row in world.rows(models.data_keys)}
    oracle = Oracle(world, watching=False)
    oracle.check()
    oracle.check_ended(environment.id, world.rows(models.repacks)[-1]["target_key"], deep=True)


def test_writers_and_walkers_at_once(world: World) -> None:  # noqa: C901 - one story
    """R5: keys that are created all through three deep repacks by services of their own are neither lost nor stale."""
    environment, parents, known = grow(world)
    lock, crew = threading.Lock(), Crew()
    repacks: list[Repack] = []

    def writer(number: int) -> Callable[[], None]:
        keyring, turn = Keyring(world.process(cache_ttl=300)), iter(range(number, 10**9))

        def work() -> None:
            at = next(turn)
            made = keyring.create_data_keys(environment.environment_id, parents[at % len(parents)], 2)
            if at % 5 == 0:
                made.append(keyring.create_data_key(environment.environment_id))
            if at % 7 == 0:
                parent = keyring.create_wrapping_key(environment.environment_id, parents[at % HOURS])
                made += keyring.create_data_keys(environment.environment_id, parent, 2)
            with lock:
                known.update({one.key_id: one.material for one in made})
            time.sleep(0.01)  # makes room: keys that no test needs only have to be verified at the end

        return work

    def reader() -> Callable[[], None]:
        keyring, turn = Keyring(world.process(cache_ttl=0)), iter(range(10**9))

        def work() -> None:
            with lock:
                keys = list(known)
            key = keys[next(turn) * 7919 % len(keys)]
            assert keyring.unwrap(key) == known[key]
            time.sleep(0.001)

        return work

    def walker() -> Callable[[], None]:
        services = world.process()

        def work() -> None:
            for repack in repacks[-1:]:
                walk_slice(services, repack.id)
            time.sleep(0.005)

        return work

    for number in range(2):
        crew.add(writer(number * 3))
    crew.add(reader())
    for _ in range(2):
        crew.add(walker())
    with crew:
        for target in ("memory:b", "memory:c", "memory:d"):
            repacks.append(world.start(environment, target))
            poll(lambda: crew.errors or ended(world, repacks[-1]), 60, f"the repack to {target} ends")
            assert not crew.errors
            assert world.look(repacks[-1]).state == RepackState.FINISHED
            world.kms.delete(repacks[-1].source_key.partition(":")[2])  # needed for nothing any more
    verify(world, environment, known)


def test_three_walkers_do_the_work_once(world: World) -> None:
    """R2: three workers at once rewrap each key exactly once, and their counts are the effects (R4, R9)."""
    environment, _, known = grow(world)
    repack = world.start(environment)
    crew = Crew()
    for _ in range(3):
        crew.add(walk(world.process(), repack))
    with crew:
        poll(lambda: crew.errors or ended(world, repack), 60, "the repack ends")
    assert world.look(repack).state == RepackState.FINISHED
    shards = world.rows(models.shards)
    below = [shard for shard in shards if shard["stage"] == Stage.RENEW]
    count = sum(row["parent"] is not None for row in world.rows(models.data_keys))
    assert sum(shard["rewrapped"] for shard in below) == count
    assert sum(shard["seen"] for shard in below) == count
    assert sum(shard["minted"] for shard in shards) == HOURS + 3
    minted = Counter(row["wrapping_key"] for row in world.rows(models.wrapping_versions) if row["repack"] == repack.id)
    assert set(minted.values()) == {1}
    verify(world, environment, known)


def test_the_same_start_at_once(world: World) -> None:
    """Ten services that ask for the same at once get the same repack; nothing is planned twice."""
    environment, _, _ = grow(world)
    found: list[UUID] = []
    barrier, crew = threading.Barrier(4), Crew()

    def starter(services: Services) -> Callable[[], None]:
        def work() -> None:
            barrier.wait(20)
            found.append(world.start(environment, "memory:b", Mode.DEEP, services=services).repack_id)

        return work

    for _ in range(4):
        crew.add(starter(world.process()), once=True)
    with crew:
        poll(lambda: crew.errors or len(found) == 4, 30, "all have started")
    assert len(set(found)) == 1
    assert len(world.rows(models.repacks)) == 1
    assert len(world.rows(models.top_versions)) == 2


def test_mints_across_shards_do_not_deadlock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards whose keys hang from the same two parents, in opposite order, do not deadlock."""
    environment = world.environment()
    name = environment.environment_id
    one, two = world.keyring.create_wrapping_keys(name, None, 2)
    below = [world.keyring.create_wrapping_key(name, parent) for parent in (one, two, two, one)]
    for parent in below:
        world.keyring.create_data_keys(name, parent, 50)
    repack = world.start(environment)
    while (current := world.look(repack)).stage != Stage.RENEW or current.level != 2:
        with monkeypatch.context() as patch:
            patch.setattr("workers.repack.lifecycle._claim", _claim_above(patch, current))
            walk_slice(world.process(slice_seconds=0.01), repack.id)
    with world.main.database.write() as connection:
        shards = [claim_shard(connection, repack.id, owner="test", lease_seconds=60) for _ in range(2)]
    environment = get_environment_of(world, current)
    batches = []
    for shard in shards:
        assert shard is not None
        run = Run(services=world.process(), repack=current, environment=environment)
        batches.append((run.services, RenewWalk(run, shard).prepare(shard.cursor)))
    assert all(isinstance(batch, MintBatch) for _, batch in batches)
    barrier, real, crew = threading.Barrier(2), renew.add_wraps, Crew()

    def slowly(*arguments: object) -> int:
        total = real(*arguments)  # type: ignore[arg-type]
        if world.main.database.dialect == "postgresql":
            with_both(barrier)
        return total

    monkeypatch.setattr(renew, "add_wraps", slowly)
    for services, batch in batches:

        def work(services: Services = services, batch: MintBatch = batch) -> None:  # type: ignore[assignment]
            with services.database.write() as connection:
                batch.write(connection)

        crew.add(work, once=True)
    with crew:
        poll(lambda: crew.errors or _minted(world, repack) == 6, 30, "both have minted")


def with_both(barrier: threading.Barrier) -> None:
    """Wait a moment for the other one to get as far."""
    try:
        barrier.wait(0.5)
    except threading.BrokenBarrierError:
        barrier.reset()


def _minted(world: World, repack: Repack) -> int:
    return sum(row["repack"] == repack.id for row in world.rows(models.wrapping_versions))


def _claim_above(_patch: object, _repack: Repack) -> Callable[[Services, Repack], object]:
    def claim(services: Services, repack: Repack) -> object:
        with services.database.write() as connection:
            current = get_repack(connection, repack.id)
            environment = get_environment(connection, repack.environment)
            run = Run(services=services, repack=current, environment=environment)
            if (current.stage, current.level) == (Stage.RENEW, 2):
                return run, None
            return run, claim_shard(connection, repack.id, owner=services.owner, lease_seconds=30)

    return claim


def get_environment_of(world: World, repack: Repack) -> Environment:
    """A repack's environment."""
    with world.main.database.read() as connection:
        return get_environment(connection, repack.environment)


def test_a_workspace_is_revoked_while_an_environment_is_created_in_it(world: World) -> None:
    """R8: a revocation waits for a creation that is under way, and locks what it made."""
    world.environment("acme/one")
    done: list[list[Environment]] = []

    def revoke() -> None:
        done.append(locking.revoke_workspace(world.process(), "acme", actor="customer"))

    thread = threading.Thread(target=revoke)
    with world.main.database.write() as connection:
        newborn = create_environment(connection, workspace="acme", name="two", main_key="memory:a", generation="1")
        thread.start()
        if connection.dialect.name == "postgresql":
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            poll(lambda: connection.execute(waiting).scalar_one(), 10, "the revocation waits")
    thread.join(20)
    assert newborn.id in {one.id for one in done[0]}
    with world.main.database.read() as connection:
        assert get_environment(connection, newborn.id).lock_cause == "revoked"


@pytest.mark.parametrize("world", ISOLATIONS, indirect=True)
def test_a_writer_who_commits_while_the_shredder_waits_loses_no_key(world: World) -> None:
    """R5: the shredder's proof sees what was committed while it waited, whatever the database's default isolation."""
    environment = world.environment()
    keyring, name = world.keyring, environment.environment_id
    parent = keyring.create_wrapping_key(name)
    known = {one.key_id: one.material for one in keyring.create_data_keys(name, parent, 20)}
    repack = world.start(environment)
    while world.look(repack).stage != Stage.SHRED:
        walk_slice(world.process(slice_seconds=0.001), repack.id)
    with world.main.database.read() as connection:
        row = find_wrapping_key(connection, parent)
    draining = (row.id, (row.active_version or 0) - 1)
    material = material_of(world.main.key_opener.open(name, [draining])[draining])
    late = mint_child(world.main, environment, key=uuid4(), parent=draining, parent_id=parent, parent_material=material)
    known[late.key_id] = late.material
    has_written, crew = threading.Event(), Crew()

    def shred() -> None:
        assert has_written.wait(20)
        world.run(repack, world.process())

    crew.add(shred, once=True)
    with crew:
        with world.main.database.write() as connection:
            hold_version(connection, draining)
            creation._store(connection, environment, [late], KeyKind.DATA, parent=row)
            has_written.set()
            poll(lambda: crew.errors or is_waited_for(connection), 20, "the shredder waits for the writer")
        poll(lambda: crew.errors or ended(world, repack), 60, "the repack ends")
    assert world.look(repack).state == RepackState.FINISHED
    verify(world, environment, known)


def is_waited_for(connection: Connection) -> bool:
    """Return True if another transaction waits for a lock of this one. PostgreSQL only."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
    )
    return bool(connection.execute(text(query)).scalar_one())
