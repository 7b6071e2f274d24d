"""A journal outside the database of what happened: an exported audit, certificates, events that were published.

A restored database knows only what was true when its backup was taken, and its audit is as old as the rest. So what
came after is read from files that were kept elsewhere, one JSON document or one a line, in any mixture:

- records as `keyrepack audit export` writes them: each is checked against its own hash, and against the one before it;
- certificates as `keyrepack certificate --json` prints them;
- this system's events as it published them.

A journal is never obeyed blindly: it names a main key, which is probed like any other (R7).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from schemas.envelope import same_bytes
from schemas.states import Mode
from workers.errors import JournalBroken
from workers.store.audit import AuditRecord

MOVE_CLOSED, STARTED, ABORTED = "repack.move_closed", "repack.started", "repack.aborted"
LOCKED, UNLOCKED = {"environment.locked", "environment.lost"}, "environment.unlocked"
DELETED, RECONCILED = "main_key.deleted", "environment.reconciled"
HEARD = {MOVE_CLOSED, STARTED, ABORTED, *LOCKED, UNLOCKED, DELETED, RECONCILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One thing that a journal says happened."""

    at: float
    action: str
    environment_id: UUID
    repack_id: UUID | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A closed move: from then on `main_key` was in force."""

    source: str
    main_key: str
    generation: str | None
    since: float
    repack_id: UUID
    mode: Mode


@dataclass(slots=True, kw_only=True)
class EnvironmentHistory:
    """What is said of one environment: moves that closed, oldest first; how it was left."""

    closed: list[Move] = field(default_factory=list)
    made_up_for: dict[UUID, set[UUID]] = field(default_factory=dict)  # by the repack that does, after a restore
    lock: str | None = None
    deleted: set[str] = field(default_factory=set)  # uploaded main keys, by the customer's word
    under_way: str | None = None  # the main key that a repack was moving to when the journal last spoke of it

    def missed_by(self, known: Set[UUID]) -> list[Move]:
        """List the closed moves that a database which knows these repacks has lost, oldest first.

        Not those that a repack makes up for, and none that was before a later replacement that is known.
        """
        gone = set().union(*self.made_up_for.values()) | known
        replaced = [move.since for move in self.closed if move.repack_id in known and move.source != move.main_key]
        last = max(replaced, default=0.0)
        return [move for move in self.closed if move.repack_id not in gone and move.since > last]


class Journal:
    """Statements of every source, by environment, in the order in which things happened."""

    def __init__(self, statements: Iterable[Statement], records: Mapping[int, bytes]) -> None:
        """Hold statements; `records`: the hash of each audit record that is known, by its number."""
        self.records = records
        self._by_environment: dict[UUID, EnvironmentHistory] = {}
        for statement in sorted(statements, key=lambda statement: statement.at):
            _take_in(self._by_environment.setdefault(statement.environment_id, EnvironmentHistory()), statement)

    @property
    def head(self) -> tuple[int, bytes] | None:
        """Return the newest audit record that is known."""
        return max(self.records.items()) if self.records else None

    def of(self, environment_id: UUID) -> EnvironmentHistory:
        """Return what is recorded of an environment."""
        return self._by_environment.get(environment_id, EnvironmentHistory())


def read_journal(own: Iterable[AuditRecord], files: Iterable[Path]) -> Journal:
    """Read the database's own audit, and whatever files say beyond it. Raises JournalBroken, OSError."""
    statements = [_of_record(record) for record in own if _is_heard(record)]
    records: dict[int, bytes] = {}
    for file in files:
        for line, document in _documents(file):
            try:
                statements += _read(document, records)
            except (KeyError, TypeError, ValueError) as error:
                why = str(error) if isinstance(error, _NotSo) else "it is no record, certificate or event of ours"
                raise JournalBroken(file=str(file), line=line, why=why) from error
    return Journal(statements, records)


def lineage(own: Iterable[AuditRecord], witness: Journal) -> str:
    """Say in a sentence how a database's own audit stands to the records of a journal."""
    if witness.head is None:
        return "No record of an exported audit was given: what the backup lost is not known from the chain."
    last = 0
    for record in own:
        last, told = record.seq, witness.records.get(record.seq)
        if told is not None and not same_bytes(told, record.hash):
            return f"The audit has parted from the witness at record {last}: this database has gone its own way."
    if (lost := witness.head[0] - last) > 0:
        return f"The audit ends at record {last}; the witness knows {lost} more: they are lost to this database."
    return "The audit holds every record of the witness."


