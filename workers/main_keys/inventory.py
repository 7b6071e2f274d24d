"""The inventory: every main key in use, what it is in use for, and how it is; and what is lost with one that is lost.

An inventory takes four statements, and two more for each MANY main keys: never one a root or an environment.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from schemas.keys import MANAGED as MANAGED
from schemas.keys import KeyKind
from workers.errors import NotFound
from workers.services import Services
from workers.store.audit import read_head
from workers.store.database import Connection
from workers.store.environments import Environment, all_tops
from workers.store.queries import inventory as rows
from workers.store.queries.inventory import LostKey, RootGroup, Use
from workers.store.types import read_clock

LOST = "lost"
"""The cause of a lock that no return ends: the main key is deleted."""

LOSS_STATEMENT = "The main key is deleted. No key of this environment can ever be opened again, by anybody."


class MainKeyHealth(StrEnum):
    """How a main key is, as last seen."""

    USABLE = "usable"
    REFUSED = "refused"  # its KMS says no; see the cause
    UNREACHABLE = "unreachable"  # its KMS gave no answer: not a revocation
    UNSEEN = "unseen"  # not polled yet


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentUse:
    """An environment that a main key is a live top of. `draining`: a move takes it away from this main key."""

    environment_id: UUID
    name: str  # workspace/name
    lock_cause: str | None
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleRoot:
    """A root that is wrapped under what is not in force any more: an older top version, or an older generation."""

    key_id: UUID
    kind: KeyKind
    environment: str
    top_version: int
    since: float  # when that top version came into force
    generation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MainKeyView:
    """One main key in use. Times are seconds since the epoch; a generation of None: its KMS hides it."""

    uri: str
    health: MainKeyHealth
    cause: str | None
    detail: str | None
    since: float | None  # how long it has been so
    last_seen: float | None  # when its KMS last answered
    generation_seen: str | None
    generations_in_use: tuple[str | None, ...]  # of the tops in force
    environments: tuple[EnvironmentUse, ...]
    roots: dict[str | None, int]  # by generation
    stale_roots: int
    oldest_stale: StaleRoot | None

    @property
    def hides_generation(self) -> bool:
        """Return True if the KMS was polled, and showed no generation."""
        return self.generation_seen is None and self.last_seen is not None and self.cause is None

    def as_json(self, days: float) -> dict[str, Any]:
        """JSON values. A generation that its KMS hides is null: then roots are rewrapped every so many `days`."""
        roots = [{"generation": generation, "roots": count} for generation, count in self.roots.items()]
        timer = days if self.hides_generation else None
        return asdict(self) | {"roots": roots, "hides_generation": timer is not None, "rewrapped_every_days": timer}


def list_main_keys(services: Services, uris: Iterable[str] | None = None) -> list[MainKeyView]:
    """List every main key in use (or these, if given), by URI, as of one moment."""
    wanted = None if uris is None else sorted(set(uris))
    with services.database.snapshot() as connection:
        drafts: dict[str, _Draft] = {}
        by_top: dict[tuple[int, int], _Draft] = {}
        for use in rows.main_keys_in_use(connection, wanted):
            draft = drafts.setdefault(use.main_key, _Draft(uri=use.main_key))
            draft.uses[use.environment, use.version] = use
            by_top[use.environment, use.version] = draft
        for uri, record in rows.records_of(connection, list(drafts)).items():
            drafts[uri].record = record
        for group in rows.root_groups(connection, wanted):
            by_top[group.environment, group.version].count(group)
        named = _name_oldest(connection, drafts.values())
    return [draft.view(named) for draft in drafts.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedGeneration:
    """A generation of the platform's own main key, and what does not open without it. None: not written down yet."""

    generation: str | None
    is_current: bool
    is_in_file: bool
    roots: int
    uploaded_keys: int
    upload_params: int  # open ones: a day old at most

    @property
    def is_needed(self) -> bool:
        """Return True if its line has to stay in the file; the current one always has."""
        return self.is_current or bool(self.roots or self.uploaded_keys or self.upload_params)


def list_managed_generations(services: Services, in_file: list[str]) -> list[ManagedGeneration]:
    """List each generation of the file (oldest first), and others that still wrap something, as of one moment."""
    with services.database.snapshot() as connection:
        hanging = rows.sealed_under_by_generation(connection, str(MANAGED))
    others = sorted({each for counts in hanging.values() for each in counts} - set(in_file), key=str)
    return [
        ManagedGeneration(
            generation=generation,
            is_current=generation == in_file[-1],
            is_in_file=generation in in_file,
            roots=hanging["roots"][generation],
            uploaded_keys=hanging["uploaded_keys"][generation],
            upload_params=hanging["upload_params"][generation],
        )
        for generation in [*in_file, *others]
    ]


