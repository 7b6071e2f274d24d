"""Watching main keys: what is due, what is recorded of a look, and what follows from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.states import Mode, RepackState
from workers.errors import Cause, DatabaseAway
from workers.keyring.keyring import Keyring
from workers.kms.local.memory import MemoryKms
from workers.locks import locking
from workers.main_keys.polling import Polled, poll_main_keys, poll_now, record_results
from workers.main_keys.scanner import PollResult
from workers.repack.lifecycle import walk_slice
from workers.services import Services
from workers.store import main_keys
from workers.store.environments import Environment, get_environment
from workers.store.main_keys import MainKeyRecord, next_poll, phase_of
from workers.store.models import main_keys as table
from workers.store.models import outbox, top_versions
from workers.store.repacks import Repack, latest_repack, list_repacks


@pytest.fixture
def environment(services: Services) -> Environment:
    made = Keyring(services).create_environment("acme", "production", main_key="memory:a", actor="test")
    Keyring(services).create_data_key(made.environment_id)
    return made


def make_due(services: Services, *uris: str) -> None:
    with services.database.write() as connection:
        main_keys.register(connection, interval=300)
        connection.execute(table.update().where(table.c.uri.in_(uris) if uris else True).values(next_look_at=0))


def poll(services: Services, **more: Any) -> Polled:
    make_due(services)
    return poll_main_keys(services, **more)


def record(services: Services, uri: str = "memory:a") -> MainKeyRecord:
    with services.database.read() as connection:
        found = main_keys.find(connection, uri)
    assert found is not None
    return found


def lock(services: Services, environment: Environment) -> str | None:
    with services.database.read() as connection:
        return get_environment(connection, environment.id).lock_cause


def latest(services: Services, environment: Environment) -> Repack | None:
    with services.database.read() as connection:
        return latest_repack(connection, environment.id)


def finish(services: Services, environment: Environment) -> Repack:
    repack = latest(services, environment)
    assert repack is not None
    while walk_slice(services, repack.id):
        pass
    ended = latest(services, environment)
    assert ended is not None
    assert ended.state == RepackState.FINISHED
    return ended


def told(services: Services, kind: str) -> list[dict[str, Any]]:
    with services.database.read() as connection:
        rows = connection.execute(outbox.select().where(outbox.c.type == kind).order_by(outbox.c.id))
        return [json.loads(row.body)["data"] for row in rows]


@given(st.text(min_size=1, max_size=60), st.floats(1e9, 2e9), st.floats(0.1, 1e5))
def test_a_key_has_its_own_turn_in_every_interval(uri: str, now: float, interval: float) -> None:
    """The next look is after now, within one interval, and at the same place of every interval."""
    at = next_poll(uri, now, interval)
    assert now < at + 1e-3
    assert at <= now + interval + 1e-3
    assert 0 <= phase_of(uri) < 1
    turns = (at - phase_of(uri) * interval) / interval
    assert turns == pytest.approx(round(turns), abs=1e-3)


def test_turns_are_spread_evenly() -> None:
    """Of 10,000 keys each tenth of the interval has about a thousand."""
    tenths = [0] * 10
    for number in range(10_000):
        tenths[int(phase_of(f"aws-kms:{number}") * 10)] += 1
    assert min(tenths) > 850
    assert max(tenths) < 1150


def test_main_keys_in_use_are_looked_at(services: Services, environment: Environment) -> None:
    """A pass takes up what came into use, and records generation and time of what it sees."""
    assert poll(services) == Polled(usable=1)
    seen = record(services)
    assert (seen.cause, seen.interval) == (None, 300)
    assert seen.generation == latest_generation(services, environment)
    assert seen.last_looked_at is not None
    assert seen.last_looked_at == seen.last_answered_at
    assert not seen.hides_generation


def latest_generation(services: Services, environment: Environment) -> str | None:
    with services.database.read() as connection:
        row = connection.execute(top_versions.select().order_by(top_versions.c.version.desc())).first()
    assert row is not None
    return str(row.generation) if row.generation else None


def test_what_is_not_due_is_not_looked_at(services: Services, environment: Environment, memory_kms: MemoryKms) -> None:
    """R3: the record says when; a second pass at once, or a message doubled, makes no call."""
    poll(services)
    before = dict(memory_kms.calls)
    assert poll_main_keys(services) == Polled()
    assert memory_kms.calls == before


def test_a_key_that_nobody_uses_any_more_is_left_alone(services: Services, environment: Environment) -> None:
    """Once no live top has it, a main key is not looked at, and a hint about it does nothing."""
    poll(services)
    with services.database.write() as connection:
        connection.execute(top_versions.update().values(state="retired"))
    assert poll(services) == Polled()
    assert poll_now(services, "memory:a", in_transaction=lambda _: None) is None


def test_a_pass_stays_within_its_budget(services: Services) -> None:
    """A pass claims as many looks as it may make; the rest are the next pass's, the longest overdue first."""
    for number in range(7):
        Keyring(services).create_environment("acme", str(number), main_key=f"memory:{number}", actor="test")
    make_due(services)
    assert [poll_main_keys(services, most=5).usable, poll_main_keys(services, most=5).usable] == [5, 2]


def test_a_rotation_is_followed_by_a_shallow_repack(
    services: Services, environment: Environment, memory_kms: MemoryKms
) -> None:
    """A generation that is not the top's starts a shallow repack by the poller, told once; then all is current."""
    poll(services)
    assert latest(services, environment) is None
    generation = memory_kms.rotate("a")
    poll(services)
    poll(services)
    repack = finish(services, environment)
    assert (repack.mode, repack.actor) == (Mode.SHALLOW, "poller")
    [seen] = told(services, "main_key.rotation_seen")
    assert (seen["main_key"], seen["to_generation"]) == ("memory:a", generation)
    assert seen["repack"] == str(repack.repack_id)
    poll(services)
    assert latest(services, environment) == repack


