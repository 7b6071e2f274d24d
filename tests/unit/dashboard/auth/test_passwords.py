"""Passwords, tokens and roles: what is kept of them, and who may what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.dashboard.auth import passwords
from workers.dashboard.auth import users as module
from workers.dashboard.auth.users import Role, Users

OF_BEFORE = "scrypt$32768$8$1$+TnuN6Ly+RCSINEyQay3hQ==$XibKHY64aHUJXfbgREH69iTLNJrztgT4I/1oO1UxOzI="
"""What scrypt made of `correct horse battery` in an earlier release."""


def test_a_password_is_known_by_its_hash_alone() -> None:
    """Salted: two of the same look different; a wrong one is none, and so is what is not of the form."""
    first, second = passwords.hash_password("a long password"), passwords.hash_password("a long password")
    assert first != second
    assert passwords.is_password("a long password", first)
    assert not passwords.is_password("a long passworD", first)
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    for broken in ("", "scrypt$1", "md5$x", first[:-4] + "!!!!", first.replace("argon2id", "plain"), OF_BEFORE[:-4]):
        assert not passwords.is_password("a long password", broken)


def test_a_hash_of_an_earlier_release_still_matches() -> None:
    """scrypt's; and it is known as one to replace."""
    assert passwords.is_password("correct horse battery", OF_BEFORE)
    assert not passwords.is_password("correct horse batterY", OF_BEFORE)
    assert passwords.is_outdated(OF_BEFORE)
    assert not passwords.is_outdated(passwords.hash_password("correct horse battery"))


def test_it_is_replaced_at_the_next_sign_in(tmp_path: Path) -> None:
    """By a hash of the same password; a wrong one replaces nothing, and what else is known of the user stays."""
    users = Users(tmp_path / "users.json")
    users.add_with_password("ada", Role.SECURITY)
    file = json.loads((tmp_path / "users.json").read_text())
    file["users"][0] |= {"password": OF_BEFORE, "one_time": False}
    (tmp_path / "users.json").write_text(json.dumps(file))
    assert users.by_password("ada", "a wrong one") is None
    assert json.loads((tmp_path / "users.json").read_text()) == file
    found = users.by_password("ada", "correct horse battery")
    assert found is not None
    renewed = users.find("ada")
    assert renewed is not None
    assert (renewed.role, renewed.one_time) == (Role.SECURITY, False)
    assert renewed.password is not None
    assert renewed.password.startswith("$argon2id$")
    assert users.by_password("ada", "correct horse battery") == renewed


def test_a_users_file_that_cannot_be_written_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a mounted secret: the old hash goes on to match."""
    users = Users(tmp_path / "users.json")
    users.add_with_password("ada", Role.SECURITY)
    (tmp_path / "users.json").write_text(
        json.dumps({"users": [{"name": "ada", "role": "security", "password": OF_BEFORE}]})
    )

    def fail(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "_write", fail)
    assert users.by_password("ada", "correct horse battery") is not None


def test_one_time_passwords_and_tokens_differ() -> None:
    """And are long."""
    assert len({passwords.one_time_password() for _ in range(50)}) == 50
    assert len({passwords.make_token() for _ in range(50)}) == 50
    assert len(passwords.make_token()) > 40


def test_each_role_may_what_the_one_before_it_may() -> None:
    """Viewer, operator, security."""
    may = [[role.may(needed) for needed in Role] for role in Role]
    assert may == [[True, False, False], [True, True, False], [True, True, True]]
