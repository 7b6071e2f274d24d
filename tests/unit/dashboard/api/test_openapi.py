"""The API keeps its own document: it names all of the table, and nothing that is sent to it makes it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core import NotSet
from starlette.testclient import TestClient

from tests.engine import World, usual_tree
from tests.unit.dashboard.conftest import HOST, TOKENS
from workers.dashboard.api import openapi
from workers.dashboard.application import make_application
from workers.dashboard.site import Site
from workers.dashboard.table import ACTS, VIEWS

EXAMPLES = 8
"""A request each that was made up: of 26 operations, in a few seconds."""

DOCUMENT = openapi.document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def test_every_view_and_act_is_in_the_document() -> None:
    """With the role it needs, and every name in its path."""
    for view in VIEWS:
        assert f"role {view.role}" in DOCUMENT["paths"][f"/api{view.path}"]["get"]["description"]
    for act in ACTS:
        assert f"role {act.role}" in DOCUMENT["paths"][f"/api{act.path}"]["post"]["description"]
    assert "/events" in DOCUMENT["paths"]


@pytest.fixture
def client(site: Site, world: World) -> Any:
    """A program that may do everything, over a world with something in it."""
    environment = world.environment()
    usual_tree(world, environment)
    world.repack(environment)
    headers = {"authorization": f"Bearer {TOKENS['security']}"}
    with_token = TestClient(make_application(site), base_url=HOST, headers=headers, raise_server_exceptions=True)
    yield with_token
    with_token.close()


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda value: str(value))
def test_nothing_that_is_sent_makes_it_fail(client: TestClient, path: str, method: str) -> None:
    """Made-up requests, right and wrong: never a 5xx but "away", always an answer that the document has."""
    documented = DOCUMENT["paths"][path][method]["responses"]
    operation = SCHEMA[path][method.upper()]
    right, wrong = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=right | wrong)
    def tried(case: Any) -> None:
        response = send(client, case)
        assert response.status_code < 500 or response.status_code == 503, (case, response.text)
        assert str(response.status_code) in documented or response.status_code in (404, 405), response.text
        assert response.headers["content-type"].startswith("application/json")

    tried()


def send(client: TestClient, case: Any) -> Any:
    """A case that was made up, as a request."""
    options: dict[str, Any] = {}
    if not isinstance(case.body, NotSet):
        options["content"] = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        options["headers"] = {"content-type": case.media_type or "application/json"}
    headers = {**options.pop("headers", {}), **{str(k): str(v) for k, v in dict(case.headers or {}).items()}}
    sendable = {
        name: value for name, value in headers.items() if name.isascii() and value.isascii() and value.isprintable()
    }
    query = {str(name): value for name, value in dict(case.query or {}).items()}
    return client.request(case.method, case.formatted_path, params=query, headers=sendable, **options)
