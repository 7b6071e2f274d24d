"""The record: audit chain, inbox, outbox, ticks, and what only the database can refuse (R2, R11)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, update

from producers.publisher import BrokerAway, MemoryPublisher
from schemas.errors import EventRejected
from schemas.events import Event
from schemas.states import Mode
from tests.engine import World, usual_tree
from tests.poll import poll
from workers.errors import AnotherStarted
from workers.maintenance.outbox_relay import publish_outbox
from workers.maintenance.sweeper import take_tick
from workers.store import models, outbox
from workers.store.audit import append_record, records, verify_chain
from workers.store.database import Connection, Database
from workers.store.inbox import find_received, list_rejected, receive, reject, settle, unhandled
from workers.store.models import audit, audit_head
from workers.store.outbox import record_event
from workers.store.repacks import create_repack


def append(database: Database, count: int = 1) -> None:
    """Append records."""
    for n in range(count):
        with database.write() as connection:
            append_record(connection, action="test.happened", actor="test", environment_id=uuid4(), facts={"n": n})


def test_the_chain_is_whole(database: Database) -> None:
    """Each record follows the one before; the head is the last one."""
    append(database, 5)
    with database.read() as connection:
        verdict = verify_chain(connection)
        last = list(records(connection))[-1]
    assert (verdict.whole, verdict.records, verdict.head) == (True, 5, last.hash.hex())


def test_an_empty_chain_is_whole(database: Database) -> None:
    """Nothing happened yet."""
    with database.read() as connection:
        assert verify_chain(connection).whole


TAMPERINGS: list[tuple[str, Callable[[Connection], object], int]] = [
    ("facts", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(facts='{"n":9}')), 3),
    ("actor", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(actor="nobody")), 3),
    ("action", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(action="test.not")), 3),
    ("time", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(at=1.0)), 3),
    ("environment", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(environment_id=uuid4())), 3),
    ("repack", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(repack_id=uuid4())), 3),
    ("hash", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(hash=bytes(32))), 3),
    ("previous", lambda c: c.execute(update(audit).where(audit.c.seq == 3).values(previous=bytes(32))), 3),
    ("taken_out", lambda c: c.execute(delete(audit).where(audit.c.seq == 3)), 3),
    ("first_taken_out", lambda c: c.execute(delete(audit).where(audit.c.seq == 1)), 1),
    ("cut_off", lambda c: c.execute(delete(audit).where(audit.c.seq >= 4)), 4),
    ("all_gone", lambda c: c.execute(delete(audit)), 1),
    ("head_gone", lambda c: c.execute(delete(audit_head)), 6),
    (
        "put_in",
        lambda c: c.execute(
            insert(audit).values(
                seq=6, at=1.0, action="test.not", actor="me", facts="{}", previous=bytes(32), hash=bytes(32)
            )
        ),
        6,
    ),
]


@pytest.mark.parametrize(("tamper", "at"), [part[1:] for part in TAMPERINGS], ids=[part[0] for part in TAMPERINGS])
def test_tampering_is_found(database: Database, tamper: Callable[[Connection], object], at: int) -> None:
    """Whatever is changed, taken out, put in or cut off, the chain says where it breaks."""
    append(database, 5)
    with database.write() as connection:
        tamper(connection)
    with database.read() as connection:
        verdict = verify_chain(connection)
    assert not verdict.whole
    assert verdict.broken_at == at
    assert verdict.why


def test_many_append_at_once(url: str) -> None:
    """R11: writers of the record wait for each other, from the very first one on; none is lost, the chain is whole."""
    barrier = threading.Barrier(4)
    errors: list[Exception] = []

    def work() -> None:
        own = Database(url)
        try:
            barrier.wait(10)
            append(own, 10)
        except Exception as error:
            errors.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    database = Database(url)
    with database.read() as connection:
        verdict = verify_chain(connection)
    database.close()
    assert (verdict.whole, verdict.records) == (True, 40)


def event(id: str = "1", source: str = "tests", **data: object) -> Event:
    """An event of some kind."""
    return Event(id=id, source=source, type="main_key.rotated", data={"environment": str(uuid4()), **data})


def test_an_event_is_received_once(database: Database) -> None:
    """R2: the same (source, id) with the same body is the same record; spacing and order of fields do not matter."""
    one = event()
    again = json.dumps(json.loads(one.to_bytes()), indent=2).encode()
    with database.write() as connection:
        first = receive(connection, one, one.to_bytes())
    with database.write() as connection:
        assert receive(connection, one, again).id == first.id
        other = receive(connection, event(source="others"), event(source="others").to_bytes())
        assert other.id != first.id
        assert unhandled(connection) == [first.id, other.id]
        settle(connection, first.id, state="handled", outcome={"repack": "x"})
        assert unhandled(connection) == [other.id]
        found = find_received(connection, first.id)
    assert found is not None
    assert (found.state, found.outcome) == ("handled", {"repack": "x"})


def test_a_replayed_id_is_refused(database: Database) -> None:
    """Another body under an id that came before is refused; what came first stays."""
    one, two = event(), event()
    with database.write() as connection:
        first = receive(connection, one, one.to_bytes())
    with database.write() as connection, pytest.raises(EventRejected) as refused:
        receive(connection, two, two.to_bytes())
    assert refused.value.code == "replayed_id"
    with database.write() as connection:
        reject(connection, two.to_bytes() * 1000, refused.value, two)
        kept = find_received(connection, first.id)
        assert kept is not None
        assert kept.body == one.to_bytes()
        listed = list_rejected(connection)
    assert [(row["code"], row["event_id"], row["source"]) for row in listed] == [("replayed_id", "1", "tests")]
    assert len(listed[0]["body"]) == 4096  # of one too large to be an event; others are kept whole, to be replayed


def test_what_rolls_back_was_never_told(database: Database) -> None:
    """R11: record and event are written in the transaction they tell of, or not at all."""

    def tell_and_fail() -> None:
        with database.write() as connection:
            record_event(connection, "repack.paused", actor="test", environment_id=uuid4())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        tell_and_fail()
    with database.read() as connection:
        assert verify_chain(connection).records == 0
        assert not connection.execute(models.outbox.select()).all()


class Flaky(MemoryPublisher):
    """A broker that is away every other time, after it took the events."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True

    def publish_all(self, events: object) -> None:
        """See MemoryPublisher."""
        super().publish_all(events)  # type: ignore[arg-type]
        self.away = not self.away
        if not self.away:
            raise BrokerAway("The answer was lost.")


