"""Invariants: what must hold of any database that keyrepack worked on, each with how it is checked.

Reads the record and the audit, changes nothing, and may run beside workers: each check is one snapshot. What it takes
of memory does not grow with the number of keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from schemas.events import OUTBOUND, read_event
from schemas.keys import TopState
from schemas.states import Mode, RepackState
from workers.integrity.verify import verify_environment
from workers.services import Services
from workers.store.audit import AuditRecord, records, verify_chain
from workers.store.database import Connection
from workers.store.environments import Environment, all_tops, get_environment
from workers.store.queries import invariants
from workers.store.queries.invariants import NAMED
from workers.store.shards import totals

LOCKED, UNLOCKED = ("environment.locked", "environment.lost"), "environment.unlocked"

Breaches = Iterator[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantResult:
    """Whether an invariant held, and the first breaches of it."""

    invariant: str
    sentence: str
    held: bool
    breaches: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Invariant:
    """What must hold, of every environment or of the installation as a whole."""

    name: str
    sentence: str
    of_environment: Callable[[Services, Environment], Breaches] | None = None
    of_all: Callable[[Services], Breaches] | None = None

    def judge(self, services: Services, environments: Sequence[Environment]) -> InvariantResult:
        """Check all of it, or until enough is named."""
        found = list(islice(self._breaches(services, environments), NAMED))
        return InvariantResult(invariant=self.name, sentence=self.sentence, held=not found, breaches=found)

    def _breaches(self, services: Services, environments: Sequence[Environment]) -> Breaches:
        if self.of_all is not None:
            yield from self.of_all(services)
        if self.of_environment is not None:
            for environment in environments:
                for breach in self.of_environment(services, environment):
                    yield f"{environment}: {breach}"


def check_invariants(services: Services, environments: Sequence[Environment]) -> list[InvariantResult]:
    """Judge every invariant. Raises KmsRefused, KmsUnreachable where a main key that is needed does not answer."""
    return [invariant.judge(services, environments) for invariant in INVARIANTS]


# Keys -----------------------------------------------------------------------------------------------------------------


def _unreadable(services: Services, environment: Environment) -> Breaches:
    """R1, R6. A locked environment's keys stay shut (R8): nothing is known of them, and nothing is claimed."""
    with services.database.read() as connection:
        if get_environment(connection, environment.id).lock_cause is not None:
            return
    for key in verify_environment(services, environment).named:
        yield f"key {key['key']}: {key['reason']}"


def _repeated(services: Services, environment: Environment) -> Breaches:
    """R2: a wrapping key got one version a repack; no shard counted more keys than there are."""
    with services.database.snapshot() as connection:
        for row in invariants.minted_twice(connection, environment.id):
            yield f"wrapping key {row['key_id']} has more than one version of repack {row['repack']}"
        for row in invariants.moved_too_often(connection, environment.id):
            yield f"repack {row['repack_id']} moved {row['moved']} roots of {row['there']}"
        for row in invariants.newest_walks(connection, environment.id):
            there = invariants.count_behind(connection, environment.id, row)
            if row["seen"] > there:
                yield f"shard {row['id']} saw {row['seen']} keys where there are {there}"


def _went_back(services: Services, environment: Environment) -> Breaches:
    """R4, R1: cursors, versions, main keys and their generations go forward alone."""
    with services.database.snapshot() as connection:
        for row in invariants.cursors_back(connection, environment.id):
            yield f"shard {row['shard']}: its cursor went back"
        for row in invariants.cursors_astray(connection, environment.id):
            yield f"shard {row['shard']}: its cursor is not where its last checkpoint left it"
        for row in invariants.versions_back(connection, environment.id):
            yield f"wrapping key {row['key_id']}: version {row['version']} is active, and not its newest"
        yield from _tops_back(connection, environment)


