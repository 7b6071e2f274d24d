"""Assesses a restored database: what is gone or older than a journal says. Read-only.

Every live main key is asked, every version of every wrapping key is opened, and data keys are judged by the version
they are wrapped under: a restore loses rows together, so what opens their parent opens them. `keyrepack verify` opens
each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from schemas.keys import KeyKind, MainKeyUri, TopState
from schemas.ranges import END
from schemas.states import LockCause, Mode, RepackState
from workers.errors import Cause, KmsRefused, WrapReason, WrapRefused
from workers.integrity.journal import EnvironmentHistory, Move
from workers.locks.restriction import why_refused
from workers.services import Services
from workers.store.environments import Environment, TopVersion
from workers.store.hierarchy_queries import count_draining, count_stale, deepest_level
from workers.store.keys import Link, Pair
from workers.store.queries import orphans
from workers.store.queries.inventory import every_key
from workers.store.queries.orphans import WrappedBy
from workers.store.repacks import Repack, list_repacks, open_repack
from workers.store.roots import root_page, sample_wrap
from workers.store.uploads import find_key

KEYS_IN_PAGE = 200
"""Wrapping keys whose versions are opened together: a root costs a call to its KMS."""

NO_ANSWER = (Cause.UNREACHABLE, Cause.THROTTLED, Cause.UNSUPPORTED)
"""No word of a main key's KMS: not reached, or not spoken to by this process."""


class Need(StrEnum):
    """What an environment needs after a restore."""

    REVOKE = "revoke"  # the customer took its key away, and the backup does not know
    DESTROY = "destroy"  # the customer had an uploaded key deleted, and the backup brought it back
    LOCK = "lock"  # no main key opens anything: locked as restricted or lost
    REPACK = "repack"
    WAIT = "wait"  # a repack is open: it goes on by itself
    UNLOCK = "unlock"  # it is locked as restricted or lost, and its main key can be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do, and the finding it rests on. Of a repack: where to, how far, from which retired tops."""

    need: Need
    why: str
    main_key: str | None = None
    mode: Mode = Mode.SHALLOW
    anew: bool = False
    revived: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unopened:
    """A key that does not open. `reason`: of a wrap, or of its main key."""

    key_id: UUID
    kind: KeyKind
    level: int
    version: int
    reason: str


@dataclass(slots=True, kw_only=True)
class Survey:
    """What was found of one environment."""

    environment: Environment
    tops: list[WrappedBy]  # the active one first
    looks: dict[int, Cause | None] = field(default_factory=dict)  # by top version: why its main key refuses
    missed: list[Move] = field(default_factory=list)  # closed moves that the journal knows of and the database does not
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unopened: Counter[str] = field(default_factory=Counter)  # by reason

    @property
    def in_force(self) -> str:
        """Return the main key in force, as the database has it."""
        return self.tops[0].main_key

    @property
    def is_silent(self) -> bool:
        """Return True if a KMS gave no answer: nothing follows from that, and this assessment is not whole."""
        return any(cause in NO_ANSWER for cause in self.looks.values())

    @property
    def is_shut(self) -> bool:
        """Return True if every main key in force refuses."""
        return all(self.looks[top.version] is not None for top in self.tops if top.is_live)


def survey(
    services: Services,
    environment: Environment,
    told: EnvironmentHistory,
    *,
    name: Callable[[Unopened], None] = lambda _: None,
) -> Survey:
    """Assess one environment. `name` is given every key that does not open, one at a time."""
    with services.database.snapshot() as connection:
        found = Survey(environment=environment, tops=orphans.wrapped_by(connection, environment.id))
        samples = {top.version: sample_wrap(connection, environment.id, top.version) for top in found.tops}
        found.missed = told.missed_by(orphans.closed_repacks(connection, environment.id))
        repack = open_repack(connection, environment.id)
    for top in found.tops:
        version = TopVersion(
            version=top.version, main_key=top.main_key, generation=top.generation, state=TopState(top.state)
        )
        found.looks[top.version] = services.loop.run(why_refused(services, environment, version, samples[top.version]))
    _look_at_words(services, found, told)
    if found.is_silent or environment.lock_cause == LockCause.REVOKED:
        return found
    if not any(step.need == Need.REVOKE for step in found.steps):
        _look_at_keys(services, found, repack, name)
    if told.under_way is not None and repack is None and told.under_way not in _names(found):
        found.notes.append(f"A repack to {told.under_way} was under way: ask for it again.")
    return found


