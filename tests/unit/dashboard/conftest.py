"""The dashboard over a world of the test's own: a browser for each user, and programs with tokens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from producers.topology import QUEUES
from tests.engine import World
from workers.broker.queue_depths import BrokerCounts, QueueCount
from workers.dashboard.application import make_application
from workers.dashboard.auth.passwords import hash_password, hash_token
from workers.dashboard.site import Site, make_site

PASSWORD = "correct horse battery staple"
ROLES = {"eve": "viewer", "bob": "operator", "ada": "security"}
TOKENS = {role: f"kpt_{role}-token" for role in ROLES.values()}
HOST = "https://keys.test"


class FakeBroker:
    """Answers until a test says otherwise."""

    def __init__(self) -> None:
        self.answers = True

    def count(self) -> BrokerCounts:
        """See Broker.count."""
        if not self.answers:
            return BrokerCounts(answers=False, why="The broker does not answer.")
        return BrokerCounts(answers=True, queues={name: QueueCount(depth=0) for name in QUEUES})

    def close(self) -> None:
        """Nothing to let go of."""


class Browser:
    """Somebody's browser."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def sign_in(self, name: str, password: str = PASSWORD, **fields: str) -> Any:
        """Fill the form in and send it."""
        form = {"csrf": token_in(self.client.get("/sign-in").text), "name": name, "password": password} | fields
        return self.client.post("/sign-in", data=form, headers={"origin": HOST}, follow_redirects=False)

    def get(self, path: str, **options: Any) -> Any:
        """Load a page, and go nowhere from there."""
        return self.client.get(path, follow_redirects=False, **options)

    def do(self, path: str, *, at: str = "/account", origin: str | None = HOST, **fields: str) -> Any:
        """Send a form with the token of the page it is on."""
        fields = {"csrf": token_in(self.client.get(at).text), "reason": "because of a test"} | fields
        headers = {} if origin is None else {"origin": origin}
        return self.client.post(path, data=fields, headers=headers, follow_redirects=False)


def token_in(html: str) -> str:
    """The token of a page's forms."""
    found = re.search(r'name="csrf" value="([^"]*)"', html)
    assert found is not None, html[:500]
    return found.group(1)


@pytest.fixture(scope="session")
def users_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A users file with somebody, and a program, of each role."""
    kept = hash_password(PASSWORD)
    people = [{"name": name, "role": role, "password": kept} for name, role in ROLES.items()]
    programs = [{"name": f"program-{role}", "role": role, "token": hash_token(TOKENS[role])} for role in TOKENS]
    path = tmp_path_factory.mktemp("users") / "users.json"
    path.write_text(json.dumps({"users": people + programs}))
    path.chmod(0o600)
    return path


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def sources_file(tmp_path: Path) -> Path:
    """Where the sources of events are told; nobody's there yet."""
    path = tmp_path / "sources.json"
    path.write_text('{"sources": []}')
    return path


@pytest.fixture
def site(world: World, broker: FakeBroker, users_template: Path, sources_file: Path, tmp_path: Path) -> Iterator[Site]:
    """A site that is read when it is asked, and by no thread of its own."""
    users = tmp_path / "users.json"
    shutil.copy(users_template, users)
    values = {
        "users_file": users,
        "event_sources_file": sources_file,
        "dashboard_url": HOST,
        "dashboard_poll_seconds": 0.02,
    }
    services = replace(world.main, settings=world.main.settings.model_copy(update=values))
    site = make_site(services, broker)
    yield site
    site.close()


@pytest.fixture
def visit(site: Site) -> Iterator[Callable[..., Browser]]:
    """A function that gives somebody a browser, signed in where a name is given."""
    clients: list[TestClient] = []

    def made(name: str | None = None) -> Browser:
        client = TestClient(make_application(site), base_url=HOST, raise_server_exceptions=False)
        clients.append(client)
        browser = Browser(client)
        if name is not None:
            assert browser.sign_in(name).status_code == 303
        return browser

    yield made
    for client in clients:
        client.close()


@pytest.fixture
def program(site: Site) -> Iterator[Callable[[str], TestClient]]:
    """A function that makes a program with the token of a role."""
    clients: list[TestClient] = []

    def made(role: str) -> TestClient:
        client = TestClient(
            make_application(site),
            base_url=HOST,
            raise_server_exceptions=False,
            headers={"authorization": f"Bearer {TOKENS[role]}"} if role else {},
        )
        clients.append(client)
        return client

    yield made
    for client in clients:
        client.close()
