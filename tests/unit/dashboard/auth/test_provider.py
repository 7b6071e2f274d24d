"""Signing in through a provider: who and which role come from a signed ID token, and from nothing else."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from starlette.testclient import TestClient

from tests.engine import World
from tests.oidc import CLIENT, SECRET, FakeProvider, running_provider
from tests.unit.dashboard.conftest import HOST, Browser
from workers.dashboard.application import make_application
from workers.dashboard.auth.provider import Provider, role_of
from workers.dashboard.auth.users import Role
from workers.dashboard.site import Site
from workers.store.models import audit


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """See HTTPRedirectHandler."""
        return


def sent_back(address: str) -> str:
    """Be the browser at the provider: where it is sent back to."""
    try:
        urllib.request.build_opener(_StayHere()).open(address)
    except urllib.error.HTTPError as error:
        return str(error.headers["location"])
    raise AssertionError("the provider sent nobody back")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with running_provider() as found:
        yield found


@pytest.fixture
def browser(site: Site, provider: FakeProvider, tmp_path: Path) -> Iterator[Browser]:
    """Of somebody whom this dashboard knows through the provider alone."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    values = {"oidc_issuer": provider.url, "oidc_client_id": CLIENT, "oidc_client_secret_file": secret}
    settings = site.services.settings.model_copy(update=values)
    with_provider = replace(site, provider=Provider.of(settings))
    client = TestClient(make_application(with_provider), base_url=HOST, raise_server_exceptions=False)
    yield Browser(client)
    client.close()


def come_back(browser: Browser) -> Any:
    """Go to the provider, and back."""
    away = browser.get("/sign-in/provider")
    assert away.status_code == 302, away.text
    return browser.get(sent_back(away.headers["location"]).removeprefix(HOST))


def test_who_the_provider_names_is_in_with_the_role_it_names(
    browser: Browser, provider: FakeProvider, world: World
) -> None:
    """The page that comes back goes on by itself: a Strict cookie would not be sent along with a redirect."""
    provider.claims |= {"keyrepack_role": "operator"}
    arrived = come_back(browser)
    assert (arrived.status_code, 'http-equiv="refresh"' in arrived.text) == (200, True)
    page = browser.get("/account")
    assert "ada@customer.test" in page.text
    assert "operator" in page.text
    assert [row["actor"] for row in world.rows(audit) if row["action"] == "user.signed_in"] == [
        "dashboard:ada@customer.test"
    ]


@pytest.mark.parametrize(
    "lies",
    [
        {"iss": "https://evil.test"},
        {"aud": "another client"},
        {"exp": int(time.time()) - 3600},
        {"nonce": "another"},
        {"keyrepack_role": "root"},
        {"keyrepack_role": None},
        {"keyrepack_role": {"operator": True}},
        {"email": None, "sub": ""},
    ],
)
def test_a_token_that_does_not_hold_signs_nobody_in(
    browser: Browser, provider: FakeProvider, lies: dict[str, Any]
) -> None:
    """Another issuer, audience or nonce; too old; no role of ours; nobody."""
    provider.claims |= {"keyrepack_role": "security"}
    provider.lies = lies
    assert come_back(browser).status_code >= 400
    assert browser.get("/overview").status_code == 303


def test_a_token_by_another_key_signs_nobody_in(browser: Browser, provider: FakeProvider) -> None:
    """Only the keys that the provider publishes count, whatever id they are said to have."""
    provider.claims |= {"keyrepack_role": "security"}
    provider.published = RSAKey.generate_key(2048, {"kid": "k-1"})
    assert come_back(browser).status_code >= 400
    assert browser.get("/overview").status_code == 303


def test_a_way_back_that_nobody_began_signs_nobody_in(browser: Browser, provider: FakeProvider, site: Site) -> None:
    """Another browser's, or the same one twice: the state belongs to who set out, once."""
    provider.claims |= {"keyrepack_role": "viewer"}
    away = browser.get("/sign-in/provider")
    back = sent_back(away.headers["location"]).removeprefix(HOST)
    other = Browser(TestClient(browser.client.app, base_url=HOST, raise_server_exceptions=False))
    assert other.get(back).status_code >= 400
    assert browser.get(back).status_code == 200
    assert browser.get(back).status_code >= 400
    assert other.get("/overview").status_code == 303
    other.client.close()


def test_a_provider_that_is_away_is_said_to_be(site: Site) -> None:
    """On the page to sign in, with 503 or the like; nobody is in."""
    away = Provider(issuer="http://127.0.0.1:1", client_id=CLIENT, secret=SECRET, role_claim="r", redirect=HOST)
    client = TestClient(make_application(replace(site, provider=away)), base_url=HOST, raise_server_exceptions=False)
    answer = Browser(client).get("/sign-in/provider")
    assert answer.status_code == 503
    assert "The provider does not answer" in answer.text
    client.close()


@pytest.mark.parametrize(
    ("claim", "role"),
    [
        ("viewer", Role.VIEWER), (["other", "operator"], Role.OPERATOR), (["viewer", "security"], Role.SECURITY),
        ("Operator", None), ([], None), (None, None), ({"viewer": 1}, None), ([["viewer"]], None), (7, None),
    ],
)  # fmt: skip
def test_the_strongest_role_that_is_named_counts(claim: object, role: Role | None) -> None:
    """By its very name."""
    assert role_of(claim) == role


Visit = Callable[..., Browser]


def test_without_a_provider_there_is_no_way_to_one(visit: Visit) -> None:
    """Its addresses lead to the door."""
    assert visit().get("/sign-in/provider").headers["location"] == "/sign-in"
    assert visit().get("/sign-in/provider/back?code=x&state=y").headers["location"] == "/sign-in"
