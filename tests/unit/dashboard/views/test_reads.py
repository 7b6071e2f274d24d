"""What pages read: small tables alone. A page never costs more for there being more keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from tests.engine import World, usual_tree
from tests.unit.dashboard.conftest import Browser
from workers.dashboard.site import Site
from workers.dashboard.table import VIEWS

Visit = Callable[..., Browser]
LARGE = re.compile(r"\b(from|join)\s+data_keys\b(?!\s+where data_keys\.id in)", re.IGNORECASE)
"""A data key that is not asked for by its row: the oldest stale root of a main key is named, and may be one."""


@pytest.mark.parametrize(
    "view", [view for view in VIEWS if view.name not in ("replace", "rejected")], ids=lambda v: v.name
)
def test_no_page_reads_a_data_key(visit: Visit, site: Site, world: World, view: Any) -> None:
    """But for counts, which are taken behind it and kept, and a dry run, which says that it counts."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    site.counts.wait(environment.id)
    path = view.path.format(environment=environment.environment_id, repack=repack.repack_id)
    browser, said = visit("ada"), []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(world.main.database.engine, "before_cursor_execute", note)
    try:
        assert browser.get(path).status_code == 200
    finally:
        event.remove(world.main.database.engine, "before_cursor_execute", note)
    assert said or view.name == "workers"
    assert [statement for statement in said if LARGE.search(statement)] == []
    assert len(said) < 60  # a number of statements that does not grow with what is listed


def test_a_list_costs_as_many_statements_for_many_as_for_one(visit: Visit, world: World) -> None:
    """No page asks once a row."""
    browser = visit("ada")
    counts = []
    for number in (1, 8):
        for index in range(number):
            usual_tree(world, world.environment(f"w{number}/e{index}"), hours=1, jobs=1)
        said: list[str] = []
        note = lambda *arguments: said.append(arguments[2])  # noqa: B023, E731
        event.listen(world.main.database.engine, "before_cursor_execute", note)
        for path in ("/environments", "/repacks", "/audit"):
            assert browser.get(path).status_code == 200
        event.remove(world.main.database.engine, "before_cursor_execute", note)
        counts.append(len([line for line in said if "select" in line.lower()]))
    assert counts[1] <= counts[0] + 40  # the overview behind every page looks by itself, now and then
