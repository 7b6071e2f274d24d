"""The sweeper wakes what lies idle, and leaves alone what does not (R3)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from schemas.states import RepackState, Stage
from tests.engine import World, usual_tree
from tests.steps import until
from workers.errors import Cause
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.kms.local.managed import ManagedKms, create_managed_key_file
from workers.kms.local.uploaded import UploadedKms
from workers.kms.registry import KmsRegistry
from workers.main_keys import uploads
from workers.maintenance import sweeper
from workers.maintenance.sweeper import FRESH_SECONDS, sweep
from workers.repack.certificate import STATEMENT
from workers.repack.control import pause
from workers.repack.lifecycle import walk_slice
from workers.services import Services
from workers.store import models
from workers.store.shards import claim_shard
from workers.store.uploads import load_sealed


class Woken:
    """Remembers who was woken."""

    def __init__(self) -> None:
        self.repacks: list[int] = []
        self.events: list[int] = []
        self.outboxes = 0

    def repack(self, repack: int, *, times: int = 1) -> None:
        """See Waker.repack."""
        self.repacks += [repack] * times

    def event(self, inbox_id: int) -> None:
        """See Waker.event."""
        self.events.append(inbox_id)

    def outbox(self) -> None:
        """See Waker.outbox."""
        self.outboxes += 1


def woken(world: World) -> Woken:
    """What one sweep wakes."""
    woken = Woken()
    sweep(world.process(wake=woken))
    return woken


def test_a_run_ends_with_every_message_lost(world: World) -> None:
    """R3: one slice a sweep, and no other message: the run still finishes."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    for _ in range(100):
        found = woken(world)
        assert found.outboxes == 1
        if not found.repacks:
            break
        walk_slice(world.main, found.repacks[0])
    assert world.look(repack).state == RepackState.FINISHED


def test_what_has_a_live_lease_is_left_alone(world: World) -> None:
    """A repack whose shards are all walked is not woken; once the leases have run out it is."""
    assert world.clock is not None
    environment = world.environment()
    usual_tree(world, environment)
    repack = until(world, world.start(environment), Stage.RENEW)
    while True:
        with world.main.database.write() as connection:
            if claim_shard(connection, repack.id, owner="test", lease_seconds=30) is None:
                break
    assert not woken(world).repacks
    world.clock.let_pass(31)
    assert woken(world).repacks


def test_paused_and_ended_sleep_and_blocked_is_woken(world: World) -> None:
    """A blocked repack is looked at when that is due; one that an operator paused, or that has ended, is not."""
    assert world.clock is not None
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    world.kms.set_state("b", Cause.DISABLED)
    assert world.run(repack).state == RepackState.BLOCKED
    assert not woken(world).repacks
    world.clock.let_pass(world.main.settings.kms_probe_seconds + 1)
    assert set(woken(world).repacks) == {repack.id}
    pause(world.main, repack, actor="test")
    assert not woken(world).repacks


def test_a_sweep_sends_so_many_wake_ups_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many repacks wait, and however many shards they have: first come those that have waited longest."""
    assert world.clock is not None
    monkeypatch.setattr(sweeper, "WAKE_UPS", 3)
    repacks = []
    for number in range(4):
        environment = world.environment(f"acme/{number}")
        usual_tree(world, environment)
        world.clock.let_pass(1)
        repacks.append(world.start(environment))
    assert woken(world).repacks == [repacks[0].id, repacks[0].id, repacks[1].id]


def test_an_event_without_its_effect_is_woken(world: World) -> None:
    """An event whose message was lost is handled all the same."""
    environment = world.environment()
    body = (
        f'{{"specversion":"1.0","id":"1","source":"t","type":"main_key.rotated",'
        f'"data":{{"environment":"{environment.environment_id}"}}}}'
    )
    row = take_event(world.main, body.encode(), sources=Sources(None, allow_unsigned=True))
    assert woken(world).events == [], "its own wake-up is on the way: another worker would probe the keys again"
    with world.main.database.write() as connection:
        connection.execute(models.inbox.update().values(received_at=models.inbox.c.received_at - FRESH_SECONDS))
    assert woken(world).events == [row]


def test_upload_parameters_end_with_their_day(world: World, tmp_path: Path) -> None:
    """Whoever never uploads leaves no private key behind: a sweep destroys it a day later, and tells it once."""
    assert world.clock is not None
    world.environment()
    services = with_managed_key(world, tmp_path)
    params = uploads.create_params(services, "acme/production", "customer")
    assert sweep(services).expired == 0
    world.clock.let_pass(uploads.PARAMS_SECONDS + 1)
    assert (sweep(services).expired, sweep(services).expired) == (1, 0)
    [row] = world.rows(models.upload_params)
    assert (row["state"], row["wrapped_key"], row["sealed_private_key"]) == ("expired", None, None)
    [told] = world.rows(models.audit, models.audit.c.action == "main_key.upload_params_expired")
    assert str(params.params_id) in told["facts"]


def with_managed_key(world: World, folder: Path) -> Services:
    """A process that serves the platform's own key too, and what is uploaded under it."""
    create_managed_key_file(folder / "managed.key")
    services, managed = world.process(), ManagedKms(folder / "managed.key")
    providers = [world.kms, managed, UploadedKms(managed, partial(load_sealed, services.database))]
    return replace(services, kms=KmsRegistry(providers))


def test_the_certificate(world: World) -> None:
    """It says who, when, from, to, how many, and where in the audit chain; nothing is in it that is not JSON."""
    environment = world.environment()
    usual_tree(world, environment, hours=3)
    certificate = world.repack(environment).certificate
    assert certificate is not None
    assert certificate["statement"] == STATEMENT
    assert (certificate["from"]["main_key"], certificate["to"]["main_key"]) == ("memory:a", "memory:b")
    assert certificate["roots"] == certificate["rewrapped"] == 5
    head = next(row for row in world.rows(models.audit) if row["seq"] == certificate["audit"]["seq"])
    assert certificate["audit"]["hash"] == head["hash"].hex()