def _names(found: Survey) -> set[str]:
    return {found.in_force, *(move.main_key for move in found.missed)}


# The customer's word --------------------------------------------------------------------------------------------------


def _look_at_words(services: Services, found: Survey, told: EnvironmentHistory) -> None:
    environment = found.environment
    if told.lock == LockCause.REVOKED and environment.lock_cause != LockCause.REVOKED:
        found.steps.append(Step(need=Need.REVOKE, why="The customer has revoked it since the backup was taken."))
    if environment.lock_cause == LockCause.REVOKED and told.lock == LockCause.REVOKED:
        found.notes.append("It is revoked, and its keys were not looked at: reconcile it again once it is given back.")
    elif environment.lock_cause == LockCause.REVOKED:
        why = f"It is revoked, and the witness knows of its return: `keyrepack main-key restore {environment}`."
        found.steps.append(Step(need=Need.WAIT, why=why))
    for uri in sorted(told.deleted):
        with services.database.read() as connection:
            stored = find_key(connection, UUID(MainKeyUri.parse(uri).name))
        if stored is not None and stored.sealed is not None:
            why = "The customer has had it deleted since the backup was taken."
            found.steps.append(Step(need=Need.DESTROY, why=why, main_key=uri))


# Keys -----------------------------------------------------------------------------------------------------------------


def _look_at_keys(services: Services, found: Survey, repack: Repack | None, name: Callable[[Unopened], None]) -> None:
    is_locked = found.environment.lock_cause is not None
    if is_locked and not found.is_shut:
        found.steps.append(Step(need=Need.UNLOCK, why="It is locked, and its main key can be used."))
        return
    for key in _unopened(services, found):
        found.unopened[key.reason] += 1
        name(key)
    if found.is_shut:
        cause = found.looks[found.tops[0].version]
        found.steps.append(
            Step(need=Need.LOCK, why=f"No main key in force can be used: {cause}.", main_key=found.in_force)
        )
        if found.missed:
            found.notes.append(f"The witness says that {found.missed[-1].main_key} is in force: this backup is older.")
    elif repack is not None:
        why = f"Repack {repack.repack_id} to {repack.target_key} is {repack.state.value}."
        found.steps.append(Step(need=Need.WAIT, why=why, main_key=repack.target_key))
    elif (step := _repack(services, found)) is not None:
        found.steps.append(step)


def _repack(services: Services, found: Survey) -> Step | None:
    """Return the repack that brings the keys to where the journal says they were; None if they are there."""
    retired = [top for top in found.tops if not top.is_live]
    revived = tuple(top.version for top in retired if found.looks[top.version] is None)
    if len(revived) < len(retired):
        return None  # a move would wait for their main keys for ever; their roots are named
    missed, older = found.missed, _older_than_told(services, found.environment)
    is_deep = older is not None or any(move.mode == Mode.DEEP for move in missed)
    if missed:
        target, why = missed[-1].main_key, f"The witness says that {missed[-1].main_key} is in force."
        if target == found.in_force:
            why = "The witness tells of a later repack under the same key."
    else:
        target, why = found.in_force, older or ("Roots hang from a main key that was left." if revived else "")
    if not why:
        return None
    mode = Mode.DEEP if is_deep else Mode.SHALLOW
    return Step(need=Need.REPACK, why=why, main_key=target, mode=mode, anew=target == found.in_force, revived=revived)


