"""The door: who gets in, what a session is worth, and how often one may try."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.engine import World
from tests.unit.dashboard.conftest import HOST, PASSWORD, Browser, token_in
from workers.dashboard.auth.attempts import BY_PAIR
from workers.dashboard.auth.sessions import Sessions
from workers.dashboard.auth.users import FIRST_USER, Role, Users, first_start
from workers.dashboard.site import Site
from workers.dashboard.table import ACTS, VIEWS
from workers.store.models import audit

Visit = Callable[..., Browser]


def addresses(path: str) -> str:
    """A path of the table with names that nothing has."""
    nothing = "00000000-0000-0000-0000-000000000000"
    return re.sub(r"\{letter\}", "1", re.sub(r"\{(environment|repack)\}", nothing, path))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_without_a_session_there_is_nothing_to_see(visit: Visit, view: object) -> None:
    """Pages and streams lead to the door and back; the API says 401, and nothing else."""
    stranger, path = visit(), addresses(view.path)  # type: ignore[attr-defined]
    page = stranger.get(path)
    assert (page.status_code, page.headers["location"].startswith("/sign-in?next=")) == (303, True)
    answer = stranger.get(f"/api{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "sign_in_needed")
    if view.live:  # type: ignore[attr-defined]
        assert stranger.get(f"/live{path}").headers["location"].startswith("/sign-in?next=")


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_without_a_session_nothing_is_done(visit: Visit, world: World, act: object) -> None:
    """Neither by a form nor by the API; the database stays as it was."""
    stranger, path = visit(), addresses(act.path)  # type: ignore[attr-defined]
    before = world.dump()
    assert stranger.client.post(path, data={"reason": "x"}, follow_redirects=False).headers["location"] == "/sign-in?"
    assert stranger.client.post(f"/api{path}", json={"reason": "x"}).status_code == 401
    assert world.dump() == before


def test_name_and_password_open_the_page_that_was_asked_for(visit: Visit, world: World) -> None:
    """A cookie that scripts cannot read and other sites do not send; and a record of who came in."""
    browser = visit()
    page = browser.get("/repacks?state=open")
    onward = browser.client.get(page.headers["location"]).text
    assert 'name="next" value="/repacks?state=open"' in onward
    response = browser.sign_in("eve", next="/repacks?state=open")
    assert (response.status_code, response.headers["location"]) == (303, "/repacks?state=open")
    cookie = next(each for each in response.headers.get_list("set-cookie") if each.startswith("__Host-keyrepack="))
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert browser.get("/repacks?state=open").status_code == 200
    assert [row["actor"] for row in world.rows(audit) if row["action"] == "user.signed_in"] == ["dashboard:eve"]


def test_without_tls_the_cookie_goes_without_secure_and_by_another_name(site: Site, visit: Visit) -> None:
    """A browser would never send a Secure one back; and would not take a `__Host-` one."""
    object.__setattr__(site.services.settings, "dashboard_url", None)
    browser = visit()
    cookie = next(c for c in browser.sign_in("eve").headers.get_list("set-cookie") if c.startswith("keyrepack="))
    assert "Secure" not in cookie
    assert "HttpOnly" in cookie


@pytest.mark.parametrize(
    ("name", "password"), [("eve", "wrong"), ("nobody", PASSWORD), ("", ""), ("program-viewer", "")]
)
def test_a_wrong_name_or_password_says_not_which(visit: Visit, name: str, password: str) -> None:
    """The same words for both."""
    response = visit().sign_in(name, password)
    assert response.status_code == 401
    assert "Name or password is wrong." in response.text
    assert "set-cookie" not in response.headers or "__Host-keyrepack=" not in response.headers["set-cookie"]


def test_after_some_wrong_tries_the_right_one_has_to_wait(visit: Visit) -> None:
    """From that address under that name; somebody else is let in all the same."""
    browser = visit()
    for _ in range(BY_PAIR):
        assert browser.sign_in("eve", "wrong").status_code == 401
    refused = browser.sign_in("eve")
    assert refused.status_code == 429
    assert "too many wrong tries" in refused.text
    assert browser.sign_in("bob").status_code == 303


@pytest.mark.parametrize(
    "onward", ["https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)", "/a\r\nb: c"]
)
def test_the_door_leads_nowhere_else(visit: Visit, onward: str) -> None:
    """Only a path of ours is gone to after signing in."""
    assert visit().sign_in("eve", next=onward).headers["location"] == "/overview"


def test_a_form_that_this_browser_was_not_given_signs_nobody_in(visit: Visit) -> None:
    """Somebody else's form would sign a victim in as the attacker."""
    browser, other = visit(), visit()
    foreign = token_in(other.client.get("/sign-in").text)
    assert browser.sign_in("eve", csrf=foreign).status_code == 403
    assert browser.sign_in("eve", csrf="").status_code == 403


