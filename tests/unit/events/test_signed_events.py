"""Events in: what is taken, what is rejected with which code, and what each type leads to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producers.signing import generate_key, sign
from schemas.events import INBOUND
from schemas.states import Mode
from workers.errors import Cause
from workers.events.handling import handle_event
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.keyring.keyring import Keyring
from workers.kms.local.memory import MemoryKms
from workers.services import Services
from workers.store import inbox
from workers.store.environments import Environment, get_environment
from workers.store.repacks import latest_repack

CONSOLE, ACME = generate_key(), generate_key()
AWS: dict[str, Any] = {
    "version": "0",
    "id": "aws-1",
    "detail-type": "KMS CMK Rotation",
    "source": "aws.kms",
    "account": "111122223333",
    "region": "eu-west-1",
    "resources": ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"],
    "detail": {},
}

Take = Callable[..., int | None]


@pytest.fixture
def environment(services: Services) -> Environment:
    return Keyring(services).create_environment("acme", "production", main_key="memory:a", actor="test")


@pytest.fixture
def take(services: Services, tmp_path: Path) -> Take:
    """A function that takes an event, signed by `key` unless that is None; `at` is when it was signed."""
    path = tmp_path / "sources.json"
    console = {"source": "/console", "keys": [CONSOLE.public], "workspaces": ["*"], "types": list(INBOUND)}
    acme = {"source": "/acme", "keys": [ACME.public], "workspaces": ["acme"], "types": ["main_key.revoked"]}
    aws = {"source": "aws.kms", "trusted": True, "workspaces": ["*"], "types": ["main_key.changed"]}
    path.write_text(json.dumps({"sources": [console, acme, aws]}))
    sources = Sources(path)

    def taken(event: dict[str, Any], key: str | None = CONSOLE.secret, at: float | None = None) -> int | None:
        body = json.dumps(event).encode()
        headers = sign(event["id"], body, key, clock=lambda: time.time() if at is None else at) if key else {}
        return take_event(services, body, headers=headers, sources=sources)

    return taken


def event(kind: str, source: str = "/console", at: str = "e-1", **data: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": at, "source": source, "type": kind, "data": data}


def rejected(services: Services) -> list[str]:
    with services.database.read() as connection:
        return [row["code"] for row in inbox.list_rejected(connection)]


def locks(services: Services, *environments: Environment) -> list[str | None]:
    with services.database.read() as connection:
        return [get_environment(connection, environment.id).lock_cause for environment in environments]


def test_nothing_is_taken_without_a_table_of_sources(services: Services, environment: Environment) -> None:
    """Closed when not configured: a well-formed event is rejected as of an unknown source, and kept."""
    body = json.dumps(event("main_key.rotated", environment=str(environment.environment_id))).encode()
    assert take_event(services, body) is None
    assert rejected(services) == ["unknown_source"]


def test_an_unsigned_event_never_reaches_the_inbox(services: Services, environment: Environment, take: Take) -> None:
    """Unsigned, foreign and mistimed messages are rejected with their code, and leave no trace in the inbox."""
    wanted = event("main_key.rotated", environment=str(environment.environment_id))
    assert take(wanted, None) is None
    assert take(wanted, ACME.secret) is None
    assert take(wanted, at=time.time() - 400) is None
    assert rejected(services) == ["stale_signature", "bad_signature", "unsigned"]
    assert take(wanted) is not None, "the id was not used up"


def test_a_late_revocation_is_honoured(services: Services, environment: Environment, take: Take) -> None:
    """R8: an authentic revocation that is a week late still locks."""
    take(event("main_key.revoked", environment=str(environment.environment_id)), at=time.time() - 604_800)
    assert locks(services, environment) == ["revoked"]


def test_a_replay_is_a_no_op(services: Services, environment: Environment, take: Take) -> None:
    """R2: the same revocation again, after the return, changes nothing; nor does a repeat that is late by now."""
    name = str(environment.environment_id)
    revoked = event("main_key.revoked", environment=name)
    handle_event(services, take(revoked) or 0)
    handle_event(services, take(event("main_key.restored", at="e-2", environment=name)) or 0)
    assert take(revoked) is None
    assert take(event("main_key.restored", at="e-2", environment=name), at=time.time() - 1000) is None
    assert locks(services, environment) == [None]
    assert rejected(services) == []


def test_an_id_with_another_body_is_rejected(services: Services, environment: Environment, take: Take) -> None:
    """Authentic or not, one id stands for one event."""
    take(event("main_key.revoked", environment=str(environment.environment_id)))
    assert take(event("main_key.revoked", workspace="acme")) is None
    assert rejected(services) == ["replayed_id"]


def test_a_source_may_say_only_what_it_may(services: Services, environment: Environment, take: Take) -> None:
    """Another workspace, an environment that is not there, and another type are not allowed; its own is."""
    other = Keyring(services).create_environment("other", "production", main_key="memory:b", actor="test")
    for number, (kind, data) in enumerate([
        ("main_key.revoked", {"workspace": "other"}),
        ("main_key.revoked", {"environment": str(other.environment_id)}),
        ("main_key.revoked", {"environment": "00000000-0000-0000-0000-000000000000"}),
        ("main_key.restored", {"workspace": "acme"}),
    ]):  # fmt: skip
        assert take(event(kind, "/acme", str(number), **data), ACME.secret) is None
    assert rejected(services) == ["not_allowed"] * 4
    own = event("main_key.revoked", "/acme", environment=str(environment.environment_id))
    assert take(own, ACME.secret) is None
    assert rejected(services) == ["not_allowed"] * 4
    assert locks(services, environment) == ["revoked"]


def test_a_workspace_is_revoked_and_restored_as_a_whole(
    services: Services, environment: Environment, take: Take
) -> None:
    """All of a workspace's environments lock and unlock with one event; another workspace's do not."""
    second = Keyring(services).create_environment("acme", "staging", main_key="memory:b", actor="test")
    other = Keyring(services).create_environment("other", "production", main_key="memory:a", actor="test")
    handle_event(services, take(event("main_key.revoked", workspace="acme", reason="we left")) or 0)
    assert locks(services, environment, second, other) == ["revoked", "revoked", None]
    handle_event(services, take(event("main_key.restored", at="e-2", workspace="acme")) or 0)
    assert locks(services, environment, second, other) == [None, None, None]


def test_a_revocation_of_nothing_is_rejected(services: Services, take: Take) -> None:
    """A workspace without environments is not found: nobody believes that something was locked."""
    handle_event(services, take(event("main_key.revoked", workspace="nobody")) or 0)
    assert rejected(services) == ["not_found"]


def test_a_replacement_starts_a_repack(services: Services, environment: Environment, take: Take) -> None:
    """The event's effect and the record of it are there together; handled again it changes nothing."""
    data = {"environment": str(environment.environment_id), "main_key": "memory:b"}
    inbox_id = take(event("main_key.replaced", **data)) or 0
    handle_event(services, inbox_id)
    handle_event(services, inbox_id)
    with services.database.read() as connection:
        repack = latest_repack(connection, environment.id)
        received = inbox.find_received(connection, inbox_id)
    assert repack is not None
    assert (repack.target_key, repack.mode) == ("memory:b", Mode.DEEP)
    assert received is not None
    assert received.outcome == {"repack": str(repack.repack_id)}


def test_a_hint_is_looked_into_at_once_and_never_believed(
    services: Services, environment: Environment, take: Take, memory_kms: MemoryKms
) -> None:
    """A key said to have changed is described: as it works nothing happens, and when it is refused it locks."""
    handle_event(services, take(event("main_key.changed", main_key="memory:a", said="DisableKey")) or 0)
    assert locks(services, environment) == [None]
    memory_kms.set_state("a", Cause.DISABLED)
    handle_event(services, take(event("main_key.changed", at="e-2", main_key="memory:a")) or 0)
    assert locks(services, environment) == ["restricted"]


def test_awss_own_envelope_is_taken(services: Services, take: Take, memory_kms: MemoryKms) -> None:
    """An event of EventBridge needs no CloudEvent around it; a key nobody uses costs no call."""
    inbox_id = take(AWS, None)
    assert inbox_id is not None
    before = dict(memory_kms.calls)
    handle_event(services, inbox_id)
    assert memory_kms.calls == before
    assert take(AWS, None) is None, "a repeat, handled already"
    assert rejected(services) == []
    assert take(AWS | {"id": "aws-2", "source": "aws.s3"}, None) is None
    assert rejected(services) == ["unknown_type"]
