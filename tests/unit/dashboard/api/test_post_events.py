"""`POST /events`: structured and binary, signed as on the broker; what is refused, how, and what is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from producers.signing import generate_key, sign
from schemas.events import CONTENT_TYPE, INBOUND, MAX_EVENT_BYTES
from tests.engine import World
from workers.events.handling import handle_event
from workers.store.environments import Environment, get_environment
from workers.store.inbox import list_rejected
from workers.store.models import inbox

CONSOLE, ACME, STRANGER = generate_key(), generate_key(), generate_key()
Program = Callable[[str], TestClient]


@pytest.fixture
def environment(world: World) -> Environment:
    return world.environment()


@pytest.fixture
def post(program: Program, sources_file: Path) -> Callable[..., Any]:
    """A function that sends an event in structured mode, signed by `key` unless that is None."""
    console = {"source": "/console", "keys": [CONSOLE.public], "workspaces": ["*"], "types": list(INBOUND)}
    acme = {"source": "/acme", "keys": [ACME.public], "workspaces": ["other"], "types": ["main_key.revoked"]}
    trusted = {"source": "/inside", "trusted": True, "workspaces": ["*"], "types": list(INBOUND)}
    sources_file.write_text(json.dumps({"sources": [console, acme, trusted]}))
    client = program("")

    def sent(event: Any, key: str | None = CONSOLE.secret, *, at: float | None = None, **headers: str) -> Any:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        identifier = event.get("id", "") if isinstance(event, dict) else "e-1"
        signed = sign(identifier, body, key, clock=lambda: time.time() if at is None else at) if key else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post("/events", content=body, headers={"content-type": CONTENT_TYPE} | signed | named)

    return sent


def revoked(environment: Environment, source: str = "/console", identifier: str = "e-1", **data: Any) -> dict[str, Any]:
    """The customer takes an environment's main key away."""
    data = {"environment": str(environment.environment_id), **data}
    return {"specversion": "1.0", "id": identifier, "source": source, "type": "main_key.revoked", "data": data}


def locks(world: World, environment: Environment) -> str | None:
    """Give the newest event its effect; the lock after that."""
    row = world.rows(inbox)[-1]
    handle_event(world.main, row["id"])
    with world.main.database.read() as connection:
        return get_environment(connection, environment.id).lock_cause


def dead_letters(world: World) -> list[str]:
    """Codes of the events that were kept with their reason."""
    with world.main.database.read() as connection:
        return [row["code"] for row in list_rejected(connection)]


def test_a_signed_event_is_taken(post: Callable[..., Any], world: World, environment: Environment) -> None:
    """202 once, 200 for the same again, and one effect."""
    first, again = post(revoked(environment)), post(revoked(environment))
    assert (first.status_code, first.json()["state"]) == (202, "handled")  # R8: a revocation waits for nothing
    assert (again.status_code, again.json()["state"], len(world.rows(inbox))) == (200, "handled", 1)
    assert locks(world, environment) == "revoked"


def test_an_event_that_waits_is_taken_again(post: Callable[..., Any], world: World, environment: Environment) -> None:
    """202 as long as it waits for its effect: the wake-up may have been lost."""
    data = {"environment": str(environment.environment_id)}
    rotated = {**revoked(environment), "type": "main_key.rotated", "data": data}
    answers = [post(rotated, at=world.main.clock()) for _ in range(2)]
    assert [(one.status_code, one.json()["state"]) for one in answers] == [(202, "received")] * 2
    assert len(world.rows(inbox)) == 1