def test_a_session_is_a_new_one_at_each_sign_in(visit: Visit) -> None:
    """One that somebody planted beforehand is worth nothing."""
    browser, thief = visit(), visit()
    planted = {"cookie": "__Host-keyrepack=planted"}
    given = [browser.sign_in("eve").headers["set-cookie"].partition(";")[0] for _ in range(2)]
    assert len({*given, "__Host-keyrepack=planted"}) == 3
    assert thief.get("/overview", headers=planted).status_code == 303


def test_a_stolen_cookie_is_worth_nothing_after_sign_out(visit: Visit) -> None:
    """The session ends on the server; nothing of it is left to be used."""
    browser, thief = visit("eve"), visit()
    thief.client.cookies.update(browser.client.cookies)
    assert thief.get("/overview").status_code == 200
    assert browser.do("/sign-out").headers["location"] == "/sign-in"
    assert thief.get("/overview").status_code == 303
    assert thief.get("/api/overview").status_code == 401


def test_signing_out_needs_the_sessions_own_form(visit: Visit) -> None:
    """Another site signs nobody out."""
    browser = visit("eve")
    assert browser.client.post("/sign-out", data={"csrf": "x"}, follow_redirects=False).status_code >= 400
    assert browser.get("/overview").status_code == 200


def test_sessions_end_by_themselves() -> None:
    """Half an hour without a request; eight hours whatever happens."""
    now = [0.0]
    sessions = Sessions(idle=1800, longest=28800, clock=lambda: now[0])
    identifier, session = sessions.begin("eve")
    for now[0] in range(1700, 28800, 1700):
        assert sessions.find(identifier) is session
    now[0] = 28801
    assert sessions.find(identifier) is None
    identifier, session = sessions.begin("eve")
    now[0] += 1801
    assert sessions.find(identifier) is None
    assert not sessions.lives(session)


def test_looking_on_keeps_no_session_alive() -> None:
    """A page that is left open follows what happens, and signs out all the same."""
    now = [0.0]
    sessions = Sessions(idle=100, longest=1000, clock=lambda: now[0])
    identifier, _ = sessions.begin("eve")
    for now[0] in (50.0, 99.0):
        assert sessions.find(identifier, touch=False) is not None
    now[0] = 101.0
    assert sessions.find(identifier) is None


def test_who_is_taken_out_of_the_users_file_is_out(site: Site, visit: Visit) -> None:
    """At the next request; and a role that is taken is gone as soon."""
    browser = visit("bob")
    path = site.services.settings.users_file
    users = json.loads(path.read_text())
    next(user for user in users["users"] if user["name"] == "bob")["role"] = "viewer"
    path.write_text(json.dumps(users))
    page = browser.get("/environments/00000000-0000-0000-0000-000000000000/replace")
    assert page.status_code == 403
    Users(path).remove("bob")
    assert browser.get("/overview").status_code == 303


