"""Pages: each can be looked at by whoever may, runs nothing of anybody else's, and says what is wrong in sentences."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from schemas.events import Event
from schemas.states import Stage
from tests.engine import World, usual_tree
from tests.poll import poll
from tests.steps import until
from tests.unit.dashboard.conftest import HOST, ROLES, Browser, FakeBroker, token_in
from workers.dashboard.auth.users import Role
from workers.dashboard.headers import HEADERS
from workers.dashboard.site import Site
from workers.dashboard.table import ACTS, VIEWS
from workers.dashboard.views import rendering
from workers.dashboard.views.reads import repacks
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.keyring.keyring import Keyring
from workers.locks import locking
from workers.store.repacks import Repack

Visit = Callable[..., Browser]
SCRIPT = "<script>alert(1)</script>"
REFRESH = {"hx-request": "true", "hx-target": "actions"}
TEMPLATES = sorted((rendering.HERE / "templates").glob("*.html"))


@pytest.fixture
def repack(world: World) -> Repack:
    """Of acme/production, in the middle of its renewal; an event was rejected as well."""
    environment = world.environment()
    usual_tree(world, environment)
    event = Event(id="e-1", source="/console", type="main_key.gone", data={"api_token": "hvs.CAESIJabcdefgh"})
    take_event(world.main, event.to_bytes(), sources=Sources(None, allow_unsigned=True))
    return until(world, world.start(environment), Stage.RENEW)


def address(path: str, repack: Repack) -> str:
    """A path of the table with names that are there."""
    names = {"environment": repack.environment_id, "repack": repack.repack_id, "letter": 1}
    return re.sub(r"\{(\w+)\}", lambda found: str(names[found.group(1)]), path)


@pytest.mark.parametrize("name", ROLES)
def test_each_role_sees_what_it_may(visit: Visit, repack: Repack, name: str) -> None:
    """Every page and its JSON, or 403 by the role that is missing; every act that is not its role's likewise."""
    browser, role = visit(name), Role(ROLES[name])
    token = token_in(browser.client.get("/account").text)
    for view in VIEWS:
        for path in (address(view.path, repack), "/api" + address(view.path, repack)):
            page = browser.get(path)
            assert page.status_code == (200 if role.may(view.role) else 403), (path, page.text[-2000:])
    for act in (act for act in ACTS if not role.may(act.role)):
        path = address(act.path, repack)
        refused = browser.client.post(path, data={"csrf": token, "reason": "x"}, headers={"origin": HOST})
        assert (refused.status_code, f"needs the role {act.role}" in refused.text) == (403, True)
        answer = browser.client.post(f"/api{path}", json={"reason": "x"}, headers={"x-csrf-token": token})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_permitted")


def test_who_may_not_is_shown_no_button(visit: Visit, repack: Repack) -> None:
    """But which role it needs."""
    path = address("/repacks/{repack}", repack)
    seen = {name: visit(name).get(path).text for name in ROLES}
    assert ["/pause" in seen[name] for name in ROLES] == [False, True, True]
    assert "needs the role operator" in seen["eve"]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_pages_run_nothing_but_our_own_files(visit: Visit, repack: Repack, view: Any) -> None:
    """No inline script, style or handler, and a policy under which none would run; nobody else's address."""
    page = visit("ada").get(address(view.path, repack))
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    assert page.headers["cache-control"] == "no-store"
    assert "max-age" in page.headers["strict-transport-security"]
    assert re.findall(r"<script(?![^>]* src=\"/static/)|<style|\sstyle=|\son[a-z]+=", page.text) == []
    assert re.findall(r"(?:src|href|action|hx-get)=\"(?!/)[^\"#]", page.text) == []


def test_the_policy_allows_no_inline_code_and_no_other_address() -> None:
    """As the header says."""
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|nonce|data:|https?:|\*", policy)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_escape_what_they_show(template: Path) -> None:
    """None of them marks anything as safe."""
    assert not re.search(r"\|\s*safe|autoescape false|Markup", template.read_text())


def test_a_script_in_a_name_is_shown_and_not_run(visit: Visit, world: World) -> None:
    """Names, reasons and lock details are what somebody wrote: on every page they stand as text."""
    environment = Keyring(world.main).create_environment(SCRIPT, f"{SCRIPT}x", main_key="memory:a", actor=SCRIPT)
    usual_tree(world, environment)
    repack = world.repack(environment)
    locking.revoke(world.main, [environment], actor=SCRIPT, reason=SCRIPT)
    browser = visit("ada")
    for view in VIEWS:
        if "letter" not in view.path:
            page = browser.get(address(view.path, repack)).text
            assert SCRIPT not in page, view.name
    assert "&lt;script&gt;" in browser.get("/environments").text
    assert "&lt;script&gt;" in browser.get("/overview").text


def test_live_regions_escape_as_pages_do(site: Site, world: World) -> None:
    """They are put into pages as they are."""
    environment = Keyring(world.main).create_environment(SCRIPT, "x", main_key="memory:a", actor="test")
    locking.revoke(world.main, [environment], actor="test", reason=SCRIPT)
    from workers.dashboard.live.streams import read_regions
    from workers.dashboard.routes import Ask, NoQuery
    from workers.dashboard.site import Visitor

    view = VIEWS[0]
    reader = Visitor(name="live", role=Role.VIEWER, session=None)
    regions = read_regions(site, view, Ask(site=site, visitor=reader, path={}, form=NoQuery()))
    assert "&lt;script&gt;" in regions["live_locks"]
    assert not any("<script" in html for html in regions.values())


