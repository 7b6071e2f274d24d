"""Any tree, any order: workers held, interleaved and killed at any transaction, writers late, main keys away.

The rules hold after every step; and whatever happened, with nothing but the sweeper to wake it, the work ends in the same
state: one main key in force, nothing stale, nothing draining, every key as it was born.
"""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schemas.errors import IllegalMove
from schemas.keys import MAX_LEVELS
from schemas.states import OPEN, Mode, RepackState
from tests.engine import Actor, Template, World
from tests.oracle import Oracle
from workers.errors import AlreadyInForce, Cause, KmsRefused, KmsUnreachable, LostRace, ProbeFailed, RepackConflict
from workers.keyring import Created, Keyring
from workers.repack import walk_slice
from workers.services import Services
from workers.steering import abort, pause, resume, stop
from workers.store import models
from workers.store.environments import Environment
from workers.store.repacks import Repack, latest_repack
from workers.sweeper import sweep

MAIN_KEYS = ["a", "b", "c"]
LAST = "z"
CAUSES = [Cause.DISABLED, Cause.DENIED, Cause.PENDING_DELETION, Cause.UNREACHABLE, Cause.THROTTLED]
WORKERS, WRITERS = 3, 2

places = st.integers(0, 10_000)
turns = st.lists(st.integers(0, 4), min_size=10, max_size=60)
fates = st.sampled_from(["go", "go", "die", "before_commit", "after_commit"])


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


