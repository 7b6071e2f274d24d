"""Acts: what is done from a page or by the API has its effect, who and why in the audit, and needs the very form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from schemas.events import Event
from schemas.states import RepackState, Stage
from tests.corruption import flip_data_key, set_row
from tests.engine import World, usual_tree
from tests.steps import until
from tests.unit.dashboard.conftest import HOST, Browser, token_in
from workers.dashboard.site import Site
from workers.events.handling import handle_event
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.store.environments import Environment, get_environment
from workers.store.inbox import find_rejected
from workers.store.models import audit, data_keys, repacks
from workers.store.repacks import Repack, find_repack

Visit = Callable[..., Browser]
Program = Callable[[str], TestClient]


@pytest.fixture
def environment(world: World) -> Environment:
    made = world.environment()
    usual_tree(world, made)
    return made


@pytest.fixture
def repack(world: World, environment: Environment) -> Repack:
    """Started, and not walked."""
    return world.start(environment)


def told(world: World, action: str) -> dict[str, Any]:
    """The newest record of an action: its facts, and who."""
    row = [row for row in world.rows(audit) if row["action"] == action][-1]
    facts: dict[str, Any] = json.loads(row["facts"])
    return facts | {"actor": row["actor"]}


def test_pause_resume_and_abort_from_the_page(visit: Visit, world: World, repack: Repack) -> None:
    """Each leads back to the run, says what it is now, and is told in the audit with who and why."""
    browser, path = visit("ada"), f"/repacks/{repack.repack_id}"
    for act, action, state in (
        ("pause", "repack.paused", RepackState.PAUSED),
        ("resume", "repack.resumed", RepackState.MOVING),
        ("abort", "repack.aborted", RepackState.ABORTED),
    ):
        response = browser.do(f"{path}/{act}", at=path, reason=f"to {act} it")
        assert (response.status_code, response.headers["location"]) == (303, path)
        assert world.look(repack).state == state
        record = told(world, action)
        assert (record["actor"], record["reason"]) == ("dashboard:ada", f"to {act} it")
        assert f"and is {state}." in browser.get(path).text
        assert f"and is {state}." not in browser.get(path).text  # said once


def test_stop_ends_a_renewal(visit: Visit, world: World, environment: Environment) -> None:
    """The operator's, and not abort."""
    repack = until(world, world.start(environment), Stage.RENEW)
    assert visit("bob").do(f"/repacks/{repack.repack_id}/stop").status_code == 303
    assert world.look(repack).state == RepackState.STOPPED


def test_retry_takes_quarantined_keys_up_again(visit: Visit, world: World, environment: Environment) -> None:
    """The page names the key, its reason and what it holds back; after the repair a retry ends it well."""
    whole = {row["key_id"]: row["wrapped"] for row in world.rows(data_keys)}
    broken = flip_data_key(world)
    repack = world.run(world.start(environment))
    browser, path = visit("bob"), f"/repacks/{repack.repack_id}"
    assert "does not open" in browser.get(path).text
    set_row(world, data_keys, data_keys.c.key_id == broken, wrapped=whole[broken])
    assert browser.do(f"{path}/retry", at=path).status_code == 303
    assert world.run(world.look(repack)).state == RepackState.FINISHED


def test_an_illegal_act_says_what_is_legal(visit: Visit, world: World, repack: Repack) -> None:
    """409, and nothing was changed."""
    response = visit("ada").do(f"/repacks/{repack.repack_id}/retry")
    assert response.status_code == 409
    assert world.look(repack).state == RepackState.MOVING


@pytest.mark.parametrize(
    "fields", [{"csrf": ""}, {"csrf": "x" * 43}, {"reason": ""}, {"reason": "a\nb"}, {"reason": "x" * 501}]
)
def test_a_forged_or_unreasoned_form_does_nothing(
    visit: Visit, world: World, repack: Repack, fields: dict[str, str]
) -> None:
    """No token of this session, or no reason."""
    response = visit("ada").do(f"/repacks/{repack.repack_id}/pause", **fields)
    assert response.status_code == (403 if "csrf" in fields else 422)
    assert world.look(repack).state == RepackState.MOVING


