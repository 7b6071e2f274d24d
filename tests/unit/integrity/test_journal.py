"""What is believed of files that were kept elsewhere, and what follows from it for whoever lost a part of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from schemas.states import Mode
from tests.engine import World, usual_tree
from workers.errors import JournalBroken
from workers.integrity.journal import EnvironmentHistory, Journal, Statement, export_record, lineage, read_journal
from workers.locks.locking import revoke
from workers.repack.control import abort
from workers.store.audit import AuditRecord, records

ENVIRONMENT = uuid4()
FIRST, SECOND, THIRD, MENDED = (UUID(int=number) for number in range(1, 5))


def closed(at: float, repack: UUID, source: str, target: str) -> Statement:
    """A move that closed."""
    certificate = {
        "from": {"main_key": source},
        "to": {"main_key": target, "generation": "1"},
        "closed_at": at,
        "mode": "deep",
    }
    return said(at, "repack.move_closed", repack, certificate=certificate)


def said(at: float, action: str, repack: UUID | None = None, **facts: Any) -> Statement:
    """Anything else."""
    return Statement(at=at, action=action, environment_id=ENVIRONMENT, repack_id=repack, facts=facts)


def told(*statements: Statement) -> EnvironmentHistory:
    """What they come to, in whatever order they are read."""
    return Journal(reversed(statements), {}).of(ENVIRONMENT)


TWO_MOVES = (closed(1, FIRST, "memory:a", "memory:b"), closed(2, SECOND, "memory:b", "memory:c"))


@pytest.mark.parametrize(
    ("more", "known", "missed"),
    [
        ((), {FIRST, SECOND}, []),
        ((), {FIRST}, [SECOND]),
        ((), set(), [FIRST, SECOND]),
        ((closed(3, THIRD, "memory:a", "memory:d"),), {THIRD}, []),  # replaced since: an older word does not count
        ((closed(3, THIRD, "memory:a", "memory:a"),), {THIRD}, [FIRST, SECOND]),  # rotated since: it does
        ((said(3, "environment.reconciled", MENDED, made_up_for=[str(FIRST), str(SECOND)]),), set(), []),
        (
            (
                said(3, "environment.reconciled", MENDED, made_up_for=[str(FIRST), str(SECOND)]),
                said(4, "repack.aborted", MENDED),
            ),
            set(),
            [FIRST, SECOND],
        ),
    ],
)
def test_what_a_database_has_missed(more: tuple[Statement, ...], known: set[UUID], missed: list[UUID]) -> None:
    """The moves that it does not know, unless something after them makes up for them or outranks them."""
    found = told(*TWO_MOVES, *more).missed_by(known)
    assert [move.repack_id for move in found] == missed
    assert all(move.mode == Mode.DEEP for move in found)


def test_a_move_told_twice_is_one() -> None:
    """By its event and by its certificate."""
    assert len(told(TWO_MOVES[0], TWO_MOVES[0]).closed) == 1


def test_how_an_environment_was_left() -> None:
    """The last word on its lock counts; a repack is under way until it closes or is aborted."""
    locked, unlocked = said(1, "environment.locked", cause="revoked"), said(2, "environment.unlocked")
    assert (told(locked).lock, told(locked, unlocked).lock) == ("revoked", None)
    started = said(3, "repack.started", FIRST, target="memory:b")
    assert told(started).under_way == "memory:b"
    assert told(started, closed(4, FIRST, "memory:a", "memory:b")).under_way is None
    assert told(started, said(4, "repack.aborted", FIRST)).under_way is None


def test_what_a_newer_release_says_changes_nothing() -> None:
    """An action that this one does not know is passed over."""
    assert told(said(1, "environment.polished", shine=3)) == EnvironmentHistory()


def _own(world: World) -> list[AuditRecord]:
    with world.main.database.read() as connection:
        return list(records(connection))


def _written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_an_exported_audit_says_what_the_database_said(world: World, tmp_path: Path) -> None:
    """Read back from its file, a lock and an abort among it."""
    environment = world.environment()
    usual_tree(world, environment)
    world.repack(environment)
    abort(world.main, world.start(environment, "memory:c"), actor="test")
    revoke(world.main, [environment], actor="customer")
    own = _own(world)
    file = _written(tmp_path / "audit.jsonl", [json.dumps(export_record(record)) for record in own])
    read, known = read_journal([], [file]), read_journal(own, [])
    assert read.of(environment.environment_id) == known.of(environment.environment_id)
    assert read.head == (len(own), own[-1].hash)
    assert lineage(own, read) == "The audit holds every record of the witness."
    assert "ends at record 2; the witness knows" in lineage(own[:2], read)
    assert "is not known from the chain" in lineage(own, known)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda record: record | {"actor": "nobody"}, "was changed"),
        (lambda record: record | {"previous": "11" * 32}, "was changed"),
        (lambda record: record | {"hash": "00" * 32}, "was changed"),
        (lambda record: record | {"at": "noon"}, "no record, certificate or event"),
        (lambda record: {"seq": 1, "hash": "aa"}, "no record, certificate or event"),
    ],
)
def test_a_record_proves_itself(
    world: World, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    """Whatever is changed in it, its hash is another."""
    world.environment()
    file = _written(tmp_path / "audit.jsonl", [json.dumps(change(export_record(_own(world)[0])))])
    with pytest.raises(JournalBroken, match=why):
        read_journal([], [file])


def test_a_record_of_another_line_does_not_follow(world: World, tmp_path: Path) -> None:
    """Two true records of two databases are no history; and one database may have parted from the witness."""
    first = world.environment("acme/one")
    own = _own(world)
    world.environment("acme/two")
    kept = [json.dumps(export_record(record)) for record in _own(world)]
    other = AuditRecord(
        seq=2, at=1.0, action="x", actor="y", environment_id=first.environment_id, repack_id=None, facts="{}",
        previous=bytes(32), hash=b"",
    )  # fmt: skip
    forged = replace(other, hash=other.expected_hash())
    file = _written(tmp_path / "audit.jsonl", [kept[0], json.dumps(export_record(forged))])
    with pytest.raises(JournalBroken, match="does not follow"):
        read_journal([], [file])
    witness = read_journal(own, [_written(tmp_path / "kept.jsonl", kept)])
    assert "has parted from the witness at record 2" in lineage([*own, forged], witness)