class AnyOrder(RuleBasedStateMachine):
    """One environment, and everything that may befall it."""

    template: ClassVar[Template]

    def __init__(self) -> None:
        super().__init__()
        self.world: World = self.template.world(batch_size=3, shard_size=5, cache_ttl=300)
        self.oracle = Oracle(self.world)
        self.environment: Environment = self.world.environment()
        self.parents: list[tuple[UUID, int]] = []
        self.workers: list[Actor] = []
        self.writers: list[Actor] = []
        self.known: dict[UUID, bytes] = {}
        self.reader = Keyring(self.world.process())
        self.steps = 0

    @property
    def rare(self) -> bool:
        """Now and then: an abort ends a run, and most runs should go on."""
        self.steps += 1
        return self.steps % 7 == 0

    # The tree -------------------------------------------------------------------------------------------------------

    @initialize(
        depth=st.sampled_from([0, 1, 1, 2, 2, 3, MAX_LEVELS]),
        more=st.lists(st.tuples(places, st.integers(0, 5)), min_size=1, max_size=4),
    )
    def grow(self, depth: int, more: list[tuple[int, int]]) -> None:
        """A chain of wrapping keys of some depth, more of them anywhere, data keys at any level, data roots."""
        for _ in range(depth):
            self._wrapping(self.parents[-1] if self.parents else None)
            self._jobs(self.parents[-1], 1)
        for place, jobs in more:
            parent = self._parent(place)
            if parent is None or parent[1] < MAX_LEVELS:
                self._wrapping(parent)
            self._jobs(self.parents[-1], jobs)
        self._jobs(None, 1)

    def _parent(self, place: int) -> tuple[UUID, int] | None:
        choice = place % (len(self.parents) + 1)
        return self.parents[choice] if choice < len(self.parents) else None

    def _wrapping(self, parent: tuple[UUID, int] | None) -> None:
        above = parent[0] if parent else None
        key = self.world.keyring.create_wrapping_key(self.environment.environment_id, above)
        self.parents.append((key, parent[1] + 1 if parent else 1))

    def _jobs(self, parent: tuple[UUID, int] | None, count: int) -> None:
        if count:
            above = parent[0] if parent else None
            for one in self.world.keyring.create_data_keys(self.environment.environment_id, above, count):
                self.known[one.key_id] = one.material

    # Repacks --------------------------------------------------------------------------------------------------------

    @initialize(deep=st.sampled_from([True, True, True, False]), reached=st.integers(0, 250))
    def begin(self, deep: bool, reached: int) -> None:
        """Two workers are somewhere in the middle of a repack."""
        self.world.start(self.environment, "memory:b", Mode.DEEP if deep else Mode.SHALLOW)
        self._wake(2)
        self._wake(3)
        for step in range(reached):
            if self.workers:
                self.workers[step % len(self.workers)].step()
            self._reap()

    @rule(name=st.sampled_from(MAIN_KEYS), deep=st.sampled_from([True, True, False]))
    def start(self, name: str, deep: bool) -> None:
        """Another main key, or the same; refused with nothing changed, or started."""
        before = self.world.dump()
        try:
            self.world.start(self.environment, f"memory:{name}", Mode.DEEP if deep else Mode.SHALLOW)
        except (RepackConflict, AlreadyInForce, ProbeFailed):
            assert self.world.dump() == before  # R7

    @rule(act=st.sampled_from([pause, resume, stop]), goes_on=st.booleans())
    def steer(self, act: Any, goes_on: bool) -> None:
        """An operator's word, legal or not."""
        self._steer(act)
        if goes_on:
            self._steer(resume)

    @precondition(lambda self: self.rare)
    @rule()
    def take_back(self) -> None:
        """An operator aborts, where it is still legal."""
        self._steer(abort)

    def _steer(self, act: Any) -> None:
        repack = self._latest()
        if repack is not None:
            with contextlib.suppress(IllegalMove):
                act(self.world.main, repack, actor="operator")

    def _latest(self) -> Repack | None:
        with self.world.main.database.read() as connection:
            return latest_repack(connection, self.environment.id)

    # Workers and writers --------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < WORKERS)
    @rule(batch_size=st.integers(1, 4))
    def wake(self, batch_size: int) -> None:
        """A wake-up is delivered: early, late, once more, to anyone."""
        self._wake(batch_size)

    def _wake(self, batch_size: int) -> None:
        repack = self._latest()
        if repack is not None:
            walk = Actor(self.world, lambda services: walk_slice(services, repack.id), batch_size=batch_size)
            self.workers.append(walk)

    @precondition(lambda self: len(self.writers) < WRITERS)
    @rule(place=places, wrapping=st.booleans())
    def write_slowly(self, place: int, wrapping: bool) -> None:
        """A service begins to create a key, and is held on its way: it will come late."""
        parent = self._parent(place)
        if wrapping and parent is not None and parent[1] >= MAX_LEVELS:
            return
        above = parent[0] if parent else None

        def create(services: Services) -> Created | UUID:
            keyring, name = Keyring(services), self.environment.environment_id
            return keyring.create_wrapping_key(name, above) if wrapping else keyring.create_data_key(name, above)

        self.writers.append(Actor(self.world, create))

    @rule(turns=turns, fate=fates)
    def go_on(self, turns: list[int], fate: str) -> None:
        """They take turns, a transaction each; one of them may be killed at the last. R1 to R9 after every commit."""
        if not self.workers:
            self._wake(3)
        for turn, place in enumerate(turns, 1):
            actors = self.workers + self.writers
            if not actors:
                break
            actor = actors[place % len(actors)]
            actor.step(fate if turn == len(turns) else "go")
            if actor.wrote:
                self.oracle.check_readable()
                self.oracle.check_counts()
            self._reap()

    def _reap(self) -> None:
        for actor in [actor for actor in self.workers + self.writers if actor.done]:
            (self.workers if actor in self.workers else self.writers).remove(actor)
            if isinstance(actor.error, LostRace | KmsRefused | KmsUnreachable):
                continue  # a writer that lost, or whose main key was away
            if actor.error is not None:
                raise actor.error
            if isinstance(actor.outcome, Created):
                self.known[actor.outcome.key_id] = actor.outcome.material

    @rule(seconds=st.sampled_from([6.0, 25.0, 31.0, 301.0]))
    def let_time_pass(self, seconds: float) -> None:
        """Slices end, leases run out, probes are due, caches expire."""
        assert self.world.clock is not None
        self.world.clock.let_pass(seconds)

    @rule(place=places)
    def read(self, place: int) -> None:
        """R1: a reader with a warm cache and one with none open the same."""
        faulty = any(self.world.kms._state(name).refusal for name in MAIN_KEYS)
        if self.known and not faulty:
            key = sorted(self.known)[place % len(self.known)]
            assert self.reader.unwrap(key) == self.known[key]
            assert self.world.keyring.unwrap(key) == self.known[key]

    # Main keys ------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(MAIN_KEYS), cause=st.sampled_from(CAUSES), turns=turns)
    def lose_main_key(self, name: str, cause: Cause, turns: list[int]) -> None:
        """A main key is refused, or its KMS is away; work goes on as far as it can."""
        self.world.kms.set_state(name, cause)
        self.go_on(turns, "go")

    @rule()
    def give_main_keys_back(self) -> None:
        """All of them work again, and probes are due."""
        assert self.world.clock is not None
        self.world.clock.let_pass(301)
        for name in MAIN_KEYS:
            self.world.kms.set_state(name, None)

    @rule(name=st.sampled_from(MAIN_KEYS))
    def rotate(self, name: str) -> None:
        """The KMS rotates a main key."""
        self.world.kms.rotate(name)

    # What holds -----------------------------------------------------------------------------------------------------

    @invariant()
    def the_rules_hold(self) -> None:
        """R1, R2, R4, R5, R9, R11 in what is stored."""
        self.oracle.check()

    def teardown(self) -> None:
        """R3: with all processes dead and all messages lost, the sweeper alone brings it to the end."""
        try:
            self._end()
        finally:
            for actor in self.workers + self.writers:
                actor.kill()
            self.world.close()

    def _end(self) -> None:
        assert self.world.clock is not None
        for actor in self.workers + self.writers:
            actor.kill()
        self.give_main_keys_back()
        repack = self._latest()
        if repack is not None and repack.state == RepackState.PAUSED:
            resume(self.world.main, repack, actor="operator")
        self._sweep_until_ended()
        last = self.world.start(self.environment, f"memory:{LAST}", Mode.DEEP)
        born_before = {row["id"] for row in self.world.rows(models.data_keys) if row["parent"] is not None}
        self._sweep_until_ended()
        assert self.world.look(last).state == RepackState.FINISHED
        self.oracle.check_ended(self.environment.id, f"memory:{LAST}", deep=True)
        # R2: exactly one rewrap of each key.
        effects = [one["key"] for one in self.oracle.effects() if one["repack"] == last.id and one["kind"] == "data"]
        assert sorted(effects) == sorted(born_before)
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


def test_any_order(template: Template) -> None:
    """Whatever order things happen in, the rules hold after each step and the end is the same."""
    from hypothesis.stateful import run_state_machine_as_test

    AnyOrder.template = template
    run_state_machine_as_test(AnyOrder, settings=settings(max_examples=40, stateful_step_count=15))
