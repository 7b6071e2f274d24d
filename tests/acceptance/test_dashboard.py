"""The dashboard in a real browser, over a live `keyrepack up`: what an operator, a security officer and support do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from schemas.events import Event
from tests.acceptance.browser import PATIENCE_MS, WIDTHS, Person, Up, chromium, running_browser, standing, until_ended
from tests.conftest import missing
from workers.dashboard.auth.users import Role

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

expect.set_options(timeout=PATIENCE_MS)

PEOPLE = {"eve": Role.VIEWER, "bob": Role.OPERATOR, "ada": Role.SECURITY}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack for all of these, with three environments and somebody of each role."""
    if chromium() is None:
        missing("Chromium is not installed: apt-get install chromium")
    with standing(tmp_path_factory.mktemp("up")) as found:
        for name, role in PEOPLE.items():
            found.user(name, role)
        found.fill("acme/production", "acme/staging", "globex/production")
        yield found


@pytest.fixture(scope="module")
def browser(up: Up) -> Iterator[Browser]:
    """One browser; each person has cookies of their own."""
    executable = chromium()
    assert executable is not None
    with running_browser(executable) as found:
        yield found


@pytest.fixture
def person(browser: Browser, up: Up) -> Iterator[Callable[..., Person]]:
    """A function that lets somebody sign in; at the end no browser may have complained of a page."""
    people: list[Person] = []

    def made(name: str | None = None) -> Person:
        people.append(Person(browser, up))
        if name:
            people[-1].sign_in(name)
            # Inside: whoever goes elsewhere before has never signed in.
            expect(people[-1].page.get_by_role("button", name="Sign in")).to_have_count(0, timeout=PATIENCE_MS)
        return people[-1]

    yield made
    complaints = [complaint for one in people for complaint in one.complaints]
    for one in people:
        one.close()
    assert complaints == []


def test_the_first_user_chooses_a_password(person: Callable[..., Person], up: Up) -> None:
    """The one-time password that `up` printed opens one page, and after that nothing."""
    admin = person().sign_in("admin", up.password)
    admin.sees("Choose a password")
    admin.page.goto("/repacks")
    admin.sees("Choose a password")
    admin.page.get_by_label("The one-time password").fill(up.password)
    admin.page.get_by_label("Your new one").fill("another long password")
    admin.page.get_by_label("The new one again").fill("another long password")
    admin.page.get_by_role("button", name="Choose it").click()
    expect(admin.page).to_have_url(re.compile("/overview$"))
    admin.page.get_by_role("button", name="Sign out").click()
    admin.sign_in("admin", up.password)
    admin.sees("Name or password is wrong.")


def test_a_main_key_is_replaced_from_dry_run_to_certificate(person: Callable[..., Person], up: Up) -> None:
    """The dry run says what it would come to; the run is followed live, without loading the page again."""
    key = str(up.simulator.create_main_key())
    bob = person("bob")
    bob.page.get_by_role("link", name="Environments").click()
    bob.page.get_by_role("link", name="acme/production").click()
    bob.page.get_by_role("link", name="Replace the main key").click()
    bob.page.get_by_label("New main key").fill(key)
    bob.page.get_by_role("button", name="Dry run").click()
    bob.sees("Nothing stands in the way")
    bob.page.get_by_label("Why").fill("the customer brought a key")
    bob.page.get_by_role("button", name=re.compile("^Replace by")).click()
    expect(bob.page).to_have_url(re.compile("/repacks/"))
    bob.sees("may disable or delete it", "#live_certificate")
    bob.sees("finished", "#live_state")
    bob.sees("the customer brought a key", "#live_timeline")
    assert up.done("certificate", "acme/production")["to"]["main_key"] == key
    assert up.done("verify", "acme/production")["ok"] is True


def test_pause_resume_and_abort(person: Callable[..., Person], up: Up) -> None:
    """In the middle of a move; the buttons of every open page follow the state. Abort is for security alone."""
    ada, bob = person("ada"), person("bob")
    with up.frozen_worker():
        up.done("main-key", "replace", "acme/staging", str(up.simulator.create_main_key()))
        repack = up.done("repack", "list", "acme/staging")["repacks"][0]["id"]
        for one in (ada, bob):
            one.page.goto(f"/repacks/{repack}")
        bob.sees("Abort needs the role security", "#actions")
        bob.act("Pause", "hold on")
        bob.sees("paused", "#live_state")
        ada.sees("paused", "#live_state")  # nobody touched this page
        expect(ada.page.locator("#actions summary", has_text="Resume")).to_be_visible()
        bob.act("Resume", "go on")
        bob.sees("moving", "#live_state")
        expect(ada.page.locator("#actions summary", has_text="Pause")).to_be_visible()
        ada.act("Abort", "the wrong key")
        ada.sees("the old main key is in force, as before", "#live_state")
    assert up.done("environment", "show", "acme/staging")["main_key"] == "managed:"
    assert up.done("verify", "acme/staging")["ok"] is True


