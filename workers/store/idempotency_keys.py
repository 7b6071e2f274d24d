"""Answers that were given to requests with an Idempotency-Key: the same request again gets the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from workers.store.models import answers
from workers.store.types import db_now, read_clock

KEPT_SECONDS = 86_400.0
"""How long an answer is kept: a client that repeats a request does so within minutes."""

DOING_SECONDS = 60.0
"""After which a request that has no answer yet died with its process, and may be done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """What was answered. `status` None: it is being done right now."""

    digest: bytes
    status: int | None
    document: dict[str, Any] | None


def claim_answer(connection: Connection, scope: str, key: str, digest: bytes) -> StoredAnswer | None:
    """Return the answer to an earlier request under this key; None: there is none, this request is to be done now."""
    connection.execute(delete(answers).where(answers.c.at < db_now() - KEPT_SECONDS))
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {"scope": scope, "key": key, "digest": digest, "at": db_now()}
    statement = dialect.insert(answers).values(values).on_conflict_do_nothing().returning(answers.c.key)
    if connection.execute(statement).first() is not None:
        return None
    own = (answers.c.scope == scope) & (answers.c.key == key)
    row = connection.execute(select(answers).where(own).with_for_update()).one()
    if row.status is None and row.digest == digest and row.at < read_clock(connection) - DOING_SECONDS:
        connection.execute(update(answers).where(own).values(at=db_now()))
        return None
    return StoredAnswer(digest=row.digest, status=row.status, document=row.document)


def keep_answer(connection: Connection, scope: str, key: str, *, status: int, document: dict[str, Any]) -> None:
    """Keep what was answered."""
    own = (answers.c.scope == scope) & (answers.c.key == key)
    connection.execute(update(answers).where(own).values(status=status, document=document))


def drop_answer(connection: Connection, scope: str, key: str) -> None:
    """Drop an answer that failed in a way that another try may mend: the next try is a first one."""
    connection.execute(delete(answers).where((answers.c.scope == scope) & (answers.c.key == key)))
