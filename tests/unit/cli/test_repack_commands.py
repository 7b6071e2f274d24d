"""repack list, show, watch and steering; verify, certificate, audit."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.unit.cli.conftest import Keyrepack


def test_a_repack_is_listed_shown_and_certified(moving: Keyrepack) -> None:
    """From its start to its certificate, as documents."""
    listed = moving.done("repack", "list")["repacks"]
    assert [(one["environment"], one["mode"], one["state"]) for one in listed] == [
        ("acme/production", "deep", "moving")
    ]
    moving.work()
    shown = moving.done("repack", "show", listed[0]["id"])
    assert shown["state"] == "finished"
    assert (shown["rewrapped"], shown["minted"], shown["shredded"], shown["quarantined"]) == (55, 3, 3, 0)
    assert [stage["name"] for stage in shown["stages"]] == ["move", "renew 1", "shred 1"]
    assert all(stage["fraction"] == 1 for stage in shown["stages"])
    assert shown["timeline"][0]["action"] == "repack.started"
    certificate = moving.done("certificate", listed[0]["id"])
    assert certificate["roots"] == 5
    assert moving.done("repack", "show", "acme/production") == shown


def test_a_repack_is_shown_in_words(moving: Keyrepack) -> None:
    """State and meaning first, then stages, then the audit."""
    out = moving("repack", "show", "acme/production").out
    assert out.startswith("moving  Roots are getting wraps under the new main key")
    assert "may be       pause, abort" in out
    assert "renew 1  waiting" in out
    assert "repack.started" in out


def test_there_is_no_certificate_before_the_move_has_closed(moving: Keyrepack) -> None:
    """The old main key is still needed, and that is what it says."""
    answer = moving("certificate", "acme/production", "--json")
    assert (answer.status, answer.error["code"]) == (1, "no_certificate")


def test_a_certificate_of_a_rotation_does_not_send_the_key_away(moving: Keyrepack) -> None:
    """The same key stays in force: nobody is told that it may be disabled."""
    moving.work()
    statement = moving.done("certificate", "acme/production")["statement"]
    assert "disable" not in statement
    assert statement in moving("certificate", "acme/production").out


def test_watching_ends_with_status_3_while_the_repack_goes_on(moving: Keyrepack) -> None:
    """Nobody works on it: patience runs out."""
    answer = moving("repack", "watch", "acme/production", "--patience", "0.01", "--json")
    assert answer.status == 3
    assert answer.document["state"] == "moving"


def test_watching_ends_with_status_3_at_ctrl_c(moving: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repack goes on; only the watching ends, without an error."""

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workers.cli.repack_watch.time.sleep", interrupt)
    answer = moving("repack", "watch", "acme/production")
    assert (answer.status, answer.err) == (3, "")


def test_watching_an_ended_repack_is_done_at_once(moving: Keyrepack) -> None:
    """Plain lines where there is no terminal, and status 0."""
    moving.work()
    answer = moving("repack", "watch", "acme/production")
    assert answer.status == 0
    assert "renew 1   100%  50 of 50 keys" in answer.out
    assert "55 keys in" in answer.out


def test_watching_a_repack_that_was_aborted_is_status_1(moving: Keyrepack) -> None:
    """It has ended, and not as was asked for."""
    moving.done("repack", "abort", "acme/production")
    assert moving("repack", "watch", "acme/production").status == 1


def test_pause_resume_abort(moving: Keyrepack) -> None:
    """Each says the state that it led to."""
    for action, state in (("pause", "paused"), ("resume", "moving"), ("pause", "paused"), ("abort", "aborted")):
        document = moving.done("repack", action, "acme/production", "--reason", "a test")
        assert document["state"] == state
    timeline = moving.done("repack", "show", "acme/production")["timeline"]
    assert timeline[-1]["facts"]["reason"] == "a test"


@pytest.mark.parametrize("action", ["pause", "resume", "abort", "stop", "retry"])
def test_an_ended_repack_cannot_be_steered(moving: Keyrepack, action: str) -> None:
    """It stays as it is, in a sentence."""
    moving.work()
    answer = moving("repack", action, "acme/production", "--json")
    assert (answer.status, answer.error["code"]) == (1, "illegal_move")


def test_an_environment_without_repack_says_so(seeded: Keyrepack) -> None:
    """And how to start one."""
    answer = seeded("repack", "show", "acme/production")
    assert answer.status == 1
    assert "keyrepack main-key replace" in answer.err


def test_verify_opens_every_key(moving: Keyrepack) -> None:
    """All of it, before and after."""
    for _ in range(2):
        document = moving.done("verify")
        assert document["ok"] is True
        report = document["environments"][0]
        assert (report["data_keys"], report["wrapping_keys"], report["broken"]) == (52, 3, 0)
        moving.work()


def test_a_broken_key_is_named_with_what_it_holds_back(moving: Keyrepack) -> None:
    """verify and watch end with status 1; show names reason and version; retry brings it home once it is repaired."""
    services = moving.services()
    with services.database.write() as connection:
        good = connection.execute(text("SELECT id, wrapped FROM data_keys WHERE parent IS NOT NULL LIMIT 1")).one()
        connection.execute(text("UPDATE data_keys SET wrapped = x'00' WHERE id = :id"), {"id": good.id})
    answer = moving("verify")
    assert answer.status == 1
    assert "malformed" in answer.out
    moving.work()
    assert moving("repack", "watch", "acme/production").status == 1
    shown = moving.done("repack", "show", "acme/production")
    assert shown["state"] == "finished_with_quarantine"
    assert [(one["kind"], one["reason"], one["version"]) for one in shown["quarantine"]] == [("data", "malformed", 1)]
    assert shown["quarantine"][0]["holds_back"] in moving("repack", "show", "acme/production").out
    with services.database.write() as connection:
        connection.execute(text("UPDATE data_keys SET wrapped = :wrapped WHERE id = :id"), good._asdict())
    services.close()
    assert moving.done("repack", "retry", "acme/production")["state"] == "renewing"
    moving.work()
    assert moving.done("repack", "show", "acme/production")["state"] == "finished"


def test_the_audit_chain_is_followed(moving: Keyrepack) -> None:
    """A record that was changed breaks it, with status 1."""
    assert moving.done("audit", "verify")["whole"] is True
    services = moving.services()
    with services.database.write() as connection:
        connection.execute(text("UPDATE audit SET actor = 'somebody else' WHERE seq = 2"))
    services.close()
    answer = moving("audit", "verify")
    assert answer.status == 1
    assert "broken at record 2" in answer.out


def test_no_command_prints_a_wrap_or_the_managed_key(moving: Keyrepack) -> None:
    """R10: neither in text nor in documents."""
    moving.work()
    secrets = [moving.folder.joinpath("managed.key").read_text().split()[-1]]
    services = moving.services()
    with services.database.read() as connection:
        for table in ("data_keys", "root_wraps", "wrapping_versions"):
            query = text(f"SELECT wrapped FROM {table} WHERE wrapped IS NOT NULL")
            secrets += [wrap.hex() for wrap in connection.execute(query).scalars()]
    services.close()
    commands = ["repack show acme/production", "repack list", "environment show acme/production", "verify", "doctor",
                "certificate acme/production", "audit verify", "events rejected", "environment list"]  # fmt: skip
    for command in commands:
        for extra in ([], ["--json"]):
            answer = moving(*command.split(), *extra)
            assert not [secret for secret in secrets if secret in answer.out + answer.err]