def test_a_revocation_and_its_return(person: Callable[..., Person], up: Up) -> None:
    """Locked by an operator, unlocked by security; the overview names it meanwhile."""
    bob, ada = person("bob"), person("ada")
    bob.page.goto("/environments?text=globex")
    bob.page.get_by_role("link", name="globex/production").click()
    bob.act("Lock", "they asked us to")
    bob.sees("nobody can read its data", "#live_state")
    ada.sees("globex/production", "#live_locks")
    ada.sees("One environment is locked: revoked.", "#live_verdict")
    expect(bob.page.locator("#actions")).to_contain_text("Unlock needs the role security")
    ada.page.locator("#live_locks").get_by_role("link", name="globex/production").click()
    ada.act("Unlock", "given back")
    ada.sees("Its data is readable", "#live_state")
    bob.sees("Its data is readable", "#live_state")
    assert up.done("verify", "globex/production")["ok"] is True


def test_a_dead_letter_is_replayed(person: Callable[..., Person], up: Up) -> None:
    """Refused since the key was disabled; enabled, the same event has its effect."""
    key = str(up.simulator.create_main_key())
    up.simulator.set_state(key.removeprefix("aws-kms:"), "Disabled")
    environment = up.done("environment", "show", "globex/production")["id"]
    data = {"environment": environment, "main_key": key}
    up.publish(Event(id="letter-1", source="/console", type="main_key.replaced", data=data))
    bob = person("bob")
    bob.sees("event was rejected", "#live_verdict")
    bob.page.get_by_role("link", name="Queues").first.click()
    bob.page.get_by_role("link", name="main_key.replaced").click()
    bob.sees("main_key_disabled")
    up.simulator.set_state(key.removeprefix("aws-kms:"), "Enabled")
    bob.act("Replay", "they enabled it")
    bob.sees("has its effect now")
    assert until_ended(up, "globex/production", "finished")["target"] == key


def test_quarantined_keys_are_retried(person: Callable[..., Person], up: Up) -> None:
    """A bit flips in a row: one key is set aside, named, and taken up again once the row is whole."""
    with up.rows() as rows:
        row, wrapped = rows.execute(
            "select id, wrapped from data_keys where wrapped is not null order by id"
        ).fetchone()
        broken = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
        rows.execute("update data_keys set wrapped = ? where id = ?", (broken, row))
    up.done("main-key", "replace", "acme/production", str(up.simulator.create_main_key()))
    repack = until_ended(up, "acme/production", "finished_with_quarantine")
    bob = person("bob")
    bob.page.goto(f"/repacks/{repack['id']}")
    bob.sees("does not open", "#live_quarantine")
    with up.rows() as rows:
        rows.execute("update data_keys set wrapped = ? where id = ?", (wrapped, row))
    bob.act("Retry", "the row is whole again")
    bob.sees("Every key is where it belongs", "#live_state")
    assert up.done("verify", "acme/production")["ok"] is True


def test_each_role_is_refused_what_it_may_not_do(person: Callable[..., Person], up: Up) -> None:
    """A viewer sees everything and has no button; an address that is typed in is refused all the same."""
    eve = person("eve")
    environment = up.done("environment", "show", "acme/production")["id"]
    eve.page.goto(f"/environments/{environment}")
    expect(eve.page.locator("#actions")).to_contain_text("needs the role operator")
    expect(eve.page.locator("#actions button, #actions summary, #actions a")).to_have_count(0)
    eve.page.goto(f"/environments/{environment}/replace")
    eve.sees("It needs the role operator; yours is viewer.")


def test_pages_are_walked_by_keyboard_alone(person: Callable[..., Person], up: Up) -> None:
    """Skip link, menu, an act: Tab and Enter are enough, and where one stands is seen."""
    bob = person("bob")
    bob.sees("Keys a second")
    bob.page.keyboard.press("Tab")
    expect(bob.page.locator(":focus")).to_have_text("Skip to the content")
    for _ in range(3):
        bob.page.keyboard.press("Tab")
    focused = bob.page.locator(":focus")
    expect(focused).to_have_text("Queues")
    assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    bob.page.keyboard.press("Enter")
    expect(bob.page).to_have_url(re.compile("/queues$"))


def test_every_page_fits_wide_and_narrow_light_and_dark(
    browser: Browser, up: Up, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing sticks out at either side. The pictures are kept where KEYREPACK_PICTURES says."""
    folder = Path(os.environ.get("KEYREPACK_PICTURES") or tmp_path_factory.mktemp("pictures"))
    environment = up.done("environment", "show", "acme/production")["id"]
    repack = up.done("repack", "list", "acme/production")["repacks"][0]["id"]
    pages = {
        "overview": "/overview", "queues": "/queues", "repacks": "/repacks", "repack": f"/repacks/{repack}",
        "environments": "/environments", "environment": f"/environments/{environment}",
        "replace": f"/environments/{environment}/replace?main_key=managed:", "main-keys": "/main-keys",
        "workers": "/workers", "audit": "/audit", "account": "/account",
    }  # fmt: skip
    for scheme in ("light", "dark"):
        for name, (width, height) in WIDTHS.items():
            ada = Person(browser, up, color_scheme=scheme, viewport={"width": width, "height": height})
            ada.sign_in("ada")
            for page, address in pages.items():
                ada.page.goto(address)
                expect(ada.page.locator("h1").first).to_be_visible()
                ada.page.screenshot(path=folder / f"{page}-{scheme}-{name}.png", full_page=True)
                across = ada.page.evaluate("document.documentElement.scrollWidth")
                assert across <= width, (page, name, across)
            assert ada.complaints == []
            ada.close()