def test_the_outbox_publishes_at_least_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """R11: an event is marked only once the broker has answered; in order, and never twice when all goes well."""
    monkeypatch.setattr(outbox, "CLAIM_SECONDS", 0.2)
    world.environment()
    world.environment("acme/staging")
    publisher, flaky = MemoryPublisher(), Flaky()
    with pytest.raises(BrokerAway):
        publish_outbox(world.main, flaky)
    assert len(flaky.published) == 2
    assert publish_outbox(world.main, publisher) == 0  # one publisher at a time, until it is forgotten
    assert poll(lambda: publish_outbox(world.main, publisher), 10, "the dead publisher is forgotten") == 2
    assert publish_outbox(world.main, publisher) == 0
    names = [json.loads(body)["data"]["name"] for body, _ in publisher.published]
    assert names == ["production", "staging"]
    assert flaky.published == publisher.published


def test_a_tick_is_taken_once(world: World) -> None:
    """Two beats tick twice; the job runs once a slot, and once more in the next."""
    other = world.process()
    taken = [take_tick(services, "sweep", 3600) for services in (world.main, other, world.main)]
    assert taken.count(True) == 1
    assert take_tick(world.main, "another", 3600)


def test_one_open_repack_an_environment(world: World) -> None:
    """The database itself refuses a second open repack of an environment, whatever the program believes."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    world.start(environment)
    with pytest.raises(AnotherStarted), world.main.database.write() as connection:
        create_repack(
            connection, environment=environment.id, mode=Mode.DEEP, levels=1, from_top=1, to_top=3,
            source_key="memory:a", target_key="memory:c", actor="test", kms_calls=0,
        )  # fmt: skip
