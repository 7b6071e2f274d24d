"""A database comes back from a backup: what was lost is found by a witness, mended where it can be, named where not.

The backups are real: copies of SQLite's file, and PostgreSQL's CREATE DATABASE … TEMPLATE.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert

from schemas.keys import MainKeyUri
from schemas.states import LockCause, Mode, RepackState, Stage
from tests.conftest import DatabaseFactory
from tests.engine import Actor, World, usual_tree
from tests.servers import PostgresServer
from workers.errors import Cause, JournalBroken
from workers.integrity.assessment import Need, Survey, Unopened, survey
from workers.integrity.journal import Journal, export_record, read_journal
from workers.integrity.reconcile import Done, Outcome, mend, outcome_of
from workers.integrity.verify import verify_environment
from workers.locks.locking import restore, revoke
from workers.main_keys import uploads
from workers.repack import move
from workers.repack.lifecycle import walk_slice
from workers.store import models
from workers.store import uploads as uploaded
from workers.store.audit import records
from workers.store.environments import Environment, get_environment
from workers.store.repacks import latest_repack

SETTINGS = {"batch_size": 7, "shard_size": 20, "replacement_interval": 0}
KEY_TABLES = (models.root_wraps, models.data_keys, models.wrapping_versions, models.wrapping_keys)


ON_SQLITE = pytest.mark.parametrize("site", ["sqlite"], indirect=True)
"""For a test whose statements others run on PostgreSQL: each database made there costs a second or two."""


class Site:
    """A world whose database can be backed up and brought back; its KMS goes on as it is."""

    def __init__(self, world: World, copy: Callable[[str], str]) -> None:
        self.world, self._copy = world, copy
        self.environment = world.environment()
        self.material = usual_tree(world, self.environment, jobs=10)

    def backup(self) -> str:
        """A whole copy of the database, in the state of a moment."""
        self.world.forget()
        self.world.close()
        return self._copy(self.world.url)

    def restore(self, backup: str) -> None:
        """The world goes on with the backup as its database, and fresh processes."""
        self.world.close()
        self.world.url = backup

    def export(self, path: Path) -> Path:
        """What was kept elsewhere: the whole audit."""
        with self.world.main.database.read() as connection:
            path.write_text("".join(json.dumps(export_record(record)) + "\n" for record in records(connection)))
        return path

    def call(self, *files: Path) -> Journal:
        with self.world.main.database.read() as connection:
            return read_journal(list(records(connection)), files)

    def now(self) -> Environment:
        with self.world.main.database.read() as connection:
            return get_environment(connection, self.environment.id)

    def look(self, *files: Path) -> tuple[Survey, list[Unopened]]:
        """A survey, and every key it named."""
        named: list[Unopened] = []
        told = self.call(*files).of(self.environment.environment_id)
        return survey(self.world.main, self.now(), told, name=named.append), named

    def reconcile(self, *files: Path) -> tuple[Outcome, list[Done]]:
        """Look and mend, once."""
        found, _ = self.look(*files)
        done = mend(self.world.main, found, self.call(*files), actor="test")
        return outcome_of(found, done), done

    def walk(self) -> None:
        """Be the worker until nothing is left to do."""
        with self.world.main.database.read() as connection:
            repack = latest_repack(connection, self.environment.id)
        assert repack is not None
        assert self.world.run(repack).state == RepackState.FINISHED

    def main_key(self) -> str:
        return self.look()[0].in_force

    def check(self) -> None:
        """Every key opens, nothing is stale, no wrap is left under a main key that is not in force."""
        self.world.main.cache.clear()
        report = verify_environment(self.world.main, self.environment)
        assert (report.broken, report.stale, report.draining) == (0, 0, 0)
        assert {key: self.world.keyring.unwrap(key) for key in self.material} == self.material
        found, named = self.look()
        assert named == []
        assert {top.main_key for top in found.tops} == {found.in_force}


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """On either database."""
    if request.param == "sqlite":
        url, copy = f"sqlite:///{tmp_path}/live.db", _copy_file
    else:
        server: PostgresServer = request.getfixturevalue("postgresql_server")
        make: DatabaseFactory = request.getfixturevalue("postgresql_database")
        url = make()

        def copy(url: str) -> str:
            return make(template=url.rpartition("/")[2])

        assert server
    world = World(url=url, clock=None, settings=SETTINGS)
    with world.main.database.write() as connection:
        models.metadata.create_all(connection)
    yield Site(world, copy)
    world.close()


def _copy_file(url: str) -> str:
    path = Path(url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = path.with_name(f"backup-{len(list(path.parent.iterdir()))}.db")
    shutil.copy(path, copy)
    return f"sqlite:///{copy}"


def _replaced_after_backup(site: Site, tmp_path: Path, mode: Mode = Mode.DEEP) -> Path:
    """Restored to before a replacement of a by b; the audit was kept."""
    backup = site.backup()
    assert site.world.repack(site.environment, "memory:b", mode).state == RepackState.FINISHED
    witness = site.export(tmp_path / "audit.jsonl")
    site.restore(backup)
    return witness


@pytest.mark.parametrize(
    ("site", "mode"),
    [("sqlite", Mode.SHALLOW), ("sqlite", Mode.DEEP), ("postgresql", Mode.DEEP)],
    indirect=["site"],
)
def test_restored_to_before_a_replacement(site: Site, tmp_path: Path, mode: Mode) -> None:
    """The old key still opens: a repack to the one that the witness says is in force, as deep as that was; once."""
    witness = _replaced_after_backup(site, tmp_path, mode)
    before = site.world.dump()
    found, named = site.look(witness)
    assert ([step.need for step in found.steps], named, found.steps[0].mode) == ([Need.REPACK], [], mode)
    assert site.world.dump() == before
    assert site.reconcile(witness)[0] == Outcome.UNDER_WAY
    assert site.reconcile(witness)[0] == Outcome.UNDER_WAY  # it runs already
    site.walk()
    assert len(site.world.rows(models.repacks)) == 1
    assert site.main_key() == "memory:b"
    site.check()
    assert site.reconcile(witness)[0] == Outcome.IN_ORDER
    told = [row for row in site.world.rows(models.audit) if row["action"] == "environment.reconciled"]
    assert len(told) == 1


@ON_SQLITE
def test_without_a_witness_an_older_whole_is_in_order(site: Site, tmp_path: Path) -> None:
    """It opens and contradicts nothing: only what was kept elsewhere can say that it is old."""
    _replaced_after_backup(site, tmp_path)
    assert site.reconcile() == (Outcome.IN_ORDER, [])


@pytest.mark.parametrize(
    ("site", "cause", "lock"),
    [
        ("sqlite", Cause.DISABLED, LockCause.RESTRICTED),
        ("sqlite", Cause.DELETED, LockCause.LOST),
        ("postgresql", Cause.DELETED, LockCause.LOST),
    ],
    indirect=["site"],
)
def test_restored_to_before_a_replacement_and_the_old_key_is_gone(
    site: Site, tmp_path: Path, cause: Cause, lock: LockCause
) -> None:
    """Every key is named with the reason, and the environment is locked; with the key back it unlocks and is moved."""
    witness = _replaced_after_backup(site, tmp_path)
    site.world.kms.set_state("a", cause)
    found, named = site.look(witness)
    assert {key.reason for key in named} == {f"main_key_{cause}"}
    assert {key.key_id for key in named} >= site.material.keys()
    assert len(named) == len(site.material) + 3
    assert found.notes == ["The witness says that memory:b is in force: this backup is older."]
    for _ in range(2):
        assert site.reconcile(witness)[0] == Outcome.NAMED
        assert site.now().lock_cause == lock
    site.world.kms.set_state("a", None)
    assert site.reconcile(witness)[0] == Outcome.UNDER_WAY
    assert site.now().lock_cause is None
    assert site.reconcile(witness)[0] == Outcome.UNDER_WAY
    site.walk()
    site.check()


@pytest.mark.parametrize(
    ("site", "stage"),
    [("sqlite", Stage.MOVE), ("sqlite", Stage.RENEW), ("postgresql", Stage.RENEW)],
    indirect=["site"],
)
def test_restored_to_the_middle_of_a_repack(site: Site, tmp_path: Path, stage: Stage) -> None:
    """It goes on from its checkpoints, by itself; then nothing is left to reconcile."""
    repack = site.world.start(site.environment)
    _walk_into(site, repack.id, stage)
    backup = site.backup()
    site.walk()
    witness = site.export(tmp_path / "audit.jsonl")
    site.restore(backup)
    outcome, done = site.reconcile(witness)
    assert (outcome, [one.step.need for one in done]) == (Outcome.UNDER_WAY, [Need.WAIT])
    site.walk()
    site.check()
    assert site.reconcile(witness)[0] == Outcome.IN_ORDER


@ON_SQLITE
def test_restored_to_the_middle_of_a_move_and_the_old_key_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has moved opens through the new key; the roots that had not, and what hangs from them, are named."""
    repack = site.world.start(site.environment)
    monkeypatch.setattr(move, "ROOTS_IN_BATCH", 1)
    _walk_into(site, repack.id, Stage.MOVE)
    backup = site.backup()
    site.walk()
    site.restore(backup)
    site.world.kms.set_state("a", Cause.DELETED)
    _, named = site.look()
    assert {key.reason for key in named} == {"main_key_deleted"}
    assert len(named) == len(site.material) + 3 - 1 - 10  # the moved hour and its ten jobs open
    assert site.reconcile()[0] == Outcome.NAMED


