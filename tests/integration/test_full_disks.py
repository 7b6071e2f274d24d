"""A full disk is a clear state: the run waits with a reason that names the remedy, nothing is lost, and it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import text

from schemas.states import RepackState
from tests.conftest import missing
from tests.disks import NoDiskOfItsOwn, SmallDisk, small_disk
from tests.engine import World, usual_tree
from tests.poll import poll
from tests.servers import PostgresServer
from workers.cli import doctor_checks
from workers.errors import DatabaseFull
from workers.integrity.verify import verify_environment
from workers.monitoring.repack_report import view_repack
from workers.repack.lifecycle import walk_slice
from workers.runtime.settings import Settings
from workers.store import models
from workers.store.database import Database
from workers.store.disk_space import ROOM_BYTES, require_room
from workers.store.repacks import Repack, get_repack
from workers.store.schema import migrate

MEGABYTES = 64
JOBS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A world on a small disk."""

    world: World
    disk: SmallDisk


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """SQLite's files on it, or the tablespace of a PostgreSQL database (its log is elsewhere, as it should be)."""
    with ExitStack() as stack:
        server: PostgresServer | None = None
        if request.param == "postgresql":
            server = request.getfixturevalue("postgresql_server")
        # PostgreSQL's user has to get there: below its own folder, which everybody can traverse.
        place = tmp_path / "small" if server is None else server.folder / f"small-{tmp_path.name}"
        owner = None if server is None else (server.folder / "data").stat().st_uid
        try:
            disk = stack.enter_context(small_disk(place, megabytes=MEGABYTES, owner=owner))
        except NoDiskOfItsOwn as error:
            missing(str(error))
        url = f"sqlite:///{place}/keyrepack.db"
        if server is not None:
            url = stack.enter_context(server.small_database(place))
        database = Database(url)
        migrate(database)
        database.close()
        world = World(url=url, clock=None, settings={"batch_size": 500, "kms_probe_seconds": 0.01})
        stack.callback(world.close)
        yield Site(world=world, disk=disk)


def _try(world: World, repack: Repack) -> tuple[Repack, bool]:
    """One slice, as a wake-up of the sweeper makes it; and whether its database said that it is full."""
    with structlog.testing.capture_logs() as said:
        walk_slice(world.main, repack.id)
    with world.main.database.read() as connection:
        return get_repack(connection, repack.id), any(line["event"] == "database.full" for line in said)


def test_a_full_disk_is_waited_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mid-run: told by the log and the doctor, by the run where that can be written; all keys open meanwhile.

    With room again the sweeper's next wake-ups end the run, and each key was rewrapped once.
    """
    world, disk = site.world, site.disk
    environment = world.environment()
    material = usual_tree(world, environment, hours=2, jobs=JOBS)
    repack = world.start(environment)
    _leave_no_room_in_pages(world)
    disk.fill()
    for _ in range(50):
        repack, told = _try(world, repack)
        if told:
            break
    assert told, "the disk was never full"
    _check_told(site, monkeypatch, repack)
    some = list(material)[:5] + list(material)[-5:]
    assert {key: world.keyring.unwrap(key) for key in some} == {key: material[key] for key in some}
    for _ in range(3):
        assert not _try(world, repack)[0].ended_at
    disk.make_room()
    for _ in range(200):
        repack, told = _try(world, repack)
        assert not told
        if not repack.is_open:
            break
    assert repack.state == RepackState.FINISHED
    report = verify_environment(world.main, environment)
    assert (report.broken, report.stale, report.draining, report.verified) == (0, 0, 0, len(material) + 2)
    rewrapped = [row["rewrapped"] for row in world.rows(models.shards) if row["stage"] == "renew"]
    assert sum(rewrapped) == 2 * JOBS


def _leave_no_room_in_pages(world: World) -> None:
    """PostgreSQL updates half-full pages in place: a full disk would not be noticed for a while."""
    if world.main.database.dialect == "postgresql":
        engine = world.main.database.engine
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("alter table data_keys set (fillfactor = 100)"))
            connection.execute(text("vacuum full data_keys"))


def _check_told(site: Site, monkeypatch: pytest.MonkeyPatch, repack: Repack) -> None:
    database = site.world.main.database
    with pytest.raises(DatabaseFull, match="Make room"):
        require_room(database)
    found = {finding.check: finding for finding in _examined(site, monkeypatch)}
    assert found["database"].ok
    assert not found["room in the database"].ok
    assert "Make room" in found["room in the database"].remedy
    if repack.state == RepackState.BLOCKED:
        with database.read() as connection:
            block = view_repack(connection, repack).block
        assert block is not None
        assert (block["side"], block["cause"], block["main_key"]) == ("database", "database_full", None)
        assert "Make room" in block["remedy"]
    else:
        assert repack.is_running  # not even that could be written


def _examined(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    settings = Settings(database_url=SecretStr(site.world.url), broker_url=SecretStr("redis://127.0.0.1:1/0"))
    monkeypatch.setattr(doctor_checks, "read_settings", lambda: settings)
    monkeypatch.setattr(doctor_checks, "quiet_logs", lambda _: logging.getLogger())
    return doctor_checks.examine().findings


def test_a_blocked_run_does_not_stumble_on_while_there_is_hardly_room(site: Site) -> None:
    """It goes on once a few batches fit, not at the first free page: else it would block again and again."""
    world, disk = site.world, site.disk
    environment = world.environment()
    usual_tree(world, environment, hours=2, jobs=100)
    repack = world.start(environment)
    with world.main.database.write() as connection:
        connection.execute(
            models.repacks.update().values(
                state=RepackState.BLOCKED, block_side="database", block_cause="database_full", probe_at=0, probes=0
            )
        )
    disk.fill(leaving=ROOM_BYTES // 4)
    repack, told = _try(world, repack)
    assert (repack.state, repack.probes, told) == (RepackState.BLOCKED, 1, False)
    assert repack.block_detail is not None
    assert "no room" in repack.block_detail
    disk.make_room()
    poll(lambda: not _try(world, repack)[0].is_open, 10, "it looks again, and goes on to its end")
    assert world.look(repack).state == RepackState.FINISHED
    told_resumed = [row for row in world.rows(models.audit) if row["action"] == "repack.resumed"]
    assert len(told_resumed) == 1


def test_looking_for_room_leaves_nothing(site: Site) -> None:
    """It takes some and gives it back, and touches no table of the record."""
    before = site.world.dump()
    require_room(site.world.main.database)
    assert site.world.dump() == before
    assert not list(site.disk.folder.rglob("*room*"))
    with site.world.main.database.read() as connection:
        assert connection.execute(text("select 1")).scalar_one() == 1
