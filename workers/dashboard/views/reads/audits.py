"""The audit log: its records, searched, and the verdict on its chain."""

from __future__ import annotations

import json
from dataclasses import asdict
from uuid import UUID

from pydantic import Field

from workers.dashboard.routes import Ask, Document, NoQuery
from workers.maintenance.audit_check import verify_audit
from workers.store.audit import AuditRecord
from workers.store.audit_checks import last_check
from workers.store.environments import find_environment
from workers.store.queries.listings import names_of_ids, search_audit
from workers.store.types import read_clock

PAGE = 50


class Search(NoQuery):
    """Which records."""

    action: str = Field(default="", max_length=100, description="Part of what was done, such as repack.paused.")
    actor: str = Field(default="", max_length=100, description="Part of who did it.")
    text: str = Field(default="", max_length=200, description="Part of its facts, such as a reason or a main key.")
    environment: str = Field(default="", max_length=200, description="Of this one: its id, or workspace/name.")
    before: int | None = Field(default=None, ge=1, le=2**62, description="Only records before this one.")


def audit(ask: Ask) -> Document:
    """Audit records, the newest first; and whether the chain was whole when it was last followed."""
    query = ask.form
    with ask.site.services.database.read() as connection:
        environment_id: UUID | None = None
        if query.environment:
            environment_id = find_environment(connection, query.environment).environment_id
        found, following = search_audit(
            connection,
            before=query.before,
            action=query.action,
            actor=query.actor,
            text=query.text,
            environment_id=environment_id,
            limit=PAGE,
        )
        names = names_of_ids(connection, {one.environment_id for one in found if one.environment_id is not None})
        check, now = last_check(connection), read_clock(connection)
    return {
        "now": now,
        "records": [
            record_json(one) | {"environment": names.get(one.environment_id) if one.environment_id else None}
            for one in found
        ],
        "next": following,
        "check": asdict(check) if check is not None else None,
        **{name: getattr(query, name) for name in ("action", "actor", "text", "environment", "before")},
    }


def record_json(record: AuditRecord) -> Document:
    """Return one record as JSON; a certificate is named, not repeated."""
    facts = json.loads(record.facts)
    if "certificate" in facts:
        facts["certificate"] = "given"
    return {
        "seq": record.seq,
        "at": record.at,
        "action": record.action,
        "actor": record.actor,
        "environment_id": str(record.environment_id) if record.environment_id else None,
        "repack_id": str(record.repack_id) if record.repack_id else None,
        "facts": facts,
        "hash": record.hash.hex(),
    }


def check_chain(ask: Ask) -> Document:
    """Follow the chain from its beginning to its head, now, and write down what was found."""
    return asdict(verify_audit(ask.site.services))