def test_a_one_time_password_opens_the_page_to_choose_another(site: Site, visit: Visit) -> None:
    """And nothing else: neither a page, nor the API, nor an act. Then it opens nothing at all."""
    password = site.users.add_with_password("new", Role.SECURITY)
    browser = visit()
    assert browser.sign_in("new", password).headers["location"] == "/account"
    assert browser.get("/overview").headers["location"] == "/account"
    assert browser.get("/api/overview").status_code == 403
    form = {"password": password, "chosen": "another long password", "again": "another long password"}
    for wrong in ({"chosen": "short", "again": "short"}, {"again": "different one here"}, {"password": "wrong"}):
        assert browser.do("/account", **(form | wrong)).status_code in (401, 422)
    assert browser.do("/account", **form).headers["location"] == "/overview"
    assert browser.get("/overview").status_code == 200
    assert visit().sign_in("new", password).status_code == 401
    assert visit().sign_in("new", "another long password").headers["location"] == "/overview"


def test_another_password_ends_the_sessions_elsewhere(visit: Visit) -> None:
    """Whoever had the old one is out."""
    here, there = visit("eve"), visit("eve")
    form = {"password": PASSWORD, "chosen": "another long password", "again": "another long password"}
    assert here.do("/account", **form).status_code == 303
    assert there.get("/overview").status_code == 303
    assert here.get("/overview").status_code == 200


def test_a_token_opens_the_api_for_its_role(site: Site, visit: Visit) -> None:
    """A program needs no session and no form; a token that nobody has opens nothing."""
    token = site.users.add_with_token("reporter", Role.VIEWER)
    browser = visit()
    assert browser.get("/api/overview", headers={"authorization": f"Bearer {token}"}).status_code == 200
    assert browser.get("/api/overview", headers={"authorization": f"Bearer {token}x"}).status_code == 401
    answer = browser.get("/api/overview", headers={"authorization": "Basic YTpi"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_the_first_start_makes_one_user_and_tells_the_password_once(site: Site, tmp_path: object) -> None:
    """Never an open door: a file that its owner alone can read, with no password in it."""
    path = site.services.settings.users_file.with_name("fresh.json")
    password = first_start(path)
    assert password is not None
    assert (path.stat().st_mode & 0o777, first_start(path)) == (0o600, None)
    assert password not in path.read_text()
    user = Users(path).by_password(FIRST_USER, password)
    assert user is not None
    assert (user.role, user.one_time) == (Role.SECURITY, True)


@pytest.mark.parametrize("content", ["", "[]", '{"users": [{"name": "x", "role": "root", "token": "t"}]}', "{"])
def test_a_users_file_that_cannot_be_read_lets_nobody_in(site: Site, visit: Visit, content: str) -> None:
    """It is closed, and says so; it does not fall open."""
    browser = visit("eve")
    site.services.settings.users_file.write_text(content)
    assert browser.get("/api/overview").status_code == 503
    assert visit().sign_in("eve").status_code == 503


def test_a_users_file_that_others_can_read_lets_nobody_in(site: Site, visit: Visit) -> None:
    """Its hashes may have been taken, or written."""
    site.services.settings.users_file.chmod(0o644)
    answer = visit().sign_in("eve")
    assert answer.status_code == 503
    assert "chmod 600" in answer.text


def test_cross_origin_requests_do_nothing(visit: Visit) -> None:
    """By what the browser says of where they come from, whatever token they carry."""
    browser = visit("ada")
    for headers in (
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        token = token_in(browser.client.get("/account").text)
        response = browser.client.post("/audit/verify", data={"csrf": token}, headers=headers, follow_redirects=False)
        assert response.status_code == 403, headers
        form = {"csrf": token_in(browser.client.get("/sign-in").text), "name": "eve", "password": PASSWORD}
        assert browser.client.post("/sign-in", data=form, headers=headers).status_code == 403, headers
    assert browser.do("/audit/verify", origin=HOST).status_code == 303