def test_binary_mode_is_signed_over_the_whole_event(
    program: Program, post: Callable[..., Any], world: World, environment: Environment
) -> None:
    """Attributes are headers: the signature is over them too, as canonical JSON."""
    event = {**revoked(environment), "datacontenttype": "application/json"}
    canonical = json.dumps(event, sort_keys=True, separators=(",", ":")).encode()
    headers = {f"ce-{name}": str(event[name]) for name in ("specversion", "id", "source", "type")}
    headers |= {"content-type": "application/json"} | sign("e-1", canonical, CONSOLE.secret)
    body = json.dumps(event["data"]).encode()
    assert program("").post("/events", content=body, headers=headers).status_code == 202
    assert locks(world, environment) == "revoked"
    swapped = headers | {"ce-type": "main_key.restored"}
    assert program("").post("/events", content=body, headers=swapped).status_code == 401


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"key": None}, 401, "unsigned"),
        ({"key": STRANGER.secret}, 401, "bad_signature"),
        ({"webhook_id": "another"}, 401, "bad_signature"),
        ({"webhook_timestamp": "1"}, 401, "bad_signature"),
        ({"webhook_signature": "v1a,AAAA"}, 401, "bad_signature"),
        ({"content_type": "text/plain"}, 415, "wrong_content_type"),
    ],
)
def test_what_strangers_send_is_answered_and_not_kept(
    post: Callable[..., Any], world: World, environment: Environment, change: dict[str, Any], status: int, code: str
) -> None:
    """Nothing of it is written anywhere: neither taken nor among the dead letters."""
    answer = post(revoked(environment), **change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (world.rows(inbox), dead_letters(world)) == ([], [])


def test_a_source_that_is_trusted_on_the_broker_signs_here(post: Callable[..., Any], environment: Environment) -> None:
    """It is trusted since it reaches the broker; everybody reaches a port."""
    answer = post(revoked(environment, "/inside"), None)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unsigned")
    assert post(revoked(environment, "/nobody"), None).json()["error"]["code"] == "unknown_source"


def test_what_a_known_source_may_not_say_is_kept(
    post: Callable[..., Any], world: World, environment: Environment
) -> None:
    """With its reason, as on the broker: not of that workspace, too late, something else under the same id."""
    assert post(revoked(environment, "/acme"), ACME.secret).status_code == 403
    late = {**revoked(environment, identifier="e-2"), "type": "main_key.restored"}
    assert post(late, at=time.time() - 3600).status_code == 401
    assert post(revoked(environment, identifier="e-3")).status_code == 202
    assert post(revoked(environment, identifier="e-3", reason="another")).status_code == 409
    assert dead_letters(world) == ["replayed_id", "stale_signature", "not_allowed"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"specversion":"1.0"}', b"\xff\xfe", b'{"id":' + b"[" * 5000, b"null"]
)
def test_what_is_no_event_is_refused(post: Callable[..., Any], world: World, body: bytes) -> None:
    """422, and nothing is kept."""
    answer = post(body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] in ("malformed_json", "malformed_event")
    assert dead_letters(world) == []


def test_an_oversized_event_is_not_read(post: Callable[..., Any], environment: Environment) -> None:
    """413, told or not told beforehand."""
    event = revoked(environment, reason="x" * MAX_EVENT_BYTES)
    assert post(event).status_code == 413
    assert post(b"x" * (MAX_EVENT_BYTES + 1), content_length="10").status_code in (400, 413)


def test_the_same_key_gets_the_same_answer(post: Callable[..., Any], world: World, environment: Environment) -> None:
    """Also after the event has had its effect; another body under that key is refused."""
    event = revoked(environment)
    first = post(event, idempotency_key="k-1")
    locks(world, environment)
    again = post(event, at=time.time() + 1, idempotency_key="k-1")  # signed anew, as who tries again does
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    other = post(revoked(environment, identifier="e-2"), idempotency_key="k-1")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert post(event, idempotency_key="").status_code == 422
    assert post(event, STRANGER.secret, idempotency_key="k-1").status_code == 401


def test_without_a_table_of_sources_nothing_is_taken(
    program: Program, sources_file: Path, environment: Environment
) -> None:
    """503: nobody can judge it; it may be sent again."""
    sources_file.write_text("{")
    body = json.dumps(revoked(environment)).encode()
    answer = program("").post("/events", content=body, headers={"content-type": CONTENT_TYPE})
    assert answer.status_code == 503
