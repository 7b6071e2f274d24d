"""Follows the audit chain on a schedule, and records what was found."""

from __future__ import annotations

from workers.runtime.logs import log
from workers.services import Services
from workers.store.audit import ChainVerdict, verify_chain
from workers.store.audit_checks import record_check


def verify_audit(services: Services) -> ChainVerdict:
    """Follow the audit chain, and write down what was found: later readers need not follow it again."""
    with services.database.snapshot() as connection:
        verdict = verify_chain(connection)
    with services.database.write() as connection:
        record_check(connection, verdict)
    if not verdict.whole:
        log.error("audit.broken", record=verdict.broken_at, why=verdict.why)
    return verdict