def export_record(record: AuditRecord) -> dict[str, Any]:
    """Return a record as JSON values, whole: its hash can be computed anew from them."""
    return {
        "seq": record.seq,
        "at": record.at,
        "action": record.action,
        "actor": record.actor,
        "environment": None if record.environment_id is None else str(record.environment_id),
        "repack": None if record.repack_id is None else str(record.repack_id),
        "facts": record.facts,
        "previous": record.previous.hex(),
        "hash": record.hash.hex(),
    }


class _NotSo(ValueError):
    """A record contradicts itself or the one before it."""


def _documents(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield each document with the line it is on; a file that is one document may have it on many lines."""
    text = file.read_text()
    try:
        yield 1, json.loads(text)
        return
    except ValueError:
        pass
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as error:
            raise JournalBroken(file=str(file), line=number, why="it is not JSON") from error
        yield number, document


def _read(document: Any, records: dict[int, bytes]) -> list[Statement]:
    if "hash" in document and "seq" in document:
        record = _record(document)
        previous = records.get(record.seq - 1)
        if previous is not None and not same_bytes(previous, record.previous):
            raise _NotSo(f"record {record.seq} does not follow the one before it")
        if not same_bytes(records.setdefault(record.seq, record.hash), record.hash):
            raise _NotSo(f"there are two records {record.seq}")
        return [_of_record(record)] if _is_heard(record) else []
    if "specversion" in document:
        return [_of_event(document)]
    return [_of_certificate(document)]


def _record(document: Mapping[str, Any]) -> AuditRecord:
    record = AuditRecord(
        seq=int(document["seq"]),
        at=float(document["at"]),
        action=str(document["action"]),
        actor=str(document["actor"]),
        environment_id=None if document["environment"] is None else UUID(document["environment"]),
        repack_id=None if document["repack"] is None else UUID(document["repack"]),
        facts=str(document["facts"]),
        previous=bytes.fromhex(document["previous"]),
        hash=bytes.fromhex(document["hash"]),
    )
    if not same_bytes(record.expected_hash(), record.hash):
        raise _NotSo(f"record {record.seq} was changed")
    return record


def _is_heard(record: AuditRecord) -> bool:
    """Return True if a record says something that this module asks about: the rest of a long audit is not kept in
    memory.
    """
    return record.environment_id is not None and record.action in HEARD


def _of_record(record: AuditRecord) -> Statement:
    assert record.environment_id is not None
    return Statement(
        at=record.at,
        action=record.action,
        environment_id=record.environment_id,
        repack_id=record.repack_id,
        facts=json.loads(record.facts),
    )


def _of_event(document: Mapping[str, Any]) -> Statement:
    data = document["data"]
    return Statement(
        at=datetime.fromisoformat(document["time"]).timestamp(),
        action=str(document["type"]),
        environment_id=UUID(data["environment"]),
        repack_id=UUID(data["repack"]) if "repack" in data else None,
        facts=data,
    )


def _of_certificate(document: Mapping[str, Any]) -> Statement:
    return Statement(
        at=float(document["closed_at"]),
        action=MOVE_CLOSED,
        environment_id=UUID(document["environment"]),
        repack_id=UUID(document["repack"]),
        facts={"certificate": document},
    )


def _take_in(told: EnvironmentHistory, statement: Statement) -> None:
    """Apply a statement. One that this program does not know changes nothing: a newer program may have written it."""
    facts, action = statement.facts, statement.action
    if action == MOVE_CLOSED and statement.repack_id is not None:
        told.under_way = None
        if statement.repack_id not in {move.repack_id for move in told.closed}:
            told.closed.append(_closed(statement.repack_id, facts["certificate"]))
    elif action == STARTED:
        told.under_way = str(facts["target"])
    elif action == RECONCILED and statement.repack_id is not None:
        told.made_up_for[statement.repack_id] = {UUID(name) for name in facts["made_up_for"]}
    elif action == ABORTED and statement.repack_id is not None:
        told.under_way = None
        told.made_up_for.pop(statement.repack_id, None)
    elif action in LOCKED:
        told.lock = str(facts["cause"])
    elif action == UNLOCKED:
        told.lock = None
    elif action == DELETED:
        told.deleted.add(str(facts["main_key"]))


def _closed(repack_id: UUID, certificate: Mapping[str, Any]) -> Move:
    to = certificate["to"]
    return Move(
        source=str(certificate["from"]["main_key"]),
        main_key=str(to["main_key"]),
        generation=to["generation"],
        since=float(certificate["closed_at"]),
        repack_id=repack_id,
        mode=Mode(certificate["mode"]),
    )