def _tops_back(connection: Connection, environment: Environment) -> Breaches:
    tops = [top for top in all_tops(connection, environment.id) if top["state"] != TopState.WITHDRAWN]
    active = [top["version"] for top in tops if top["state"] == TopState.ACTIVE]
    if active != [tops[-1]["version"]]:
        yield f"top versions {active} are active, and {tops[-1]['version']} is the newest"
    left: dict[str, list[str | None]] = {}
    for top in tops:
        seen = left.setdefault(top["main_key"], [])
        if top["generation"] in seen[:-1] and seen[-1] != top["generation"]:
            yield f"top version {top['version']} is at generation {top['generation']}, which was left before"
        seen.append(top["generation"])
    closed = 0
    for record in _records_of(connection, environment, "repack.move_closed"):
        version = _facts(record)["certificate"]["to"]["top_version"]
        if version <= closed:
            yield f"audit record {record.seq} closes a move to top version {version}, after {closed}"
        closed = version
    if active and active[-1] < closed:
        yield f"top version {active[-1]} is active, though the move to {closed} has closed"


def _uneven(services: Services, environment: Environment) -> Breaches:
    """R9: seen = rewrapped + already current + quarantined, in shards, their checkpoints and what was recorded."""
    with services.database.snapshot() as connection:
        for row in invariants.uneven_shards(connection, environment.id):
            yield f"shard {row['shard']} saw {row['seen']}, accounts for {row['accounted']}, wrote {row['written']}"
        for row in invariants.newest_walks(connection, environment.id):
            if row["state"] == "done" and row["seen"] < row["expected"]:
                yield f"shard {row['id']} ended with {row['seen']} keys of the {row['expected']} it was planned for"
        yield from _recorded_otherwise(connection, environment)


def _recorded_otherwise(connection: Connection, environment: Environment) -> Breaches:
    """Compare what each repack was last recorded to have done and to be with its shards and its state."""
    rows = {str(row["repack_id"]): row for row in invariants.list_states(connection, environment.id)}
    states, finished = _recorded(connection, environment)
    for repack, row in rows.items():
        if states.get(repack) != row["state"]:
            yield f"repack {repack} is {row['state']}, and the audit says {states.get(repack, 'nothing')}"
    for repack, facts in finished.items():
        if repack not in rows:
            yield f"repack {repack} was told to have finished, and is not there"
            continue
        sums = totals(connection, rows[repack]["id"])
        for name in ("seen", "rewrapped", "already_current", "minted", "shredded"):
            if facts[name] != getattr(sums, name) and rows[repack]["state"] == facts["to"]:
                yield f"repack {repack} was told as {facts[name]} {name}, and its shards have {getattr(sums, name)}"


