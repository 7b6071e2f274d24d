"""main-key replace: the dry run changes nothing, the real one starts a repack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Keyrepack
from workers.cli import session

REAL_WAKER = session._waker


def stored(keyrepack: Keyrepack) -> dict[Path, bytes]:
    """Every byte in the folder, the write-ahead log folded in."""
    services = keyrepack.services()
    with services.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    services.close()
    return {path: path.read_bytes() for path in sorted(keyrepack.folder.iterdir()) if path.suffix in {".db", ".key"}}


def test_a_dry_run_says_everything_and_changes_nothing(seeded: Keyrepack) -> None:
    """Not a byte of the database is another one afterwards."""
    seeded.done("managed-key", "rotate")
    before = stored(seeded)
    document = seeded.done("main-key", "replace", "acme/production", "managed:", "--dry-run")
    assert stored(seeded) == before
    assert document["changed"] is False
    assert document["keys"] == {"wrapping": {"1": 3}, "data": {"1": 2, "2": 50}}
    assert document["shards"] == {"move": 2, "renew 1": 1, "shred 1": 1}
    assert document["kms_calls"] == 0  # the managed key is opened in the process
    assert document["blockers"] == []
    assert all(finding["ok"] for finding in document["findings"])
    assert "assumed: no repack was measured yet" in document["rests_on"]


def test_a_shallow_dry_run_plans_the_move_alone(seeded: Keyrepack) -> None:
    """Nothing below the roots is touched, so nothing below is planned."""
    seeded.done("managed-key", "rotate")
    document = seeded.done("main-key", "replace", "acme/production", "managed:", "--mode", "shallow", "--dry-run")
    assert document["shards"] == {"move": 2}


def test_a_dry_run_with_something_in_the_way_is_status_1(seeded: Keyrepack) -> None:
    """The key in force at its own generation: there is nothing to do."""
    answer = seeded("main-key", "replace", "acme/production", "managed:", "--dry-run", "--json")
    assert answer.status == 1
    assert [blocker["code"] for blocker in answer.document["blockers"]] == ["already_in_force"]
    told = seeded("main-key", "replace", "acme/production", "managed:", "--dry-run")
    assert "in the way:" in told.out


def test_a_dry_run_beside_an_open_repack_names_it(moving: Keyrepack) -> None:
    """And the key that it goes to is not probed away."""
    answer = moving("main-key", "replace", "acme/production", "managed:", "--dry-run", "--json")
    assert answer.status == 1
    assert "repack_conflict" in [blocker["code"] for blocker in answer.document["blockers"]]


def test_a_key_of_a_kind_that_is_not_served_blocks(seeded: Keyrepack) -> None:
    """With the finding of the probe as its reason."""
    answer = seeded("main-key", "replace", "acme/production", "memory:x", "--dry-run", "--json")
    assert answer.status == 1
    assert answer.document["blockers"][0]["code"] == "main_key_unsupported"


def test_replacing_starts_a_repack_though_the_broker_is_away(
    seeded: Keyrepack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so: the sweeper takes over. The audit names who asked."""
    seeded.done("managed-key", "rotate")
    monkeypatch.setattr(session, "_waker", REAL_WAKER)
    answer = seeded("main-key", "replace", "acme/production", "managed:", "--json")
    assert answer.status == 0
    assert answer.document["state"] == "moving"
    assert answer.document["actor"].startswith("cli:")
    assert "The broker does not answer" in answer.err


def test_replacing_by_the_key_in_force_is_refused(seeded: Keyrepack) -> None:
    """Nothing was changed, and no repack is there."""
    answer = seeded("main-key", "replace", "acme/production", "managed:", "--json")
    assert (answer.status, answer.error["code"]) == (1, "already_in_force")
    assert seeded.done("repack", "list") == {"repacks": []}


@pytest.mark.parametrize("uri", ["", "managed", "aws-kms:arn:aws:kms:eu-west-1:1:key/x", "aws-kms:", "managed:x"])
def test_a_uri_that_is_none_is_refused(seeded: Keyrepack, uri: str) -> None:
    """Before anything is looked up."""
    answer = seeded("main-key", "replace", "acme/production", uri, "--json")
    assert (answer.status, answer.error["code"]) == (1, "malformed_main_key")


def test_the_next_dry_run_rests_on_what_was_measured(moving: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a repack of enough keys has run, its rate is taken."""
    monkeypatch.setattr("workers.repack.dry_run.ENOUGH_KEYS", 10)
    moving.work()
    moving.done("managed-key", "rotate")
    document = moving.done("main-key", "replace", "acme/production", "managed:", "--dry-run")
    assert "measured by repack" in document["rests_on"]
