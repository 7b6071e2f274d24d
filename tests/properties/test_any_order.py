"""Any tree, any order: workers held, interleaved and killed at any transaction, writers late, main keys away.

A seed makes a world and a schedule of some hundred steps; the rules hold after every one that commits. Whatever
happened, with all processes dead and nothing but the sweeper to wake new ones, the work ends in the same state: one
main key in force, nothing stale, nothing draining, every key as it was born.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import IllegalMove
from schemas.keys import MAX_LEVELS
from schemas.states import OPEN, Mode, RepackState
from tests.engine import Actor, Template, World
from tests.oracle import Oracle
from workers.errors import (
    AlreadyInForce,
    Cause,
    EnvironmentLocked,
    KmsRefused,
    KmsUnreachable,
    LostRace,
    ProbeFailed,
    ProbeUnanswered,
    RepackConflict,
)
from workers.keyring.keyring import Created, Keyring
from workers.locks.restriction import unlock_if_restricted
from workers.maintenance.sweeper import sweep
from workers.repack.control import abort, pause, resume, stop
from workers.repack.lifecycle import walk_slice
from workers.services import Services
from workers.store import models
from workers.store.repacks import Repack, latest_repack

MAIN_KEYS = ["a", "b", "c"]
LAST = "z"
CAUSES = [Cause.DISABLED, Cause.DENIED, Cause.PENDING_DELETION, Cause.UNREACHABLE, Cause.THROTTLED]
FATES = ["die", "before_commit", "after_commit"]
WORKERS, WRITERS, STEPS = 3, 4, 260

Parent = tuple[UUID, int]
"""A wrapping key and its level."""


class Woken:
    """Remembers who was woken: the broker of one who has no broker."""

    def __init__(self) -> None:
        self.repacks: list[int] = []

    def repack(self, repack: int, *, times: int = 1) -> None:
        """See Waker.repack."""
        self.repacks += [repack] * times

    def event(self, inbox_id: int) -> None:
        """See Waker.event."""

    def outbox(self) -> None:
        """See Waker.outbox."""


class Story:
    """One environment, and everything that may befall it."""

    def __init__(self, template: Template, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world: World = template.world(
            batch_size=self.chance.randint(1, 4), shard_size=self.chance.randint(1, 8),
            cache_ttl=self.chance.choice([0, 300]),
        )  # fmt: skip
        self.oracle = Oracle(self.world)
        self.environment = self.world.environment()
        self.parents: list[Parent] = []
        self.workers: list[Actor] = []
        self.writers: list[Actor] = []
        self.pace: dict[Actor, float] = {}  # some hurry, some sleep through a whole repack
        self.known: dict[UUID, bytes] = {}
        self.reader = Keyring(self.world.process())

    # What may happen, and how often beside a step's hundred --------------------------------------------------------

    def events(self) -> dict[Callable[[], None], float]:
        """The acts, each with its weight."""
        return {
            self.step: 100, self.wake: 8, self.write_slowly: 5, self.read: 3, self.start: 3, self.steer: 1,
            self.take_back: 0.15, self.lose_main_key: 0.7, self.give_main_keys_back: 1.5, self.rotate: 0.5,
            self.let_time_pass: 2,
        }  # fmt: skip

    def run(self) -> None:
        """Tell the story, then bring it to its end."""
        self.grow()
        self.start()
        self.wake()
        acts, weights = zip(*self.events().items(), strict=True)
        for _ in range(STEPS):
            self.chance.choices(acts, weights)[0]()
        self.oracle.check()
        self.end()

    def grow(self) -> None:
        """A chain of wrapping keys of some depth, more of them anywhere, data keys at any level, data roots."""
        for _ in range(self.chance.choice([0, 1, 1, 2, 2, 3, MAX_LEVELS])):
            self._wrapping(self.parents[-1] if self.parents else None)
        for _ in range(self.chance.randint(0, 4)):
            self._wrapping(self._some_parent(MAX_LEVELS - 1))
        for parent in [*self.parents, None]:
            self._jobs(parent, self.chance.randint(0, 5))

    def _some_parent(self, deepest: int = MAX_LEVELS) -> Parent | None:
        return self.chance.choice([None, *(parent for parent in self.parents if parent[1] <= deepest)])

    def _wrapping(self, parent: Parent | None) -> None:
        key = self.world.keyring.create_wrapping_key(self.environment.environment_id, parent[0] if parent else None)
        self.parents.append((key, parent[1] + 1 if parent else 1))

    def _jobs(self, parent: Parent | None, count: int) -> None:
        if count:
            name, above = self.environment.environment_id, parent[0] if parent else None
            made = self.world.keyring.create_data_keys(name, above, count)
            self.known |= {one.key_id: one.material for one in made}

    def start(self) -> None:
        """Another main key, or the same; refused with nothing changed, or started."""
        before = self.world.dump()
        mode = self.chance.choice([Mode.DEEP, Mode.DEEP, Mode.SHALLOW])
        try:
            self.world.start(self.environment, f"memory:{self.chance.choice(MAIN_KEYS)}", mode)
        except (RepackConflict, AlreadyInForce, ProbeFailed, ProbeUnanswered, EnvironmentLocked):
            assert self.world.dump() == before  # R7

    def steer(self) -> None:
        """An operator's word, legal or not; mostly taken back soon."""
        self._steer(self.chance.choice([pause, pause, stop, resume]))
        for _ in range(self.chance.randint(0, 20)):
            self.step()
        self._steer(resume)

    def take_back(self) -> None:
        """An operator aborts, where it is still legal."""
        self._steer(abort)

    def _steer(self, act: Callable[..., Repack]) -> None:
        repack = self._latest()
        if repack is not None:
            with contextlib.suppress(IllegalMove, EnvironmentLocked):
                act(self.world.main, repack, actor="operator")
            self._check()

    def _latest(self) -> Repack | None:
        with self.world.main.database.read() as connection:
            return latest_repack(connection, self.environment.id)

    def wake(self) -> None:
        """A wake-up is delivered: early, late, once more, to anyone."""
        repack = self._latest()
        if repack is not None and len(self.workers) < WORKERS:
            self._begin(self.workers, lambda services: walk_slice(services, repack.id))

    def write_slowly(self) -> None:
        """A service begins to create a key: it may come late."""
        if len(self.writers) >= WRITERS:
            return
        wrapping = self.chance.random() < 0.4
        parent = self._some_parent(MAX_LEVELS - 1 if wrapping else MAX_LEVELS)
        name, above = self.environment.environment_id, parent[0] if parent else None

        def create(services: Services) -> Created | Parent:
            if wrapping:
                return Keyring(services).create_wrapping_key(name, above), parent[1] + 1 if parent else 1
            return Keyring(services).create_data_key(name, above)

        self._begin(self.writers, create)

    def _begin(self, group: list[Actor], job: Callable[[Services], object]) -> None:
        actor = Actor(self.world, job)
        self.pace[actor] = self.chance.choice([1, 1, 0.3, 0.02])
        group.append(actor)

    def step(self) -> None:
        """One of them goes through a transaction; now and then it is killed there."""
        actors = self.workers + self.writers
        if not actors:
            return self.wake()
        actor = self.chance.choices(actors, [self.pace[actor] for actor in actors])[0]
        actor.step(self.chance.choice(FATES) if self.chance.random() < 0.01 else "go")
        if actor.wrote:
            self._check()
        return self._reap(actor)

    def _reap(self, actor: Actor) -> None:
        if not actor.done:
            return
        (self.workers if actor in self.workers else self.writers).remove(actor)
        if actor.error is not None and not isinstance(
            actor.error, LostRace | KmsRefused | KmsUnreachable | EnvironmentLocked
        ):
            raise actor.error
        if isinstance(actor.outcome, Created):
            self.known[actor.outcome.key_id] = actor.outcome.material
        elif isinstance(actor.outcome, tuple):
            self.parents.append(actor.outcome)

    def let_time_pass(self) -> None:
        """Slices end, leases run out, probes are due, caches expire."""
        assert self.world.clock is not None
        self.world.clock.let_pass(self.chance.choice([6.0, 25.0, 31.0, 301.0]))

    def read(self) -> None:
        """R1: a reader with a warm cache and one with none open the same."""
        faulty = any(self.world.kms._state(name).refusal for name in MAIN_KEYS)
        if self.known and not faulty:
            key = self.chance.choice(sorted(self.known))
            assert self.reader.unwrap(key) == self.known[key]
            assert self.world.keyring.unwrap(key) == self.known[key]

    def lose_main_key(self) -> None:
        """A main key is refused, or its KMS is away."""
        self.world.kms.set_state(self.chance.choice(MAIN_KEYS), self.chance.choice(CAUSES))

    def give_main_keys_back(self) -> None:
        """All of them work again, and probes are due."""
        for name in MAIN_KEYS:
            self.world.kms.set_state(name, None)
        assert self.world.clock is not None
        self.world.clock.let_pass(301)
        unlock_if_restricted(self.world.main, self.environment)  # as the poll does
        self.world.clock.let_pass(1)

    def rotate(self) -> None:
        """The KMS rotates a main key."""
        self.world.kms.rotate(self.chance.choice(MAIN_KEYS))

    def _check(self) -> None:
        self.oracle.check_readable()
        self.oracle.check_counts()

    # The end --------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """R3: everybody is dead and every message lost; the sweeper alone brings it to the end."""
        for actor in self.workers + self.writers:
            actor.kill()
        self.give_main_keys_back()
        repack = self._latest()
        if repack is not None and repack.state == RepackState.PAUSED:
            resume(self.world.main, repack, actor="operator")
        self._sweep_until_ended()
        last = self.world.start(self.environment, f"memory:{LAST}", Mode.DEEP)
        keys = {row["id"] for row in self.world.rows(models.data_keys) if row["parent"] is not None}
        self._sweep_until_ended()
        assert self.world.look(last).state == RepackState.FINISHED
        self.oracle.check_ended(self.environment.id, f"memory:{LAST}", deep=True)
        # R2: exactly one rewrap of each key.
        effects = [one["key"] for one in self.oracle.effects() if one["repack"] == last.id and one["kind"] == "data"]
        assert sorted(effects) == sorted(keys)
        for name in MAIN_KEYS:
            self.world.kms.delete(name)  # needed for nothing any more
        fresh = Keyring(self.world.process())
        assert {key: fresh.unwrap(key) for key in self.known} == self.known

    def _sweep_until_ended(self) -> None:
        woken = Woken()
        services = self.world.process(wake=woken)
        for _ in range(200):
            woken.repacks.clear()
            sweep(services)
            for repack in woken.repacks[:1]:
                walk_slice(services, repack)
            latest = self._latest()
            if latest is None or latest.state not in OPEN:
                return
            assert self.world.clock is not None
            self.world.clock.let_pass(15)
        raise AssertionError(f"The sweeper did not bring it to an end: {self._latest()}")

    def close(self) -> None:
        """Everybody leaves."""
        for actor in self.workers + self.writers:
            actor.kill()
        self.world.close()


@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.long)])
def test_any_order(template: Template, examples: int) -> None:
    """Whatever order things happen in, the rules hold after each step and the end is the same."""

    @settings(max_examples=examples)
    @given(seed=st.integers(0, 2**32 - 1))
    def told(seed: int) -> None:
        story = Story(template, seed)
        try:
            story.run()
        finally:
            story.close()

    told()