def test_the_buttons_of_an_open_page_are_asked_for_alone(visit: Visit, repack: Repack) -> None:
    """By its script, once the state is another one: they come as the page has them, without the rest of it.

    What is to be said on the next page is not lost by that.
    """
    browser, path = visit("bob"), address("/repacks/{repack}", repack)
    browser.do(f"{path}/pause")
    part = browser.get(path, headers=REFRESH).text.strip()
    assert part.startswith('<div id="actions"')
    assert "/resume" in part
    assert "live_" not in part
    page = browser.get(path).text
    assert part in page
    assert "The repack was renewing, and is paused." in page
    assert browser.get("/overview", headers=REFRESH).text == ""


def test_many_browsers_on_a_run_read_it_together(
    program: Callable[[str], TestClient], site: Site, repack: Repack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They all ask in the moment its state changes: one reads, and one more for all the others."""
    reads, gate, path = [0], threading.Event(), address("/repacks/{repack}", repack)
    view_repack = repacks.view_repack

    def counted(*arguments: Any, **options: Any) -> Any:
        reads[0] += 1
        gate.wait(5)
        return view_repack(*arguments, **options)

    monkeypatch.setattr(repacks, "view_repack", counted)
    with ThreadPoolExecutor(8) as threads:
        pages = [threads.submit(program("viewer").get, path, headers=REFRESH) for _ in range(8)]
        poll(lambda: site.page_reads.asking == len(pages), 10, "all of them ask")
        gate.set()
    assert {page.result().status_code for page in pages} == {200}
    assert reads[0] == 2


def test_the_hours_graph_is_not_sent_with_every_look(program: Callable[[str], TestClient]) -> None:
    """The rate of now is another one each time; the points before it are long, and stay as they are."""
    document = program("viewer").get("/api/overview").json() | {"rates": [[5.0, 1500.0], [10.0, 1600.0]]}
    values = [{"document": document | {"rate": rate}, "seen": None, "error": None} for rate in (1000.0, 2000.0)]
    before, now = (rendering.render_regions("overview.html", one) for one in values)
    assert {name for name in now if now[name] != before[name]} == {"live_figures", "live_rates"}
    assert "1600.0" in now["live_points"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../users.json", "/static/%2e%2e/%2e%2e/users.py", "/static/..%2f..%2fusers.py", "/static//etc/passwd",
        "/environments/..%2f..%2fetc", "/repacks/%00", "/queues/rejected/-1", "/queues/rejected/1e3",
        "/repacks/" + "a" * 5000, "/environments/'; drop table audit; --",
    ],
)  # fmt: skip
def test_odd_paths_lead_nowhere(visit: Visit, path: str) -> None:
    """404, on a page that shows nothing of what was asked for but its escaped name."""
    page = visit("ada").get(path)
    assert page.status_code == 404
    assert "root:" not in page.text
    assert "import" not in page.text


def test_a_page_that_is_not_there_is_told_to_members_alone(visit: Visit) -> None:
    """Strangers are led to the door; the API says 404 in JSON."""
    assert visit().get("/nothing").status_code == 303
    assert visit("eve").get("/nothing").status_code == 404
    assert visit("eve").get("/api/nothing").json()["error"]["code"] == "not_found"
    assert visit("eve").client.post("/overview").status_code == 405


@pytest.mark.parametrize(
    "query",
    ["/repacks?state=sideways", "/repacks?before=x", "/repacks?before=99999999999999999999",
     "/environments?lock=%00", "/audit?before=-1",
     "/environments?text=" + "x" * 300],
)  # fmt: skip
def test_a_query_that_is_none_is_named(visit: Visit, query: str) -> None:
    """422, and the field."""
    page = visit("eve").get(query)
    assert page.status_code == 422
    assert "was not understood" in page.text


def test_a_long_form_is_not_read(visit: Visit) -> None:
    """413, whatever it is for."""
    assert visit("ada").do("/audit/verify", reason="x" * 20_000).status_code == 413


def test_without_the_broker_pages_show_what_the_database_knows(
    visit: Visit, site: Site, broker: FakeBroker, repack: Repack
) -> None:
    """They say so; what workers have to be woken for is closed, and what the database alone needs is not."""
    browser = visit("ada")
    broker.answers = False
    site.overview_cache.refresh()
    page = browser.get("/overview")
    assert page.status_code == 200
    assert "The broker does not answer." in page.text
    assert browser.do(address("/repacks/{repack}/pause", repack)).status_code == 303
    assert browser.do(address("/repacks/{repack}/resume", repack)).status_code == 503
    assert browser.do(address("/repacks/{repack}/stop", repack)).status_code == 303


def test_the_picture_of_a_hierarchy_has_a_row_a_level(visit: Visit, site: Site, world: World, repack: Repack) -> None:
    """From the main keys, of which there are two while a move is open, to the data keys, with what is done of each."""
    site.counts.wait(repack.environment)
    document = visit("eve").get(address("/api/environments/{environment}", repack)).json()
    rows = document["picture"]["rows"]
    assert [row["name"] for row in rows] == ["main key", "level 1", "level 2"]
    assert [box["title"] for box in rows[1]["boxes"]] == ["3 wrapping keys", "2 data keys"]
    assert rows[2]["boxes"][0]["fraction"] < 1
    assert document["roots"][0]["roots"] > 0


def test_what_looks_like_a_secret_in_a_dead_letter_is_hidden(visit: Visit, repack: Repack) -> None:
    """R10: it was a stranger who wrote it, and may have put anything in."""
    page = visit("eve").get("/queues/rejected/1").text
    assert "api_token" in page
    assert "hvs." not in page
