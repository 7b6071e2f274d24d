"""The audit chain: append-only records, each hashed over the one before it (R11).

hash = SHA-256 of the canonical JSON of {seq, at, action, actor, environment, repack, facts, previous}. A record that is
changed, taken out or put in breaks the chain from there on; `verify_chain` says where.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schemas.envelope import same_bytes
from workers.store.models import audit, audit_head
from workers.store.types import read_clock

GENESIS = bytes(32)
"""What the first record is hashed over."""

_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One thing that happened. `facts` is canonical JSON of ids and counts."""

    seq: int
    at: float
    action: str
    actor: str
    environment_id: UUID | None
    repack_id: UUID | None
    facts: str
    previous: bytes
    hash: bytes

    def expected_hash(self) -> bytes:
        """Return the hash that the record's content asks for."""
        content = {
            "seq": self.seq,
            "at": repr(self.at),
            "action": self.action,
            "actor": self.actor,
            "environment": str(self.environment_id),
            "repack": str(self.repack_id),
            "facts": self.facts,
            "previous": self.previous.hex(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainVerdict:
    """Whether the chain is whole; if not, the first record that is wrong and why."""

    records: int
    whole: bool
    broken_at: int | None = None
    why: str = ""
    head: str = ""


def append_record(
    connection: Connection,
    *,
    action: str,
    actor: str,
    environment_id: UUID | None = None,
    repack_id: UUID | None = None,
    facts: Mapping[str, Any],
) -> AuditRecord:
    """Append one record. Take every other lock first: the chain's head is the last one, so writers cannot deadlock."""
    last, previous = lock_head(connection)
    seq = last + 1
    record = AuditRecord(
        seq=seq,
        at=read_clock(connection),
        action=action,
        actor=actor,
        environment_id=environment_id,
        repack_id=repack_id,
        facts=json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str),
        previous=previous,
        hash=b"",
    )
    values = {name: getattr(record, name) for name in AuditRecord.__slots__} | {"hash": record.expected_hash()}
    connection.execute(insert(audit).values(values))
    connection.execute(update(audit_head).values(seq=seq, hash=values["hash"]))
    return AuditRecord(**values)


def lock_head(connection: Connection) -> tuple[int, bytes]:
    """Return the audit chain's last record (seq, hash), kept as the last until the transaction ends; (0, GENESIS)
    without any.
    """
    query = select(audit_head.c.seq, audit_head.c.hash).with_for_update()
    head = connection.execute(query).first()
    if head is None:  # a row that is not there can be locked by no transaction: the first two would both write record 1
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(audit_head).values(id=1, seq=0, hash=GENESIS).on_conflict_do_nothing())
        head = connection.execute(query).one()
    return head.seq, head.hash


def read_head(connection: Connection) -> tuple[int, bytes]:
    """Return the audit chain's last record (seq, hash) as it is now; (0, GENESIS) without any."""
    head = connection.execute(select(audit_head.c.seq, audit_head.c.hash)).first()
    return (head.seq, head.hash) if head else (0, GENESIS)


def records(
    connection: Connection, *, after: int = 0, repack_id: UUID | None = None, environment_id: UUID | None = None
) -> Iterator[AuditRecord]:
    """Yield the records after `after` in order, a page at a time."""
    while True:
        query = select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(_PAGE)
        if repack_id is not None:
            query = query.where(audit.c.repack_id == repack_id)
        if environment_id is not None:
            query = query.where(audit.c.environment_id == environment_id)
        page = [AuditRecord(**row) for row in connection.execute(query).mappings()]
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].seq


def verify_chain(connection: Connection) -> ChainVerdict:
    """Follow the chain from its beginning to its head, one page in memory."""
    previous, count = GENESIS, 0
    for record in records(connection):
        count += 1
        if record.seq != count:
            return ChainVerdict(records=count, whole=False, broken_at=count, why="a record is missing")
        if not same_bytes(record.previous, previous):
            return ChainVerdict(records=count, whole=False, broken_at=count, why="it does not follow the one before it")
        if not same_bytes(record.hash, record.expected_hash()):
            return ChainVerdict(records=count, whole=False, broken_at=count, why="its content was changed")
        previous = record.hash
    head = connection.execute(select(audit_head.c.seq, audit_head.c.hash)).first()
    if (head.seq, head.hash) != (count, previous) if head else count:
        return ChainVerdict(records=count, whole=False, broken_at=count + 1, why="records were cut off at the end")
    return ChainVerdict(records=count, whole=True, head=previous.hex())