@ON_SQLITE
def test_restored_to_the_middle_of_a_repack_that_others_followed(site: Site, tmp_path: Path) -> None:
    """First the one that is open ends; then one more brings the keys to where the last one had."""
    repack = site.world.start(site.environment)
    _walk_into(site, repack.id, Stage.RENEW)
    backup = site.backup()
    site.walk()
    site.world.repack(site.environment, "memory:c")
    witness = site.export(tmp_path / "audit.jsonl")
    site.restore(backup)
    assert site.reconcile(witness)[0] == Outcome.UNDER_WAY
    site.walk()
    assert site.main_key() == "memory:b"
    assert site.reconcile(witness)[0] == Outcome.UNDER_WAY
    site.walk()
    assert site.main_key() == "memory:c"
    site.check()
    assert site.reconcile(witness)[0] == Outcome.IN_ORDER


def _restore_keys_alone(site: Site) -> None:
    """The keys' tables come from before a replacement, everything else stays."""
    kept = {table: site.world.rows(table) for table in KEY_TABLES}
    assert site.world.repack(site.environment).state == RepackState.FINISHED
    with site.world.main.database.write() as connection:
        for table in KEY_TABLES:
            connection.execute(delete(table))
        for table in reversed(KEY_TABLES):
            connection.execute(insert(table), kept[table])
    site.world.main.cache.clear()