def _recorded(connection: Connection, environment: Environment) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Read off the audit, by repack: the state it was last recorded in, and the facts of its end."""
    states: dict[str, str] = {}
    finished: dict[str, dict[str, Any]] = {}
    for record in _records_of(connection, environment, "repack."):
        facts = _facts(record)
        if "to" in facts:
            states[str(record.repack_id)] = facts["to"]
        elif record.action == "repack.started":
            states[str(record.repack_id)] = RepackState.MOVING
        if "rewrapped" in facts:
            finished[str(record.repack_id)] = facts
    return states, finished


# Fences ---------------------------------------------------------------------------------------------------------------


def _rewrapped_under_lock(services: Services, environment: Environment) -> Breaches:
    """R8: from a revocation's commit to the unlock's no batch was committed."""
    with services.database.snapshot() as connection:
        for locked, unlocked in _locks(connection, environment):
            epochs = _facts(locked)["epoch"], _facts(unlocked)["epoch"] if unlocked else None
            times = locked.at, unlocked.at if unlocked else None
            for row in invariants.committed_between(connection, environment.id, epochs=epochs, times=times):
                yield f"shard {row['shard']} committed a batch after audit record {locked.seq} had locked it"


def _locks(connection: Connection, environment: Environment) -> Iterator[tuple[AuditRecord, AuditRecord | None]]:
    """Yield each lock with the record that took it back; a lock for another cause goes on."""
    since: AuditRecord | None = None
    for record in _records_of(connection, environment, "environment."):
        if record.action in LOCKED:
            since = since or record
        elif record.action == UNLOCKED and since is not None:
            yield since, record
            since = None
    if since is not None:
        yield since, None


def _stale_leases(services: Services, environment: Environment) -> Breaches:
    """R4: the worker that committed held the lease."""
    with services.database.snapshot() as connection:
        for row in invariants.committed_late(connection, environment.id):
            yield f"shard {row['shard']}: a batch was committed under token {row['token']}, which had ended"


# What was recorded ---------------------------------------------------------------------------------------------------


def _broken_chain(services: Services) -> Breaches:
    """R11."""
    with services.database.snapshot() as connection:
        verdict = verify_chain(connection)
    if not verdict.whole:
        yield f"record {verdict.broken_at}: {verdict.why}"


def _told_apart(services: Services) -> Breaches:
    """R11: what the outbox holds is what the audit records, in its order and in its words."""
    with services.database.snapshot() as connection:
        recorded = (record for record in records(connection) if record.action in OUTBOUND)
        events = invariants.told(connection)
        for record in recorded:
            row = next(events, None)
            if row is None or row["type"] != record.action:
                yield f"audit record {record.seq} ({record.action}) has no event; the next one is {_name(row)}"
                return  # from here on everything is out of step
            event = read_event(row["body"])
            data = {
                name: value for name, value in event.data.items() if name not in ("version", "environment", "repack")
            }
            about = event.data.get("environment"), event.data.get("repack")
            told = str(record.environment_id), str(record.repack_id) if record.repack_id else None
            if about != told or _canonical(data) != _canonical(_facts(record)):
                yield f"event {row['id']} does not say what audit record {record.seq} ({record.action}) says"
        if (row := next(events, None)) is not None:
            yield f"{_name(row)} is in no audit record"


def _name(row: Any) -> str:
    return "none" if row is None else f"event {row['id']} ({row['type']})"


def _canonical(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, default=str)


# The end --------------------------------------------------------------------------------------------------------------


def _stale_at_the_end(services: Services, environment: Environment) -> Breaches:
    """Check a newest repack that has finished: nothing is wrapped under what it replaced, nothing of that is left."""
    with services.database.snapshot() as connection:
        for row in invariants.unfinished_shards(connection, environment.id):
            yield f"shard {row['shard']} of repack {row['repack_id']} can still be walked"
        for row in invariants.misplaced_root_wraps(connection, environment.id):
            yield f"root {row['kind']} {row['key']} kept its wrap under top version {row['top_version']}"
        repack = invariants.newest_repack(connection, environment.id)
        if repack is None or repack["state"] != RepackState.FINISHED:
            return
        for row in invariants.unmoved_roots(connection, environment.id):
            yield f"root {row['key_id']} has no wrap under the active top version"
        if repack["mode"] == Mode.DEEP:
            for row in invariants.hanging_below(connection, environment.id, repack["id"]):
                yield f"data key {row['key_id']} is stale"
            for row in invariants.left_versions(connection, environment.id, repack["id"]):
                yield f"wrapping key {row['key_id']}: version {row['version']} was not shredded"


def _records_of(connection: Connection, environment: Environment, action: str) -> Iterator[AuditRecord]:
    """Yield the environment's audit records whose action begins so."""
    for record in records(connection, environment_id=environment.environment_id):
        if record.action.startswith(action):
            yield record


def _facts(record: AuditRecord) -> dict[str, Any]:
    return dict(json.loads(record.facts))


INVARIANTS = (
    Invariant("readable", "Every key opens, and its fingerprint is the one it was born with.", _unreadable),
    Invariant("once", "Each key was rewrapped once a repack.", _repeated),
    Invariant("forward", "No cursor, version or generation went back.", _went_back),
    Invariant("counted", "Counts add up: in shards, in checkpoints, and in what was told.", _uneven),
    Invariant("locked", "Nothing was rewrapped between a lock's commit and its end.", _rewrapped_under_lock),
    Invariant("leased", "No batch was committed under a lease that had ended.", _stale_leases),
    Invariant("chained", "The audit chain is whole.", of_all=_broken_chain),
    Invariant("told", "Outbox and audit agree.", of_all=_told_apart),
    Invariant("finished", "Where a repack has finished nothing is stale.", _stale_at_the_end),
)
