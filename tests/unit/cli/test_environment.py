"""environment create, list, show; seed; managed-key; migrate."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.unit.cli.conftest import Keyrepack


def test_an_environment_is_created_shown_and_listed(keyrepack: Keyrepack) -> None:
    """By id and by name it is the same one."""
    made = keyrepack.done("environment", "create", "acme/production")
    assert (made["workspace"], made["name"], made["main_key"]) == ("acme", "production", "managed:")
    assert keyrepack.done("environment", "show", made["id"]) == keyrepack.done("environment", "show", "acme/production")
    assert [one["id"] for one in keyrepack.done("environment", "list")["environments"]] == [made["id"]]


@pytest.mark.parametrize("place", ["acme", "acme/", "/x", "a b/c", "a/b/c", f"{'a' * 65}/b", "acme/prod\n", "ä/b"])
def test_a_name_that_is_none_is_refused(keyrepack: Keyrepack, place: str) -> None:
    """1 to 64 of letters, digits, '.', '_' and '-', twice."""
    assert keyrepack("environment", "create", place).status == 2
    assert keyrepack.done("environment", "list") == {"environments": []}


def test_a_name_that_is_taken_is_refused(seeded: Keyrepack) -> None:
    """The one that is there stays as it is."""
    answer = seeded("environment", "create", "acme/production", "--json")
    assert (answer.status, answer.error["code"]) == (1, "environment_exists")


def test_an_environment_on_a_key_that_is_not_served_is_refused(keyrepack: Keyrepack) -> None:
    """Closed when not configured."""
    answer = keyrepack("environment", "create", "acme/dev", "--main-key", "memory:x", "--json")
    assert (answer.status, answer.error["code"]) == (1, "main_key_unsupported")


def test_an_empty_installation_says_what_to_do(keyrepack: Keyrepack) -> None:
    """Somebody new is told the next command."""
    assert "keyrepack environment create WORKSPACE/NAME" in keyrepack("environment", "list").out


def test_seed_spreads_keys_evenly(seeded: Keyrepack) -> None:
    """What does not divide goes to the first ones."""
    assert seeded.done("environment", "show", "acme/production")["keys"] == {
        "wrapping": {"1": 3},
        "data": {"1": 2, "2": 50},
    }
    services = seeded.services()
    with services.database.read() as connection:
        query = "SELECT count(*) FROM data_keys WHERE parent IS NOT NULL GROUP BY parent ORDER BY parent"
        assert list(connection.execute(text(query)).scalars()) == [17, 17, 16]
    services.close()


def test_seed_needs_something_to_hang_keys_from(keyrepack: Keyrepack) -> None:
    """Job data keys without hourly keys are a wrong use."""
    keyrepack.done("environment", "create", "acme/dev")
    assert keyrepack("seed", "acme/dev", "--hourly", "0", "--data", "5").status == 2


def test_seed_of_a_large_number_is_chunked(keyrepack: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction is larger than a chunk."""
    monkeypatch.setattr("workers.cli.seed_tree.CHUNK", 10)
    monkeypatch.setattr("workers.cli.seed_tree.ROOTS_AT_ONCE", 2)
    keyrepack.done("environment", "create", "acme/dev")
    document = keyrepack.done("seed", "acme/dev", "--connections", "5", "--hourly", "3", "--data", "64")
    assert (document["connections"], document["hourly"], document["data"]) == (5, 3, 64)
    assert keyrepack.done("environment", "show", "acme/dev")["keys"] == {
        "wrapping": {"1": 3},
        "data": {"1": 5, "2": 64},
    }


def test_the_managed_key_is_never_overwritten(keyrepack: Keyrepack) -> None:
    """Its file is its owner's alone; a second one is refused, a second generation is added."""
    file = keyrepack.folder / "managed.key"
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    answer = keyrepack("managed-key", "create", "--json")
    assert (answer.status, answer.error["code"]) == (1, "managed_key_exists")
    assert file.read_text() == before
    generation = keyrepack.done("managed-key", "rotate")["generation"]
    assert file.read_text().startswith(before)
    assert generation in file.read_text()


def test_migrate_is_safe_to_repeat(bare: Keyrepack) -> None:
    """The first time it makes the schema, the second time there is nothing to do."""
    assert bare.done("migrate")["before"] is None
    document = bare.done("migrate")
    assert document["changed"] is False
    assert document["before"] == document["after"]


def test_the_managed_key_is_made(bare: Keyrepack) -> None:
    """At the place that the settings name."""
    document = bare.done("managed-key", "create")
    assert document["file"] == str(bare.folder / "managed.key")
    assert document["generation"] in (bare.folder / "managed.key").read_text()