def test_only_the_tables_of_keys_restored(site: Site) -> None:
    """The audit beside them is the witness: the key that was left drains again, and a deep repack takes it all away."""
    _restore_keys_alone(site)
    found, named = site.look()
    assert named == []
    assert [(step.need, step.mode, step.main_key) for step in found.steps] == [(Need.REPACK, Mode.DEEP, "memory:b")]
    assert site.reconcile()[0] == Outcome.UNDER_WAY
    site.walk()
    assert site.main_key() == "memory:b"
    site.check()
    assert site.reconcile() == (Outcome.IN_ORDER, [])


@ON_SQLITE
def test_only_the_tables_of_keys_restored_and_the_old_key_is_gone(site: Site) -> None:
    """No move can take roots from a main key that refuses: they are named, and nothing is started."""
    _restore_keys_alone(site)
    site.world.kms.set_state("a", Cause.DISABLED)
    _, named = site.look()
    assert len(named) == len(site.material) + 3
    outcome, done = site.reconcile()
    assert (outcome, done, len(site.world.rows(models.repacks))) == (Outcome.NAMED, [], 1)


def test_keys_below_versions_that_were_shredded_are_named(site: Site) -> None:
    """Only the data keys come from the backup: what they hang from is destroyed for good, and each is named."""
    kept = site.world.rows(models.data_keys)
    site.world.repack(site.environment)
    with site.world.main.database.write() as connection:
        connection.execute(delete(models.data_keys))
        connection.execute(insert(models.data_keys), kept)
    _, named = site.look()
    roots = {row["key_id"] for row in kept if row["parent"] is None}
    assert {key.key_id for key in named} == site.material.keys() - roots
    assert {key.reason for key in named} == {"parent_missing"}
    assert site.reconcile()[0] == Outcome.NAMED


@ON_SQLITE
def test_a_revocation_that_the_backup_forgot_is_made_again(site: Site, tmp_path: Path) -> None:
    """R8: the customer's word outlasts a restore; nothing else is done to the environment. A return is kept as well."""
    backup = site.backup()
    revoke(site.world.main, [site.environment], actor="customer")
    witness = site.export(tmp_path / "revoked.jsonl")
    site.restore(backup)
    outcome, done = site.reconcile(witness)
    assert (outcome, [one.step.need for one in done]) == (Outcome.IN_ORDER, [Need.REVOKE])
    assert site.now().lock_cause == LockCause.REVOKED
    assert site.reconcile(witness) == (Outcome.IN_ORDER, [])
    assert "once it is given back" in site.look(witness)[0].notes[0]
    restore(site.world.main, [site.environment], actor="customer")
    assert site.reconcile(witness) == (Outcome.IN_ORDER, [])