def test_another_sessions_token_does_nothing(visit: Visit, world: World, repack: Repack) -> None:
    """Not even of the same user."""
    browser, other = visit("ada"), visit("ada")
    token = token_in(other.client.get("/account").text)
    assert browser.do(f"/repacks/{repack.repack_id}/pause", csrf=token).status_code == 403
    answer = browser.client.post(f"/api/repacks/{repack.repack_id}/pause", json={"reason": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forged_request")
    assert world.look(repack).state == RepackState.MOVING


def test_a_dry_run_is_shown_before_a_replacement(visit: Visit, world: World, environment: Environment) -> None:
    """It counts, probes and changes nothing; the form below it starts what was shown, with the reason in the audit."""
    browser, path = visit("bob"), f"/environments/{environment.environment_id}/replace"
    before = world.dump(audit)
    page = browser.get(f"{path}?main_key=memory:b&mode=deep")
    assert "Nothing stands in the way" in page.text
    assert world.dump(audit) == before
    response = browser.do(
        path, at=f"{path}?main_key=memory:b", main_key="memory:b", mode="deep", reason="the customer asked"
    )
    assert response.headers["location"].startswith("/repacks/")
    record = told(world, "repack.started")
    assert (record["actor"], record["reason"], record["target"]) == ("dashboard:bob", "the customer asked", "memory:b")


def test_a_dry_run_of_a_key_that_is_none_shows_what_is_wrong(visit: Visit, environment: Environment) -> None:
    """As a sentence, and without a button to start it."""
    path = f"/environments/{environment.environment_id}/replace"
    assert visit("bob").get(f"{path}?main_key=nonsense").status_code == 422
    page = visit("bob").get(f"{path}?main_key=memory:a")
    assert "In the way" in page.text
    assert "Start it" not in page.text


def test_the_interval_is_overridden_by_security_alone(
    visit: Visit, site: Site, world: World, environment: Environment
) -> None:
    """With the reason, which the audit keeps; an operator is told when it is possible again."""
    object.__setattr__(site.services.settings, "replacement_interval", 86_400)
    for number in ("b", "c"):
        world.repack(environment, f"memory:{number}")
    path = f"/environments/{environment.environment_id}/replace"
    form = {"main_key": "memory:d", "mode": "deep", "reason": "they lost the other one"}
    refused = visit("bob").do(path, **form)
    assert (refused.status_code, "It can be replaced again from" in refused.text) == (409, True)
    assert visit("bob").do(path, **form, override="true").status_code == 403
    assert visit("ada").do(path, **form, override="true").status_code == 303
    assert told(world, "main_key.interval_overridden")["reason"] == "they lost the other one"


def test_lock_and_unlock(visit: Visit, world: World, environment: Environment) -> None:
    """An operator locks, security unlocks; each with who and why."""
    other = world.environment("acme/staging")
    path = f"/environments/{environment.environment_id}"
    assert visit("bob").do(f"{path}/lock", scope="workspace", reason="offboarding").status_code == 303
    for one in (environment, other):
        with world.main.database.read() as connection:
            assert get_environment(connection, one.id).lock_cause == "revoked"
    assert told(world, "environment.locked")["actor"] == "dashboard:bob"
    assert visit("bob").do(f"{path}/unlock", scope="environment").status_code == 403
    assert visit("ada").do(f"{path}/unlock", scope="environment", reason="given back").status_code == 303
    assert told(world, "environment.unlocked")["reason"] == "given back"


def test_the_api_does_what_pages_do(program: Program, world: World, repack: Repack) -> None:
    """A token and a body of JSON; the answer is the run as it is now."""
    path = f"/api/repacks/{repack.repack_id}"
    answer = program("operator").post(f"{path}/pause", json={"reason": "by a program"})
    assert (answer.status_code, answer.json()["state"], answer.json()["was"]) == (200, "paused", "moving")
    assert told(world, "repack.paused")["actor"] == "dashboard:program-operator"
    assert program("viewer").get(path).json()["actions"] == ["resume", "abort"]
    for body, kind, status in (
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"a=b", "text/plain", 415),
    ):
        sent = program("operator").post(f"{path}/resume", content=body, headers={"content-type": kind})
        assert sent.status_code == status


def test_the_same_request_under_the_same_key_is_done_once(
    program: Program, world: World, environment: Environment
) -> None:
    """And answered the same; another request under that key is refused."""
    path, headers = f"/api/environments/{environment.environment_id}/replace", {"idempotency-key": "k-1"}
    body = {"main_key": "memory:b", "mode": "shallow", "reason": "x"}
    first = program("operator").post(path, json=body, headers=headers)
    with world.main.database.read() as connection:
        started = find_repack(connection, first.json()["id"])
    world.run(started)
    again = program("operator").post(path, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert len(world.rows(repacks)) == 1
    other = program("operator").post(path, json=body | {"mode": "deep"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert (
        program("security").post(path, json=body, headers=headers).status_code == 409
    )  # its own, and already in force


def rejected(world: World, environment: str) -> int:
    """A dead letter: a revocation of an environment that is not there, or not yet."""
    event = Event(
        id=f"e-{environment[:4]}", source="/console", type="main_key.revoked", data={"environment": environment}
    )
    assert take_event(world.main, event.to_bytes(), sources=Sources(None, allow_unsigned=True)) is None
    return 1


def test_a_dead_letter_is_replayed_once_what_was_wrong_is_mended(
    visit: Visit, site: Site, world: World, environment: Environment, sources_file: Any
) -> None:
    """It is judged again by what is configured now, has its effect, and is told with who and why."""
    event = Event(
        id="e-1", source="/console", type="main_key.revoked", data={"environment": str(environment.environment_id)}
    )
    assert take_event(world.main, event.to_bytes(), sources=site.sources) is None
    browser, path = visit("bob"), "/queues/rejected/1"
    refused = browser.do(f"{path}/replay", at=path)
    assert (refused.status_code, "no source of events here" in refused.text) == (401, True)
    trusted = {"source": "/console", "trusted": True, "workspaces": ["*"], "types": ["main_key.revoked"]}
    sources_file.write_text(json.dumps({"sources": [trusted]}))
    assert browser.do(f"{path}/replay", at=path, reason="it was not listed").status_code == 303
    with world.main.database.read() as connection:
        assert find_rejected(connection, 1)["outcome"] == "replayed"
    handle_event(world.main, 1)
    with world.main.database.read() as connection:
        assert get_environment(connection, environment.id).lock_cause == "revoked"
    assert told(world, "event.replayed")["reason"] == "it was not listed"
    assert browser.do(f"{path}/replay", at="/account").status_code == 404  # there is nothing to replay any more


def test_an_event_that_was_refused_while_it_was_handled_can_be_replayed(
    visit: Visit, site: Site, world: World, sources_file: Any
) -> None:
    """Its record in the inbox waits for its effect again."""
    trusted = {"source": "/console", "trusted": True, "workspaces": ["*"], "types": ["main_key.revoked"]}
    sources_file.write_text(json.dumps({"sources": [trusted]}))
    rejected(world, str(UUID(int=7)))
    assert visit("bob").do("/queues/rejected/1/replay").status_code == 303
    handle_event(world.main, 1)
    with world.main.database.read() as connection:
        assert find_rejected(connection, 2)["code"] == "not_found"  # judged again, and refused again


def test_a_dead_letter_is_discarded(visit: Visit, world: World) -> None:
    """It waits no more, and stays in the list of settled ones."""
    rejected(world, str(UUID(int=7)))
    browser = visit("bob")
    assert browser.do("/queues/rejected/1/discard", reason="a test of theirs").status_code == 303
    assert "No rejected event waits" in browser.get("/queues").text
    assert "discarded" in browser.get("/queues?all=true").text
    assert told(world, "event.discarded")["reason"] == "a test of theirs"


def test_the_chain_is_followed_when_somebody_asks(visit: Visit, world: World, environment: Environment) -> None:
    """The verdict is on the page, with when; a changed record breaks it."""
    browser = visit("bob")
    browser.do("/audit/verify")
    assert "none changed, none missing" in browser.get("/audit").text
    with world.main.database.write() as connection:
        connection.execute(update(audit).where(audit.c.seq == 1).values(actor="somebody else"))
    browser.do("/audit/verify")
    assert "The chain is broken at record 1" in browser.get("/audit").text


def test_the_audit_is_searched(visit: Visit, world: World, repack: Repack) -> None:
    """By what, who, facts and environment; the newest first."""
    browser = visit("ada")
    browser.do(f"/repacks/{repack.repack_id}/pause", reason="a very special reason")
    for query in (
        "action=paused",
        "actor=dashboard:ada&action=repack",
        "text=very special",
        "environment=acme/production&action=paused",
    ):
        found = browser.get(f"/api/audit?{query}").json()["records"]
        assert [record["action"] for record in found] == ["repack.paused"], query
    assert browser.get("/api/audit?text=nothing of the kind").json()["records"] == []


def test_cross_origin_json_does_nothing(visit: Visit, world: World, repack: Repack) -> None:
    """Neither with a cookie and a token from elsewhere."""
    browser = visit("ada")
    token = token_in(browser.client.get("/account").text)
    headers = {"x-csrf-token": token, "origin": "https://evil.test"}
    path = f"/api/repacks/{repack.repack_id}/pause"
    assert browser.client.post(path, json={"reason": "x"}, headers=headers).status_code == 403
    assert browser.client.post(path, json={"reason": "x"}, headers=headers | {"origin": HOST}).status_code == 200