def certificate_of_loss(
    connection: Connection, environment: Environment, *, name: Callable[[LostKey], object] = lambda _: None
) -> dict[str, Any]:
    """Certify what is lost with an environment's main key: counts, census, head of the audit chain. JSON values only.

    `name` is given every key that can never be opened, one at a time: memory does not grow with them. Make it in a
    `snapshot`, so that the counts, the census and the names are of one moment. Raises NotFound where nothing is lost.
    """
    if environment.lock_cause != LOST:
        now = f"Its lock: {environment.lock_cause}." if environment.lock_cause else "It is not locked."
        raise NotFound("certificate of loss of environment", environment, f"There is one once it is lost. {now}")
    seq, head = read_head(connection)
    counts: dict[KeyKind, Counter[int]] = {kind: Counter() for kind in KeyKind}
    digest, total = hashlib.sha256(), 0
    for key in rows.every_key(connection, environment.id):
        counts[key.kind][key.level] += 1
        total += 1
        digest.update(f"{key.kind}:{key.level}:{key.key_id}:{key.version}:{key.fingerprint.hex()}\n".encode())
        name(key)
    return {
        "statement": LOSS_STATEMENT,
        "environment": str(environment.environment_id),
        "workspace": environment.workspace,
        "name": environment.name,
        "main_keys": [_top(top) for top in all_tops(connection, environment.id) if top["ended_at"] is None],
        "lost_since": environment.locked_at,
        "detail": environment.lock_detail,
        "issued_at": read_clock(connection),
        "keys": total,
        "by_kind_and_level": {
            kind.value: {str(level): count for level, count in sorted(levels.items())}
            for kind, levels in counts.items()
        },
        "census": digest.hexdigest(),
        "audit": {"seq": seq, "hash": head.hex()},
    }


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A main key's view while it is put together."""

    uri: str
    uses: dict[tuple[int, int], Use] = field(default_factory=dict)  # by environment and top version
    record: dict[str, Any] = field(default_factory=dict)
    roots: Counter[str | None] = field(default_factory=Counter)
    stale: int = 0
    oldest: tuple[float, RootGroup, int] | None = None  # since, of which group, which row

    def count(self, group: RootGroup) -> None:
        """Count a group of roots, and keep the oldest that is stale."""
        self.roots[group.generation] += group.count
        use = self.uses[group.environment, group.version]
        stale, first = group.stale, group.first_stale
        if use.active and self._is_behind(group.generation):
            stale, first = group.count, group.first
        if stale and first is not None:
            self.stale += stale
            found = (use.created_at, group, first)
            if self.oldest is None or (use.created_at, first) < (self.oldest[0], self.oldest[2]):
                self.oldest = found

    def view(self, named: dict[tuple[KeyKind, int], UUID]) -> MainKeyView:
        """Build the view, once all is counted."""
        record, active = self.record, [use for use in self.uses.values() if use.active]
        return MainKeyView(
            uri=self.uri,
            health=_health(record),
            cause=record.get("cause"),
            detail=record.get("detail"),
            since=record.get("since"),
            last_seen=record.get("last_answered_at"),
            generation_seen=record.get("generation"),
            generations_in_use=tuple(dict.fromkeys(use.generation for use in active)),
            environments=self._users(),
            roots=dict(self.roots),
            stale_roots=self.stale,
            oldest_stale=self._stale_root(named),
        )

    def _users(self) -> tuple[EnvironmentUse, ...]:
        """List each environment once: it is draining if none of its tops of this main key is in force."""
        found: dict[int, list[Use]] = {}
        for use in self.uses.values():
            found.setdefault(use.environment, []).append(use)
        return tuple(
            EnvironmentUse(
                environment_id=uses[0].environment_id,
                name=_name(uses[0]),
                lock_cause=uses[0].lock_cause,
                draining=not any(use.active for use in uses),
            )
            for uses in found.values()
        )

    def _is_behind(self, generation: str | None) -> bool:
        """Return True if a generation is older than what the KMS was last seen to wrap with."""
        seen = self.record.get("generation")
        return seen is not None and generation is not None and generation != seen

    def _stale_root(self, named: dict[tuple[KeyKind, int], UUID]) -> StaleRoot | None:
        if self.oldest is None:
            return None
        since, group, row = self.oldest
        return StaleRoot(
            key_id=named[group.kind, row],
            kind=group.kind,
            environment=_name(self.uses[group.environment, group.version]),
            top_version=group.version,
            since=since,
            generation=group.generation,
        )


def _name_oldest(connection: Connection, drafts: Iterable[_Draft]) -> dict[tuple[KeyKind, int], UUID]:
    """Return the outer ids of the oldest stale roots: at most one per main key."""
    wanted = [(group.kind, row) for draft in drafts if draft.oldest for _, group, row in [draft.oldest]]
    named: dict[tuple[KeyKind, int], UUID] = {}
    for kind in KeyKind:
        found = rows.key_ids(connection, kind, sorted({row for each, row in wanted if each == kind}))
        named.update({(kind, row): key_id for row, key_id in found.items()})
    return named


def _health(record: dict[str, Any]) -> MainKeyHealth:
    if record.get("last_looked_at") is None:
        return MainKeyHealth.UNSEEN
    if record["cause"] is None:
        return MainKeyHealth.USABLE
    return (
        MainKeyHealth.REFUSED if record["last_answered_at"] == record["last_looked_at"] else MainKeyHealth.UNREACHABLE
    )


def _name(use: Use) -> str:
    return f"{use.workspace}/{use.name}"


def _top(top: dict[str, Any]) -> dict[str, Any]:
    return {"main_key": top["main_key"], "generation": top["generation"], "top_version": top["version"]}