@ON_SQLITE
def test_an_uploaded_key_that_the_backup_brought_back_is_destroyed(site: Site, tmp_path: Path) -> None:
    """The customer had it deleted: what seals it is overwritten again, once."""
    key = uuid4()
    with site.world.main.database.write() as connection:
        uploaded.insert_key(connection, key_id=key, environment=site.environment.id, sealed=b"sealed", generation=None)
    backup = site.backup()
    uploads.delete(site.world.main, MainKeyUri("uploaded", str(key)), "customer")
    witness = site.export(tmp_path / "deleted.jsonl")
    site.restore(backup)
    assert site.world.rows(models.uploaded_keys)[0]["sealed"] == b"sealed"
    outcome, done = site.reconcile(witness)
    assert (outcome, [one.step.need for one in done]) == (Outcome.IN_ORDER, [Need.DESTROY])
    assert site.world.rows(models.uploaded_keys)[0]["sealed"] is None
    assert site.reconcile(witness) == (Outcome.IN_ORDER, [])


@ON_SQLITE
def test_a_return_that_the_backup_forgot_is_told(site: Site, tmp_path: Path) -> None:
    """It is given back by an operator's word, not by a file: what a witness says never opens anything."""
    revoke(site.world.main, [site.environment], actor="customer")
    backup = site.backup()
    restore(site.world.main, [site.environment], actor="customer")
    witness = site.export(tmp_path / "returned.jsonl")
    site.restore(backup)
    outcome, done = site.reconcile(witness)
    assert (outcome, [one.step.need for one in done]) == (Outcome.UNDER_WAY, [Need.WAIT])
    assert "main-key restore" in done[0].text
    assert site.now().lock_cause == LockCause.REVOKED


@ON_SQLITE
def test_a_kms_that_does_not_answer_decides_nothing(site: Site, tmp_path: Path) -> None:
    """Neither named as lost nor started: look again."""
    witness = _replaced_after_backup(site, tmp_path)
    site.world.kms.unreachable("a")
    assert site.reconcile(witness) == (Outcome.UNKNOWN, [])


@ON_SQLITE
def test_a_replacement_since_the_restore_is_not_undone(site: Site, tmp_path: Path) -> None:
    """The customer has named another key meanwhile: an older word of a witness does not bring b back."""
    witness = _replaced_after_backup(site, tmp_path)
    site.world.repack(site.environment, "memory:d")
    assert site.reconcile(witness) == (Outcome.IN_ORDER, [])
    assert site.main_key() == "memory:d"


@ON_SQLITE
def test_a_certificate_or_an_event_is_witness_enough(site: Site, tmp_path: Path) -> None:
    """What was given to the customer, or published, says which key is in force."""
    backup = site.backup()
    certificate = site.world.repack(site.environment).certificate
    events = [row["body"] for row in site.world.rows(models.outbox)]
    (tmp_path / "certificate.json").write_text(json.dumps(certificate, indent=2))
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(events))
    site.restore(backup)
    for name in ("certificate.json", "events.jsonl"):
        found, _ = site.look(tmp_path / name)
        assert [(step.need, step.main_key) for step in found.steps] == [(Need.REPACK, "memory:b")]


@ON_SQLITE
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda lines: [lines[0].replace('"actor": "test"', '"actor": "rest"'), *lines[1:]], "record 1 was changed"),
        (lambda lines: ["{", *lines], "Line 1: it is not JSON"),
        (lambda lines: [*lines, '{"a": 1}'], "no record, certificate or event"),
        (lambda lines: [*lines, "[]"], "no record, certificate or event"),
    ],
)
def test_a_witness_that_was_tampered_with_is_refused(
    site: Site, tmp_path: Path, spoil: Callable[[list[str]], list[str]], why: str
) -> None:
    """A record proves itself by its hash; the line is named, and nothing is done."""
    witness = site.export(tmp_path / "audit.jsonl")
    witness.write_text("\n".join(spoil(witness.read_text().splitlines())))
    with pytest.raises(JournalBroken, match=why):
        site.call(witness)


def _walk_into(site: Site, repack: int, stage: Stage) -> None:
    """Walk until a stage has begun and one batch of it is committed; the worker leaves as a killed one would."""
    actor = Actor(site.world, lambda services: walk_slice(services, repack))
    while not any(row["stage"] == stage and row["batches"] for row in site.world.rows(models.shards)):
        assert not actor.done
        actor.step()
    actor.kill()
    with site.world.main.database.write() as connection:
        connection.execute(models.shards.update().values(lease_until=0))
