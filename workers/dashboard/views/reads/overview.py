"""The overview; the queues with the dead letters; workers and schedules."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from pydantic import Field

from workers.dashboard.live.overview_cache import OverviewSnapshot
from workers.dashboard.redaction import redact
from workers.dashboard.routes import Ask, Document, NoQuery
from workers.errors import NotFound
from workers.monitoring.status import NOTICE_SECONDS
from workers.store.inbox import count_unhandled, find_rejected, list_rejected

LETTERS = 50

REVOCATION_SECONDS, ROTATION_SECONDS = 1.0, 10.0
"""What is promised: from a revocation to the last process that refuses; from a rotation's notice to its roots moved."""


class Letters(NoQuery):
    """Which dead letters."""

    before: int | None = Field(default=None, ge=1, le=2**62, description="Only those older than this one.")
    all: bool = Field(default=False, description="Also those that were replayed or discarded.")


def overview(ask: Ask) -> Document:
    """Read everything at a glance."""
    seen = ask.site.overview_cache.latest()
    found = seen.overview
    return {
        "verdict": asdict(seen.status),
        "now": found.now,
        "environments": found.environments,
        "remaining": found.remaining,
        "runs": [_jsonable(asdict(run)) for run in found.runs],
        "repacks": dict(found.repacks),
        "locks": [_jsonable(asdict(lock)) for lock in found.locks],
        "locked": dict(found.locked),
        "quarantine": dict(found.quarantine),
        "promises": promises(seen, ask.site.services.settings.poll_interval),
        "rate": found.rate,
        "rates": [[round(at, 1), round(rate, 1)] for at, rate in found.rates],
        "rejected": seen.rejected,
        **machinery(seen),
    }


def machinery(seen: OverviewSnapshot) -> Document:
    """Broker, queues, workers, the clock's jobs, the audit's last check."""
    found = seen.overview
    return {
        "broker": {"answers": found.broker.answers, "why": found.broker.why},
        "queues": [asdict(queue) for queue in found.queues],
        "workers": [asdict(worker.seen) | {"is_silent": worker.is_silent} for worker in found.workers],
        "schedules": [asdict(schedule) for schedule in found.schedules],
        "audit": asdict(found.audit) if found.audit is not None else None,
        "outbox": asdict(found.outbox),
    }


def promises(seen: OverviewSnapshot, poll_interval: float) -> list[Document]:
    """List times that are promised, beside those that were measured; None: there was nothing to measure."""
    took = [closed - begun for begun, closed in seen.rotations]
    notice = seen.overview.lock_notice_seconds
    return [
        {
            "name": "revocation",
            "what": "From a lock to the last process that refuses, the slowest of the last hour.",
            "promised_seconds": REVOCATION_SECONDS,
            "at_worst_seconds": NOTICE_SECONDS,
            "measured_seconds": notice,
            "kept": None if notice is None else notice <= NOTICE_SECONDS,
        },
        {
            "name": "rotation",
            "what": f"From a rotation that was seen to its roots moved, the median of the last {len(took) or 'few'}; "
            f"it is seen within {poll_interval:g} s.",
            "promised_seconds": ROTATION_SECONDS,
            "at_worst_seconds": ROTATION_SECONDS,
            "measured_seconds": median(took) if took else None,
            "kept": None if not took else median(took) <= ROTATION_SECONDS,
        },
    ]


def queues(ask: Ask) -> Document:
    """Read the queues as the broker reports them, and the dead letters."""
    seen, query = ask.site.overview_cache.latest(), ask.form
    with ask.site.services.database.read() as connection:
        found = list_rejected(connection, limit=LETTERS, before=query.before, waiting=not query.all)
        unhandled, oldest = count_unhandled(connection)
    return machinery(seen) | {
        "now": seen.overview.now,
        "rejected": [_letter(row) for row in found],
        "rejected_waiting": seen.rejected,
        "next": found[-1]["id"] if len(found) == LETTERS else None,
        "unhandled": {"events": unhandled, "oldest_at": oldest},
        "all": query.all,
    }


def rejected(ask: Ask) -> Document:
    """Read one dead letter, with what was sent."""
    row = ask.path["letter"]
    if not row.isdigit() or len(row) > 18:
        raise NotFound("rejected event", row, "Its number is in the list of queues.")
    with ask.site.services.database.read() as connection:
        found = find_rejected(connection, int(row))
    return {"letter": _letter(found) | {"body": redact(found["body"].decode(errors="replace"))}}


def workers(ask: Ask) -> Document:
    """Read the processes and the clock's jobs."""
    seen = ask.site.overview_cache.latest()
    return machinery(seen) | {"now": seen.overview.now}


def _letter(row: dict[str, Any]) -> Document:
    return {
        **{name: row[name] for name in ("id", "source", "event_id", "type", "code", "why", "remedy", "rejected_at")},
        **{name: row[name] for name in ("outcome", "settled_at", "settled_by")},
        "bytes": len(row["body"]),
        "signed": bool(row["headers"]),
    }


def _jsonable(values: Document) -> Document:
    return {name: str(value) if name.endswith("_id") else value for name, value in values.items()}
