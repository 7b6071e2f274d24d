"""What came of a soak: which failures were announced, what was done twice, and whether anything was lost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from schemas.errors import KeyrepackError
from tests.soak.customers import Customers
from tests.soak.havoc import Diary
from tests.soak.installation import Installation
from workers.integrity.invariants import LOCKED, UNLOCKED, check_invariants
from workers.keyring.keyring import Keyring
from workers.runtime.single_flight import FAILURE_SECONDS
from workers.store.audit import records
from workers.store.models import repacks, shards

GRACE = {"database": 4.0, "kms": FAILURE_SECONDS + 6.0}
"""Seconds after a trouble in which its failures are still told: connections come back, refusals are remembered."""

LOCK_GRACE = 2.5
"""Seconds within which every process hears of a lock's end."""

NAMED = 20


@dataclass(slots=True, kw_only=True)
class Summary:
    """Everything a soak is judged by."""

    seed: int
    minutes: float
    kills: dict[str, int]
    faults: dict[str, int]
    messages_doubled: int
    asked: dict[str, int]
    repacks: dict[str, int] = field(default_factory=dict)
    keys_rewrapped: int = 0
    leases_run_out: int = 0  # each is one batch at most that was done twice
    reads: int = 0
    keys_created: int = 0
    announced_failures: dict[str, int] = field(default_factory=dict)
    unannounced_failures: list[dict[str, Any]] = field(default_factory=list)
    longest_stall_seconds: float = 0.0
    in_longest_stall: list[str] = field(default_factory=list)
    left_open: list[str] = field(default_factory=list)
    keys_lost: int = 0
    broken_invariants: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, and nothing failed that nobody was told of."""
        bad = (self.unannounced_failures, self.left_open, self.broken_invariants, self.errors)
        return not any(bad) and not self.keys_lost and bool(self.reads and self.repacks.get("finished"))

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"ok": self.is_good, **asdict(self)})


def judge(
    summary: Summary, installation: Installation, customers: Customers, diary: Diary, results: list[Path]
) -> None:
    """Fill a summary in, from the record, the results of readers and writers, and the diary."""
    _count(summary, installation)
    created = _sort_failures(summary, installation, customers, diary, results)
    known = [pair for tenant in customers.tenants for pair in tenant.known]
    summary.keys_lost = _count_lost(summary, installation, [*known, *created])
    environments = [tenant.environment for tenant in customers.tenants]
    verdicts = check_invariants(installation.services, environments)
    summary.broken_invariants = {one.invariant: one.breaches for one in verdicts if not one.held}


def _count(summary: Summary, installation: Installation) -> None:
    with installation.services.database.read() as connection:
        states = connection.execute(select(repacks.c.state, func.count()).group_by(repacks.c.state)).all()
        sums = select(func.sum(shards.c.rewrapped), func.sum(shards.c.takeovers))
        rewrapped, takeovers = connection.execute(sums).one()
    summary.repacks = dict(states)
    summary.keys_rewrapped, summary.leases_run_out = int(rewrapped or 0), int(takeovers or 0)


def _sort_failures(
    summary: Summary, installation: Installation, customers: Customers, diary: Diary, results: list[Path]
) -> list[tuple[str, str]]:
    """Announced or not; returns the keys that were created, and what each opens to."""
    locks, announced = _locks(installation), Counter[str]()
    keys = {str(one.environment.environment_id): one.keys for one in customers.tenants}
    created: list[tuple[str, str]] = []
    for path in results:
        for line in path.read_text().splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue  # the last one, of a process that was stopped as it wrote
            if "key" in one:
                created.append((one["key"], one["digest"]))
            elif "done" in one:
                summary.reads += one["done"] if "reader" in path.name else 0
            elif _is_announced(one, diary, locks, keys[one["environment"]]):
                announced[one["code"]] += 1
            else:
                summary.unannounced_failures.append(one)
    summary.announced_failures, summary.keys_created = dict(announced), len(created)
    del summary.unannounced_failures[NAMED:]
    return created


def _is_announced(one: dict[str, Any], diary: Diary, locks: dict[str, list[list[float]]], keys: list[str]) -> bool:
    at, code = one["at"], one["code"]
    if code == "environment_locked":
        return any(since - 1 <= at <= until + LOCK_GRACE for since, until in locks.get(one["environment"], []))
    kind = "database" if code == "database_away" else "kms" if code.startswith("main_key_") else None
    return kind is not None and any(
        trouble.kind == kind
        and (trouble.key is None or trouble.key in keys)
        and trouble.since - 0.5 <= at <= trouble.until + GRACE[kind]
        for trouble in diary.troubles
    )


def _locks(installation: Installation) -> dict[str, list[list[float]]]:
    """The times in which each environment was locked, by the audit."""
    found: dict[str, list[list[float]]] = {}
    with installation.services.database.read() as connection:
        for record in records(connection):
            mine = found.setdefault(str(record.environment_id), [])
            if record.action in LOCKED:
                mine.append([record.at, float("inf")])
            elif record.action == UNLOCKED:
                for lock in mine:
                    lock[1] = min(lock[1], record.at)
    return found


def _count_lost(summary: Summary, installation: Installation, known: list[tuple[str, str]]) -> int:
    """Keys that do not open, or not to what they did: every one that was ever said to be there."""
    installation.services.cache.clear()
    keyring, lost = Keyring(installation.services), 0
    for key, digest in known:
        try:
            lost += hashlib.sha256(keyring.unwrap(UUID(key))).hexdigest() != digest
        except KeyrepackError as error:
            lost += 1
            if len(summary.errors) < NAMED:
                summary.errors.append(f"{key}: {error}")
    return lost