def _older_than_told(services: Services, environment: Environment) -> str | None:
    """Say why the keys' tables are older than what the last deep repack recorded of itself; None if they are not."""
    with services.database.read() as connection:
        past = [one for one in list_repacks(connection, environment=environment.id) if one.mode == Mode.DEEP]
        if not past or past[0].state != RepackState.FINISHED:
            return None  # what stands still by an operator's word is no damage
        stored, told = orphans.minted_and_told(connection, past[0].id)
        left = count_stale(connection, environment.id) + count_draining(connection, environment.id)
    if stored < told:
        return f"Repack {past[0].repack_id} made {told} fresh versions; {stored} of them are here."
    return f"{left} keys and versions are stale after repack {past[0].repack_id} has ended." if left else None


def _unopened(services: Services, found: Survey) -> Iterator[Unopened]:
    """Yield every key that nothing in this database opens, from the top down."""
    refused = [top for top in found.tops if top.roots and found.looks[top.version] is not None]
    if refused and not any(top.roots and found.looks[top.version] is None for top in found.tops):
        yield from _every_key(services, found.environment, f"main_key_{found.looks[refused[0].version]}")
        return
    yield from _unopened_roots(services, found)
    broken: dict[Pair, str] = {}
    with services.database.read() as connection:
        deepest = deepest_level(connection, found.environment.id)
    for level in range(1, deepest + 1):
        for link, reason in _unopened_versions(services, found, level):
            broken[link.pair] = reason
            yield Unopened(key_id=link.key_id, kind=KeyKind.WRAPPING, level=level, version=link.version, reason=reason)
    with services.database.snapshot() as connection:
        for group in list(orphans.hanging(connection, found.environment.id)):
            if group.is_there and group.pair not in broken:
                continue
            reason = broken[group.pair] if group.is_there else WrapReason.PARENT_MISSING.value
            for key_id in orphans.below(connection, found.environment.id, group.level, {group.pair}):
                yield Unopened(key_id=key_id, kind=KeyKind.DATA, level=group.level, version=0, reason=reason)


def _every_key(services: Services, environment: Environment, reason: str) -> Iterator[Unopened]:
    """Yield every key, without a call to the KMS: it has said no."""
    with services.database.snapshot() as connection:
        for key in every_key(connection, environment.id):
            yield Unopened(key_id=key.key_id, kind=key.kind, level=key.level, version=key.version, reason=reason)


def _unopened_roots(services: Services, found: Survey) -> Iterator[Unopened]:
    """Yield data keys at the top that no answering main key opens."""
    after, environment = 0, found.environment
    while True:
        with services.database.read() as connection:
            roots = root_page(connection, environment.id, KeyKind.DATA, after=after, upto=END, limit=KEYS_IN_PAGE)
        for root in roots:
            opening = services.key_opener.open_root(
                environment.environment_id, root.key_id, list(root.wraps), root.fingerprint
            )
            material: bytes | WrapRefused | KmsRefused
            try:
                material = services.loop.run(opening)
            except KmsRefused as error:
                material = error
            if not isinstance(material, bytes):
                yield Unopened(key_id=root.key_id, kind=KeyKind.DATA, level=1, version=0, reason=_reason(material))
        if not roots:
            return
        after = roots[-1].key


def _unopened_versions(services: Services, found: Survey, level: int) -> Iterator[tuple[Link, str]]:
    after, environment = 0, found.environment
    while True:
        with services.database.read() as connection:
            links = orphans.wrapping_versions_of(connection, environment.id, level, after=after, limit=KEYS_IN_PAGE)
        if not links:
            return
        for link, material in _open(services, environment, links):
            if not isinstance(material, bytes):
                yield link, _reason(material)
        after = links[-1].id


def _open(
    services: Services, environment: Environment, links: list[Link]
) -> Iterator[tuple[Link, bytes | WrapRefused | KmsRefused]]:
    """Open versions together; where a main key refuses one of them, each by itself: the others may open."""
    try:
        opened = services.key_opener.open(environment.environment_id, [link.pair for link in links])
    except KmsRefused as error:
        if len(links) == 1:
            yield links[0], error
            return
        for link in links:
            yield from _open(services, environment, [link])
        return
    for link in links:
        yield link, opened[link.pair]


def _reason(error: WrapRefused | KmsRefused) -> str:
    return error.code if isinstance(error, KmsRefused) else error.reason.value