def test_a_rotation_in_mid_run_is_followed_when_that_run_has_ended(
    services: Services, environment: Environment, memory_kms: MemoryKms
) -> None:
    """An open repack is not disturbed; the look after its end starts the next one."""
    memory_kms.rotate("a")
    poll(services)
    first = latest(services, environment)
    memory_kms.rotate("a")
    poll(services)
    assert latest(services, environment) == first
    assert len(told(services, "main_key.rotation_seen")) == 1
    finish(services, environment)
    poll(services)
    second = finish(services, environment)
    assert len(told(services, "main_key.rotation_seen")) == 2
    assert first is not None
    assert second.id > first.id
    with services.database.read() as connection:
        assert len(list_repacks(connection, limit=10)) == 2


def test_a_refusal_locks_and_the_return_unlocks(
    services: Services, environment: Environment, memory_kms: MemoryKms
) -> None:
    """R8: a main key that its KMS refuses restricts its environments, with cause and since when, until it is back."""
    other = Keyring(services).create_environment("other", "production", main_key="memory:b", actor="test")
    memory_kms.set_state("a", Cause.DISABLED)
    assert poll(services) == Polled(usable=1, refused=1)
    assert (lock(services, environment), lock(services, other)) == ("restricted", None)
    first = record(services)
    assert (first.cause, first.interval) == ("disabled", main_keys.SOON_SECONDS)
    poll(services)
    assert record(services).since == first.since
    assert len(told(services, "environment.locked")) == 1
    memory_kms.set_state("a", None)
    poll(services)
    assert lock(services, environment) is None
    assert record(services).cause is None


def test_a_revocation_by_word_outlasts_a_usable_key(
    services: Services, environment: Environment, memory_kms: MemoryKms
) -> None:
    """What the customer revoked stays locked although the KMS serves its key."""
    locking.revoke(services, [environment], actor="test", reason="", in_transaction=lambda _: None)
    poll(services)
    assert lock(services, environment) == "revoked"


@pytest.mark.parametrize("cause", [Cause.UNREACHABLE, Cause.THROTTLED])
def test_no_answer_never_locks(
    services: Services, environment: Environment, memory_kms: MemoryKms, cause: Cause
) -> None:
    """A KMS that does not answer is recorded with since when, asked again soon, then ever more seldom: no lock."""
    poll(services)
    before = record(services)
    memory_kms.set_state("a", cause)
    intervals = []
    for _ in range(8):
        assert poll(services) == Polled(unanswered=1)
        intervals.append(record(services).interval)
    assert lock(services, environment) is None
    seen = record(services)
    assert (seen.cause, seen.generation) == (cause.value, before.generation)
    assert seen.last_answered_at == before.last_answered_at
    assert intervals == [5, 10, 20, 40, 80, 160, 300, 300]


def test_a_kind_this_process_does_not_serve_never_locks(services: Services, environment: Environment) -> None:
    """A worker without a provider for a kind of key takes that for no word of its KMS."""
    with services.database.write() as connection:
        connection.execute(top_versions.update().values(main_key="openbao:transit/a"))
    assert poll(services) == Polled(unanswered=1)
    assert record(services, "openbao:transit/a").cause == "unsupported"
    assert lock(services, environment) is None


def test_a_hidden_generation_is_followed_by_the_calendar(
    services: Services, environment: Environment, memory_kms: MemoryKms
) -> None:
    """Where the KMS hides its generation the roots are rewrapped after so many days, no rotation is told, and the
    record says so."""
    memory_kms.hide_generation("a")
    poll(services)
    assert record(services).hides_generation
    assert latest(services, environment) is None
    with services.database.write() as connection:
        connection.execute(top_versions.update().values(created_at=top_versions.c.created_at - 91 * 86_400))
    poll(services)
    finish(services, environment)
    assert told(services, "main_key.rotation_seen") == []
    poll(services)
    with services.database.read() as connection:
        assert len(list_repacks(connection, limit=10)) == 1


def test_what_was_put_off_is_due_soon(services: Services, environment: Environment) -> None:
    """A key whose endpoint was silent is not recorded as seen; its turn comes within seconds."""
    make_due(services)
    record_results(services, [PollResult(key="memory:a", answered=False, asked=False)])
    put_off = record(services)
    assert put_off.last_looked_at is None
    assert put_off.next_look_at - services.database.now() <= main_keys.SOON_SECONDS


def test_one_environment_that_fails_does_not_stop_the_others(
    services: Services, environment: Environment, memory_kms: MemoryKms
) -> None:
    """A refused start is left for the next look; the same key's other environments are followed up all the same."""
    second = Keyring(services).create_environment("acme", "second", main_key="memory:a", actor="test")
    memory_kms.rotate("a")

    async def once(operation: str, name: str) -> None:
        memory_kms.before("wrap", None)
        raise DatabaseAway("a test's")

    memory_kms.before("wrap", once)
    poll(services)
    assert (latest(services, environment), latest(services, second)).count(None) == 1
    poll(services)
    assert None not in (latest(services, environment), latest(services, second))


def test_a_look_now_is_durable_before_it_is_made(services: Services, environment: Environment) -> None:
    """R3: the record says that a look is due in the transaction that settles the hint; a crash leaves it due."""

    class Crash(Exception):
        pass

    def look(*_: object) -> None:
        raise Crash

    services.kms.main_key = look  # type: ignore[method-assign, assignment]
    with pytest.raises(Crash):
        poll_now(services, "memory:a", in_transaction=lambda _: None)
    assert record(services).next_look_at <= services.database.now()
